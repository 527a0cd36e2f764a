//! An If whose condition is known gives way to the branch that it takes.
//!
//! Before: `%c = constant : bool = [true]`, `%y = opaque %c {op_type = If} with then_branch = { %t = relu %x ; return %t } ...`
//!
//! After:  `%y = relu %x`
//!
//! Exporters ask for ranks at run time; the branch that is never taken is often not even valid for the types at hand.

use std::collections::BTreeMap;

use mqc_ir::infer::known_integers;
use mqc_ir::op::Opaque;
use mqc_ir::{Graph, NodeId, Op, Subgraph, Value};

use crate::walk::for_each_graph;
use crate::{Context, Error, Pass};

/// See the module.
pub const INLINE_IF: Pass = Pass {
    name: "inline-if",
    about: "an If whose condition is known gives way to the branch that it takes",
    run,
};

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        for id in graph.order()? {
            let Some(branch) = taken(graph, id) else { continue };
            if context.rewrite() {
                inline(graph, id, &branch)?;
            }
        }
        graph.erase_dead();
        Ok(())
    })
}

/// The branch that the node, an If, is known to take.
fn taken(graph: &Graph, id: NodeId) -> Option<Subgraph> {
    let node = graph.node(id)?;
    let Op::Opaque(Opaque { domain, op_type, .. }) = &node.op else { return None };
    if !domain.is_empty() || op_type != "If" {
        return None;
    }
    let condition = *known_integers(graph).get(&graph.operand(id, 0)?)?.first()?;
    let attribute = if condition != 0 { "then_branch" } else { "else_branch" };
    node.subgraphs.iter().find(|s| s.attribute == attribute).cloned()
}

/// Puts the nodes of the branch in the place of the node.
fn inline(graph: &mut Graph, id: NodeId, branch: &Subgraph) -> Result<(), Error> {
    let mut places: BTreeMap<Value, Value> = BTreeMap::new();
    for (&input, &slot) in branch.graph.inputs().iter().zip(&branch.captures) {
        if let Some(outer) = graph.operand(id, slot) {
            places.insert(Value { node: input, slot: 0 }, outer);
        }
    }
    for inner in branch.graph.order()? {
        let Some(node) = branch.graph.node(inner).filter(|n| n.op != Op::Input) else { continue };
        let mut node = node.clone();
        for output in node.outputs.iter_mut().filter(|o| !o.name.is_empty()) {
            output.name = graph.fresh_name(&output.name);
        }
        let operands = branch.graph.operands(inner);
        let operands: Vec<_> = operands.iter().map(|v| v.and_then(|v| places.get(&v).copied())).collect();
        let outputs = node.outputs.len();
        let new = graph.insert(node, &operands)?;
        places.extend((0..outputs).map(|slot| (Value { node: inner, slot }, Value { node: new, slot })));
    }
    for (slot, output) in branch.graph.outputs().iter().enumerate() {
        if let Some(value) = places.get(&output.value) {
            graph.replace_uses(Value { node: id, slot }, *value)?;
        }
    }
    Ok(())
}
