//! The options of the command line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use mqc_ir::quant::Widths;
use mqc_training::options::Codistill;

use crate::cli::device::Device;
use crate::method::stages::Schedule;
use crate::train::Decay;

/// What is done to the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Method {
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
pub(super) enum Ends {
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
pub(super) enum LossName {
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

/// How gradients of widths are weighed against each other, besides --lambda.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Balancing {
    /// As --lambda says.
    #[default]
    None,
    /// Each width's loss is scaled so that the norms of the gradients by the shared codes agree, and then weighed by --lambda.
    Norms,
}

/// What is trained.
#[derive(clap::Args)]
#[command(next_help_heading = "What is trained")]
pub(super) struct What {
    /// qat, omniquant, scales or float.
    #[arg(long, value_enum, default_value_t)]
    pub(super) method: Method,
    /// The widths that are trained [default: those of --bits]; others are evaluated only.
    #[arg(long)]
    pub(super) train_bits: Option<Widths>,
    /// joint, or in-turn: the narrowest width first, then each wider one inside the frozen buckets of the one before.
    #[arg(long, default_value = "in-turn")]
    pub(super) schedule: Schedule,
    /// The stages of in-turn, as `2;8,4` [default: each width on its own].
    #[arg(long)]
    pub(super) stages: Option<String>,
    /// Let float parameters (norms, biases, tables) move in later stages too.
    #[arg(long)]
    pub(super) thaw: bool,
    /// OmniQuant: blocks end at values or nodes that match this glob; found if not given.
    #[arg(long, value_name = "GLOB")]
    pub(super) blocks: Vec<String>,
    /// OmniQuant: at most so many samples, chosen by the seed.
    #[arg(long, default_value_t = 128)]
    pub(super) samples: usize,
    /// OmniQuant: activations of a block beyond so many MiB are kept in a file.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub(super) activation_memory: usize,
    /// Where the range of codes comes from.
    #[arg(long, value_enum, default_value_t)]
    pub(super) ends: Ends,
    /// Only weights that match a glob are trained.
    #[arg(long, value_name = "GLOB")]
    pub(super) trainable: Vec<String>,
    /// Weights that match a glob are not trained.
    #[arg(long, value_name = "GLOB")]
    pub(super) frozen: Vec<String>,
    /// What is minimised.
    #[arg(long, value_enum, default_value_t)]
    pub(super) loss: LossName,
    /// The output that the loss looks at [default: logits, or the first].
    #[arg(long)]
    pub(super) loss_output: Option<String>,
    /// Labels of this value do not count.
    #[arg(long)]
    pub(super) ignore_index: Option<i64>,
    /// So much of each label is spread over all classes.
    #[arg(long, default_value_t = 0.0)]
    pub(super) label_smoothing: f32,
    /// The label of a position stands at the next one: labels are a language model's inputs.
    #[arg(long)]
    pub(super) shift_labels: bool,
    /// WIDE:NARROW pairs: the output of a slice is a target of a narrower one, beside its own; WIDE->NARROW: its only one.
    #[arg(long, value_delimiter = ',', value_parser = codistill)]
    pub(super) codistill: Vec<Codistill>,
}

/// What it is trained on.
#[derive(clap::Args)]
#[command(next_help_heading = "Data")]
pub(super) struct DataArgs {
    /// Arrays by input name: x.npz, x.safetensors, NAME=x.npy.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(super) data: Vec<String>,
    /// Tokens (.u16, .u32) or text, for language models.
    #[arg(long, value_name = "FILE")]
    pub(super) text: Option<PathBuf>,
    /// `bytes`, or a tokenizer.json, for texts.
    #[arg(long)]
    pub(super) tokenizer: Option<String>,
    /// Tokens of a sequence, or the second dimension of inputs that leave it open.
    #[arg(long)]
    pub(super) sequence: Option<usize>,
    /// Name of the labels in the data.
    #[arg(long, default_value = "labels")]
    pub(super) labels: String,
    /// Data to validate on, as --data.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["validation_share", "validation_text"])]
    pub(super) validation_data: Vec<String>,
    /// Tokens or text to validate on.
    #[arg(long, value_name = "FILE", conflicts_with = "validation_share")]
    pub(super) validation_text: Option<PathBuf>,
    /// This share of the data is validated on.
    #[arg(long, value_name = "SHARE")]
    pub(super) validation_share: Option<f64>,
    /// Sizes of open dimensions, NAME=SIZE.
    #[arg(long, value_name = "NAME=SIZE", value_parser = named_size)]
    pub(super) dim: Vec<(String, usize)>,
    /// Samples of a step.
    #[arg(long, default_value_t = 16)]
    pub(super) batch: usize,
    /// The gradients of a step are summed over so many parts of its batch.
    #[arg(long, default_value_t = 1)]
    pub(super) accumulate: usize,
}

/// Rates and rules.
#[derive(clap::Args)]
#[command(next_help_heading = "Optimization")]
pub(super) struct How {
    /// Steps of each stage.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    pub(super) steps: Vec<u64>,
    /// The highest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub(super) lr: f32,
    /// Steps that climb to it [default: 50, at most a tenth of a stage].
    #[arg(long)]
    pub(super) warmup: Option<u64>,
    /// constant, linear or cosine.
    #[arg(long, default_value = "cosine")]
    pub(super) lr_schedule: Decay,
    /// What the rate ends at, as a share of --lr.
    #[arg(long, default_value_t = 0.0)]
    pub(super) lr_floor: f32,
    /// What --lambda moves to on a line, in the same order.
    #[arg(long, value_name = "LAMBDA", value_delimiter = ',')]
    pub(super) lambda_end: Option<Vec<f32>>,
    /// It is there after this share of a stage's steps.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "lambda_end")]
    pub(super) lambda_until: f64,
    /// Whether the gradients of widths are made equally large.
    #[arg(long, value_enum, default_value_t)]
    pub(super) balance: Balancing,
    /// The ends of ranges move so much faster than --lr says.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(super) range_rate: f32,
    /// The scales of maps move so much faster than --lr says.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(super) scale_rate: f32,
    /// The shifts of maps and zero points, which are in codes, move so much faster than --lr says.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(super) shift_rate: f32,
    /// Norms, biases and tables move so much faster than --lr says.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(super) float_rate: f32,
    /// In later stages codes move so much faster than --lr says: 1000 is one code a step at a rate of 1e-3.
    #[arg(long, default_value_t = 1000.0)]
    pub(super) code_rate: f32,
    /// adamw or sgd.
    #[arg(long, default_value = "adamw", value_parser = ["adamw", "sgd"])]
    pub(super) optimizer: String,
    /// AdamW's averages.
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [0.9, 0.999])]
    pub(super) betas: Vec<f32>,
    /// SGD's momentum.
    #[arg(long, default_value_t = 0.9)]
    pub(super) momentum: f32,
    /// Decoupled weight decay.
    #[arg(long, default_value_t = 0.01)]
    pub(super) weight_decay: f32,
    /// The greatest global norm of the gradient; 0 does not clip.
    #[arg(long, default_value_t = 1.0)]
    pub(super) clip: f32,
    /// Seed of the order of the data.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

/// The run itself.
#[derive(clap::Args)]
#[command(next_help_heading = "Run")]
pub(super) struct RunArgs {
    /// Where checkpoints, metrics and the report go [default: the output's name with .run].
    #[arg(long, value_name = "DIR")]
    pub(super) run: Option<PathBuf>,
    /// Continue the training that is there.
    #[arg(long)]
    pub(super) resume: bool,
    /// The widths that validation measures [default: those that are trained, and 6 and 3].
    #[arg(long)]
    pub(super) evaluate_bits: Option<Widths>,
    /// Steps between validations [default: a tenth of the steps].
    #[arg(long)]
    pub(super) evaluate_every: Option<u64>,
    /// So many batches are validated on.
    #[arg(long)]
    pub(super) validation_batches: Option<usize>,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 100)]
    pub(super) save_every: u64,
    /// Stop after so many validations without a better one.
    #[arg(long)]
    pub(super) patience: Option<u64>,
    /// The widths whose mean validation loss is to be best, as int8,int2 [default: those of the stage].
    #[arg(long, value_delimiter = ',')]
    pub(super) best_by: Vec<String>,
    /// End after so many steps, to be continued.
    #[arg(long)]
    pub(super) stop_after: Option<u64>,
    /// Threads; as many as there are processors if not given.
    #[arg(long, default_value_t = 0)]
    pub(super) threads: usize,
    /// Where to train: auto takes a CUDA device where one can be used.
    #[arg(long, default_value = "cpu")]
    pub(super) device: Device,
    /// Write the graphs of the first stage as ONNX (train, eval, grad, update), their state, and do not train.
    #[arg(long, value_name = "DIR")]
    pub(super) graphs: Option<PathBuf>,
    /// Write the summary as JSON to standard output.
    #[arg(long)]
    pub(super) json: bool,
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
