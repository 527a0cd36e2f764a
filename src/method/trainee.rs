//! A training on the engine: steps, gradient accumulation, evaluation, state in and out.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mqc_ir::quant::Width;
use mqc_ir::{DType, Tensor, text};
use mqc_step::Array;
use mqc_training::graphs::replica_name;
use mqc_training::{StepGraph, Training};
use sha2::{Digest, Sha256};

use super::runner::{Place, Runner};
use crate::data::Tensors;
use crate::train::model::{Losses, Model, WidthMetrics};

/// A compiled graph of a training.
struct Compiled {
    program: Runner,
    state: Vec<mqc_training::graphs::Slot>,
    feeds: BTreeMap<String, usize>,
    results: BTreeMap<String, usize>,
}

/// How a step is made.
enum Steps {
    /// One graph does it all.
    Whole(Box<Compiled>),
    /// Gradients of several parts of the batch are summed, then the state is updated.
    Accumulated { gradient: Box<Compiled>, update: Box<Compiled>, parts: usize },
}

/// See the module.
pub struct Trainee {
    training: Training,
    steps: Steps,
    evaluation: Compiled,
    widths: Vec<Option<Width>>,
    rows: usize,
    fingerprint: String,
    /// Whether the state changed since the evaluation graph was given it.
    stale: bool,
}

/// The name of a replica in tables: `int4`, `float`.
pub fn width_name(width: Option<Width>) -> String {
    width.map_or_else(|| "float".to_owned(), |w| format!("int{w}"))
}

impl Compiled {
    fn new(graph: StepGraph, place: &Place) -> Result<Compiled> {
        let carried = graph.state.iter().filter_map(|s| Some((s.input, s.output?))).collect();
        let program = Runner::compile(&graph.graph, carried, place)?;
        Ok(Compiled { program, state: graph.state, feeds: graph.feeds, results: graph.results })
    }

    fn set_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for slot in &self.state {
            let Some(tensor) = state.get(&slot.name) else { bail!("the state has no tensor {}", slot.name) };
            self.program.set(slot.input, &Array::from_tensor(tensor)?)?;
        }
        Ok(())
    }

    fn feed(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        if let Some(&input) = self.feeds.get(name) {
            self.program.set(input, &Array::from_tensor(tensor)?)?;
        }
        Ok(())
    }

    /// Every input of the model must be in the batch.
    fn feed_batch(&mut self, batch: &Tensors) -> Result<()> {
        let names: Vec<String> = self.feeds.keys().cloned().collect();
        for name in names {
            match (batch.get(&name), name.as_str()) {
                (Some(tensor), _) => self.feed(&name, tensor)?,
                (None, "lr" | "step" | "rows") => {}
                (None, _) if name.ends_with(".grad") => {}
                (None, _) => bail!("the data has no {name}"),
            }
        }
        Ok(())
    }

    fn scalar(&self, name: &str) -> Result<Option<f32>> {
        self.results.get(name).map(|&output| self.program.scalar(output)).transpose()
    }

    fn losses(&self, widths: &[Width]) -> Result<Losses> {
        let mut losses = Losses { total: self.scalar("loss")?.unwrap_or(f32::NAN), widths: vec![] };
        for width in widths {
            let loss = self.scalar(&format!("loss@{width}"))?.unwrap_or(f32::NAN);
            losses.widths.push((width_name(Some(*width)), loss));
        }
        Ok(losses)
    }

    fn state_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        self.state
            .iter()
            .map(|s| Ok((s.name.clone(), self.program.input(s.input)?.to_tensor(DType::F32)?)))
            .collect()
    }
}

impl Trainee {
    /// Compiles the graphs of a training. `evaluated` are the widths that evaluation measures; `parts` how many
    /// batches of the model's fixed size make one step.
    ///
    /// # Errors
    /// Losses that do not fit, nodes without gradient, operations that the engine has not.
    pub fn new(
        training: Training,
        evaluated: &[Option<Width>],
        parts: usize,
        place: &Place,
    ) -> Result<Trainee> {
        let whole = training.step_graph()?;
        let described = format!("{}\n{:?}\n{parts}", text::print(&whole.graph), training.options());
        let fingerprint = hex(&Sha256::digest(described.as_bytes()));
        let steps = match parts {
            0 | 1 => Steps::Whole(Box::new(Compiled::new(whole, place)?)),
            _ => Steps::Accumulated {
                gradient: Box::new(Compiled::new(training.gradient_graph()?, place)?),
                update: Box::new(Compiled::new(training.update_graph()?, place)?),
                parts,
            },
        };
        let evaluation = training.evaluation_graph(evaluated)?;
        let rows = evaluation.feeds.get("rows").copied();
        let evaluation = Compiled::new(evaluation, place)?;
        let rows = rows.and_then(|r| evaluation.program.inputs()[r].shape.first().copied()).unwrap_or(1);
        let mut trainee = Trainee {
            training,
            steps,
            evaluation,
            widths: evaluated.to_vec(),
            rows,
            fingerprint,
            stale: true,
        };
        let initial: BTreeMap<String, Tensor> =
            trainee.training.state().iter().map(|s| (s.name.clone(), s.initial.clone())).collect();
        trainee.set_state(&initial)?;
        Ok(trainee)
    }

    /// Samples of one step.
    pub fn batch_rows(&self) -> usize {
        match &self.steps {
            Steps::Whole(_) => self.rows,
            Steps::Accumulated { parts, .. } => self.rows * parts,
        }
    }

    /// The training.
    pub fn training(&self) -> &Training {
        &self.training
    }

    /// The training, its graphs given up.
    pub fn into_training(self) -> Training {
        self.training
    }

    /// Bytes that a step holds at once.
    pub fn peak_bytes(&self) -> usize {
        match &self.steps {
            Steps::Whole(step) => step.program.peak_bytes(),
            Steps::Accumulated { gradient, update, .. } => {
                gradient.program.peak_bytes() + update.program.peak_bytes()
            }
        }
    }

    fn set_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match &mut self.steps {
            Steps::Whole(step) => step.set_state(state)?,
            Steps::Accumulated { gradient, update, .. } => {
                gradient.set_state(state)?;
                update.set_state(state)?;
            }
        }
        self.stale = true;
        Ok(())
    }

    /// All state by name.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn state_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state: BTreeMap<String, Tensor> = match &self.steps {
            Steps::Whole(step) => step.state_tensors()?.into_iter().collect(),
            Steps::Accumulated { gradient, update, .. } => {
                let mut state: BTreeMap<_, _> = gradient.state_tensors()?.into_iter().collect();
                state.extend(update.state_tensors()?);
                state
            }
        };
        // What the graph does not read (a table that nothing trained depends on) is still the model's.
        for s in self.training.state() {
            state.entry(s.name.clone()).or_insert_with(|| s.initial.clone());
        }
        Ok(state)
    }

    /// Scales, zero points and codes of the trained layers: see [`Training::codes_graph`].
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn codes(&self, place: &Place) -> Result<BTreeMap<String, Tensor>> {
        let mut codes = Compiled::new(self.training.codes_graph()?, place)?;
        codes.set_state(&self.state_tensors()?)?;
        codes.program.run()?;
        let tensor = |(name, &output): (&String, &usize)| {
            Ok((name.clone(), codes.program.output(output)?.to_tensor(DType::F32)?))
        };
        codes.results.iter().map(tensor).collect()
    }

    fn evaluate_part(&mut self, batch: &Tensors, valid: usize) -> Result<Vec<WidthMetrics>> {
        if self.stale {
            let state = self.state_tensors()?;
            self.evaluation.set_state(&state)?;
            self.stale = false;
        }
        self.evaluation.feed_batch(batch)?;
        let counted: Vec<f32> = (0..self.rows).map(|row| if row < valid { 1.0 } else { 0.0 }).collect();
        self.evaluation.feed("rows", &Tensor::from_f32(vec![self.rows], &counted)?)?;
        self.evaluation.program.run()?;
        let metrics = self.widths.iter().map(|&width| {
            let at = replica_name(width);
            let get = |what: &str| self.evaluation.scalar(&format!("{what}{at}"));
            Ok(WidthMetrics {
                name: width_name(width),
                loss_sum: f64::from(get("sum")?.unwrap_or(f32::NAN)),
                count: get("count")?.unwrap_or(0.0) as u64,
                correct: get("correct")?.map(|c| c as u64),
            })
        });
        metrics.collect()
    }
}

/// The float model's output, batch by batch.
pub struct Outputs(Compiled);

impl Outputs {
    /// Compiles the graph; the weights are those that the training begins with.
    ///
    /// # Errors
    /// Operations that the engine has not.
    pub fn new(training: &Training, place: &Place) -> Result<Outputs> {
        let mut compiled = Compiled::new(training.output_graph()?, place)?;
        let initial = training.state().iter().map(|s| (s.name.clone(), s.initial.clone()));
        compiled.set_state(&initial.collect())?;
        Ok(Outputs(compiled))
    }

    /// The output for a batch.
    ///
    /// # Errors
    /// A missing or misshapen input.
    pub fn run(&mut self, batch: &Tensors) -> Result<Tensor> {
        self.0.feed_batch(batch)?;
        self.0.program.run()?;
        let Some(&output) = self.0.results.get("output") else { bail!("the graph has no output") };
        Ok(self.0.program.output(output)?.to_tensor(DType::F32)?)
    }
}

/// Rows `part * rows ..` of each tensor that has as many rows as the batch.
fn part_of(batch: &Tensors, part: usize, parts: usize, rows: usize) -> Result<Tensors> {
    let cut = |(name, tensor): (&String, &Tensor)| {
        let mut shape = tensor.shape().to_vec();
        if shape.first() != Some(&(rows * parts)) {
            return Ok((name.clone(), tensor.clone()));
        }
        shape[0] = rows;
        let bytes = tensor.bytes().len() / parts;
        let bytes = tensor.bytes().slice(part * bytes..(part + 1) * bytes);
        Ok((name.clone(), Tensor::new(tensor.dtype(), shape, bytes)?))
    };
    batch.iter().map(cut).collect()
}

impl Model for Trainee {
    fn step(&mut self, batch: &Tensors, step: u64, rate: f32) -> Result<Losses> {
        self.stale = true;
        let widths = self.training.options().widths.clone();
        let rate = Tensor::f32_scalar(rate);
        let step_number = Tensor::i64_scalar(i64::try_from(step)?);
        match &mut self.steps {
            Steps::Whole(graph) => {
                graph.feed_batch(batch)?;
                graph.feed("lr", &rate)?;
                graph.feed("step", &step_number)?;
                graph.program.run()?;
                graph.losses(&widths)
            }
            Steps::Accumulated { gradient, update, parts } => {
                let parts = *parts;
                let mut sums: BTreeMap<String, Vec<f32>> = BTreeMap::new();
                let mut total = Losses { total: 0.0, widths: vec![] };
                for part in 0..parts {
                    gradient.feed_batch(&part_of(batch, part, parts, self.rows)?)?;
                    gradient.feed("step", &step_number)?;
                    gradient.program.run()?;
                    add_losses(&mut total, gradient.losses(&widths)?, parts as f32);
                    for (name, &output) in gradient.results.iter().filter(|(n, _)| n.ends_with(".grad")) {
                        let values = gradient.program.output(output)?.to_tensor(DType::F32)?;
                        let values = values.to_f32_vec().unwrap_or_default();
                        let sum = sums.entry(name.clone()).or_insert_with(|| vec![0.0; values.len()]);
                        sum.iter_mut().zip(values).for_each(|(s, v)| *s += v / parts as f32);
                    }
                }
                for (name, sum) in sums {
                    let Some(&input) = update.feeds.get(&name) else { continue };
                    let shape = update.program.inputs()[input].shape.clone();
                    update.feed(&name, &Tensor::from_f32(shape, &sum)?)?;
                }
                update.feed("lr", &rate)?;
                update.feed("step", &step_number)?;
                update.program.run()?;
                for slot in &update.state {
                    if let Some(same) = gradient.state.iter().find(|s| s.name == slot.name) {
                        gradient.program.set(same.input, &update.program.input(slot.input)?)?;
                    }
                }
                Ok(total)
            }
        }
    }

    fn evaluate(&mut self, batch: &Tensors, valid: usize) -> Result<Vec<WidthMetrics>> {
        let parts = self.batch_rows() / self.rows;
        let mut sums = vec![];
        for part in 0..parts {
            let valid = valid.saturating_sub(part * self.rows).min(self.rows);
            if valid > 0 {
                let metrics = self.evaluate_part(&part_of(batch, part, parts, self.rows)?, valid)?;
                crate::train::model::add(&mut sums, metrics)?;
            }
        }
        Ok(sums)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.state_tensors()?.into_iter().collect())
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.set_state(state)
    }

    fn first_bad(&self) -> Option<String> {
        let is_bad = |t: &Tensor| t.to_f32_vec().is_some_and(|v| v.iter().any(|v| !v.is_finite()));
        self.state_tensors().ok()?.into_iter().find(|(_, t)| is_bad(t)).map(|(name, _)| name)
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

fn add_losses(total: &mut Losses, part: Losses, parts: f32) {
    total.total += part.total / parts;
    if total.widths.is_empty() {
        total.widths = part.widths.into_iter().map(|(name, loss)| (name, loss / parts)).collect();
        return;
    }
    for (sum, (_, loss)) in total.widths.iter_mut().zip(part.widths) {
        sum.1 += loss / parts;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
