//! Nodes that name a nested weight instead of having it among their operands.

use std::collections::BTreeMap;

use mqc_ir::op::Opaque;
use mqc_ir::{Attribute, Graph, NodeId, Op, Text};
use mqc_kernels::nested::NestedWeight;

use crate::lower::task::Nested;

/// The domain of these nodes.
const DOMAIN: &str = "ai.mqc.device";
const MATMUL: &str = "NestedMatMul";
const GATHER: &str = "NestedGather";
const LAYER: &str = "layer";

/// Leaves nodes that name their weight, and returns the weights by name. `weight_of` reads the weight of a nested node.
///
/// # Errors
/// Those of `weight_of`; a graph with a cycle.
pub fn bind<E: From<mqc_ir::Error>>(
    graph: &mut Graph,
    mut weight_of: impl FnMut(&Graph, NodeId) -> Result<Option<NestedWeight>, E>,
) -> Result<BTreeMap<String, NestedWeight>, E> {
    let mut weights = BTreeMap::new();
    for id in graph.order()? {
        let (op_type, layer) = match graph.node(id).map(|node| &node.op) {
            Some(Op::NestedMatMul(nested)) => (MATMUL, nested.layer.clone()),
            Some(Op::NestedGather(nested)) => (GATHER, nested.layer.clone()),
            _ => continue,
        };
        if !weights.contains_key(&layer) {
            let Some(weight) = weight_of(graph, id)? else { continue };
            weights.insert(layer.clone(), weight);
        }
        let name = Attribute::String(Text(layer.into_bytes()));
        let opaque = Opaque {
            domain: DOMAIN.to_owned(),
            op_type: op_type.to_owned(),
            overload: String::new(),
            attributes: BTreeMap::from([(LAYER.to_owned(), name)]),
        };
        if let Some(node) = graph.node_mut(id) {
            node.op = Op::Opaque(opaque);
        }
        let data = graph.operand(id, 0);
        graph.set_operands(id, &[data])?;
    }
    graph.erase_dead();
    Ok(weights)
}

/// What a node does that names its weight; `None` for all others.
pub(crate) fn named(op: &Op) -> Option<Nested> {
    let Op::Opaque(opaque) = op else { return None };
    let Some(Attribute::String(Text(layer))) = opaque.attributes.get(LAYER) else { return None };
    let layer = String::from_utf8_lossy(layer).into_owned();
    match (opaque.domain.as_str(), opaque.op_type.as_str()) {
        (DOMAIN, MATMUL) => Some(Nested::MatMul { layer }),
        (DOMAIN, GATHER) => Some(Nested::Gather { layer }),
        _ => None,
    }
}
