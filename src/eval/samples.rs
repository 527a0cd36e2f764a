//! Labelled samples through a classifier, batch by batch.

use std::path::Path;

use anyhow::{Context, Result, bail};
use mqc_ir::{DType, Graph, Op, Tensor};

use super::classify::{Accuracy, Tally};
use super::evenly;
use crate::data::{self, Tensors};
use crate::generate::Widths;
use crate::load::f32_values;
use crate::precision::Precision;
use crate::run::{Loaded, Setup};
use crate::usage::UsageError;

/// Samples of a run, where the model leaves it open.
const BATCH: usize = 32;

/// A classifier: any inputs with the samples as their first axis to `[samples, ..., classes]`.
pub struct Classifier {
    loaded: Loaded,
    output: String,
    /// Whether the output is a softmax already.
    probabilities: bool,
    /// Samples of every run, where the model says.
    batch: Option<usize>,
}

/// Inputs, and the class of every row that a classifier gives for them.
pub struct Samples {
    inputs: Tensors,
    /// Inputs whose first axis is the samples.
    sampled: Vec<String>,
    count: usize,
    chosen: Vec<usize>,
    labels: Option<Vec<i64>>,
}

/// Rows of one run.
struct Rows {
    values: Vec<f32>,
    classes: usize,
}

impl Rows {
    fn row(&self, index: usize) -> Result<&[f32]> {
        let row = self.values.get(index * self.classes..(index + 1) * self.classes);
        row.context("a row of classes is missing")
    }
}

impl Classifier {
    /// Opens an artifact or an ONNX model. Of its outputs the one named `output` is computed, or the first.
    ///
    /// # Errors
    /// What [`Loaded::open`] finds; an output that the model does not have.
    pub fn open(path: &Path, output: Option<&str>, setup: &Setup) -> Result<Classifier> {
        let mut found = None;
        let loaded = Loaded::open_changed(path, setup, |graph| {
            let outputs = graph.outputs();
            let kept = match output {
                Some(name) => outputs.iter().find(|o| o.name == name),
                None => outputs.first(),
            };
            let Some(kept) = kept.cloned() else {
                let names: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
                let wanted = output.unwrap_or_default();
                bail!(UsageError(format!("--output {wanted}: the model's outputs are {}", names.join(", "))));
            };
            let probabilities =
                graph.node(kept.value.node).is_some_and(|n| matches!(n.op, Op::Softmax { .. }));
            graph.set_outputs(vec![kept.clone()]);
            graph.erase_dead();
            found = Some((kept.name, probabilities, fixed_batch(graph)));
            Ok(())
        })?;
        let (output, probabilities, batch) = found.context("the model was not looked at")?;
        Ok(Classifier { loaded, output, probabilities, batch })
    }

    /// The loaded model.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The name of the output that is looked at.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Logits of a batch. A softmax is undone up to a constant of each row, which changes no probability.
    fn run(&self, widths: &Widths, inputs: &Tensors) -> Result<Rows> {
        let outputs = self.loaded.session()?.run(widths, inputs)?;
        let (_, tensor) = outputs.into_iter().next().context("the model gave no output")?;
        let output = &self.output;
        let (Some(&classes), 2..) = (tensor.shape().last(), tensor.shape().len()) else {
            bail!(
                "output {output} is {:?}, expected [samples, classes]; choose one with --output",
                tensor.shape()
            );
        };
        if classes < 2 {
            bail!("output {output} is {:?}: {classes} classes; choose one with --output", tensor.shape());
        }
        let values = f32_values(&tensor).with_context(|| format!("output {output}"))?.into_owned();
        let logits = |values: Vec<f32>| values.into_iter().map(f32::ln).collect();
        Ok(Rows { values: if self.probabilities { logits(values) } else { values }, classes })
    }
}

/// The first size of the first input that declares it.
fn fixed_batch(graph: &Graph) -> Option<usize> {
    let inputs = data::required_inputs(graph);
    let first = inputs.iter().find_map(|(_, ty)| ty.shape()?.first()).and_then(|dim| dim.size());
    first.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

impl Samples {
    /// Reads the inputs of a model from files as `mqc run` does, and the labels from the array of this name in one of
    /// them; at most `limit` samples, evenly spaced.
    ///
    /// # Errors
    /// Inputs that are missing or of the wrong type, no samples, inputs of different lengths, labels that are no integers.
    pub fn read(
        files: &[String],
        labels: Option<&str>,
        graph: &Graph,
        limit: Option<usize>,
    ) -> Result<Samples> {
        let inputs = data::read_inputs(files, graph)?;
        let labels = labels.map(|name| read_labels(files, name)).transpose()?;
        let declared: Vec<_> = data::required_inputs(graph)
            .into_iter()
            .filter_map(|(name, ty)| {
                let rows = *inputs.get(&name)?.shape().first()?;
                Some((name, rows, ty.shape().and_then(|dims| dims.first()?.size())))
            })
            .collect();
        let Some((_, count, batch)) = declared.first().cloned().filter(|(_, count, _)| *count > 0) else {
            bail!(UsageError("the inputs have no samples".to_owned()));
        };
        // An input of another fixed size is the same for all samples.
        let sampled: Vec<_> =
            declared.into_iter().filter(|(.., size)| size.is_none() || *size == batch).collect();
        if let Some((name, rows, _)) = sampled.iter().find(|(_, rows, _)| *rows != count) {
            bail!(UsageError(format!("input {name} has {rows} samples, others have {count}")));
        }
        let sampled = sampled.into_iter().map(|(name, ..)| name).collect();
        let chosen = evenly((0..count).collect(), limit);
        Ok(Samples { inputs, sampled, count, chosen, labels })
    }

    /// Number of samples that are looked at.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// The inputs of some samples.
    fn batch(&self, samples: &[usize]) -> Result<Tensors> {
        let pick = |(name, tensor): (&String, &Tensor)| {
            let tensor = if self.sampled.contains(name) { rows(tensor, samples)? } else { tensor.clone() };
            Ok((name.clone(), tensor))
        };
        self.inputs.iter().map(pick).collect()
    }

    /// The label of row `row` of a sample that has `rows` rows.
    fn label(&self, sample: usize, row: usize, rows: usize) -> Result<Option<usize>> {
        let Some(labels) = &self.labels else { return Ok(None) };
        if labels.len() != self.count * rows {
            let (labels, count) = (labels.len(), self.count);
            bail!(UsageError(format!(
                "{labels} labels for {count} samples with {rows} rows of classes each"
            )));
        }
        let label = labels.get(sample * rows + row).context("a label is missing")?;
        match usize::try_from(*label) {
            Ok(label) => Ok(Some(label)),
            Err(_) => bail!(UsageError(format!("label {label} of sample {sample} is negative"))),
        }
    }
}

fn rows(tensor: &Tensor, chosen: &[usize]) -> Result<Tensor> {
    let count = tensor.shape().first().copied().unwrap_or(0);
    let size = tensor.bytes().len().checked_div(count).unwrap_or(0);
    let row = |index: &usize| tensor.bytes().get(index * size..(index + 1) * size);
    let bytes: Option<Vec<&[u8]>> = chosen.iter().map(row).collect();
    let bytes = bytes.context("a sample is missing")?.concat();
    let mut shape = tensor.shape().to_vec();
    shape.iter_mut().take(1).for_each(|rows| *rows = chosen.len());
    Ok(Tensor::new(tensor.dtype(), shape, bytes.into())?)
}

fn read_labels(files: &[String], name: &str) -> Result<Vec<i64>> {
    for path in files.iter().filter(|p| p.ends_with(".npz")) {
        if let Some(labels) = data::read_npz(Path::new(path))?.remove(name) {
            let Some(labels) = integers(&labels) else {
                let found = labels.dtype();
                bail!(UsageError(format!("--labels {name}: elements are {found}, expected integers")));
            };
            return Ok(labels);
        }
    }
    bail!(UsageError(format!("--labels {name}: no input npz has an array of this name")))
}

/// The elements, when they are integers of any width.
fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    let bytes = tensor.bytes();
    let wide = |b: [u8; 8]| i64::try_from(u64::from_le_bytes(b)).ok();
    match tensor.dtype() {
        DType::U64 => bytes.as_chunks().0.iter().map(|b| wide(*b)).collect(),
        DType::U32 => Some(bytes.as_chunks().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect()),
        DType::U16 => Some(bytes.as_chunks().0.iter().map(|b| i64::from(u16::from_le_bytes(*b))).collect()),
        DType::I16 => Some(bytes.as_chunks().0.iter().map(|b| i64::from(i16::from_le_bytes(*b))).collect()),
        DType::U8 => Some(bytes.iter().map(|b| i64::from(*b)).collect()),
        DType::I8 => Some(bytes.iter().map(|b| i64::from(*b as i8)).collect()),
        _ => tensor.to_i64_vec(),
    }
}

/// Runs all samples through every model: one result each, the reference first. Calls `progress` with the number of
/// samples that are done.
///
/// # Errors
/// What the models say; labels that do not fit.
pub fn classification(
    samples: &Samples,
    reference: Option<(&Classifier, &Precision)>,
    compared: (&Classifier, &[Precision]),
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Accuracy>> {
    let (model, precisions) = compared;
    let expected = reference.map(|(m, p)| Ok::<_, anyhow::Error>((m, m.loaded.prepare(p)?))).transpose()?;
    let widths = precisions.iter().map(|p| model.loaded.prepare(p)).collect::<Result<Vec<_>>>()?;
    let fixed = [reference.and_then(|(m, _)| m.batch), model.batch].into_iter().flatten().min();
    let mut tallies = vec![Tally::default(); precisions.len() + usize::from(expected.is_some())];
    for chosen in samples.chosen.chunks(fixed.unwrap_or(BATCH)) {
        // A fixed batch is filled with the last sample.
        let mut padded = chosen.to_vec();
        padded.resize(fixed.unwrap_or(chosen.len()), chosen.last().copied().unwrap_or(0));
        let inputs = samples.batch(&padded)?;
        let (first, others) = tallies.split_at_mut(usize::from(expected.is_some()));
        let found = expected.as_ref().map(|(m, widths)| m.run(widths, &inputs)).transpose()?;
        if let (Some(tally), Some(rows)) = (first.first_mut(), &found) {
            add(tally, samples, chosen, padded.len(), rows, None)?;
        }
        for (tally, widths) in others.iter_mut().zip(&widths) {
            add(tally, samples, chosen, padded.len(), &model.run(widths, &inputs)?, found.as_ref())?;
        }
        progress(chosen.len() as u64);
    }
    Ok(tallies.iter().map(Tally::finish).collect())
}

fn add(
    tally: &mut Tally,
    samples: &Samples,
    chosen: &[usize],
    batch: usize,
    rows: &Rows,
    expected: Option<&Rows>,
) -> Result<()> {
    let total = rows.values.len() / rows.classes;
    let each = total / batch;
    if each * batch != total || each == 0 {
        bail!("the model gave {total} rows of classes for {batch} samples");
    }
    if let Some(other) = expected.filter(|e| e.classes != rows.classes || e.values.len() != rows.values.len())
    {
        bail!(
            "the model gave {total} rows of {} classes, the float model of {}",
            rows.classes,
            other.classes
        );
    }
    for (place, sample) in chosen.iter().enumerate() {
        for part in 0..each {
            let index = place * each + part;
            let expected = expected.map(|e| e.row(index)).transpose()?;
            let label = samples.label(*sample, part, each)?;
            tally.add(rows.row(index)?, expected, label).with_context(|| format!("sample {sample}"))?;
        }
    }
    Ok(())
}
