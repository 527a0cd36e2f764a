//! `mqc run`: a model on the CPU, at any width.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mqc_ir::quant::Width;
use serde::Serialize;

use super::Outcome;
use super::device::Device;
use super::engine::EngineArgs;
use super::ui::{Ui, UsageError, table};
use crate::data;
use crate::precision::Precision;
use crate::run::{Loaded, Setup};

#[derive(clap::Args)]
pub struct Args {
    /// An artifact, or an ONNX model to run in float.
    model: PathBuf,
    /// A width from 1 to 8, or a TOML file with widths per layer; the widest that is stored if not given. Several times: one run each, without
    /// reloading.
    #[arg(long)]
    bits: Vec<String>,
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Where to write the outputs (npz). With several --bits `{bits}` in the path is replaced by each.
    #[arg(long, short)]
    output: Option<String>,
    /// Where to run: auto takes a CUDA device where one can be used.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a model is fed with.
#[derive(clap::Args)]
pub struct InputArgs {
    /// Inputs: x.npz with arrays named like the inputs, or NAME=x.npy, NAME=x.pb. Random without it.
    #[arg(long, short)]
    pub input: Vec<String>,
    /// Seed of random inputs.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Sizes of named dimensions of random inputs: `--size batch=4`.
    #[arg(long, value_parser = size)]
    pub size: Vec<(String, u64)>,
}

pub(super) fn size(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=SIZE")?;
    Ok((name.to_owned(), value.parse().map_err(|e| format!("{value:?}: {e}"))?))
}

impl InputArgs {
    /// The inputs that were asked for.
    pub fn read(&self, graph: &mqc_ir::Graph) -> Result<data::Tensors> {
        if !self.input.is_empty() {
            return data::read_inputs(&self.input, graph);
        }
        data::random_inputs(graph, self.seed, &self.size.iter().cloned().collect(), 1)
    }
}

#[derive(Serialize)]
struct Row {
    bits: String,
    output: String,
    dtype: String,
    shape: Vec<usize>,
    mean: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let cuda = self.device.is_cuda(ui)?;
        if self.bits.len() > 1 && self.output.as_ref().is_some_and(|o| !o.contains("{bits}")) {
            bail!(UsageError("with several --bits the output path needs {bits} in it".to_owned()));
        }
        // A mistake in the arguments shows before a large model is loaded.
        let mut precisions =
            self.bits.iter().map(|b| Ok((b.clone(), Precision::parse(b)?))).collect::<Result<Vec<_>>>()?;
        let loaded = Loaded::open(&self.model, &Setup { cuda, ..self.engine.setup() })?;
        if precisions.is_empty() {
            let widest = loaded.opened().map_or(Width::MAX, |a| a.widest());
            precisions.push((widest.to_string(), Precision::uniform(widest)));
        }
        let inputs = self.inputs.read(loaded.graph())?;
        let mut rows = vec![];
        for (text, precision) in &precisions {
            let outputs = loaded.run(precision, &inputs)?;
            if let Some(path) = &self.output {
                let name = text.trim_end_matches(".toml").replace(['/', '\\'], "_");
                let path = PathBuf::from(path.replace("{bits}", &name));
                data::write_npz(&path, &outputs)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                ui.say(format_args!("{} written", path.display()));
            }
            rows.extend(outputs.iter().map(|(name, tensor)| row(text, name, tensor)));
        }
        ui.table_or_json(self.json, &rows, || {
            let mut t = table(["bits", "output", "type", "mean", "min", "max"], 3);
            for r in &rows {
                let number = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.4}"));
                let ty = format!("{} {:?}", r.dtype, r.shape);
                t.add_row([
                    r.bits.clone(),
                    r.output.clone(),
                    ty,
                    number(r.mean),
                    number(r.min),
                    number(r.max),
                ]);
            }
            t
        })?;
        Ok(Outcome::Passed)
    }
}

fn row(bits: &str, name: &str, tensor: &mqc_ir::Tensor) -> Row {
    let values = tensor.to_f32_vec().unwrap_or_default();
    let some = |v: f64| (!values.is_empty() && v.is_finite()).then_some(v);
    Row {
        bits: bits.to_owned(),
        output: name.to_owned(),
        dtype: tensor.dtype().to_string(),
        shape: tensor.shape().to_vec(),
        mean: some(values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len().max(1) as f64),
        min: some(values.iter().copied().fold(f32::INFINITY, f32::min).into()),
        max: some(values.iter().copied().fold(f32::NEG_INFINITY, f32::max).into()),
    }
}
