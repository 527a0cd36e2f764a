//! Nodes that name a nested weight instead of having it among their operands.

use std::collections::BTreeMap;

use mqc_ir::op::Opaque;
use mqc_ir::{Attribute, DType, Dim, Graph, Node, NodeId, Op, Text, Type, Value, ValueInfo};
use mqc_kernels::nested::NestedWeight;

use crate::lower::task::Nested;

/// The domain of these nodes.
const DOMAIN: &str = "ai.mqc.device";
const MATMUL: &str = "NestedMatMul";
const GATHER: &str = "NestedGather";
const WHOLE: &str = "NestedWeight";
const LAYER: &str = "layer";

/// Leaves nodes that name their weight, and returns the weights by name. A convolution becomes one with a float weight that
/// is made of the nested one in every run. `weight_of` reads the weight of a nested node.
///
/// # Errors
/// Those of `weight_of`; a graph with a cycle.
pub fn bind<E: From<mqc_ir::Error>>(
    graph: &mut Graph,
    mut weight_of: impl FnMut(&Graph, NodeId) -> Result<Option<NestedWeight>, E>,
) -> Result<BTreeMap<String, NestedWeight>, E> {
    let mut weights = BTreeMap::new();
    for id in graph.order()? {
        let Some(op) = graph.node(id).map(|node| node.op.clone()) else { continue };
        let (Op::NestedMatMul(nested) | Op::NestedGather(nested) | Op::NestedConv { nested, .. }) = &op
        else {
            continue;
        };
        let layer = nested.layer.clone();
        if !weights.contains_key(&layer) {
            let Some(weight) = weight_of(graph, id)? else { continue };
            weights.insert(layer.clone(), weight);
        }
        let data = graph.operand(id, 0);
        let (op, operands) = match &op {
            Op::NestedConv { window, shape, .. } => {
                let weight = whole(graph, &layer, shape)?;
                (Op::Conv(window.clone()), vec![data, Some(weight), graph.operand(id, 4)])
            }
            Op::NestedGather(_) => (naming(GATHER, layer), vec![data]),
            _ => (naming(MATMUL, layer), vec![data]),
        };
        if let Some(node) = graph.node_mut(id) {
            node.op = op;
        }
        let given = if operands.last() == Some(&None) { operands.len() - 1 } else { operands.len() };
        graph.set_operands(id, &operands[..given])?;
    }
    graph.erase_dead();
    Ok(weights)
}

/// A node without operands whose value is a whole weight, as floats.
fn whole(graph: &mut Graph, layer: &str, shape: &[u64]) -> Result<Value, mqc_ir::Error> {
    let ty = Type::tensor(DType::F32, shape.iter().map(|size| Dim::Size(*size)).collect());
    let name = graph.fresh_name(&format!("{layer}.float"));
    let node = Node::new(naming(WHOLE, layer.to_owned()), name.clone(), vec![ValueInfo { name, ty }]);
    Ok(Value { node: graph.insert(node, &[])?, slot: 0 })
}

fn naming(op_type: &str, layer: String) -> Op {
    Op::Opaque(Opaque {
        domain: DOMAIN.to_owned(),
        op_type: op_type.to_owned(),
        overload: String::new(),
        attributes: BTreeMap::from([(LAYER.to_owned(), Attribute::String(Text(layer.into_bytes())))]),
    })
}

/// What a node does that names its weight; `None` for all others.
pub(crate) fn named(op: &Op) -> Option<Nested> {
    let Op::Opaque(opaque) = op else { return None };
    let Some(Attribute::String(Text(layer))) = opaque.attributes.get(LAYER) else { return None };
    let layer = String::from_utf8_lossy(layer).into_owned();
    match (opaque.domain.as_str(), opaque.op_type.as_str()) {
        (DOMAIN, MATMUL) => Some(Nested::MatMul { layer }),
        (DOMAIN, GATHER) => Some(Nested::Gather { layer }),
        (DOMAIN, WHOLE) => Some(Nested::Whole { layer }),
        _ => None,
    }
}
