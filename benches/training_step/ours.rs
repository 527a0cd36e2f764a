//! Our side: a compiled step with data, run over and over.

use anyhow::{Context, Result};
use mqc_ir::quant::Width;
use mqc_step::{Array, Program, Setup};
use mqc_training::StepGraph;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::models::Model;

/// A training on one batch.
pub struct Ours {
    program: Program<f32>,
    step: usize,
    loss: usize,
    count: i64,
}

impl Ours {
    /// Float training, or that of some widths.
    pub fn new(model: Model, widths: &[Width], threads: usize) -> Result<Ours> {
        let training = model.training(widths)?;
        let mut step = training.step_graph()?;
        without(&mut step, "norm");
        let StepGraph { graph, state, feeds, results } = step;
        let carried = state.iter().filter_map(|s| Some((s.input, s.output?))).collect();
        let mut program = Program::<f32>::compile(&graph, &Setup { threads, carried })?;
        for slot in &state {
            let initial = training.state().iter().find(|s| s.name == slot.name);
            let initial = initial.with_context(|| format!("no state {}", slot.name))?;
            program.set(slot.input, &Array::from_tensor(&initial.initial)?)?;
        }
        let feed = |name: &str| feeds.get(name).copied().with_context(|| format!("no input {name}"));
        let (shape, classes, labels) = model.data();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let len = shape.iter().product::<usize>();
        let data = match model {
            Model::Mlp => Array::real(shape, (0..len).map(|_| random.random_range(-1.7..1.7)).collect())?,
            Model::Decoder => {
                Array::int(shape, (0..len).map(|_| random.random_range(0..classes as i64)).collect())?
            }
        };
        program.set(feed("x")?, &data)?;
        let len = labels.iter().product::<usize>();
        let labels = Array::int(labels, (0..len).map(|_| random.random_range(0..classes as i64)).collect())?;
        program.set(feed("labels")?, &labels)?;
        program.set(feed("lr")?, &Array::real(vec![], vec![1e-3])?)?;
        let loss = results.get("loss").copied().context("no loss")?;
        Ok(Ours { program, step: feed("step")?, loss, count: 0 })
    }

    /// One step; the loss before it.
    pub fn step(&mut self) -> Result<f32> {
        self.count += 1;
        self.program.set(self.step, &Array::int(vec![], vec![self.count])?)?;
        self.program.run()?;
        Ok(self.program.scalar(self.loss))
    }

    /// Bytes of all buffers.
    pub fn peak_bytes(&self) -> usize {
        self.program.peak_bytes()
    }
}

/// Takes a result out, and what computes it: the peers do not compute the norm of the gradient.
fn without(step: &mut StepGraph, name: &str) {
    let Some(gone) = step.results.remove(name) else { return };
    let mut outputs = step.graph.outputs().to_vec();
    outputs.remove(gone);
    step.graph.set_outputs(outputs);
    let places = step.results.values_mut().chain(step.state.iter_mut().filter_map(|s| s.output.as_mut()));
    places.filter(|place| **place > gone).for_each(|place| *place -= 1);
}
