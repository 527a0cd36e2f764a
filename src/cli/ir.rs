//! `mqc ir`: the textual IR of a model or an artifact, through any passes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mqc_ir::{Graph, text};
use mqc_passes::mqc_fuse::Devices;
use mqc_passes::{Context, FuseSettings, Options, Pipeline};

use super::Outcome;
use super::compile::{DebugArgs, Settings};
use super::ui::{Ui, UsageError};
use crate::artifact::Artifact;
use crate::load;

#[derive(clap::Args)]
pub struct Args {
    /// An ONNX model, an artifact, or a textual graph (.mqir).
    input: PathBuf,
    /// Passes to run, in order; `normalize` stands for all that keep the model's meaning.
    #[arg(long, value_delimiter = ',')]
    pass: Vec<String>,
    /// Write the result as an ONNX model instead of printing it.
    #[arg(long, value_name = "FILE")]
    onnx: Option<PathBuf>,
    /// A model whose weights a textual graph refers to by name.
    #[arg(long, value_name = "MODEL")]
    weights: Option<PathBuf>,
    /// Print what `fuse` did instead of the graph: which rules fired where, and what each saves by the table of costs.
    #[arg(long)]
    explain: bool,
    #[command(flatten, next_help_heading = "Options of fuse")]
    fuse: FuseArgs,
    #[command(flatten, next_help_heading = "Options of matquant")]
    settings: Settings,
    #[command(flatten, next_help_heading = "Looking into the compiler")]
    debug: DebugArgs,
}

/// What `fuse` optimizes for.
#[derive(clap::Args)]
struct FuseArgs {
    /// What the graph will run on: cpu, cuda:sm_80, cuda:sm_90a, or a device of --costs.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// A table of costs (TOML) whose devices come before those of the compiler.
    #[arg(long, value_name = "FILE")]
    costs: Option<PathBuf>,
    /// Sizes of named dimensions that costs are computed with, 16 if not given: `--size batch=4`.
    #[arg(long, value_parser = super::run::size)]
    size: Vec<(String, u64)>,
    /// Only these rules.
    #[arg(long, value_delimiter = ',')]
    rules: Vec<String>,
    /// Allow operators that only the CPU session of mqc has, as `mqc run` does.
    #[arg(long)]
    session: bool,
}

impl FuseArgs {
    fn settings(self) -> Result<FuseSettings> {
        let mut devices = Devices::builtin()?;
        if let Some(path) = &self.costs {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let own = Devices::parse(&text).with_context(|| path.display().to_string())?;
            devices = devices.extended(own);
        }
        let device = devices.get(&self.device)?.clone();
        Ok(FuseSettings {
            device,
            sizes: self.size.into_iter().collect(),
            only: self.rules,
            without: vec![],
            session: self.session,
        })
    }
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let mut model = match self.input.extension().is_some_and(|e| e == "mqir") {
            true => mqc_onnx::Model::from_graph(parse(&self.input, self.weights.as_deref())?),
            false if load::is_artifact(&self.input) => load::artifact_model(&Artifact::open(&self.input)?)?,
            false => load::model(&self.input)?,
        };
        let options = Options { quantize: self.settings.quantize()? };
        let mut context = Context::new(&options, self.debug.to_debug().stop_after);
        context.fuse = Some(self.fuse.settings()?);
        Pipeline::named(&self.pass)?.run(&mut model.graph, &mut context, &self.debug.to_debug())?;
        if self.explain {
            let report = context.fused.ok_or_else(|| UsageError("--explain needs --pass fuse".to_owned()))?;
            ui.print(report.explain().trim_end())?;
        }
        match &self.onnx {
            Some(path) => mqc_onnx::export::write(&model, path, &Default::default())?,
            None if self.explain => {}
            None => ui.print(text::print(&model.graph).trim_end())?,
        }
        Ok(Outcome::Passed)
    }
}

fn parse(path: &Path, weights: Option<&Path>) -> Result<Graph> {
    let source = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let weights = weights.map(load::model).transpose()?.map_or_else(Graph::default, |m| m.graph);
    text::parse(&source, &text::WeightsOf::new(&weights)).with_context(|| path.display().to_string())
}
