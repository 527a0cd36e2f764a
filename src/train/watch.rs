//! Who watches a training.

use super::model::{Losses, WidthMetrics};

/// What happened in a step.
#[derive(Debug)]
pub struct Step<'a> {
    /// Its number, from 1.
    pub step: u64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// The learning rate.
    pub rate: f32,
    /// The losses of its batch.
    pub losses: &'a Losses,
}

/// Is told how a training goes.
pub trait Watch {
    /// It starts, or continues after `done` of `steps`.
    fn start(&mut self, done: u64, steps: u64);
    /// A step is done.
    fn step(&mut self, step: &Step<'_>);
    /// The validation after so many steps; whether it is the best so far.
    fn evaluated(&mut self, step: u64, metrics: &[WidthMetrics], is_best: bool);
}

/// Nobody watches.
impl Watch for () {
    fn start(&mut self, _done: u64, _steps: u64) {}
    fn step(&mut self, _step: &Step<'_>) {}
    fn evaluated(&mut self, _step: u64, _metrics: &[WidthMetrics], _is_best: bool) {}
}
