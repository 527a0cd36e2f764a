//! Composites as primitives that compute the same.

mod attention;
mod composite;
mod operators;
mod rotary;

use mqc_ir::infer::infer;
use mqc_ir::{Graph, NodeId, Op, Type, Value};

use crate::{Builder, Error};

/// Adds primitives that compute what a composite does, and returns their values in the order of its outputs; `None` for
/// primitives. The node itself stays as it is.
///
/// # Errors
/// A form of the operation that has no expansion; sizes that are not known.
pub fn expand(b: &mut Builder, id: NodeId) -> Result<Option<Vec<Value>>, Error> {
    let Some(node) = b.graph.node(id) else { return Ok(None) };
    let op = node.op.clone();
    let outputs = node.outputs.len();
    let operands = b.graph.operands(id);
    let call = composite::Call { id, operands, outputs };
    match &op {
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
        | Op::Reduce { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. }
        | Op::Slice
        | Op::Concat { .. }
        | Op::Split { .. }
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
        | Op::NestedQuantize(_)
        | Op::SliceBits { .. }
        | Op::Dequantize { .. }
        | Op::NestedMatMul(_)
        | Op::NestedConv { .. }
        | Op::NestedGather(_) => Ok(None),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            composite::gemm(b, &call, alpha.0, beta.0, *trans_a, *trans_b).map(Some)
        }
        Op::Softmax { axis, flatten } => composite::softmax(b, &call, *axis, *flatten, false).map(Some),
        Op::LogSoftmax { axis, flatten } => composite::softmax(b, &call, *axis, *flatten, true).map(Some),
        Op::Gelu { approximate } => composite::gelu(b, &call, *approximate).map(Some),
        Op::BatchNormalization { epsilon, .. } => {
            composite::batch_normalization(b, &call, epsilon.0).map(Some)
        }
        Op::LayerNormalization { axis, epsilon, .. } => {
            composite::layer_normalization(b, &call, *axis, epsilon.0).map(Some)
        }
        Op::RmsNormalization { axis, epsilon, .. } => {
            composite::rms_normalization(b, &call, *axis, epsilon.0).map(Some)
        }
        Op::Dropout { .. } => composite::dropout(b, &call).map(Some),
        Op::FakeSlice { width, mode } => composite::fake_slice(b, &call, *width, *mode).map(Some),
        Op::Opaque(opaque) => operators::expand(b, &call, opaque),
    }
}

/// Replaces the operators that are no operations of the IR, such as fused attention, by their expansions, and infers
/// what follows from them. Those without an expansion stay.
///
/// # Errors
/// A form of an operator that has no expansion; contradictions that inference finds.
pub fn expand_operators(graph: &mut Graph) -> Result<(), Error> {
    loop {
        let known = |id: &NodeId| matches!(graph.node(*id).map(|n| &n.op), Some(Op::Opaque(op)) if operators::is_known(op));
        let is_static = |ty: &Type| ty.shape().is_some_and(|dims| dims.iter().all(|d| d.size().is_some()));
        let ready = |id: &NodeId| graph.operands(*id).iter().flatten().all(|v| is_static(graph.ty(*v)));
        let nodes: Vec<NodeId> = graph.order()?.into_iter().filter(|id| known(id) && ready(id)).collect();
        if nodes.is_empty() {
            return Ok(());
        }
        for id in nodes {
            let scope = graph.label(id);
            let mut b = Builder::new(graph, scope);
            for (slot, value) in expand(&mut b, id)?.into_iter().flatten().enumerate() {
                b.graph.replace_uses(Value { node: id, slot }, value)?;
            }
        }
        graph.erase_dead();
        infer(graph).map_err(|errors| match errors.into_iter().next() {
            Some(error) => error.into(),
            None => Error::invalid("graph", "", "types cannot be inferred"),
        })?;
    }
}
