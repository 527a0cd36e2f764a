//! Small simplifications: constants sunk into bodies, identities and casts that do nothing, dead code.
//!
//! Before: `%a = identity %x`, `%b = cast %a {to = f64}`, `%c = cast %b {to = f32}`, `%y = relu %c` with `%x : f32`
//!
//! After:  `%y = relu %x`

use mqc_ir::{DType, Graph, NodeId, Op, Value};

use crate::walk::for_each_graph;
use crate::{Context, Error, Pass};

/// A constant captured by a body (of If, Loop, Scan) becomes a constant of the body, sharing its bytes.
pub const SINK_CONSTANTS: Pass = Pass {
    name: "sink-constants",
    about: "constants captured by If, Loop and Scan bodies move into them",
    run: sink,
};

/// Identity, Dropout at inference and casts without effect are bypassed.
pub const DROP_IDENTITIES: Pass = Pass {
    name: "drop-identities",
    about: "Identity, inference Dropout, Cast to the same type and lossless Cast chains are bypassed",
    run: drop_identities,
};

/// Nodes without effect on a result are removed.
pub const ERASE_DEAD: Pass =
    Pass { name: "erase-dead", about: "nodes that no result depends on are removed", run: erase_dead };

fn sink(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    for id in graph.order()? {
        let operands = graph.operands(id);
        let Some(node) = graph.node_mut(id) else { continue };
        if node.subgraphs.is_empty() {
            continue;
        }
        let mut subgraphs = std::mem::take(&mut node.subgraphs);
        // Captures come behind the operands that the operator itself takes.
        let first = subgraphs.iter().flat_map(|s| &s.captures).min().copied().unwrap_or(operands.len());
        for subgraph in &mut subgraphs {
            let formal = subgraph.graph.inputs().len() - subgraph.captures.len();
            let mut kept = vec![];
            let mut sunk = vec![];
            for (index, slot) in subgraph.captures.iter().enumerate() {
                let outer = operands.get(*slot).copied().flatten();
                let tensor = outer.and_then(|v| graph.constant(v)).cloned();
                match tensor.filter(|_| context.rewrite()) {
                    Some(tensor) => sunk.push((formal + index, tensor)),
                    None => kept.push(*slot),
                }
            }
            for (input, tensor) in &sunk {
                let input = Value { node: subgraph.graph.inputs()[*input], slot: 0 };
                let name = subgraph.graph.info(input).map(|i| i.name.clone()).unwrap_or_default();
                let weight = subgraph.graph.add_weight(subgraph.graph.fresh_name(&name), tensor.clone());
                subgraph.graph.replace_uses(input, weight)?;
            }
            subgraph.graph.retain_inputs(|index, _| !sunk.iter().any(|(input, _)| *input == index));
            subgraph.graph.erase_dead();
            subgraph.captures = kept;
            sink(&mut subgraph.graph, context)?;
        }
        if let Some(node) = graph.node_mut(id) {
            node.subgraphs = subgraphs;
        }
        drop_unused_captures(graph, id, first)?;
    }
    Ok(())
}

/// Operands from slot `first` on that no body captures any more go.
fn drop_unused_captures(graph: &mut Graph, id: NodeId, first: usize) -> Result<(), Error> {
    let operands = graph.operands(id);
    let Some(node) = graph.node_mut(id) else { return Ok(()) };
    let used = |slot: usize| node.subgraphs.iter().any(|s| s.captures.contains(&slot));
    let keep: Vec<usize> = (0..operands.len()).filter(|&slot| slot < first || used(slot)).collect();
    for subgraph in &mut node.subgraphs {
        for slot in &mut subgraph.captures {
            *slot = keep.iter().position(|k| k == slot).unwrap_or(*slot);
        }
    }
    let kept: Vec<_> = keep.iter().map(|&slot| operands[slot]).collect();
    Ok(graph.set_operands(id, &kept)?)
}

fn drop_identities(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        for id in graph.order()? {
            let Some(source) = bypass(graph, id) else { continue };
            let value = Value { node: id, slot: 0 };
            let is_source = graph
                .node(source.node)
                .is_some_and(|n| matches!(n.op, Op::Input | Op::Weight(_) | Op::Constant(_)));
            // A graph that returns its input needs the Identity in ONNX.
            if (graph.is_output(value) && is_source)
                || graph.users(value).is_empty() && !graph.is_output(value)
            {
                continue;
            }
            if context.rewrite() {
                graph.replace_uses(value, source)?;
            }
        }
        graph.erase_dead();
        Ok(())
    })
}

/// The value that the node merely passes on.
fn bypass(graph: &Graph, id: NodeId) -> Option<Value> {
    let operand = graph.operand(id, 0)?;
    match &graph.node(id)?.op {
        Op::Identity => Some(operand),
        Op::Dropout { .. } => {
            let training = graph.operand(id, 2).map(|v| graph.constant(v).map(|t| t.bytes().as_ref() == [0]));
            let mask = Value { node: id, slot: 1 };
            let mask_used = !graph.users(mask).is_empty() || graph.is_output(mask);
            (training.unwrap_or(Some(true)) == Some(true) && !mask_used).then_some(operand)
        }
        Op::Cast { to, .. } => {
            let inner = graph.ty(operand).dtype();
            if inner == Some(*to) {
                return Some(operand);
            }
            let Op::Cast { .. } = &graph.node(operand.node)?.op else { return None };
            let origin = graph.operand(operand.node, 0)?;
            let from = graph.ty(origin).dtype()?;
            (from == *to && embeds(from, inner?)).then_some(origin)
        }
        _ => None,
    }
}

/// Whether every value of `from` is exactly a value of `to`.
fn embeds(from: DType, to: DType) -> bool {
    use DType::{Bf16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    match from {
        F16 | Bf16 => matches!(to, F32 | F64),
        F32 => to == F64,
        Bool => matches!(to, I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | F16 | Bf16 | F32 | F64),
        I8 => matches!(to, I16 | I32 | I64 | F16 | F32 | F64),
        U8 => matches!(to, I16 | I32 | I64 | U16 | U32 | U64 | F16 | F32 | F64),
        I16 => matches!(to, I32 | I64 | F32 | F64),
        U16 => matches!(to, I32 | I64 | U32 | U64 | F32 | F64),
        I32 => matches!(to, I64 | F64),
        U32 => matches!(to, I64 | U64 | F64),
        _ => false,
    }
}

fn erase_dead(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        if context.rewrite() {
            graph.erase_dead();
        }
        Ok(())
    })
}
