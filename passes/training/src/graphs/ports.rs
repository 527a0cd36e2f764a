//! Inputs and outputs of a graph, by name and by place.

use std::collections::BTreeMap;

use mqc_ir::{Graph, Output, Value};

use super::{Slot, StepGraph};
use crate::Error;

/// Inputs that hold state begin so, lest a weight and an input of the model share a name.
pub const STATE: &str = "state/";
/// What the output with the new value of a state input adds to its name.
pub const NEXT: &str = ".next";

/// Inputs and outputs by name become places; state is told from the rest by the name of its new value.
pub(super) fn finish(mut graph: Graph, outputs: Vec<(String, Value)>) -> Result<StepGraph, Error> {
    let mut feeds = BTreeMap::new();
    for (index, id) in graph.inputs().iter().enumerate() {
        let name = graph.node(*id).and_then(|n| n.outputs.first()).map(|o| o.name.clone());
        feeds.insert(name.unwrap_or_default(), index);
    }
    let mut results: BTreeMap<String, usize> =
        outputs.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
    graph.set_outputs(
        outputs
            .into_iter()
            .map(|(name, value)| Output { value, name, declared: graph.ty(value).clone() })
            .collect(),
    );
    graph.erase_dead();
    let is_state = |name: &&String| name.starts_with(STATE);
    let state_names: Vec<String> = feeds.keys().filter(is_state).cloned().collect();
    let mut state = vec![];
    for full in state_names {
        let Some(input) = feeds.remove(&full) else { continue };
        let name = full.strip_prefix(STATE).unwrap_or(&full).to_owned();
        let output = results.remove(&format!("{full}{NEXT}"));
        state.push(Slot { name, input, output });
    }
    state.sort_by_key(|s| s.input);
    Ok(StepGraph { graph, state, feeds, results })
}
