//! The graphs of a training: the step, its two halves (gradients, update), evaluation, and the codes it ends with.
//!
//! Replicas come one after the other: forward at a width, its gradients, then the next width, so that only one
//! replica's activations are alive at a time.

mod codes;
mod gradients;
mod ports;
mod replica;
mod update;
mod weighing;
mod work;

use std::collections::BTreeMap;

use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, Value};

pub use self::ports::{NEXT, STATE};

use self::gradients::Gradients;
use self::ports::finish;
use self::work::Work;
use crate::Error;
use crate::loss;
use crate::training::{State, Training};

/// A tensor of the state in a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The graph's input that holds it.
    pub input: usize,
    /// The graph's output that holds its new value, where the graph changes it.
    pub output: Option<usize>,
}

/// A graph of a training. Inputs and outputs are given by their place.
#[derive(Clone, Debug)]
pub struct StepGraph {
    /// The graph; all shapes are fixed.
    pub graph: Graph,
    /// The state that it reads.
    pub state: Vec<Slot>,
    /// What must be fed: names of batch inputs, `labels`, `lr`, `step`, `rows`.
    pub feeds: BTreeMap<String, usize>,
    /// Outputs that are not state, by name: `loss`, `loss@8`, `norm`, `NAME.grad`, ...
    pub results: BTreeMap<String, usize>,
}

/// The name of a replica in results: `@8`, or nothing for the float model.
pub fn replica_name(width: Option<Width>) -> String {
    width.map(|w| format!("@{w}")).unwrap_or_default()
}

impl Training {
    /// `(state, batch, lr, step) -> (state', loss, loss@r .., norm)`.
    ///
    /// # Errors
    /// Nodes without gradient; losses that do not fit the model.
    pub fn step_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("train");
        let mut work = Work::new(self, &mut graph, &self.state.iter().collect::<Vec<_>>(), true)?;
        let gradients = work.gradients()?;
        let mut outputs = work.update(&gradients.by_name)?;
        outputs.extend(losses(&gradients));
        finish(graph, outputs)
    }

    /// `(state without moments, batch) -> (loss, loss@r .., NAME.grad ..)`; `step` too where `lambda` moves.
    ///
    /// # Errors
    /// Those of [`Training::step_graph`].
    pub fn gradient_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("grad");
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment()).collect();
        let mut work = Work::new(self, &mut graph, &state, true)?;
        let gradients = work.gradients()?;
        let mut outputs = losses(&gradients);
        outputs.extend(gradients.by_name.iter().map(|(name, v)| (format!("{name}.grad"), *v)));
        finish(graph, outputs)
    }

    /// `(trained state, NAME.grad .., lr, step) -> (state', norm)`.
    ///
    /// # Errors
    /// None that a model can cause.
    pub fn update_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("update");
        let state: Vec<&State> = self.state.iter().filter(|s| s.trained).collect();
        let mut work = Work::new(self, &mut graph, &state, false)?;
        let mut gradients = BTreeMap::new();
        for s in state.iter().filter(|s| !s.is_moment()) {
            let input = work.b.input(format!("{}.grad", s.name), DType::F32, s.initial.shape());
            gradients.insert(s.name.clone(), input);
        }
        let outputs = work.update(&gradients)?;
        finish(graph, outputs)
    }

    /// `(state without moments, batch, rows) -> (sum@r, count@r, correct@r ..)`: sums of the loss, of positions and of
    /// correct ones over the samples whose `rows` f32 `[batch]` is 1. No width is the float model.
    ///
    /// # Errors
    /// Those of [`Training::step_graph`].
    pub fn evaluation_graph(&self, widths: &[Option<Width>]) -> Result<StepGraph, Error> {
        let mut graph = self.empty("eval");
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment()).collect();
        let mut work = Work::new(self, &mut graph, &state, true)?;
        let batch = work.batch_size()?;
        let rows = work.b.input("rows", DType::F32, &[batch]);
        let mut outputs = vec![];
        for &width in widths {
            let (output, ..) = work.forward(width)?;
            let target = work.target()?;
            let terms = loss::terms(&mut work.b, self.options.loss.kind, output, target)?;
            let (sum, count, correct) = loss::sums(&mut work.b, terms, rows)?;
            let at = replica_name(width);
            outputs.push((format!("sum{at}"), sum));
            outputs.push((format!("count{at}"), count));
            outputs.extend(correct.map(|c| (format!("correct{at}"), c)));
        }
        finish(graph, outputs)
    }

    /// `(state without moments, batch) -> output`: the float model's output that the loss looks at.
    ///
    /// # Errors
    /// None that a model can cause.
    pub fn output_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("output");
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment()).collect();
        let mut work = Work::new(self, &mut graph, &state, true)?;
        let (output, ..) = work.forward(None)?;
        finish(graph, vec![("output".to_owned(), output)])
    }

    fn empty(&self, name: &str) -> Graph {
        let source = self.source.graph();
        let mut graph = Graph::new(format!("{}.{name}", source.name));
        graph.opsets = source.opsets.clone();
        graph
    }
}

fn losses(gradients: &Gradients) -> Vec<(String, Value)> {
    let mut losses = vec![("loss".to_owned(), gradients.total)];
    let named = gradients.losses.iter().filter(|(w, _)| w.is_some());
    losses.extend(named.map(|(w, v)| (format!("loss{}", replica_name(*w)), *v)));
    losses
}
