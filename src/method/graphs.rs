//! The graphs of a training as ONNX files of standard operators, for any runtime to step.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use mqc_ir::quant::Width;
use mqc_ir::{Op, Value};
use mqc_onnx::Model;
use mqc_onnx::export::{self, ExportOptions};
use mqc_training::expand::expand;
use mqc_training::training::State;
use mqc_training::{Builder, StepGraph, Training};
use serde::Serialize;

use crate::train::checkpoint;

/// The operator set of the files: the first that has all operators in the form in which training graphs use them.
pub const OPSET: i64 = 20;

/// What a driver needs to know of a file.
#[derive(Serialize)]
struct Described {
    /// Input and output of each tensor of the state that the graph reads; no output where it does not change it.
    state: BTreeMap<String, StatePorts>,
    /// Inputs that are fed: batch, `lr`, `step`, `rows`.
    feeds: Vec<String>,
    /// Outputs that are no state.
    results: Vec<String>,
}

#[derive(Serialize)]
struct StatePorts {
    input: String,
    output: Option<String>,
}

/// Writes `train.onnx`, `eval.onnx`, `grad.onnx`, `update.onnx`, the state that they begin with (`state.safetensors`,
/// by name) and `training.json`, which says for each file what goes where.
///
/// # Errors
/// Nodes without gradient; a folder that cannot be written.
pub fn write(training: &Training, evaluated: &[Option<Width>], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let graphs = [
        ("train", training.step_graph()?),
        ("eval", training.evaluation_graph(evaluated)?),
        ("grad", training.gradient_graph()?),
        ("update", training.update_graph()?),
    ];
    let mut described = BTreeMap::new();
    for (name, step) in graphs {
        described.insert(name, describe(&step));
        let path = folder.join(format!("{name}.onnx"));
        write_graph(step, &path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let state: Vec<_> =
        training.state().iter().map(|s: &State| (s.name.clone(), s.initial.clone())).collect();
    checkpoint::write_state(&folder.join("state.safetensors"), &state)?;
    fs::write(folder.join("training.json"), serde_json::to_string_pretty(&described)? + "\n")?;
    Ok(())
}

fn describe(step: &StepGraph) -> Described {
    let inputs = step.graph.inputs();
    let input = |index: usize| {
        let node = inputs.get(index).and_then(|id| step.graph.node(*id));
        node.and_then(|n| n.outputs.first()).map(|o| o.name.clone()).unwrap_or_default()
    };
    let output = |index: usize| step.graph.outputs().get(index).map(|o| o.name.clone());
    let ports = |s: &mqc_training::graphs::Slot| StatePorts {
        input: input(s.input),
        output: s.output.and_then(output),
    };
    Described {
        state: step.state.iter().map(|s| (s.name.clone(), ports(s))).collect(),
        feeds: step.feeds.keys().cloned().collect(),
        results: step.results.keys().cloned().collect(),
    }
}

/// What ONNX has no operator for becomes primitives.
fn write_graph(mut step: StepGraph, path: &Path) -> Result<()> {
    let graph = &mut step.graph;
    for id in graph.ids() {
        if !graph.node(id).is_some_and(|n| matches!(n.op, Op::FakeSlice { .. })) {
            continue;
        }
        let mut builder = Builder::new(graph, "slice");
        if let Some(value) = expand(&mut builder, id)?.and_then(|values| values.first().copied()) {
            graph.replace_uses(Value { node: id, slot: 0 }, value)?;
        }
    }
    graph.erase_dead();
    graph.opsets.insert(String::new(), OPSET);
    let mut model = Model::from_graph(step.graph);
    model.header.ir_version = mqc_onnx::raise::ir_version_for(OPSET);
    export::write(&model, path, &ExportOptions::default())?;
    Ok(())
}
