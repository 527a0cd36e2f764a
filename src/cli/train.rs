//! `mqc train`: the options of the command line, the data, the stages, what is written at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mqc_ir::quant::{Affine, RangeMethod, Width, Widths};
use mqc_ir::{DType, Graph, Tensor};
use mqc_passes::Debug;
use mqc_training::options::{Codistill, Latent, Loss, LossKind, Optimizer, Options, Range, Rule, Trainable};

use mqc_training::Training;
use mqc_training::blocks::Block;

use super::Outcome;
use super::compile::Settings;
use super::ui::{Ui, UsageError};
use crate::compile::{self, Request};
use crate::data::required_inputs;
use crate::method::stages::{self, Finished, Schedule};
use crate::method::{self, calibrate, finish, omniquant, prepare, trainee::width_name};
use crate::train::data::{
    Classes, Content, Input, Samples, Stream, TextTokens, WindowInput, Windows, arrays,
};
use crate::train::{self, BestBy, Data, Decay, Interrupt, Source, Summary, Validation};
use crate::trained::Trained;

/// What is done to the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Quantization-aware training of all weights.
    #[default]
    Qat,
    /// Weights stay; their ranges and equivalent transformations are learned block by block on a few samples.
    Omniquant,
    /// Codes stay as they are; scales, zero points, norms and biases are trained.
    Scales,
    /// The float model is trained; writes an ONNX model.
    Float,
}

/// The ends of the range of codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Ends {
    /// Factors on the least and the greatest weight of a channel are learned.
    #[default]
    Learned,
    /// The least and the greatest weight; the gradient passes the quantizer unchanged, as in the paper.
    Minmax,
    /// The outermost levels of the narrowest width stand on them: a quantizer of that width alone.
    Levels,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LossName {
    /// `distill-kl` where the output is called `logits`, else `distill-mse`: needs no labels.
    #[default]
    Distill,
    /// Kullback-Leibler divergence from the float model's distribution over the last axis.
    DistillKl,
    /// Mean squared error against the float model's output.
    DistillMse,
    /// Cross-entropy with class indices.
    Ce,
    /// Cross-entropy with a distribution for each sample.
    SoftCe,
    /// Mean squared error against targets.
    Mse,
}

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

/// What is trained.
#[derive(clap::Args)]
#[command(next_help_heading = "What is trained")]
struct What {
    /// qat, omniquant, scales or float.
    #[arg(long, value_enum, default_value_t)]
    method: Method,
    /// The widths that are trained [default: those of --bits]; others are evaluated only.
    #[arg(long)]
    train_bits: Option<Widths>,
    /// joint, or in-turn: the narrowest width first, then each wider one inside the frozen buckets of the one before.
    #[arg(long, default_value = "in-turn")]
    schedule: Schedule,
    /// The stages of in-turn, as `2;8,4` [default: each width on its own].
    #[arg(long)]
    stages: Option<String>,
    /// Let float parameters (norms, biases, tables) move in later stages too.
    #[arg(long)]
    thaw: bool,
    /// OmniQuant: blocks end at values or nodes that match this glob; found if not given.
    #[arg(long, value_name = "GLOB")]
    blocks: Vec<String>,
    /// OmniQuant: at most so many samples, chosen by the seed.
    #[arg(long, default_value_t = 128)]
    samples: usize,
    /// OmniQuant: activations of a block beyond so many MiB are kept in a file.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    activation_memory: usize,
    /// Where the range of codes comes from.
    #[arg(long, value_enum, default_value_t)]
    ends: Ends,
    /// Only weights that match a glob are trained.
    #[arg(long, value_name = "GLOB")]
    trainable: Vec<String>,
    /// Weights that match a glob are not trained.
    #[arg(long, value_name = "GLOB")]
    frozen: Vec<String>,
    /// What is minimised.
    #[arg(long, value_enum, default_value_t)]
    loss: LossName,
    /// The output that the loss looks at [default: logits, or the first].
    #[arg(long)]
    loss_output: Option<String>,
    /// Labels of this value do not count.
    #[arg(long)]
    ignore_index: Option<i64>,
    /// So much of each label is spread over all classes.
    #[arg(long, default_value_t = 0.0)]
    label_smoothing: f32,
    /// The label of a position stands at the next one: labels are a language model's inputs.
    #[arg(long)]
    shift_labels: bool,
    /// WIDE:NARROW pairs: the output of a slice is a target of a narrower one, beside its own; WIDE->NARROW: its only one.
    #[arg(long, value_delimiter = ',', value_parser = codistill)]
    codistill: Vec<Codistill>,
}

/// What it is trained on.
#[derive(clap::Args)]
#[command(next_help_heading = "Data")]
struct DataArgs {
    /// Arrays by input name: x.npz, x.safetensors, NAME=x.npy.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    data: Vec<String>,
    /// Tokens (.u16, .u32) or text, for language models.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// `bytes`, or a tokenizer.json, for texts.
    #[arg(long)]
    tokenizer: Option<String>,
    /// Tokens of a sequence, or the second dimension of inputs that leave it open.
    #[arg(long)]
    sequence: Option<usize>,
    /// Name of the labels in the data.
    #[arg(long, default_value = "labels")]
    labels: String,
    /// Data to validate on, as --data.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["validation_share", "validation_text"])]
    validation_data: Vec<String>,
    /// Tokens or text to validate on.
    #[arg(long, value_name = "FILE", conflicts_with = "validation_share")]
    validation_text: Option<PathBuf>,
    /// This share of the data is validated on.
    #[arg(long, value_name = "SHARE")]
    validation_share: Option<f64>,
    /// Sizes of open dimensions, NAME=SIZE.
    #[arg(long, value_name = "NAME=SIZE", value_parser = named_size)]
    dim: Vec<(String, usize)>,
    /// Samples of a step.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// The gradients of a step are summed over so many parts of its batch.
    #[arg(long, default_value_t = 1)]
    accumulate: usize,
}

/// Rates and rules.
#[derive(clap::Args)]
#[command(next_help_heading = "Optimization")]
struct How {
    /// Steps of each stage.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    steps: Vec<u64>,
    /// The highest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    lr: f32,
    /// Steps that climb to it [default: 50, at most a tenth of a stage].
    #[arg(long)]
    warmup: Option<u64>,
    /// constant, linear or cosine.
    #[arg(long, default_value = "cosine")]
    lr_schedule: Decay,
    /// What the rate ends at, as a share of --lr.
    #[arg(long, default_value_t = 0.0)]
    lr_floor: f32,
    /// In later stages codes move so much faster than --lr says: 1000 is one code a step at a rate of 1e-3.
    #[arg(long, default_value_t = 1000.0)]
    code_rate: f32,
    /// adamw or sgd.
    #[arg(long, default_value = "adamw", value_parser = ["adamw", "sgd"])]
    optimizer: String,
    /// AdamW's averages.
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [0.9, 0.999])]
    betas: Vec<f32>,
    /// SGD's momentum.
    #[arg(long, default_value_t = 0.9)]
    momentum: f32,
    /// Decoupled weight decay.
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f32,
    /// The greatest global norm of the gradient; 0 does not clip.
    #[arg(long, default_value_t = 1.0)]
    clip: f32,
    /// Seed of the order of the data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The run itself.
#[derive(clap::Args)]
#[command(next_help_heading = "Run")]
struct RunArgs {
    /// Where checkpoints, metrics and the report go [default: the output's name with .run].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Continue the training that is there.
    #[arg(long)]
    resume: bool,
    /// The widths that validation measures [default: those that are trained, and 6 and 3].
    #[arg(long)]
    evaluate_bits: Option<Widths>,
    /// Steps between validations [default: a tenth of the steps].
    #[arg(long)]
    evaluate_every: Option<u64>,
    /// So many batches are validated on.
    #[arg(long)]
    validation_batches: Option<usize>,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 100)]
    save_every: u64,
    /// Stop after so many validations without a better one.
    #[arg(long)]
    patience: Option<u64>,
    /// The widths whose mean validation loss is to be best, as int8,int2 [default: those of the stage].
    #[arg(long, value_delimiter = ',')]
    best_by: Vec<String>,
    /// End after so many steps, to be continued.
    #[arg(long)]
    stop_after: Option<u64>,
    /// Threads; as many as there are processors if not given.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Write the graphs of the first stage as ONNX (train, eval, grad, update), their state, and do not train.
    #[arg(long, value_name = "DIR")]
    graphs: Option<PathBuf>,
    /// Write the summary as JSON to standard output.
    #[arg(long)]
    json: bool,
}

fn named_size(text: &str) -> Result<(String, usize)> {
    let (name, size) = text.split_once('=').context("expected NAME=SIZE")?;
    Ok((name.to_owned(), size.parse().context("expected a size behind =")?))
}

fn codistill(text: &str) -> Result<Codistill> {
    let (pair, with_truth) = match text.split_once("->") {
        Some(pair) => (pair, false),
        None => (text.split_once(':').context("expected WIDE:NARROW or WIDE->NARROW")?, true),
    };
    Ok(Codistill { teacher: pair.0.parse()?, student: pair.1.parse()?, with_truth })
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
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
        let options: Vec<Options> = (0..stages.len())
            .map(|i| stages::stage_options(&base, &stages, i, self.how.code_rate, self.what.thaw))
            .collect();
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
            return self.omniquant(ui, &graph, base, loops, source, &quantize, earlier);
        }
        let mut data = |stage: usize| {
            let validation = match (&validation, self.data.validation_share) {
                (Some(source), _) => Validation::Own(source.clone()),
                (None, Some(share)) => Validation::Share(share),
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
            threads: self.run.threads,
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
            threads: self.run.threads,
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

    fn options(
        &self,
        graph: &Graph,
        widths: &[Width],
        quantize: &mqc_passes::QuantizeOptions,
    ) -> Result<Options> {
        let what = &self.what;
        let output = match &what.loss_output {
            Some(name) => name.clone(),
            None => {
                let names: Vec<&str> = graph.outputs().iter().map(|o| o.name.as_str()).collect();
                let named = names.iter().find(|n| **n == "logits").or(names.first());
                named.context("the model has no output")?.to_string()
            }
        };
        let is_logits = output == "logits";
        let kind = match what.loss {
            LossName::Distill if is_logits => LossKind::DistillKl,
            LossName::Distill | LossName::DistillMse => LossKind::DistillMse,
            LossName::DistillKl => LossKind::DistillKl,
            LossName::Ce => LossKind::CrossEntropy {
                ignore: what.ignore_index,
                smoothing: what.label_smoothing,
                shift: what.shift_labels,
            },
            LossName::SoftCe => LossKind::SoftLabels,
            LossName::Mse => LossKind::Mse,
        };
        if what.method == Method::Omniquant && !kind.has_teacher() {
            let message =
                "--method omniquant compares blocks with those of the float model; leave --loss away";
            bail!(UsageError(message.to_owned()));
        }
        if what.method == Method::Float && kind.has_teacher() {
            bail!(UsageError(
                "--method float has no teacher to distill from; choose --loss ce or mse".to_owned()
            ));
        }
        let lambda = widths.iter().map(|w| {
            let place = quantize.widths.iter().position(|q| q == *w);
            place.and_then(|i| quantize.lambda.get(i).copied()).unwrap_or(1.0)
        });
        let rule = match self.how.optimizer.as_str() {
            "sgd" => Rule::Sgd { momentum: self.how.momentum },
            _ => Rule::AdamW { beta1: self.how.betas[0], beta2: self.how.betas[1], epsilon: 1e-8 },
        };
        Ok(Options {
            lambda: lambda.collect(),
            widths: widths.to_vec(),
            loss: Loss { kind, output },
            codistill: what.codistill.clone(),
            range: match what.ends {
                Ends::Learned => Range::Learned,
                Ends::Minmax => Range::MinMax,
                Ends::Levels => Range::Levels,
            },
            affine: self.settings.affine().unwrap_or(Affine::PerWidth),
            frozen_maps: vec![],
            trainable: Trainable {
                latent: match what.method {
                    Method::Qat | Method::Float => Latent::Weights,
                    Method::Omniquant => Latent::Given,
                    Method::Scales => Latent::Frozen,
                },
                floats: what.method != Method::Omniquant,
                equivalent: what.method == Method::Omniquant,
                include: what.trainable.clone(),
                exclude: what.frozen.clone(),
            },
            optimizer: Optimizer { rule, weight_decay: self.how.weight_decay, clip: self.how.clip },
        })
    }

    fn stages(&self, widths: &[Width]) -> Result<Vec<Vec<Width>>> {
        let stages = match &self.what.stages {
            Some(text) => text
                .split(';')
                .map(|stage| Ok(stage.parse::<Widths>()?.iter().collect()))
                .collect::<Result<Vec<Vec<Width>>>>()?,
            None if self.what.method == Method::Qat => self.what.schedule.stages(widths),
            None => vec![widths.to_vec()],
        };
        if stages.iter().flatten().any(|w| !widths.contains(w)) {
            bail!(UsageError("--stages has a width that is not trained".to_owned()));
        }
        stages::check(&stages)?;
        for pair in &self.what.codistill {
            if !stages.iter().any(|stage| stage.contains(&pair.teacher) && stage.contains(&pair.student)) {
                let (wide, narrow) = (pair.teacher, pair.student);
                bail!(UsageError(format!(
                    "--codistill {wide}:{narrow} needs a stage that trains both; --schedule joint has one, or --stages"
                )));
            }
        }
        Ok(stages)
    }

    fn evaluated(&self, widths: &[Width]) -> Result<Vec<Option<Width>>> {
        if self.what.method == Method::Float {
            return Ok(vec![None]);
        }
        let mut all = match self.run.evaluate_bits {
            Some(bits) => bits.iter().collect(),
            None => [widths, &[Width::new(6)?, Width::new(3)?]].concat(),
        };
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.dedup();
        Ok(all.into_iter().map(Some).collect())
    }

    fn loop_options(&self, stage: usize, options: &Options) -> Result<train::Options> {
        let steps = self.how.steps.get(stage).or(self.how.steps.last()).copied().unwrap_or(0);
        let schedule = train::Schedule {
            rate: self.how.lr,
            warmup: self.how.warmup.unwrap_or(50.min(steps / 10)),
            decay: self.how.lr_schedule,
            floor: self.how.lr_floor,
            steps,
        };
        // A stage is judged by what it trains. Without validation data there is nothing to judge by.
        let validates = self.data.validation_share.is_some()
            || self.data.validation_text.is_some()
            || !self.data.validation_data.is_empty();
        let best_by = match (self.run.best_by.is_empty(), validates) {
            (true, false) => BestBy::default(),
            (true, true) => BestBy(options.widths.iter().map(|w| width_name(Some(*w))).collect()),
            (false, _) => BestBy(self.run.best_by.clone()),
        };
        let fixed = serde_json::to_value(options)?;
        Ok(train::Options {
            schedule,
            evaluate_every: self.run.evaluate_every.unwrap_or((steps / 10).max(1)),
            validation_batches: self.run.validation_batches,
            save_every: self.run.save_every,
            log_every: 1,
            stop_after: self.run.stop_after,
            patience: self.run.patience,
            best_by,
            is_language_model: self.data.text.is_some(),
            fixed: fixed.as_object().cloned().unwrap_or_default(),
        })
    }

    /// Samples or windows, checked against the model.
    fn source(&self, graph: &Graph, loss: &Loss, text: Option<&PathBuf>, files: &[String]) -> Result<Source> {
        let inputs = required_inputs(graph);
        let classes = prepare::classes(graph, &loss.output);
        if let Some(text) = text {
            let tokens = self.data.tokenizer.as_deref().map(TextTokens::from);
            let vocabulary = classes.unwrap_or(u64::from(u32::MAX)) as usize;
            let stream = Stream::open(text, tokens.as_ref(), vocabulary)?;
            let sequence = self.data.sequence.context(UsageError("--text needs --sequence".to_owned()))?;
            let mut columns = vec![];
            for (name, ty) in &inputs {
                columns.push(WindowInput {
                    name: name.clone(),
                    dtype: ty.dtype().unwrap_or(DType::I64),
                    content: content(name, inputs.len())?,
                });
            }
            if !loss.kind.has_teacher() {
                let content = if self.what.shift_labels { Content::Ids } else { Content::NextIds };
                columns.push(WindowInput { name: "labels".to_owned(), dtype: DType::I64, content });
            }
            return Ok(Source::Windows(Windows::new(stream, sequence, columns)?));
        }
        if files.is_empty() {
            bail!(UsageError("there is nothing to train on: give --data or --text".to_owned()));
        }
        let only = if inputs.len() == 1 { inputs.first().map(|(n, _)| n.as_str()) } else { None };
        let mut tensors = arrays::read(files, only)?;
        if let Some(labels) = tensors.remove(&self.data.labels) {
            tensors.insert("labels".to_owned(), labels);
        }
        let mut wanted: Vec<Input> = inputs.iter().map(|(name, ty)| Input::of(name, ty)).collect();
        if !loss.kind.has_teacher() {
            let output = graph.outputs().iter().find(|o| o.name == loss.output);
            let mut shape = output.map(|o| Input::of(&o.name, graph.ty(o.value)).shape).unwrap_or_default();
            let (dtype, classes) = match loss.kind {
                LossKind::CrossEntropy { ignore, .. } => {
                    shape.pop();
                    (DType::I64, classes.map(|count| Classes { count, ignore }))
                }
                _ => (DType::F32, None),
            };
            wanted.push(Input { name: "labels".to_owned(), dtype, shape, classes });
        }
        Ok(Source::Samples(Samples::new(&tensors, &wanted)?))
    }
}

/// What an input of a language model holds, by the names that exporters give.
fn content(name: &str, inputs: usize) -> Result<Content> {
    Ok(match name {
        "attention_mask" => Content::Ones,
        "token_type_ids" => Content::Zeros,
        "position_ids" => Content::Positions,
        "input_ids" | "tokens" => Content::Ids,
        _ if inputs == 1 => Content::Ids,
        _ => bail!(
            "input {name} is none that a text can fill (input_ids, attention_mask, token_type_ids, position_ids)"
        ),
    })
}
