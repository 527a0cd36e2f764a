//! `mqc verify`: an artifact against its float model.

use std::path::PathBuf;

use anyhow::{Result, bail};
use mqc_ir::quant::Width;
use serde::Serialize;

use super::Outcome;
use super::device::Device;
use super::engine::EngineArgs;
use super::run::InputArgs;
use super::ui::{Ui, UsageError, table};
use crate::artifact::Artifact;
use crate::data;
use crate::precision::Precision;
use crate::run::{Loaded, Setup};
use crate::verify::{self, LayerError, OutputError};

#[derive(clap::Args)]
pub struct Args {
    /// The artifact.
    artifact: PathBuf,
    /// The float ONNX model that it was compiled from. Without it only checksums are compared.
    #[arg(long, short)]
    model: Option<PathBuf>,
    /// Widths, or TOML files with widths per layer; the widths that the artifact was compiled for if not given.
    #[arg(long, value_delimiter = ',')]
    bits: Vec<String>,
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Where to run: auto takes a CUDA device where one can be used.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Array of the input npz with class numbers: shows the accuracy of the first output.
    #[arg(long, requires = "input")]
    labels: Option<String>,
    /// Also run with each layer alone at each width, to find the one that hurts.
    #[arg(long)]
    layers: bool,
    /// Fail when an output's relative error at any of the widths is larger.
    #[arg(long)]
    max_error: Option<f64>,
    /// Fail when an output's cosine to the float model's is smaller; 0.99 at the widest width if no limit is given.
    #[arg(long)]
    min_cosine: Option<f64>,
    /// Fail when the share of rows with the same greatest element is smaller.
    #[arg(long)]
    min_agreement: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    artifact: String,
    checksums: &'static str,
    outputs: Vec<OutputError>,
    layers: Vec<LayerError>,
    failures: Vec<String>,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let cuda = self.device.is_cuda(ui)?;
        let artifact = Artifact::open(&self.artifact)?;
        artifact.verify_all()?;
        let mut report = Report {
            artifact: self.artifact.display().to_string(),
            checksums: "ok",
            outputs: vec![],
            layers: vec![],
            failures: vec![],
        };
        if let Some(model) = &self.model {
            self.compare(ui, model, (artifact, cuda), &mut report)?;
        } else if self.layers || !self.bits.is_empty() {
            bail!(UsageError(
                "--bits and --layers compare with a float model; give it with --model".to_owned()
            ));
        }
        if self.json {
            ui.print(serde_json::to_string_pretty(&report)?)?;
        } else {
            show(ui, &report)?;
        }
        Ok(if report.failures.is_empty() { Outcome::Passed } else { Outcome::Failed })
    }

    fn compare(
        &self,
        ui: &Ui,
        model: &std::path::Path,
        (artifact, cuda): (Artifact, bool),
        report: &mut Report,
    ) -> Result<()> {
        let widest = artifact.widest();
        let compiled: Vec<Width> = artifact.manifest().bits.iter().filter(|w| *w <= widest).collect();
        let bits = match self.bits.is_empty() {
            true => compiled.iter().map(Width::to_string).collect(),
            false => self.bits.clone(),
        };
        let precisions =
            bits.into_iter().map(|b| Ok((b.clone(), Precision::parse(&b)?))).collect::<Result<Vec<_>>>()?;
        let float = Loaded::open(model, &self.engine.setup())?;
        let artifact = Loaded::artifact(artifact, &Setup { cuda, ..self.engine.setup() })?;
        let inputs = self.inputs.read(float.graph())?;
        let labels = self.labels.as_ref().map(|name| find_labels(&self.inputs.input, name)).transpose()?;
        report.outputs = verify::outputs(&float, &artifact, &precisions, &inputs, labels.as_ref())?;
        if self.layers {
            let layers = artifact.opened().map_or(0, |a| a.manifest().layers.len());
            let bar = ui.progress("layers", (layers * compiled.len()) as u64);
            report.layers = verify::layers(&artifact, &compiled, &inputs, &mut || bar.advance(1))?;
        }
        let widest_asked =
            precisions.iter().filter(|(_, p)| p.layers.is_empty()).map(|(_, p)| p.default).max();
        report.failures = self.failures(&report.outputs, widest_asked);
        Ok(())
    }

    fn failures(&self, outputs: &[OutputError], widest: Option<Width>) -> Vec<String> {
        let no_limit = self.max_error.or(self.min_cosine).or(self.min_agreement).is_none();
        let mut failures = vec![];
        for row in outputs {
            let at = format!("output {} at {} bits", row.output, row.bits);
            let is_widest = widest.is_some_and(|w| w.to_string() == row.bits);
            let min_cosine = if no_limit && is_widest { Some(0.99) } else { self.min_cosine };
            let Some(error) = row.relative_error else {
                failures.push(format!("{at}: not finite, or the float output is all zero"));
                continue;
            };
            if self.max_error.is_some_and(|limit| error > limit) {
                failures.push(format!(
                    "{at}: relative error {error:.4} is over {}",
                    self.max_error.unwrap_or(0.0)
                ));
            }
            if let (Some(limit), Some(cosine)) = (min_cosine, row.cosine)
                && cosine < limit
            {
                failures.push(format!("{at}: cosine {cosine:.4} is under {limit}"));
            }
            if let (Some(limit), Some(agreement)) = (self.min_agreement, row.top1_agreement)
                && agreement < limit
            {
                failures.push(format!("{at}: top-1 agreement {agreement:.4} is under {limit}"));
            }
        }
        failures
    }
}

fn find_labels(inputs: &[String], name: &str) -> Result<mqc_ir::Tensor> {
    for path in inputs.iter().filter(|p| p.ends_with(".npz")) {
        if let Some(labels) = data::read_npz(std::path::Path::new(path))?.remove(name) {
            return Ok(labels);
        }
    }
    bail!(UsageError(format!("--labels {name}: no input npz has an array of this name")))
}

fn show(ui: &Ui, report: &Report) -> Result<()> {
    ui.print("checksums: ok")?;
    let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.5}"));
    if !report.outputs.is_empty() {
        let mut t = table(
            ["bits", "output", "relative error", "max error", "cosine", "top-1 agrees", "accuracy (float)"],
            2,
        );
        for r in &report.outputs {
            let accuracy = r.accuracy.map_or_else(|| "-".to_owned(), |(a, f)| format!("{a:.4} ({f:.4})"));
            let share = r.top1_agreement.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
            t.add_row([
                r.bits.clone(),
                r.output.clone(),
                number(r.relative_error),
                number(r.max_error),
                number(r.cosine),
                share,
                accuracy,
            ]);
        }
        ui.print(t)?;
    }
    if !report.layers.is_empty() {
        let mut rows: Vec<&LayerError> = report.layers.iter().collect();
        rows.sort_by(|a, b| {
            b.relative_error.unwrap_or(f64::INFINITY).total_cmp(&a.relative_error.unwrap_or(f64::INFINITY))
        });
        let mut t = table(["layer alone at a width", "bits", "error of the first output"], 1);
        for r in rows {
            t.add_row([r.layer.clone(), r.bits.to_string(), number(r.relative_error)]);
        }
        ui.print(t)?;
    }
    for failure in &report.failures {
        ui.print(format_args!("FAILED {failure}"))?;
    }
    Ok(())
}
