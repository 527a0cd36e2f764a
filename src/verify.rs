//! How far an artifact's outputs are from those of its float model.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mqc_ir::Tensor;
use mqc_ir::quant::Width;
use serde::Serialize;

use crate::data::Tensors;
use crate::precision::Precision;
use crate::run::Loaded;

/// One output at one precision.
#[derive(Clone, Debug, Serialize)]
pub struct OutputError {
    /// The precision as it was asked for.
    pub bits: String,
    /// Name of the output.
    pub output: String,
    /// ||y - y_float|| / ||y_float||; null when a value is not finite.
    pub relative_error: Option<f64>,
    /// Largest absolute difference.
    pub max_error: Option<f64>,
    /// Cosine of the two outputs as vectors.
    pub cosine: Option<f64>,
    /// Share of rows (over the last axis) with the same greatest element.
    pub top1_agreement: Option<f64>,
    /// Share of rows whose greatest element is the label, when labels are given: of the artifact and of the float model.
    pub accuracy: Option<(f64, f64)>,
}

/// The effect of one layer on the first output when it alone runs at a width and the others at the widest.
#[derive(Clone, Debug, Serialize)]
pub struct LayerError {
    /// The layer.
    pub layer: String,
    /// Its width.
    pub bits: Width,
    /// Relative error of the first output against the same artifact with all layers at the widest.
    pub relative_error: Option<f64>,
}

/// Runs both on the same inputs and compares every output at every precision.
pub fn outputs(
    float: &Loaded,
    artifact: &Loaded,
    precisions: &[(String, Precision)],
    inputs: &Tensors,
    labels: Option<&Tensor>,
) -> Result<Vec<OutputError>> {
    let expected = float.run(&Precision::uniform(Width::MAX), inputs)?;
    let mut rows = vec![];
    for (bits, precision) in precisions {
        let found = artifact.run(precision, inputs)?;
        for (index, (name, reference)) in expected.iter().enumerate() {
            let Some((_, tensor)) = found.iter().find(|(n, _)| n == name) else {
                bail!("the artifact has no output {name}; is this the model that it was compiled from?");
            };
            let labels = labels.filter(|_| index == 0);
            rows.push(compare(bits, name, reference, tensor, labels)?);
        }
    }
    Ok(rows)
}

fn compare(
    bits: &str,
    name: &str,
    expected: &Tensor,
    found: &Tensor,
    labels: Option<&Tensor>,
) -> Result<OutputError> {
    if expected.shape() != found.shape() {
        bail!("output {name} has shape {:?}, the float model's has {:?}", found.shape(), expected.shape());
    }
    let (a, b) = (values(found), values(expected));
    let last = expected.shape().last().copied().unwrap_or(1).max(1);
    let has_classes = expected.shape().len() >= 2 && last > 1 && !a.is_empty();
    let accuracy = match labels.and_then(Tensor::to_i64_vec) {
        Some(labels) if has_classes && labels.len() == a.len() / last => {
            Some((hits(&a, last, &labels), hits(&b, last, &labels)))
        }
        Some(labels) => {
            bail!("{} labels do not fit output {name} of shape {:?}", labels.len(), expected.shape())
        }
        None => None,
    };
    let agreement = || {
        let same = a.chunks(last).zip(b.chunks(last)).filter(|(a, b)| greatest(a) == greatest(b)).count();
        same as f64 / (a.len() / last) as f64
    };
    Ok(OutputError {
        bits: bits.to_owned(),
        output: name.to_owned(),
        relative_error: relative_error(&a, &b),
        max_error: finite(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)),
        cosine: cosine(&a, &b),
        top1_agreement: has_classes.then(agreement),
        accuracy,
    })
}

/// The effect of each layer alone, at each width.
pub fn layers(
    artifact: &Loaded,
    widths: &[Width],
    inputs: &Tensors,
    progress: &mut dyn FnMut(),
) -> Result<Vec<LayerError>> {
    let widest = artifact.opened().map_or(Width::MAX, |a| a.widest());
    let names: Vec<String> =
        artifact.opened().iter().flat_map(|a| &a.manifest().layers).map(|l| l.name.clone()).collect();
    let first = |precision: &Precision| -> Result<Vec<f64>> {
        Ok(artifact.run(precision, inputs)?.first().map(|(_, t)| values(t)).unwrap_or_default())
    };
    let reference = first(&Precision::uniform(widest))?;
    let mut rows = vec![];
    for layer in &names {
        for &bits in widths {
            // Exact names go before patterns, so a name that looks like a glob means itself.
            let layers = BTreeMap::from([(layer.clone(), bits)]);
            let found = first(&Precision { default: widest, layers })?;
            rows.push(LayerError {
                layer: layer.clone(),
                bits,
                relative_error: relative_error(&found, &reference),
            });
            progress();
        }
    }
    Ok(rows)
}

/// The elements as f64: floats and integers of any width.
fn values(tensor: &Tensor) -> Vec<f64> {
    match (tensor.to_f32_vec(), tensor.to_i64_vec()) {
        (Some(floats), _) => floats.into_iter().map(f64::from).collect(),
        (None, Some(integers)) => integers.into_iter().map(|i| i as f64).collect(),
        (None, None) => tensor.bytes().iter().map(|&b| f64::from(b)).collect(),
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn relative_error(found: &[f64], expected: &[f64]) -> Option<f64> {
    let noise: f64 = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
    let signal: f64 = expected.iter().map(|b| b * b).sum();
    if noise == 0.0 { Some(0.0) } else { finite((noise / signal).sqrt()) }
}

fn cosine(a: &[f64], b: &[f64]) -> Option<f64> {
    let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    finite(dot / (norm(a) * norm(b)))
}

fn greatest(row: &[f64]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best })
}

fn hits(rows: &[f64], classes: usize, labels: &[i64]) -> f64 {
    let right =
        rows.chunks(classes).zip(labels).filter(|(row, label)| greatest(row) as i64 == **label).count();
    right as f64 / labels.len().max(1) as f64
}
