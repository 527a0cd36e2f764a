//! `mqc bench`: where the time of a model goes, against the machine's limits and against onnxruntime.

mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mqc_ir::Activations;
use mqc_ir::quant::Width;
use mqc_passes::mqc_fuse::Devices;

use super::Outcome;
use super::device::Device;
use super::run::InputArgs;
use super::ui::{Ui, UsageError, bytes, table};
use crate::bench::{self, Machine, Options, Peer, Report, Rivals, chart, inputs, on_device};
use crate::data::Tensors;
use crate::device::DeviceSession;
use crate::precision::Precision;
use crate::run::{Loaded, Setup};

#[derive(clap::Args)]
pub struct Args {
    /// An artifact, or an ONNX model to run in float.
    #[arg(value_name = "MODEL", required_unless_present = "calibrate")]
    subject: Option<PathBuf>,
    /// Measure this machine for the table of costs of `fuse` and write it to a file, as device `cpu`; --costs of `mqc ir` takes
    /// it. With the first of --threads.
    #[arg(long, value_name = "FILE", conflicts_with = "subject")]
    calibrate: Option<PathBuf>,
    /// Widths, or TOML files with widths per layer; the widths that the artifact was compiled for if not given.
    #[arg(long, value_delimiter = ',')]
    bits: Vec<String>,
    /// Batch sizes: the first size of every input that leaves it open, or so many rows of the given inputs.
    #[arg(long, value_delimiter = ',', value_parser = count)]
    batch: Vec<usize>,
    #[command(flatten)]
    inputs: InputArgs,
    /// How products round activations: int16, int8, int8:GROUP or f32; what the artifact was compiled for if not given.
    #[arg(long)]
    activations: Option<Activations>,
    /// Run the graph as it is, not fused (docs/fuse.md).
    #[arg(long)]
    unfused: bool,
    /// Leave these rules of fuse out, to see what each gains.
    #[arg(long, value_name = "RULES", value_delimiter = ',', conflicts_with = "unfused")]
    without: Vec<String>,
    /// Where to run: auto takes a CUDA device where one can be used.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Numbers of threads; all processors if not given.
    #[arg(long, value_delimiter = ',', value_parser = count)]
    threads: Vec<usize>,
    /// Rounds that count. In a round every width has one turn, and every model of onnxruntime.
    #[arg(long, default_value = "10", value_parser = count)]
    rounds: usize,
    /// Rounds before them that do not.
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// The float ONNX model that the artifact was compiled from, for onnxruntime to run.
    #[arg(long, short, value_name = "FLOAT")]
    model: Option<PathBuf>,
    /// A Python interpreter with onnxruntime to compare with; `python3` if it has onnxruntime.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Print every kind of operator and every layer, not only the slowest.
    #[arg(long)]
    all: bool,
    /// Write all numbers to a JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a chart.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write a page with the chart and all numbers (the artifact's own report stays as it is).
    #[arg(long)]
    report: Option<PathBuf>,
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}; expected a number, or several separated by commas")),
    }
}

impl Args {
    pub fn run(mut self, ui: &Ui) -> Result<Outcome> {
        if let Some(path) = &self.calibrate {
            return self.write_costs(path, ui);
        }
        let cuda = self.device.is_cuda(ui)?;
        let subject = self.subject.clone().context("no model")?;
        // A mistake in the arguments shows before a large model is loaded.
        let asked =
            self.bits.iter().map(|b| Ok((b.clone(), Precision::parse(b)?))).collect::<Result<Vec<_>>>()?;
        let setup = Setup {
            activations: self.activations,
            unfused: self.unfused,
            without: self.without.clone(),
            cuda,
            ..Setup::default()
        };
        let loaded = Loaded::open(&subject, &setup)?;
        let precisions = self.precisions(asked, &loaded, &subject)?;
        let tensors = self.tensors(&loaded)?;
        for (_, precision) in &precisions {
            loaded.prepare(precision)?;
        }
        if let Some(device) = loaded.device() {
            let name = device.name();
            return self.on_device(ui, &name, &loaded, &precisions, &tensors);
        }
        if self.threads.is_empty() {
            self.threads.push(bench::cores());
        }
        let mut notes = vec![];
        let mut rivals = self.rivals(&loaded, &subject, &precisions, &mut notes)?;
        ui.say("measuring the machine ...");
        let limits = bench::limits(&self.threads)?;
        let options = Options { rounds: self.rounds, warmup: self.warmup, threads: self.threads.clone() };
        let bar = ui.progress("rounds", bench::round_count(&options, tensors.len()));
        let cases =
            bench::run(&loaded, &precisions, &tensors, &options, &limits, rivals.as_mut(), &mut || {
                bar.advance(1);
            })?;
        drop(bar);
        notes.extend(rivals.iter().flat_map(|r| r.notes().iter().cloned()));
        let report = Report {
            model: subject.display().to_string(),
            created_by: Report::CREATED_BY,
            machine: Machine::here(&limits),
            rounds: self.rounds,
            warmup: self.warmup,
            onnxruntime: rivals.map(|r| r.version().to_owned()),
            notes,
            cases,
        };
        tables::print(ui, &report, self.all)?;
        self.write(ui, &report)?;
        Ok(Outcome::Passed)
    }

    /// Measures the model on a device: its runs as a whole.
    fn on_device(
        &self,
        ui: &Ui,
        device: &str,
        loaded: &Loaded,
        precisions: &[(String, Precision)],
        tensors: &[Tensors],
    ) -> Result<Outcome> {
        if self.svg.is_some() || self.report.is_some() {
            bail!(UsageError(
                "--svg and --report show what an operator takes, which is measured on the CPU only"
                    .to_owned()
            ));
        }
        let options = Options { rounds: self.rounds, warmup: self.warmup, threads: vec![] };
        let bar = ui.progress("rounds", ((self.rounds + self.warmup) * tensors.len()) as u64);
        let cases = on_device::run(loaded, precisions, tensors, &options, &mut || bar.advance(1))?;
        drop(bar);
        if let Some(case) = cases.first().filter(|case| !case.host_operations.is_empty()) {
            let list = case.host_operations.iter().map(|(name, count)| format!("{name} ({count})"));
            ui.say(format_args!("done by the host: {}", list.collect::<Vec<_>>().join(", ")));
        }
        for note in loaded.device().map(DeviceSession::notes).unwrap_or_default() {
            ui.say(note);
        }
        let blas = if loaded.device().is_some_and(DeviceSession::has_blas) { " with cuBLAS" } else { "" };
        ui.say(format_args!("on {device}{blas}, inputs and outputs copied in every run"));
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&cases)? + "\n";
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            ui.say(format_args!("{} written", path.display()));
        }
        ui.table_or_json(false, &cases, || {
            let header =
                ["bits", "batch", "median us", "min us", "max us", "kernels", "host steps", "planes"];
            let mut rows = table(header, 2);
            for case in &cases {
                let micros = |v: f64| format!("{v:.1}");
                rows.add_row([
                    case.bits.clone(),
                    case.batch.map_or_else(String::new, |batch| batch.to_string()),
                    micros(case.micros.median),
                    micros(case.micros.min),
                    micros(case.micros.max),
                    case.kernels.to_string(),
                    case.host_steps.to_string(),
                    bytes(case.resident_bytes),
                ]);
            }
            rows
        })?;
        Ok(Outcome::Passed)
    }

    /// What to measure; a float model has one precision.
    fn precisions(
        &self,
        asked: Vec<(String, Precision)>,
        loaded: &Loaded,
        subject: &Path,
    ) -> Result<Vec<(String, Precision)>> {
        let Some(artifact) = loaded.opened() else {
            if !asked.is_empty() || self.model.is_some() {
                let path = subject.display();
                bail!(UsageError(format!(
                    "{path} is an ONNX model and runs in float; --bits and --model go with an artifact"
                )));
            }
            return Ok(vec![("float".to_owned(), Precision::uniform(Width::MAX))]);
        };
        if !asked.is_empty() {
            return Ok(asked);
        }
        let widths = artifact.manifest().bits.iter().filter(|w| *w <= artifact.widest());
        Ok(widths.map(|w| (w.to_string(), Precision::uniform(w))).collect())
    }

    /// The inputs of every batch size.
    fn tensors(&self, loaded: &Loaded) -> Result<Vec<Tensors>> {
        let graph = loaded.graph();
        let sizes = self.inputs.size.iter().cloned().collect();
        inputs::check_sizes(graph, &sizes)?;
        let batches: Vec<Option<usize>> = match self.batch.as_slice() {
            [] => vec![None],
            some => some.iter().copied().map(Some).collect(),
        };
        if self.inputs.input.is_empty() {
            return batches
                .into_iter()
                .map(|batch| inputs::random(graph, self.inputs.seed, &sizes, batch))
                .collect();
        }
        let given = self.inputs.read(graph)?;
        let cut = |batch| match batch {
            Some(batch) => inputs::first_rows(graph, &given, batch),
            None => Ok(given.clone()),
        };
        batches.into_iter().map(cut).collect()
    }

    /// onnxruntime with its models. Where it is not installed a note says so; an interpreter that was asked for must
    /// have it.
    fn rivals(
        &self,
        loaded: &Loaded,
        subject: &Path,
        precisions: &[(String, Precision)],
        notes: &mut Vec<String>,
    ) -> Result<Option<Rivals>> {
        let python = self.python.as_deref().unwrap_or(Path::new("python3"));
        let peer = match (Peer::start(python), &self.python) {
            (Ok(peer), _) => peer,
            (Err(error), Some(_)) => {
                bail!(UsageError(format!("--python {}: no onnxruntime: {error:#}", python.display())))
            }
            (Err(error), None) => {
                notes.push(format!("not compared with onnxruntime: {}: {error:#}", python.display()));
                return Ok(None);
            }
        };
        let mut rivals = Rivals::new(peer)?;
        let Some(artifact) = loaded.opened() else {
            rivals.add_float(subject);
            return Ok(Some(rivals));
        };
        match &self.model {
            Some(path) => rivals.add_float(path),
            None => notes.push("onnxruntime: no float model; give it with --model".to_owned()),
        }
        for (bits, precision) in precisions {
            rivals.add_export(artifact, bits, precision);
        }
        Ok(Some(rivals))
    }

    fn write_costs(&self, path: &Path, ui: &Ui) -> Result<Outcome> {
        let threads = self.threads.first().copied().unwrap_or_else(bench::cores);
        ui.say("measuring the machine ...");
        let table = Devices::of("cpu", bench::calibrate(threads)?);
        let text = format!("# Measured by `mqc bench --calibrate` with {threads} threads.\n\n{table}");
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        ui.say(format_args!("{} written", path.display()));
        Ok(Outcome::Passed)
    }

    fn write(&self, ui: &Ui, report: &Report) -> Result<()> {
        let write = |path: &Option<PathBuf>, content: &dyn Fn() -> Result<String>| -> Result<()> {
            let Some(path) = path else { return Ok(()) };
            std::fs::write(path, content()?).with_context(|| format!("cannot write {}", path.display()))?;
            ui.say(format_args!("{} written", path.display()));
            Ok(())
        };
        write(&self.json, &|| Ok(serde_json::to_string_pretty(report)? + "\n"))?;
        write(&self.svg, &|| Ok(chart::chart(report)))?;
        write(&self.report, &|| Ok(chart::page(report)?))
    }
}
