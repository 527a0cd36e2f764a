//! `mqc train`: from the command line to data, stages and what is written at the end.

mod args;
mod options;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mqc_ir::quant::{Affine, RangeMethod, Width};
use mqc_ir::{Graph, Tensor};
use mqc_passes::Debug;
use mqc_training::Training;
use mqc_training::blocks::Block;
use mqc_training::options::{Options, Range};

use self::args::{DataArgs, How, Method, RunArgs, What};
use super::Outcome;
use super::compile::Settings;
use super::ui::{Ui, UsageError};
use crate::compile::{self, Request};
use crate::method::runner::Place;
use crate::method::stages::{self, Finished};
use crate::method::{self, calibrate, finish, omniquant, prepare};
use crate::train::{self, Data, Interrupt, Source, Summary, Validation};
use crate::trained::Trained;

#[derive(clap::Args)]
pub struct Args {
    /// The float ONNX model.
    model: PathBuf,
    /// The artifact to write (the model with --method float).
    #[arg(long, short)]
    output: PathBuf,
    /// Replace an artifact that is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    run: RunArgs,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let place = match self.run.device.is_cuda(ui)? {
            true => Place::cuda()?,
            false => Place::Cpu { threads: self.run.threads },
        };
        let quantize = mqc_passes::Options { quantize: self.settings.clone().quantize()? };
        let is_float = self.what.method == Method::Float;
        let model = match is_float {
            true => prepare::float_model(&self.model),
            false => prepare::nested_model(&self.model, &quantize),
        };
        let model = model.with_context(|| format!("cannot train {}", self.model.display()))?;
        if self.data.accumulate == 0 || !self.data.batch.is_multiple_of(self.data.accumulate) {
            bail!(UsageError("--accumulate must divide --batch".to_owned()));
        }
        let sizes = prepare::Sizes {
            batch: self.data.batch / self.data.accumulate,
            sequence: self.data.sequence,
            named: self.data.dim.iter().cloned().collect(),
        };
        let graph = prepare::fixed(model.graph, &sizes)?;
        let widths: Vec<Width> = match is_float {
            true => vec![],
            false => self.what.train_bits.unwrap_or(quantize.quantize.widths).iter().collect(),
        };
        let base = self.options(&graph, &widths, &quantize.quantize)?;
        let stages = self.stages(&widths)?;
        let options: Vec<Options> = (0..stages.len()).map(|i| self.stage(&base, &stages, i)).collect();
        let loops: Vec<train::Options> =
            (0..stages.len()).map(|i| self.loop_options(i, &options[i])).collect::<Result<_>>()?;
        let evaluated = self.evaluated(&widths)?;
        let folder = self.run.run.clone().unwrap_or_else(|| self.output.with_extension("run"));
        let earlier = match self.what.method {
            Method::Scales => calibrate::codes(&graph)?,
            Method::Omniquant | Method::Qat => match (quantize.quantize.range, base.range) {
                (RangeMethod::Minmax, _) => BTreeMap::new(),
                (RangeMethod::Mse, Range::Learned) => calibrate::ends(&graph)?,
                (RangeMethod::Mse, Range::MinMax | Range::Levels) => {
                    bail!(UsageError(
                        "--range mse is where learned ranges begin; leave --ends away".to_owned()
                    ))
                }
            },
            Method::Float => BTreeMap::new(),
        };
        if let Some(graphs) = &self.run.graphs {
            let first = options.into_iter().next().context("there is no stage")?;
            let training = Training::new(graph, first, &earlier)?;
            method::graphs::write(&training, &evaluated, graphs)?;
            ui.say(format_args!("wrote train, eval, grad and update graphs to {}", graphs.display()));
            return Ok(Outcome::Passed);
        }
        let source = self.source(&graph, &base.loss, self.data.text.as_ref(), &self.data.data)?;
        let own = !self.data.validation_data.is_empty() || self.data.validation_text.is_some();
        let validation = match own {
            true => Some(self.source(
                &graph,
                &base.loss,
                self.data.validation_text.as_ref(),
                &self.data.validation_data,
            )?),
            false => None,
        };
        if self.what.method == Method::Omniquant {
            let loops = loops.into_iter().next().context("there is no stage")?;
            let base = options.into_iter().next().context("there is no stage")?;
            return self.omniquant(ui, &graph, base, loops, source, &quantize, earlier, place);
        }
        let mut data = |stage: usize| {
            let validation = match (&validation, self.data.validation_share) {
                (Some(source), _) => Validation::Own(source.clone()),
                (None, Some(share)) => Validation::Share { share, seed: self.how.seed },
                (None, None) => Validation::None,
            };
            // Stages see the data in another order each.
            let seed = self.how.seed.wrapping_mul(1000).wrapping_add(stage as u64);
            Data::new(source.clone(), validation, self.data.batch, self.data.batch, seed)
        };
        let run = stages::Run {
            graph,
            stages: options,
            loops,
            evaluated,
            parts: self.data.accumulate,
            place,
            folder: folder.clone(),
            resume: self.run.resume,
            data: &mut data,
            earlier,
        };
        let mut watch = ui.training();
        let finished = stages::run(run, &Interrupt::listen()?, &mut watch)?;
        drop(watch);
        match finished {
            Finished::Stopped(summary) => self.stopped(ui, summary, &folder)?,
            Finished::All(trained) => {
                match self.what.method {
                    Method::Float => finish::write_float(&self.model, &self.output, &trained.state)?,
                    Method::Qat | Method::Omniquant | Method::Scales => {
                        self.write(&finish::for_compiler(&trained)?, &quantize)?;
                    }
                }
                self.report(ui, &trained.summaries)?;
                ui.say(format_args!("wrote {}; curves are in {}", self.output.display(), folder.display()));
            }
        }
        Ok(Outcome::Passed)
    }

    #[expect(clippy::too_many_arguments, reason = "all that a training begins with")]
    fn omniquant(
        &self,
        ui: &Ui,
        graph: &Graph,
        options: Options,
        loops: train::Options,
        source: Source,
        quantize: &mqc_passes::Options,
        ranges: BTreeMap<String, Tensor>,
        place: Place,
    ) -> Result<Outcome> {
        if self.data.accumulate != 1 {
            bail!(UsageError("--accumulate is for the other methods; a block is small".to_owned()));
        }
        let samples = self.what.samples.min(source.train_rows());
        let mut chosen = Data::new(source, Validation::None, samples, 1, self.how.seed)?;
        let folder = self.run.run.clone().unwrap_or_else(|| self.output.with_extension("run"));
        let run = omniquant::Run {
            graph,
            options,
            loops,
            ends: omniquant::globs(&self.what.blocks)?,
            ranges,
            samples: chosen.batch(1)?,
            batch: self.data.batch,
            validation: self.data.validation_share,
            seed: self.how.seed,
            place,
            folder: folder.clone(),
            resume: self.run.resume,
            memory: self.what.activation_memory.saturating_mul(1 << 20),
        };
        let mut watch = ui.training();
        let mut begin = |number: usize, count: usize, block: &Block| {
            let (end, layers) = (&block.output, block.layers);
            ui.say(format_args!("block {number} of {count}, {layers} nested weights, up to {end}"));
        };
        let finished = omniquant::run(run, &Interrupt::listen()?, &mut begin, &mut watch)?;
        drop(watch);
        match finished {
            Finished::Stopped(summary) => self.stopped(ui, summary, &folder)?,
            Finished::All(calibrated) => {
                self.write(&calibrated.trained, quantize)?;
                self.report(ui, &calibrated.summaries)?;
                ui.say(format_args!("wrote {}; curves are in {}", self.output.display(), folder.display()));
            }
        }
        Ok(Outcome::Passed)
    }

    fn stopped(&self, ui: &Ui, summary: Summary, folder: &Path) -> Result<()> {
        let step = summary.step;
        ui.say(format_args!("stopped at step {step}; --resume continues in {}", folder.display()));
        self.report(ui, &[summary])
    }

    fn write(&self, trained: &Trained, quantize: &mqc_passes::Options) -> Result<()> {
        let request = Request {
            model: &self.model,
            output: &self.output,
            force: self.force,
            options: quantize,
            affine: Affine::Shared,
            activations: self.settings.activations(),
            target: None,
            debug: &Debug::default(),
            trained: Some(trained),
        };
        compile::compile(&request, &mut |_, _| {})?;
        Ok(())
    }

    fn report(&self, ui: &Ui, summaries: &[Summary]) -> Result<()> {
        if self.run.json {
            return ui.print(serde_json::to_string_pretty(summaries)?);
        }
        if let Some(summary) = summaries.last() {
            for metrics in &summary.validation {
                ui.say(format_args!("{:<6} validation loss {:.4}", metrics.name, metrics.loss()));
            }
        }
        Ok(())
    }
}
