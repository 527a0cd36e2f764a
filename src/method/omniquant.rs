//! OmniQuant (arXiv 2308.13137) at all widths at once (arXiv 2502.06786, section 3.2): weights stay, their ranges and
//! equivalent transformations are learned block by block, so that each block's output at each width comes close to the
//! float one's on calibration data. The blocks' inputs are those of the float model, as in equation 5 of the latter.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use globset::{Glob, GlobSet};
use mqc_ir::{Graph, Tensor};
use mqc_training::Training;
use mqc_training::blocks::{Block, blocks};
use mqc_training::options::{LossKind, Options};
use mqc_training::training::names;

use super::finish;
use super::runner::Place;
use super::stages::Finished;
use super::trainee::{Outputs, Trainee};
use crate::data::{Tensors, required_inputs};
use crate::train::data::{Input, Samples, arrays};
use crate::train::{self, BestBy, Data, Ended, Interrupt, Source, Summary, Validation, Watch, checkpoint};
use crate::trained;
use crate::usage::UsageError;

/// All that a calibration needs.
pub struct Run<'a> {
    /// The model, of fixed shapes, with `nested_quantize` in front of its weights.
    pub graph: &'a Graph,
    /// Options of the last block; the others take the squared error of their output.
    pub options: Options,
    /// The loop's options for each block.
    pub loops: train::Options,
    /// Where blocks end; found if not given.
    pub ends: Option<GlobSet>,
    /// State that ranges begin with.
    pub ranges: BTreeMap<String, Tensor>,
    /// Calibration data: the inputs of the model.
    pub samples: Tensors,
    /// Samples of a step.
    pub batch: usize,
    /// This share of the samples is validated on.
    pub validation: Option<f64>,
    /// Seed of the order.
    pub seed: u64,
    /// Threads, 0 for all.
    pub place: Place,
    /// Where the blocks' checkpoints go.
    pub folder: PathBuf,
    /// Whether to continue what is there.
    pub resume: bool,
    /// Activations of a block that are larger than this are kept in a file of the folder.
    pub memory: usize,
}

/// What calibration ends with.
pub struct Calibrated {
    /// Codes, maps and transformed constants.
    pub trained: trained::Trained,
    /// What each block did.
    pub summaries: Vec<Summary>,
}

/// Calibrates one block after the other. `begin` hears of each: its number, how many there are, the block.
///
/// # Errors
/// What is wrong with the model, the data or checkpoints.
pub fn run(
    run: Run,
    interrupt: &Interrupt,
    begin: &mut dyn FnMut(usize, usize, &Block),
    watch: &mut dyn Watch,
) -> Result<Finished<Calibrated>> {
    let blocks = blocks(run.graph, &run.options.loss.output, run.ends.as_ref())?;
    let mut calibrated = Calibrated { trained: trained::Trained::default(), summaries: vec![] };
    let mut inputs = run.samples.clone();
    for (index, block) in blocks.iter().enumerate() {
        begin(index + 1, blocks.len(), block);
        let context = || format!("block {} ({})", index + 1, block.output);
        let is_last = index + 1 == blocks.len();
        let folder = run.folder.join(format!("block-{:03}", index + 1));
        let resume = run.resume && folder.exists();
        let mut options = run.options.clone();
        options.loss.output.clone_from(&block.output);
        if !is_last {
            options.loss.kind = LossKind::DistillMse;
        }
        let loops = fixed(&run, &options)?;
        let training = Training::new(block.graph.clone(), options, &run.ranges).with_context(context)?;
        let mut data = run.data(block, &inputs, index)?;
        let evaluated: Vec<_> = training.options().widths.iter().copied().map(Some).collect();
        let mut trainee = Trainee::new(training, &evaluated, 1, &run.place).with_context(context)?;
        let summary = train::train(&mut trainee, &mut data, &loops, &folder, resume, interrupt, watch)
            .with_context(context)?;
        match summary.ended {
            Ended::Finished | Ended::EarlyStop => {}
            Ended::StopAfter | Ended::Interrupted => return Ok(Finished::Stopped(summary)),
        }
        calibrated.summaries.push(summary);
        super::stages::take_best(&mut trainee, &folder)?;
        take(&mut calibrated.trained, &trainee, &run.place)?;
        if let Some(next) = blocks.get(index + 1).and_then(|b| b.input.clone()) {
            let output = run.forward(&trainee, &inputs)?;
            inputs.retain(|name, _| run.samples.contains_key(name));
            let output = run.kept(output, &next, index)?;
            inputs.insert(next, output);
        }
    }
    Ok(Finished::All(calibrated))
}

/// The set of some globs; none of them is no set.
///
/// # Errors
/// Text that is no glob.
pub fn globs(texts: &[String]) -> Result<Option<GlobSet>> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSet::builder();
    for text in texts {
        set.add(Glob::new(text).map_err(|error| UsageError(error.to_string()))?);
    }
    Ok(Some(set.build()?))
}

/// The loop's options of a block: what decides its result is in the checkpoint.
fn fixed(run: &Run, options: &Options) -> Result<train::Options> {
    let fixed = serde_json::to_value(options)?.as_object().cloned().unwrap_or_default();
    let widths = options.widths.iter().filter(|_| run.validation.is_some());
    let best_by = BestBy(widths.map(|w| super::trainee::width_name(Some(*w))).collect());
    Ok(train::Options { fixed, best_by, is_language_model: false, ..run.loops.clone() })
}

/// Codes, maps and changed constants of a block.
fn take(all: &mut trained::Trained, trainee: &Trainee, place: &Place) -> Result<()> {
    let codes = trainee.codes(place)?;
    all.layers.extend(finish::layers(trainee.training(), &codes)?);
    let suffix = names::transformed("");
    let changed = codes.into_iter().filter_map(|(n, t)| Some((n.strip_suffix(&suffix)?.to_owned(), t)));
    all.tensors.extend(changed);
    Ok(())
}

impl Run<'_> {
    fn data(&self, block: &Block, inputs: &Tensors, index: usize) -> Result<Data> {
        let inputs_of = required_inputs(&block.graph);
        let wanted: Vec<Input> = inputs_of.iter().map(|(name, ty)| Input::of(name, ty)).collect();
        let samples = Source::Samples(Samples::new(inputs, &wanted)?);
        let validation =
            self.validation.map_or(Validation::None, |share| Validation::Share { share, seed: self.seed });
        let seed = self.seed.wrapping_mul(1000).wrapping_add(index as u64);
        Data::new(samples, validation, self.batch, self.batch, seed)
    }

    /// The float block's output for all samples.
    fn forward(&self, trainee: &Trainee, inputs: &Tensors) -> Result<Tensor> {
        let mut outputs = Outputs::new(trainee.training(), &self.place)?;
        let rows = inputs.values().find_map(|t| t.shape().first().copied()).unwrap_or(0);
        let mut bytes = vec![];
        let mut shape = vec![rows];
        let mut start = 0;
        while start < rows {
            // The last batch is filled up with samples that came before.
            let first = start.min(rows.saturating_sub(self.batch));
            let cut = |t: &Tensor| -> Result<Tensor> {
                let row = t.bytes().len() / rows;
                let shape = [&[self.batch], &t.shape()[1..]].concat();
                Ok(Tensor::new(t.dtype(), shape, t.bytes().slice(first * row..(first + self.batch) * row))?)
            };
            let batch = inputs.iter().map(|(n, t)| Ok((n.clone(), cut(t)?))).collect::<Result<Tensors>>()?;
            let output = outputs.run(&batch)?;
            let row = output.bytes().len() / self.batch;
            bytes.extend_from_slice(&output.bytes()[(start - first) * row..]);
            shape = [&[rows], &output.shape()[1..]].concat();
            start = first + self.batch;
        }
        Ok(Tensor::new(mqc_ir::DType::F32, shape, bytes.into())?)
    }

    /// Activations in memory, or in a file that is mapped.
    fn kept(&self, activations: Tensor, name: &str, index: usize) -> Result<Tensor> {
        if activations.bytes().len() <= self.memory {
            return Ok(activations);
        }
        let path = |index: usize| self.folder.join(format!("activations-{}.safetensors", index % 2));
        checkpoint::write_state(&path(index), &[(name.to_owned(), activations)])?;
        let file = path(index).to_string_lossy().into_owned();
        arrays::read(&[file], None)?.remove(name).context("the activations are gone")
    }
}
