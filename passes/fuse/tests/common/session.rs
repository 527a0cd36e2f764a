//! Graphs with operators of the CPU session as graphs of standard ones, by their definitions.

use std::error::Error;

use mqc_fuse::rules::DOMAIN;
use mqc_ir::op::{Binary, GeluKind, Opaque, Unary};
use mqc_ir::{Attribute, F32, Graph, Op, Tensor, Text, Value, infer};

/// Every operator of the session written out. Sizes must be known.
pub fn with_standard_operators(graph: &Graph) -> Result<Graph, Box<dyn Error>> {
    let mut graph = graph.clone();
    for id in graph.order()? {
        let Some(Op::Opaque(opaque)) = graph.node(id).map(|n| n.op.clone()) else { continue };
        if opaque.domain != DOMAIN {
            continue;
        }
        let all = graph.operands(id);
        let operands: Vec<Value> = all.iter().copied().flatten().collect();
        let new = match opaque.op_type.as_str() {
            "Attention" => attention(&mut graph, &opaque, &operands)?,
            "Rotary" => rotary(&mut graph, &operands)?,
            "RmsNorm" => {
                let op = Op::RmsNormalization { axis: -1, epsilon: epsilon(&opaque)?, stash_type: 1 };
                apply(&mut graph, op, &operands)?
            }
            "LayerNorm" => {
                let op = Op::LayerNormalization { axis: -1, epsilon: epsilon(&opaque)?, stash_type: 1 };
                apply(&mut graph, op, &operands)?
            }
            "Epilogue" => epilogue(&mut graph, &opaque, &all)?,
            other => return Err(format!("what is {other}?").into()),
        };
        graph.replace_uses(Value { node: id, slot: 0 }, new)?;
    }
    graph.erase_dead();
    infer::infer(&mut graph).map_err(|errors| format!("{errors:?}"))?;
    Ok(graph)
}

fn sizes(graph: &Graph, value: Value) -> Result<[i64; 4], Box<dyn Error>> {
    let dims = graph.ty(value).shape().ok_or("no shape")?;
    let sizes: Option<Vec<i64>> = dims.iter().map(|d| i64::try_from(d.size()?).ok()).collect();
    Ok(sizes.ok_or("unknown sizes")?.try_into().map_err(|_| "not of rank 4")?)
}

fn apply(graph: &mut Graph, op: Op, operands: &[Value]) -> Result<Value, Box<dyn Error>> {
    let name = graph.fresh_name("standard");
    Ok(graph.apply(op, &name, operands)?)
}

fn swapped(graph: &mut Graph, value: Value, perm: [i64; 4]) -> Result<Value, Box<dyn Error>> {
    apply(graph, Op::Transpose { perm: Some(perm.to_vec()) }, &[value])
}

fn ints(graph: &mut Graph, values: &[i64]) -> Value {
    graph.add_weight(graph.fresh_name("ints"), Tensor::i64_vector(values))
}

fn attention(graph: &mut Graph, opaque: &Opaque, operands: &[Value]) -> Result<Value, Box<dyn Error>> {
    let Some(Attribute::Float(scale)) = opaque.attributes.get("scale") else { return Err("no scale".into()) };
    let &[queries, keys, values, ref mask @ ..] = operands else { return Err("three operands".into()) };
    let heads = sizes(graph, queries)?[2];
    let queries = swapped(graph, queries, [0, 2, 1, 3])?;
    let mut repeated = vec![];
    for value in [keys, values] {
        let [batch, positions, few, size] = sizes(graph, value)?;
        let value = swapped(graph, value, [0, 2, 1, 3])?;
        let apart = ints(graph, &[batch, few, 1, positions, size]);
        let value = apply(graph, Op::Reshape { allowzero: false }, &[value, apart])?;
        let times = ints(graph, &[1, 1, heads / few, 1, 1]);
        let value = apply(graph, Op::Tile, &[value, times])?;
        let all = ints(graph, &[batch, heads, positions, size]);
        repeated.push(apply(graph, Op::Reshape { allowzero: false }, &[value, all])?);
    }
    let keys = swapped(graph, repeated[0], [0, 1, 3, 2])?;
    let scores = apply(graph, Op::MatMul, &[queries, keys])?;
    let scale = graph.add_weight(graph.fresh_name("scale"), Tensor::from_f32(vec![], &[scale.0])?);
    let mut scores = apply(graph, Op::Binary(Binary::Mul), &[scores, scale])?;
    if let [mask] = mask {
        scores = apply(graph, Op::Binary(Binary::Add), &[scores, *mask])?;
    }
    let weights = apply(graph, Op::Softmax { axis: -1, flatten: false }, &[scores])?;
    let result = apply(graph, Op::MatMul, &[weights, repeated[1]])?;
    swapped(graph, result, [0, 2, 1, 3])
}

fn epsilon(opaque: &Opaque) -> Result<F32, Box<dyn Error>> {
    match opaque.attributes.get("epsilon") {
        Some(Attribute::Float(epsilon)) => Ok(*epsilon),
        _ => Err("no epsilon".into()),
    }
}

fn epilogue(graph: &mut Graph, opaque: &Opaque, operands: &[Option<Value>]) -> Result<Value, Box<dyn Error>> {
    let part = |slot: usize| operands.get(slot).copied().flatten();
    let mut y = part(0).ok_or("no product")?;
    if let Some(bias) = part(1) {
        y = apply(graph, Op::Binary(Binary::Add), &[y, bias])?;
    }
    y = match opaque.attributes.get("activation") {
        None => y,
        Some(Attribute::String(Text(name))) => match name.as_slice() {
            b"relu" => apply(graph, Op::Unary(Unary::Relu), &[y])?,
            b"gelu" => apply(graph, Op::Gelu { approximate: GeluKind::Erf }, &[y])?,
            b"gelu_tanh" => apply(graph, Op::Gelu { approximate: GeluKind::Tanh }, &[y])?,
            b"silu" => {
                let sigmoid = apply(graph, Op::Unary(Unary::Sigmoid), &[y])?;
                apply(graph, Op::Binary(Binary::Mul), &[y, sigmoid])?
            }
            other => return Err(format!("what is {other:?}?").into()),
        },
        Some(other) => return Err(format!("what is {other:?}?").into()),
    };
    if let Some(gate) = part(2) {
        y = apply(graph, Op::Binary(Binary::Mul), &[y, gate])?;
    }
    if let Some(residual) = part(3) {
        y = apply(graph, Op::Binary(Binary::Add), &[y, residual])?;
    }
    Ok(y)
}

fn rotary(graph: &mut Graph, operands: &[Value]) -> Result<Value, Box<dyn Error>> {
    let &[x, cos, sin] = operands else { return Err("three operands".into()) };
    let size = sizes(graph, x)?[3];
    let x = swapped(graph, x, [0, 2, 1, 3])?;
    let axis = ints(graph, &[3]);
    let part = |graph: &mut Graph, start: i64, end: i64| {
        let (start, end) = (ints(graph, &[start]), ints(graph, &[end]));
        apply(graph, Op::Slice, &[x, start, end, axis])
    };
    let (first, second) = (part(graph, 0, size / 2)?, part(graph, size / 2, size)?);
    let second = apply(graph, Op::Unary(Unary::Neg), &[second])?;
    let turned = apply(graph, Op::Concat { axis: 3 }, &[second, first])?;
    let (a, b) = (
        apply(graph, Op::Binary(Binary::Mul), &[x, cos])?,
        apply(graph, Op::Binary(Binary::Mul), &[turned, sin])?,
    );
    let sum = apply(graph, Op::Binary(Binary::Add), &[a, b])?;
    swapped(graph, sum, [0, 2, 1, 3])
}
