//! The scores of a vocabulary are computed for the last position only: the next token needs no others.
//!
//! Before: `%y = mat_mul %h, %w` with `%h : f32[1, S, 64]` and the result `%y : f32[1, S, 1000]`
//!
//! After:  `%l = slice %h, [-1], [max], [1]`, `%y = mat_mul %l, %w` with the result `%y : f32[1, 1, 1000]`
//!
//! This changes what the model returns: only the first result, and only for those who ask for it.

use mqc_ir::{Graph, NodeId, Op, Tensor, Type, Value};

use crate::{Context, Error, Pass};

/// See the module.
pub const LAST_LOGITS: Pass = Pass {
    name: "last-logits",
    about: "the first result, [batch, positions, vocabulary], is computed for the last position only",
    run,
};

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    let Some(output) = graph.outputs().first().cloned() else { return Ok(()) };
    if graph.ty(output.value).rank() != Some(3) || !context.rewrite() {
        return Ok(());
    }
    let mut chain: Vec<NodeId> = vec![];
    let mut value = output.value;
    while let Some(next) = row_by_row(graph, value) {
        chain.push(value.node);
        value = next;
    }
    let [starts, ends, axes] = [-1, i64::MAX, 1].map(|v| Tensor::i64_vector(&[v]));
    let operands = [("starts", starts), ("ends", ends), ("axes", axes)]
        .map(|(what, tensor)| graph.add_weight(graph.fresh_name(&format!("last_position/{what}")), tensor));
    let last = graph.apply(Op::Slice, "last_position", &[value, operands[0], operands[1], operands[2]])?;
    // What is known of the types is of all positions.
    for node in &chain {
        graph.set_type(Value { node: *node, slot: 0 }, Type::Unknown);
    }
    if let Some(first) = chain.last() {
        graph.set_operand(*first, 0, last);
    }
    if chain.is_empty() {
        // The name goes to what leaves the graph.
        let name = graph.fresh_name(&format!("{}/all", output.name));
        if let Some(info) = graph.node_mut(value.node).and_then(|n| n.outputs.get_mut(value.slot)) {
            info.name = name;
        }
    }
    let mut outputs = graph.outputs().to_vec();
    if let Some(output) = outputs.first_mut() {
        output.declared = Type::Unknown;
        output.value = if chain.is_empty() { last } else { output.value };
    }
    graph.set_outputs(outputs);
    Ok(())
}

/// The operand that the node, which nobody else uses, maps position by position.
fn row_by_row(graph: &Graph, value: Value) -> Option<Value> {
    let uses = graph.users(value).len() + graph.outputs().iter().filter(|o| o.value == value).count();
    let operand = graph.operand(value.node, 0)?;
    if uses != 1 || graph.ty(operand).rank() != Some(3) {
        return None;
    }
    let small = |slot: usize, most: usize| {
        let constant = graph.operand(value.node, slot).and_then(|v| graph.constant(v));
        constant.is_some_and(|t| t.shape().len() <= most)
    };
    let maps = match &graph.node(value.node)?.op {
        Op::MatMul => graph.operand(value.node, 1).and_then(|w| graph.ty(w).rank()) == Some(2),
        Op::NestedMatMul(_) | Op::Unary(_) | Op::Identity | Op::Cast { .. } => true,
        Op::Binary(_) => small(1, 1),
        _ => false,
    };
    maps.then_some(operand)
}
