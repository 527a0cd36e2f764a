//! `mqc ir`: the textual IR of a model or an artifact, through any passes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mqc_ir::{Graph, text};
use mqc_passes::{Context, Options, Pipeline};

use super::Outcome;
use super::compile::{DebugArgs, Settings};
use super::ui::Ui;
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
    #[command(flatten, next_help_heading = "Options of matquant")]
    settings: Settings,
    #[command(flatten, next_help_heading = "Looking into the compiler")]
    debug: DebugArgs,
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
        Pipeline::named(&self.pass)?.run(&mut model.graph, &mut context, &self.debug.to_debug())?;
        match &self.onnx {
            Some(path) => mqc_onnx::export::write(&model, path, &Default::default())?,
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
