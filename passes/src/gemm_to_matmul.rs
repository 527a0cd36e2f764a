//! Gemm becomes MatMul, so that later passes know one matrix product.
//!
//! Before: `%y = gemm %a, %b, %c {trans_b = true}`
//!
//! After:  `%t = transpose %b {perm = [1, 0]}`, `%m = mat_mul %a, %t`, `%y = add %m, %c`
//!
//! Factors alpha and beta other than 1 become multiplications. The product keeps the node's name, the sum the value's.

use mqc_ir::op::Binary;
use mqc_ir::{F32, Graph, Node, NodeId, Op, Tensor, Value, ValueInfo};

use crate::walk::for_each_graph;
use crate::{Context, Error, Pass};

/// See the module.
pub const GEMM_TO_MATMUL: Pass =
    Pass { name: "gemm-to-matmul", about: "Gemm becomes MatMul, with Transpose, Mul and Add as needed", run };

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        for id in graph.order()? {
            // A product of integers has no place for a float alpha; Gemm of integers stays.
            let is_float =
                graph.operand(id, 0).and_then(|a| graph.ty(a).dtype()).is_some_and(|d| d.is_float());
            let Some(Op::Gemm { alpha, beta, trans_a, trans_b }) = graph.node(id).map(|n| n.op.clone())
            else {
                continue;
            };
            if is_float && context.rewrite() {
                rewrite(graph, id, (alpha, beta), (trans_a, trans_b))?;
            }
        }
        graph.erase_dead();
        Ok(())
    })
}

fn rewrite(
    graph: &mut Graph,
    id: NodeId,
    factors: (F32, F32),
    transposed: (bool, bool),
) -> Result<(), Error> {
    let operands = graph.operands(id);
    let (Some(Some(a)), Some(Some(b))) = (operands.first().copied(), operands.get(1).copied()) else {
        return Ok(());
    };
    let bias = operands.get(2).copied().flatten();
    let Some(node) = graph.node(id).cloned() else { return Ok(()) };
    let dtype = graph.ty(a).dtype();
    let swap = Op::Transpose { perm: Some(vec![1, 0]) };
    let a = if transposed.0 { graph.apply(swap.clone(), &format!("{}/A", node.name), &[a])? } else { a };
    let b = if transposed.1 { graph.apply(swap, &format!("{}/B", node.name), &[b])? } else { b };
    let product_info =
        ValueInfo { name: graph.fresh_name(&format!("{}/product", node.name)), ty: Default::default() };
    let product = Node { op: Op::MatMul, outputs: vec![product_info], ..node.clone() };
    let mut result = Value { node: graph.insert(product, &[Some(a), Some(b)])?, slot: 0 };
    result = scale(graph, result, factors.0, dtype, &format!("{}/alpha", node.name))?;
    if let Some(bias) = bias {
        let bias = scale(graph, bias, factors.1, dtype, &format!("{}/beta", node.name))?;
        result = graph.apply(Op::Binary(Binary::Add), &format!("{}/bias", node.name), &[result, bias])?;
    }
    let old = Value { node: id, slot: 0 };
    graph.replace_uses(old, result)?;
    rename(graph, result, &node.outputs[0].name, old);
    Ok(())
}

/// The value takes the name of the one that it replaces.
fn rename(graph: &mut Graph, value: Value, name: &str, replaced: Value) {
    for (value, name) in [(replaced, format!("{name}/gemm")), (value, name.to_owned())] {
        if let Some(info) = graph.node_mut(value.node).and_then(|n| n.outputs.get_mut(value.slot)) {
            info.name = name;
        }
    }
}

fn scale(
    graph: &mut Graph,
    value: Value,
    factor: F32,
    dtype: Option<mqc_ir::DType>,
    name: &str,
) -> Result<Value, Error> {
    if factor == F32(1.0) {
        return Ok(value);
    }
    let factor = graph.add_weight(graph.fresh_name(&format!("{name}/factor")), Tensor::f32_scalar(factor.0));
    let factor = match dtype {
        Some(mqc_ir::DType::F32) | None => factor,
        Some(to) => graph.apply(Op::Cast { to, saturate: true }, &format!("{name}/cast"), &[factor])?,
    };
    Ok(graph.apply(Op::Binary(Binary::Mul), name, &[value, factor])?)
}
