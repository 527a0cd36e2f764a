//! What the loop trains, and what it learns about it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mqc_ir::Tensor;
use serde::{Deserialize, Serialize};

use crate::data::Tensors;

/// What the loop trains.
pub trait Model {
    /// One optimizer step on a batch at a learning rate; `step` counts from 1.
    fn step(&mut self, batch: &Tensors, step: u64, rate: f32) -> Result<Losses>;

    /// The metrics of one validation batch, always in the same order. Only the first `valid` rows count: a batch at the
    /// end of the data is filled up with repeated rows.
    fn evaluate(&mut self, batch: &Tensors, valid: usize) -> Result<Vec<WidthMetrics>>;

    /// All that a step changes, by name: parameters, moments.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Takes a state back. Names, types and shapes are those of [`Model::state`].
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()>;

    /// Name of the first tensor of the state that holds NaN or infinity.
    fn first_bad(&self) -> Option<String>;

    /// sha256 of what the step computes: graph and options. A checkpoint continues only under the same.
    fn fingerprint(&self) -> String;
}

/// The losses of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// What was minimised.
    pub total: f32,
    /// The loss of each trained width by its name (`int2`, `float`), unweighted.
    pub widths: Vec<(String, f32)>,
}

/// Sums over rows of a validation set at one width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WidthMetrics {
    /// Name of the width: `int4`, `float`.
    pub name: String,
    /// Sum of the loss of all targets.
    pub loss_sum: f64,
    /// Number of targets: samples, or tokens of a language model; ignored ones do not count.
    pub count: u64,
    /// Targets that were predicted right, where targets are classes.
    pub correct: Option<u64>,
}

impl WidthMetrics {
    /// Mean loss of a target; NaN when all are ignored.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.count as f64
    }

    /// Share of the targets that were predicted right.
    pub fn accuracy(&self) -> Option<f64> {
        self.correct.map(|correct| correct as f64 / self.count as f64)
    }

    /// Perplexity, when the loss is a cross-entropy.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// Adds the sums of one more batch.
pub fn add(sums: &mut Vec<WidthMetrics>, batch: Vec<WidthMetrics>) -> Result<()> {
    if sums.is_empty() {
        *sums = batch;
        return Ok(());
    }
    if !sums.iter().map(|m| &m.name).eq(batch.iter().map(|m| &m.name)) {
        bail!("the widths of two validation batches differ");
    }
    for (sum, new) in sums.iter_mut().zip(batch) {
        sum.loss_sum += new.loss_sum;
        sum.count += new.count;
        sum.correct = sum.correct.zip(new.correct).map(|(a, b)| a + b);
    }
    Ok(())
}

/// Gives a model the state of a checkpoint, which must have its tensors: names, types and shapes.
pub fn restore(model: &mut dyn Model, state: &BTreeMap<String, Tensor>) -> Result<()> {
    let own = model.state()?;
    for (name, tensor) in &own {
        let Some(found) = state.get(name) else { bail!("the checkpoint has no tensor {name}") };
        let ty = |t: &Tensor| format!("{} {:?}", t.dtype(), t.shape());
        if ty(found) != ty(tensor) {
            bail!("tensor {name} of the checkpoint is {}, the model's is {}", ty(found), ty(tensor));
        }
    }
    if let Some(extra) = state.keys().find(|name| !own.iter().any(|(n, _)| n == *name)) {
        bail!("the checkpoint has a tensor {extra} that the model lacks");
    }
    model.restore(state)
}
