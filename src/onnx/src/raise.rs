//! Raising a graph to a newer operator set: every node whose form the newer set no longer has is rewritten to nodes
//! that compute the same. Compared with the operator schemas of onnx 1.23.2, versions 7 to 28.

mod moved;
mod normalization;
mod resize;
mod site;
mod softmax;
mod versions;

use mqc_ir::op::{Reduction, Unary};
use mqc_ir::{Graph, NodeId, Op, infer};

use crate::Error;
use crate::ops::{self, Form};
use site::Site;

/// Makes a graph valid at operator set `to`, its inner graphs too, and imports `to`. What the graph computes stays the
/// same. Nothing to do when the graph imports `to` or a newer one.
///
/// # Errors
/// A node has no equal at `to`: the error says which and why. The graph is then unchanged.
pub fn raise_opset(graph: &mut Graph, to: i64) -> Result<(), Error> {
    let from = graph.opsets.get("").copied();
    if from.is_some_and(|from| from >= to) {
        return Ok(());
    }
    let mut raised = graph.clone();
    // A graph that imports no operator set has no operator of it.
    if let Some(from) = from {
        let mut types = graph.clone();
        // Element types and ranks decide some forms. What cannot be inferred stays unknown; the verifier reports it.
        let _ = infer::infer(&mut types);
        raise_graph(&mut raised, &types, from, to)?;
    }
    raised.opsets.insert(String::new(), to);
    *graph = raised;
    Ok(())
}

/// The first version of the ONNX format that may import the operator set: the table of versions of the specification.
pub fn ir_version_for(opset: i64) -> i64 {
    match opset {
        ..=8 => 3,
        9 => 4,
        10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        25..=27 => 13,
        28.. => 14,
    }
}

/// `types` is the graph with its types inferred.
fn raise_graph(graph: &mut Graph, types: &Graph, from: i64, to: i64) -> Result<(), Error> {
    for id in graph.order()? {
        if let (Some(node), Some(typed)) = (graph.node_mut(id), types.node(id)) {
            for (inner, typed) in node.subgraphs.iter_mut().zip(&typed.subgraphs) {
                raise_graph(&mut inner.graph, &typed.graph, from, to)?;
            }
        }
        let mut site = Site { graph, types, id, from, to, version: to };
        raise_node(&mut site)?;
    }
    Ok(())
}

fn raise_node(site: &mut Site) -> Result<(), Error> {
    let Some(node) = site.graph.node(site.id) else { return Ok(()) };
    match node.op.clone() {
        Op::Squeeze { axes: Some(axes) } if site.crosses(13) => {
            site.list_to_operand("axes", 1, &axes);
            site.set_op(Op::Squeeze { axes: None });
        }
        // An empty list is no default here.
        Op::Unsqueeze { axes: Some(axes) } if site.crosses(13) => {
            let axes = site.integers("axes", &axes);
            site.set_operand(1, axes);
            site.set_op(Op::Unsqueeze { axes: None });
        }
        Op::Reduce { kind, axes, keepdims, noop_with_empty_axes } => {
            if let Some(axes) = axes
                && site.crosses(if kind == Reduction::Sum { 13 } else { 18 })
            {
                site.list_to_operand("axes", 1, &axes);
                site.set_op(Op::Reduce { kind, axes: None, keepdims, noop_with_empty_axes });
            }
            if matches!(kind, Reduction::LogSum | Reduction::LogSumExp) && site.crosses(28) {
                site.refuse_integers()?;
            }
        }
        Op::Split { axis, sizes, num_outputs } => {
            if site.crosses(13) {
                site.list_to_operand("split", 1, sizes.as_deref().unwrap_or_default());
            }
            let outputs = site.outputs() as i64;
            let equal = site.to >= 18 && num_outputs.is_none() && site.operand(1).is_none();
            let num_outputs = if equal { Some(outputs) } else { num_outputs };
            site.set_op(Op::Split { axis, sizes: sizes.filter(|_| site.to < 13), num_outputs });
        }
        Op::Softmax { axis, flatten: true } if site.crosses(13) => {
            softmax::over_one_axis(site, axis, |axis| Op::Softmax { axis, flatten: false })?;
        }
        Op::LogSoftmax { axis, flatten: true } if site.crosses(13) => {
            softmax::over_one_axis(site, axis, |axis| Op::LogSoftmax { axis, flatten: false })?;
        }
        Op::Dropout { .. } if site.crosses(12) || site.crosses(10) => moved::dropout_mask(site)?,
        Op::Unary(Unary::Erf) if site.crosses(13) => site.refuse_integers()?,
        Op::Opaque(opaque) if opaque.domain.is_empty() => raise_opaque(site)?,
        // Newer operator sets changed nothing or added to these.
        Op::Input
        | Op::Weight(_)
        | Op::Constant(_)
        | Op::Identity
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Compare(_)
        | Op::Variadic(_)
        | Op::Select
        | Op::Clip
        | Op::LeakyRelu { .. }
        | Op::Elu { .. }
        | Op::HardSigmoid { .. }
        | Op::Cast { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. }
        | Op::Slice
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::GatherElements { .. }
        | Op::GatherNd { .. }
        | Op::ScatterElements { .. }
        | Op::ScatterNd { .. }
        | Op::Tile
        | Op::Shape { .. }
        | Op::Size
        | Op::ConstantOfShape { .. }
        | Op::Range
        | Op::MatMul
        | Op::Conv(_)
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalAveragePool
        | Op::GlobalMaxPool
        | Op::Gemm { .. }
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Gelu { .. }
        | Op::BatchNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::RmsNormalization { .. }
        | Op::Dropout { .. }
        | Op::NestedQuantize(_)
        | Op::SliceBits { .. }
        | Op::FakeSlice { .. }
        | Op::Dequantize { .. }
        | Op::NestedMatMul(_)
        | Op::NestedConv { .. }
        | Op::NestedGather(_)
        | Op::Opaque(_) => {}
    }
    Ok(())
}

/// Takes a node that is not understood through every version of its operator, then looks whether it is now.
fn raise_opaque(site: &mut Site) -> Result<(), Error> {
    let mut changed = false;
    for version in site.from + 1..=site.to {
        site.version = version;
        let Some(Op::Opaque(opaque)) = site.graph.node(site.id).map(|n| &n.op) else { break };
        let name = opaque.op_type.clone();
        changed |= versions::convert(site, &name)?;
    }
    if changed {
        understand(site.graph, site.id, site.to);
    }
    Ok(())
}

fn understand(graph: &mut Graph, id: NodeId, opset: i64) {
    let inputs: Vec<bool> = graph.operands(id).iter().map(Option::is_some).collect();
    let Some(node) = graph.node_mut(id).filter(|n| n.subgraphs.is_empty()) else { return };
    let Op::Opaque(opaque) = &node.op else { return };
    node.op = ops::read(Form {
        domain: &opaque.domain,
        op_type: &opaque.op_type,
        overload: &opaque.overload,
        opset,
        inputs: &inputs,
        outputs: node.outputs.len(),
        attributes: opaque.attributes.clone(),
    });
}

#[cfg(test)]
mod tests;
