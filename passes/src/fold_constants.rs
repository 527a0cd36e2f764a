//! What depends on constants only is computed now.
//!
//! Before: `%s = weight @s : i64[2] = [2, 3]`, `%t = add %s, %s`, `%y = reshape %x, %t`
//!
//! After:  `%t = weight @t : i64[2] = [4, 6]`, `%y = reshape %x, %t`
//!
//! A Transpose of a matrix that only feeds products stays: `matquant` reads the matrix through it without a copy.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::{Graph, Node, NodeId, Op, Output, Tensor, Type, Value};

use crate::walk::for_each_graph;
use crate::{Context, Error, Pass};

/// See the module.
pub const FOLD_CONSTANTS: Pass =
    Pass { name: "fold-constants", about: "what depends on constants only is computed at compile time", run };

/// A result may be larger than what it is computed from by this factor, or up to `SMALL` bytes.
const GROWTH: usize = 8;
const SMALL: usize = 1 << 20;

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    let opsets = graph.opsets.clone();
    for_each_graph(graph, &mut |graph| {
        let wanted = frontier(graph)?;
        let wanted: Vec<Value> = wanted.into_iter().filter(|_| context.rewrite()).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        match evaluate(graph, &opsets, &wanted) {
            Ok(tensors) => replace(graph, wanted.iter().copied().zip(tensors))?,
            // One node that the runtime cannot evaluate must not keep the others from folding.
            Err(_) => {
                for value in wanted {
                    match evaluate(graph, &opsets, &[value]) {
                        Ok(tensors) => replace(graph, std::iter::once(value).zip(tensors))?,
                        Err(reason) => tracing::debug!(
                            value = graph.info(value).map_or("", |i| i.name.as_str()),
                            %reason,
                            "not folded"
                        ),
                    }
                }
            }
        }
        graph.erase_dead();
        Ok(())
    })
}

/// Values that depend on constants only and are used by something that does not.
fn frontier(graph: &Graph) -> Result<Vec<Value>, Error> {
    // Bytes of the constants under each foldable node.
    let mut foldable: BTreeMap<NodeId, usize> = BTreeMap::new();
    let order = graph.order()?;
    for &id in &order {
        let Some(node) = graph.node(id) else { continue };
        if !is_pure(&node.op) || !node.subgraphs.is_empty() || stays(graph, id) {
            continue;
        }
        let sizes: Option<Vec<usize>> = graph
            .operands(id)
            .iter()
            .flatten()
            .map(|v| graph.constant(*v).map(|t| t.bytes().len()).or_else(|| foldable.get(&v.node).copied()))
            .collect();
        let Some(sizes) = sizes else { continue };
        let below = sizes.iter().sum::<usize>();
        if !sizes.is_empty() && node.outputs.iter().all(|o| !grows(&o.ty, below)) {
            foldable.insert(id, below);
        }
    }
    let mut wanted = vec![];
    for &id in foldable.keys() {
        for slot in 0..graph.node(id).map_or(0, |n| n.outputs.len()) {
            let value = Value { node: id, slot };
            let outside = graph.users(value).iter().any(|(user, _)| !foldable.contains_key(user));
            if outside || graph.is_output(value) {
                wanted.push(value);
            }
        }
    }
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    wanted.sort_by_key(|v| (position.get(&v.node), v.slot));
    Ok(wanted)
}

fn is_pure(op: &Op) -> bool {
    !matches!(
        op,
        Op::Input
            | Op::Weight(_)
            | Op::Constant(_)
            | Op::Opaque(_)
            | Op::Dropout { .. }
            | Op::NestedQuantize(_)
            | Op::SliceBits { .. }
            | Op::Dequantize { .. }
            | Op::NestedMatMul(_)
            | Op::NestedConv { .. }
            | Op::NestedGather(_)
    )
}

/// A transposed matrix under products: see the module.
fn stays(graph: &Graph, id: NodeId) -> bool {
    let is_transpose = graph.node(id).is_some_and(|n| matches!(n.op, Op::Transpose { .. }));
    let value = Value { node: id, slot: 0 };
    let users = graph.users(value);
    is_transpose
        && graph.ty(value).rank() == Some(2)
        && graph.operand(id, 0).is_some_and(|w| graph.constant(w).is_some_and(|t| t.dtype().is_float()))
        && !graph.is_output(value)
        && users
            .iter()
            .all(|(user, slot)| *slot == 1 && graph.node(*user).is_some_and(|n| n.op == Op::MatMul))
}

fn grows(ty: &Type, below: usize) -> bool {
    let sizes = ty.shape().and_then(|s| s.iter().map(|d| d.size()).collect::<Option<Vec<u64>>>());
    let count = sizes.and_then(|s| s.iter().try_fold(1u64, |n, d| n.checked_mul(*d)));
    let bytes = count.map(|n| n.saturating_mul(ty.dtype().and_then(|d| d.bits()).unwrap_or(64) as u64) / 8);
    bytes.is_some_and(|b| b > below.saturating_mul(GROWTH).max(SMALL) as u64)
}

/// The values; `opsets` are those of the model, which bodies do not repeat.
fn evaluate(graph: &Graph, opsets: &BTreeMap<String, i64>, wanted: &[Value]) -> Result<Vec<Tensor>, Error> {
    let mut needed: BTreeSet<NodeId> = BTreeSet::new();
    let mut stack: Vec<NodeId> = wanted.iter().map(|v| v.node).collect();
    while let Some(id) = stack.pop() {
        if needed.insert(id) {
            stack.extend(graph.operands(id).iter().flatten().map(|v| v.node));
        }
    }
    let mut part = Graph::new("constants");
    part.opsets = opsets.clone();
    let mut copies: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for id in graph.order()?.into_iter().filter(|id| needed.contains(id)) {
        let Some(node) = graph.node(id) else { continue };
        let operands: Vec<_> = graph
            .operands(id)
            .iter()
            .map(|v| v.and_then(|v| copies.get(&v.node).map(|n| Value { node: *n, slot: v.slot })))
            .collect();
        copies.insert(id, part.insert(Node { subgraphs: vec![], ..node.clone() }, &operands)?);
    }
    let outputs = wanted
        .iter()
        .filter_map(|v| {
            let name = graph.info(*v)?.name.clone();
            let value = Value { node: *copies.get(&v.node)?, slot: v.slot };
            Some(Output { value, name, declared: graph.ty(*v).clone() })
        })
        .collect();
    part.set_outputs(outputs);
    Ok(mqc_runtime::evaluate(&part)?)
}

fn replace(graph: &mut Graph, values: impl Iterator<Item = (Value, Tensor)>) -> Result<(), Error> {
    for (value, tensor) in values {
        let Some(name) = graph.info(value).map(|i| i.name.clone()) else { continue };
        let aside = graph.fresh_name(&format!("{name}/folded"));
        if let Some(info) = graph.node_mut(value.node).and_then(|n| n.outputs.get_mut(value.slot)) {
            info.name = aside;
        }
        let weight = graph.add_weight(name, tensor);
        graph.replace_uses(value, weight)?;
    }
    Ok(())
}
