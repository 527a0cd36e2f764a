//! The blocks of a model: parts between values that everything on the way to the output passes through, such as the
//! residual stream of a transformer. OmniQuant (arXiv 2308.13137, equation 1) calibrates one after the other.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobSet;
use mqc_ir::{DType, Graph, NodeId, Op, Output, Value};

use crate::Error;
use crate::source::Source;

/// One part of a model as a model of its own.
#[derive(Clone, Debug)]
pub struct Block {
    /// The part: its inputs are those of the model that it needs and the block's own.
    pub graph: Graph,
    /// Name of the input that takes what the block before gives; the first block has none.
    pub input: Option<String>,
    /// Name of its output.
    pub output: String,
    /// Nested weights in it.
    pub layers: usize,
}

/// Cuts a model of fixed shapes that `matquant` has been over. A block ends at the first value that it can end at once it
/// has a nested weight; with `ends` only at values whose name, or whose node's name, matches.
///
/// # Errors
/// The model has no such output, no nested weight on the way to it, or no block's end matches.
pub fn blocks(graph: &Graph, output: &str, ends: Option<&GlobSet>) -> Result<Vec<Block>, Error> {
    let mut graph = graph.clone();
    let Some(result) = graph.outputs().iter().find(|o| o.name == output).cloned() else {
        return Err(Error::invalid("output", output, "is not one of the model's"));
    };
    graph.set_outputs(vec![result.clone()]);
    graph.erase_dead();
    let source = Source::new(graph)?;
    let graph = source.graph();
    let main = main_nodes(&source)?;
    let order = graph.order()?;
    let weights: BTreeSet<NodeId> =
        source.layers.iter().flat_map(|l| l.uses().iter().map(|v| v.node)).collect();

    let mut last_use: BTreeMap<Value, NodeId> = BTreeMap::new();
    for &id in order.iter().filter(|id| main.contains(id)) {
        last_use.extend(graph.operands(id).into_iter().flatten().map(|v| (v, id)));
    }
    let chosen = |value: Value| {
        let name = graph.info(value).map(|i| i.name.as_str()).unwrap_or_default();
        ends.is_none_or(|set| set.is_match(name) || set.is_match(graph.label(value.node)))
    };
    let mut cuts = vec![];
    let (mut live, mut layers) = (BTreeSet::new(), 0);
    for &id in order.iter().filter(|id| main.contains(id)) {
        let operands: Vec<Value> = graph.operands(id).into_iter().flatten().collect();
        layers += operands.iter().filter(|v| weights.contains(&v.node)).count();
        live.retain(|v| last_use.get(v) != Some(&id));
        let outputs = graph.node(id).map_or(0, |n| n.outputs.len());
        let outputs = (0..outputs).map(|slot| Value { node: id, slot });
        live.extend(outputs.filter(|v| last_use.contains_key(v) || *v == result.value));
        let Some(&value) = live.first().filter(|_| live.len() == 1 && layers > 0) else { continue };
        if value != result.value && graph.ty(value).dtype() == Some(DType::F32) && chosen(value) {
            cuts.push((value, layers));
            layers = 0;
        }
    }
    match (layers, cuts.last_mut()) {
        (0, None) => {
            return Err(Error::invalid(
                "output",
                output,
                "depends on no nested weight: nothing to calibrate",
            ));
        }
        // What follows the last weight belongs to its block.
        (0, Some(last)) => last.0 = result.value,
        (_, _) => cuts.push((result.value, layers)),
    }
    if ends.is_some() && cuts.len() == 1 {
        return Err(Error::invalid("option", "blocks", "matches no value where a block can end"));
    }
    let mut start = None;
    let mut blocks = vec![];
    for (end, layers) in cuts {
        blocks.push(part(graph, start, end, output, layers)?);
        start = Some(end);
    }
    Ok(blocks)
}

/// Nodes that carry the data: what depends on a float input, or on an integer one and on weights. Masks and positions that
/// come from integers alone are made anew in each block.
fn main_nodes(source: &Source) -> Result<BTreeSet<NodeId>, Error> {
    let graph = source.graph();
    let (mut fed, mut main) = (BTreeSet::new(), BTreeSet::new());
    for id in graph.order()? {
        let operands = graph.operands(id);
        let reads = |set: &BTreeSet<NodeId>| operands.iter().flatten().any(|v| set.contains(&v.node));
        let is_input = graph.inputs().contains(&id) && graph.node(id).is_some_and(|n| n.op == Op::Input);
        let is_float = graph.ty(Value { node: id, slot: 0 }).dtype() == Some(DType::F32);
        let is_fed = is_input || reads(&fed);
        if is_fed {
            fed.insert(id);
        }
        if (is_input && is_float) || reads(&main) || (is_fed && source.is_trained(id)) {
            main.insert(id);
        }
    }
    Ok(main)
}

fn part(
    graph: &Graph,
    start: Option<Value>,
    end: Value,
    output: &str,
    layers: usize,
) -> Result<Block, Error> {
    let mut graph = graph.clone();
    let name = |graph: &Graph, value| graph.info(value).map(|i| i.name.clone()).unwrap_or_default();
    let input = match start {
        None => None,
        Some(start) => {
            let input = graph.fresh_name(&format!("{}/input", name(&graph, start)));
            let value = graph.add_input(input.clone(), graph.ty(start).clone());
            graph.replace_uses(start, value)?;
            Some(input)
        }
    };
    let is_last = graph.outputs().iter().any(|o| o.value == end);
    let output = if is_last { output.to_owned() } else { name(&graph, end) };
    let declared = graph.ty(end).clone();
    graph.set_outputs(vec![Output { value: end, name: output.clone(), declared }]);
    graph.erase_dead();
    let unused: BTreeSet<NodeId> = graph
        .inputs()
        .iter()
        .copied()
        .filter(|id| graph.users(Value { node: *id, slot: 0 }).is_empty())
        .collect();
    graph.retain_inputs(|_, id| !unused.contains(&id));
    Ok(Block { graph, input, output, layers })
}
