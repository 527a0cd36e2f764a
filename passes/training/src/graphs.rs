//! The graphs of a training: the step, its two halves (gradients, update), evaluation, and the codes it ends with.
//!
//! Replicas come one after the other: forward at a width, its gradients, then the next width, so that only one
//! replica's activations are alive at a time.

use std::collections::BTreeMap;

use mqc_ir::op::WeightLayout;
use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, Output, Value};

use crate::autodiff::vjp;
use crate::equivalent::{self, Equivalent, Learned};
use crate::loss::{self, Target};
use crate::nested_layer::{self, AffineParameters, Ends, Position};
use crate::optimizer::{self, Update, Updated};
use crate::options::{Latent, LossKind, Range};
use crate::source::{Layer, Shared, Weights};
use crate::training::{State, Training, names};
use crate::{Builder, Error};

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

struct Work<'t, 'g> {
    training: &'t Training,
    b: Builder<'g>,
    state: BTreeMap<String, Value>,
    shared: Shared,
    labels: Option<Value>,
    teacher: Option<Value>,
    positions: BTreeMap<String, Position>,
    /// What stands for the constants that equivalent transformations change.
    transformed: Vec<(equivalent::Constant, Value)>,
}

/// Gradients by the name of the state, losses by replica.
struct Gradients {
    total: Value,
    losses: Vec<(Option<Width>, Value)>,
    by_name: BTreeMap<String, Value>,
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

    /// `(state without moments, batch) -> (loss, loss@r .., NAME.grad ..)`.
    ///
    /// # Errors
    /// Those of [`Training::step_graph`].
    pub fn gradient_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("grad");
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment).collect();
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
        for s in state.iter().filter(|s| !s.is_moment) {
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
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment).collect();
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

    /// `(state without moments) -> per layer: WEIGHT/code [in groups], WEIGHT/scale, WEIGHT/zero [map shape],
    /// WEIGHT.codes [rows, cols], WEIGHT.scale@map, WEIGHT.zero@map [rows, groups]`: what artifacts and later stages
    /// take over, computed exactly as the training computes it. NAME.transformed are the weights and constants that
    /// equivalent transformations change.
    ///
    /// # Errors
    /// None that a model can cause.
    pub fn codes_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("codes");
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment).collect();
        let mut work = Work::new(self, &mut graph, &state, false)?;
        let mut outputs = vec![];
        for layer in &self.source.layers {
            let weight = &layer.weight;
            let at = work.position(layer)?;
            let b = &mut work.b;
            let slice = mqc_ir::Op::FakeSlice { width: Width::MAX, mode: layer.spec.mode };
            let code = b.op(slice, &[at.position])?;
            outputs.push((names::code(weight), code));
            outputs.push((names::scale(weight), at.scale));
            outputs.push((names::zero(weight), at.zero));
            outputs.push((format!("{weight}.codes"), matrix(b, layer, code)?));
            for width in std::iter::once(None).chain(self.options.maps().into_iter().map(Some)) {
                let affine = width.map(|w| work.affine(layer, w)).transpose()?;
                let (scale, zero) = nested_layer::map_at(&mut work.b, at, affine)?;
                let at = replica_name(width);
                outputs.push((format!("{weight}.scale{at}"), map_matrix(&mut work.b, layer, scale)?));
                outputs.push((format!("{weight}.zero{at}"), map_matrix(&mut work.b, layer, zero)?));
            }
            if let Some(learned) = work.equivalent_of(layer)? {
                let weight = work.get(weight)?;
                let scaled = equivalent::scaled_weight(&mut work.b, layer, weight, learned)?;
                outputs.push((names::transformed(&layer.weight), scaled));
            }
        }
        work.transformed()?;
        outputs.extend(work.transformed.iter().map(|(c, v)| (names::transformed(&c.name), *v)));
        finish(graph, outputs)
    }

    /// `(state without moments, batch) -> output`: the float model's output that the loss looks at.
    ///
    /// # Errors
    /// None that a model can cause.
    pub fn output_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("output");
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment).collect();
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

/// [rows, cols] from groups.
fn matrix(b: &mut Builder, layer: &Layer, x: Value) -> Result<Value, Error> {
    let grouped = layer.grouped();
    match grouped.layout {
        WeightLayout::RowsFirst => nested_layer::out_of_groups(b, x, grouped, &[grouped.rows, grouped.cols]),
        WeightLayout::RowsLast => {
            let x = nested_layer::out_of_groups(b, x, grouped, &[grouped.cols, grouped.rows])?;
            b.transpose(x, &[1, 0])
        }
    }
}

/// [rows, groups] from the shape of maps.
fn map_matrix(b: &mut Builder, layer: &Layer, x: Value) -> Result<Value, Error> {
    let grouped = layer.grouped();
    match grouped.layout {
        WeightLayout::RowsFirst => b.reshape(x, &[grouped.rows, grouped.groups]),
        WeightLayout::RowsLast => {
            let x = b.reshape(x, &[grouped.groups, grouped.rows])?;
            b.transpose(x, &[1, 0])
        }
    }
}

/// Inputs and outputs by name become places; state is told from the rest by the name of its new value.
fn finish(mut graph: Graph, outputs: Vec<(String, Value)>) -> Result<StepGraph, Error> {
    let mut feeds = BTreeMap::new();
    for (index, id) in graph.inputs().iter().enumerate() {
        let name = graph.node(*id).and_then(|n| n.outputs.first()).map(|o| o.name.clone());
        feeds.insert(name.unwrap_or_default(), index);
    }
    let mut results: BTreeMap<String, usize> =
        outputs.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
    graph.set_outputs(
        outputs
            .into_iter()
            .map(|(name, value)| Output { value, name, declared: graph.ty(value).clone() })
            .collect(),
    );
    graph.erase_dead();
    let is_state = |name: &&String| name.starts_with(STATE);
    let state_names: Vec<String> = feeds.keys().filter(is_state).cloned().collect();
    let mut state = vec![];
    for full in state_names {
        let Some(input) = feeds.remove(&full) else { continue };
        let name = full.strip_prefix(STATE).unwrap_or(&full).to_owned();
        let output = results.remove(&format!("{full}{NEXT}"));
        state.push(Slot { name, input, output });
    }
    state.sort_by_key(|s| s.input);
    Ok(StepGraph { graph, state, feeds, results })
}

/// Inputs that hold state begin so, lest a weight and an input of the model share a name.
pub const STATE: &str = "state/";
/// What the output with the new value of a state input adds to its name.
pub const NEXT: &str = ".next";

impl<'t, 'g> Work<'t, 'g> {
    fn new(
        training: &'t Training,
        graph: &'g mut Graph,
        state: &[&State],
        with_batch: bool,
    ) -> Result<Work<'t, 'g>, Error> {
        let mut b = Builder::new(graph, "step");
        let mut inputs = BTreeMap::new();
        for s in state {
            let value = b.input(format!("{STATE}{}", s.name), s.initial.dtype(), s.initial.shape());
            inputs.insert(s.name.clone(), value);
        }
        let mut work = Work {
            training,
            shared: Shared::default(),
            b,
            state: inputs,
            labels: None,
            teacher: None,
            positions: BTreeMap::new(),
            transformed: vec![],
        };
        if with_batch {
            work.shared = Shared::new(&mut work.b, &training.source);
            work.targets()?;
        }
        Ok(work)
    }

    fn batch_size(&self) -> Result<usize, Error> {
        let output = self.output_shape()?;
        output
            .first()
            .copied()
            .ok_or_else(|| Error::invalid("output", "", "is a scalar, expected [batch, ..]"))
    }

    fn output_shape(&self) -> Result<Vec<usize>, Error> {
        let name = &self.training.options.loss.output;
        let graph = self.training.source.graph();
        let Some(output) = graph.outputs().iter().find(|o| o.name == *name) else {
            let all: Vec<&str> = graph.outputs().iter().map(|o| o.name.as_str()).collect();
            return Err(Error::invalid(
                "output",
                name,
                format!("is not one; the model has {}", all.join(", ")),
            ));
        };
        let sizes = graph.ty(output.value).shape().map(|s| s.iter().map(|d| d.size()).collect());
        let sizes: Option<Vec<u64>> = sizes.unwrap_or_default();
        let sizes = sizes.ok_or_else(|| Error::invalid("output", name, "has sizes that are not known"))?;
        Ok(sizes.into_iter().map(|n| n as usize).collect())
    }

    /// Labels as an input, or the float model's output.
    fn targets(&mut self) -> Result<(), Error> {
        let shape = self.output_shape()?;
        let kind = self.training.options.loss.kind;
        let name = self.b.graph.fresh_name("labels");
        match kind {
            LossKind::CrossEntropy { .. } => {
                let positions = &shape[..shape.len().saturating_sub(1)];
                self.labels = Some(self.b.input(name, DType::I64, positions));
            }
            LossKind::SoftLabels | LossKind::Mse => {
                self.labels = Some(self.b.input(name, DType::F32, &shape));
            }
            LossKind::DistillKl | LossKind::DistillMse => {
                let mut weights = Weights::default();
                for layer in &self.training.source.layers {
                    let value = self.b.constant(layer.tensor.clone());
                    weights.sliced.insert(layer.name.clone(), value);
                    weights.floats.insert(layer.weight.clone(), value);
                }
                self.teacher = Some(self.replicate(&weights, "teacher")?);
            }
        }
        Ok(())
    }

    fn target(&self) -> Result<Target, Error> {
        match (self.labels, self.teacher) {
            (Some(labels), _) => Ok(Target::Labels(labels)),
            (None, Some(teacher)) => Ok(Target::Teacher(teacher)),
            (None, None) => Err(Error::invalid("loss", "", "has no target")),
        }
    }

    fn replicate(&mut self, weights: &Weights, scope: &str) -> Result<Value, Error> {
        let outputs = self.training.source.replicate(&mut self.b, &mut self.shared, weights, scope)?;
        let wanted = &self.training.options.loss.output;
        let found = outputs.into_iter().find(|(name, _)| name == wanted);
        found.map(|(_, v)| v).ok_or_else(|| Error::invalid("output", wanted, "was not copied"))
    }

    fn get(&self, name: &str) -> Result<Value, Error> {
        self.state.get(name).copied().ok_or_else(|| Error::invalid("state", name, "is not there"))
    }

    fn position(&mut self, layer: &Layer) -> Result<Position, Error> {
        if let Some(at) = self.positions.get(&layer.name) {
            return Ok(*at);
        }
        let weight = &layer.weight;
        let at = match self.training.options.trainable.latent {
            Latent::Weights | Latent::Given => {
                let ends = match self.training.options.range {
                    Range::Learned => Some(Ends {
                        gamma: self.get(&names::gamma(weight))?,
                        beta: self.get(&names::beta(weight))?,
                    }),
                    Range::MinMax | Range::Levels => None,
                };
                let mut float = self.get(weight)?;
                if let Some(learned) = self.equivalent_of(layer)? {
                    float = equivalent::scaled_weight(&mut self.b, layer, float, learned)?;
                }
                let groups = nested_layer::in_groups(&mut self.b, float, layer.grouped())?;
                nested_layer::position(&mut self.b, layer, groups, ends, self.training.options.inset())?
            }
            Latent::Codes { prefix, .. } => {
                let (code, low) = (self.get(&names::code(weight))?, self.get(&names::low(weight))?);
                let position = nested_layer::in_bucket(&mut self.b, code, low, prefix)?;
                let (scale, zero) = (self.get(&names::scale(weight))?, self.get(&names::zero(weight))?);
                Position { position, scale, zero }
            }
            Latent::Frozen => Position {
                position: self.get(&names::code(weight))?,
                scale: self.get(&names::scale(weight))?,
                zero: self.get(&names::zero(weight))?,
            },
        };
        self.positions.insert(layer.name.clone(), at);
        Ok(at)
    }

    fn learned(&self, equivalent: &Equivalent) -> Result<Learned, Error> {
        let delta = equivalent.biases.as_ref().map(|_| self.get(&names::delta(&equivalent.name)));
        let log_scale = self.get(&names::log_scale(&equivalent.name))?;
        Ok(Learned { log_scale, delta: delta.transpose()? })
    }

    fn equivalent_of(&self, layer: &Layer) -> Result<Option<Learned>, Error> {
        let layers = &self.training.source.layers;
        let reads = |e: &&Equivalent| e.layers.iter().any(|i| layers[*i].name == layer.name);
        self.training.equivalents.iter().find(reads).map(|e| self.learned(e)).transpose()
    }

    /// The constants that equivalent transformations change, made once for all replicas.
    fn transformed(&mut self) -> Result<(), Error> {
        if self.transformed.is_empty() {
            let training = self.training;
            for equivalent in &training.equivalents {
                let learned = self.learned(equivalent)?;
                let layers = &training.source.layers;
                self.transformed.extend(equivalent::constants(&mut self.b, equivalent, layers, learned)?);
            }
        }
        Ok(())
    }

    fn affine(&self, layer: &Layer, width: Width) -> Result<AffineParameters, Error> {
        Ok(AffineParameters {
            scale: self.get(&names::width_scale(&layer.weight, width))?,
            shift: self.get(&names::width_shift(&layer.weight, width))?,
        })
    }

    /// The output at a width, and the weights that it used, by layer.
    fn forward(&mut self, width: Option<Width>) -> Result<(Value, BTreeMap<String, Value>), Error> {
        let training = self.training;
        let mut weights = Weights::default();
        for parameter in &training.source.parameters {
            weights.floats.extend(self.state.get(&parameter.name).map(|v| (parameter.name.clone(), *v)));
        }
        let scope = format!("float{}", replica_name(width));
        self.b.set_scope(scope.clone());
        for layer in &training.source.layers {
            weights.floats.extend(self.state.get(&layer.weight).map(|v| (layer.weight.clone(), *v)));
            let value = match width {
                None => self.get(&layer.weight)?,
                Some(width) => {
                    let at = self.position(layer)?;
                    let map = training.options.map_of(width);
                    let affine = map.map(|w| self.affine(layer, w)).transpose()?;
                    let groups = nested_layer::weight_at(&mut self.b, at, width, layer.spec.mode, affine)?;
                    nested_layer::out_of_groups(&mut self.b, groups, layer.grouped(), layer.tensor.shape())?
                }
            };
            weights.sliced.insert(layer.name.clone(), value);
        }
        if width.is_some() {
            self.transformed()?;
            weights.bound = self.transformed.iter().map(|(old, new)| (old.value, *new)).collect();
        }
        let output = self.replicate(&weights, &scope)?;
        Ok((output, weights.sliced))
    }

    fn gradients(&mut self) -> Result<Gradients, Error> {
        let options = &self.training.options;
        let replicas: Vec<(Option<Width>, f32)> = match options.widths.is_empty() {
            true => vec![(None, 1.0)],
            false => options.widths.iter().copied().map(Some).zip(options.lambda.iter().copied()).collect(),
        };
        let weight_sum: f32 = replicas.iter().map(|(_, lambda)| lambda).sum();
        let mut sums = Sums::default();
        let mut outputs: BTreeMap<Width, Value> = BTreeMap::new();
        let mut losses = vec![];
        for &(width, lambda) in &replicas {
            let (output, sliced) = self.forward(width)?;
            let loss = self.replica_loss(width, output, &outputs)?;
            outputs.extend(width.map(|w| (w, output)));
            losses.push((width, loss));
            let seed = self.b.scalar(lambda / weight_sum);
            let stops: Vec<Value> =
                outputs.iter().filter(|(w, _)| Some(**w) != width).map(|(_, v)| *v).collect();
            self.backward(width, &sliced, (loss, seed), &stops, &mut sums)?;
        }
        self.latent_gradients(&mut sums)?;
        let terms: Vec<(f32, Value)> =
            losses.iter().zip(&replicas).map(|((_, v), (_, l))| (*l, *v)).collect();
        let total = loss::weighted_mean(&mut self.b, &terms)?;
        let mut by_name = BTreeMap::new();
        for state in self.training.state.iter().filter(|s| s.trained && !s.is_moment) {
            let gradient = match sums.get(self.get(&state.name)?) {
                Some(gradient) => gradient,
                None => self.b.zeros(state.initial.shape())?,
            };
            by_name.insert(state.name.clone(), gradient);
        }
        Ok(Gradients { total, losses, by_name })
    }

    /// The loss of a replica: against the target, and against the slices that teach it, equally weighted.
    fn replica_loss(
        &mut self,
        width: Option<Width>,
        output: Value,
        outputs: &BTreeMap<Width, Value>,
    ) -> Result<Value, Error> {
        let options = &self.training.options;
        let pairs: Vec<_> = options.codistill.iter().filter(|p| Some(p.student) == width).collect();
        let mut parts = vec![];
        if pairs.iter().all(|p| p.with_truth) {
            let target = self.target()?;
            let terms = loss::terms(&mut self.b, options.loss.kind, output, target)?;
            parts.push((1.0, loss::mean(&mut self.b, terms)?));
        }
        for pair in pairs {
            let teacher = outputs.get(&pair.teacher).copied();
            let teacher = teacher
                .ok_or_else(|| Error::invalid("codistill", pair.teacher.to_string(), "is not there yet"))?;
            let terms = match options.loss.kind {
                LossKind::Mse | LossKind::DistillMse => {
                    loss::terms(&mut self.b, LossKind::DistillMse, output, Target::Teacher(teacher))?
                }
                LossKind::CrossEntropy { .. } | LossKind::SoftLabels | LossKind::DistillKl => {
                    loss::divergence(&mut self.b, output, teacher)?
                }
            };
            parts.push((1.0, loss::mean(&mut self.b, terms)?));
        }
        loss::weighted_mean(&mut self.b, &parts)
    }

    fn trained(&self, name: &str) -> Option<Value> {
        let state = self.training.state.iter().find(|s| s.name == name && s.trained)?;
        self.state.get(&state.name).copied()
    }

    /// From the loss to the weights of the replica and the float parameters; from there to maps and positions.
    fn backward(
        &mut self,
        width: Option<Width>,
        sliced: &BTreeMap<String, Value>,
        seed: (Value, Value),
        stops: &[Value],
        sums: &mut Sums,
    ) -> Result<(), Error> {
        let training = self.training;
        let layers = &training.source.layers;
        let floats = training.source.parameters.iter().map(|p| p.name.as_str());
        let floats = floats.chain(layers.iter().map(|l| l.weight.as_str()));
        let mut wrt: Vec<Value> = floats.filter_map(|name| self.trained(name)).collect();
        wrt.extend(sliced.values().copied());
        wrt.extend(self.transformed.iter().map(|(_, new)| *new).filter(|_| width.is_some()));
        wrt.sort_unstable();
        wrt.dedup();
        let cotangents = vjp(&mut self.b, &[seed], &wrt, stops)?;
        let mut of_slices = BTreeMap::new();
        for (value, cotangent) in wrt.into_iter().zip(cotangents) {
            let Some(cotangent) = cotangent else { continue };
            match width.is_some() && sliced.values().any(|s| *s == value) {
                true => {
                    of_slices.insert(value, cotangent);
                }
                false => sums.add(&mut self.b, value, cotangent)?,
            }
        }
        let Some(width) = width else { return Ok(()) };
        let straight =
            training.options.trainable.latent == Latent::Weights && training.options.range != Range::Learned;
        let mut leaves = vec![];
        let mut seeds = vec![];
        for layer in layers {
            let Some(&value) = sliced.get(&layer.name) else { continue };
            let Some(&cotangent) = of_slices.get(&value) else { continue };
            seeds.push((value, cotangent));
            if let Some(map) = training.options.map_of(width) {
                leaves.extend(self.trained(&names::width_scale(&layer.weight, map)));
                leaves.extend(self.trained(&names::width_shift(&layer.weight, map)));
            }
            let at = self.position(layer)?;
            if !straight {
                leaves.extend([at.position, at.scale, at.zero]);
            } else if let Some(weight) = self.trained(&layer.weight) {
                sums.add(&mut self.b, weight, cotangent)?;
            }
        }
        leaves.sort_unstable();
        leaves.dedup();
        let cotangents = vjp(&mut self.b, &seeds, &leaves, &[])?;
        for (leaf, cotangent) in leaves.into_iter().zip(cotangents) {
            if let Some(cotangent) = cotangent {
                sums.add(&mut self.b, leaf, cotangent)?;
            }
        }
        Ok(())
    }

    /// From positions, scales and zeros, summed over replicas, to what they are computed from.
    fn latent_gradients(&mut self, sums: &mut Sums) -> Result<(), Error> {
        let training = self.training;
        let mut seeds = vec![];
        let mut wrt = vec![];
        for layer in &training.source.layers {
            let Some(at) = self.positions.get(&layer.name).copied() else { continue };
            let weight = &layer.weight;
            for value in [at.position, at.scale, at.zero] {
                // Frozen codes are state themselves.
                if !self.state.values().any(|s| *s == value) {
                    seeds.extend(sums.get(value).map(|cotangent| (value, cotangent)));
                }
            }
            let names = [weight.clone(), names::gamma(weight), names::beta(weight), names::code(weight)];
            wrt.extend(names.iter().filter_map(|name| self.trained(name)));
        }
        seeds.extend(
            self.transformed.iter().filter_map(|(_, v)| sums.get(*v).map(|cotangent| (*v, cotangent))),
        );
        for (name, _) in training.equivalents.iter().flat_map(equivalent::state) {
            wrt.extend(self.trained(&name));
        }
        let cotangents = vjp(&mut self.b, &seeds, &wrt, &[])?;
        for (value, cotangent) in wrt.into_iter().zip(cotangents) {
            if let Some(cotangent) = cotangent {
                sums.add(&mut self.b, value, cotangent)?;
            }
        }
        Ok(())
    }

    /// New state by output name, and the norm of the gradient.
    fn update(&mut self, gradients: &BTreeMap<String, Value>) -> Result<Vec<(String, Value)>, Error> {
        let optimizer = &self.training.options.optimizer;
        self.b.set_scope("update");
        let rate = self.b.input("lr", DType::F32, &[]);
        let step = self.b.input("step", DType::I64, &[]);
        let mut updates = vec![];
        let mut named = vec![];
        for state in self.training.state.iter().filter(|s| s.trained && !s.is_moment) {
            let Some(&gradient) = gradients.get(&state.name) else { continue };
            let moments = optimizer::moments(optimizer.rule);
            let moments = moments.iter().map(|m| names::moment(&state.name, m)).collect::<Vec<_>>();
            updates.push(Update {
                value: self.get(&state.name)?,
                gradient,
                moments: moments.iter().map(|m| self.get(m)).collect::<Result<_, _>>()?,
                rate: state.rate,
                decays: state.decays,
            });
            named.push((state.name.clone(), moments));
        }
        let (results, norm) = optimizer::updates(&mut self.b, optimizer, &updates, rate, step)?;
        let mut outputs = vec![];
        for ((name, moment_names), Updated { value, moments }) in named.into_iter().zip(results) {
            outputs.push((format!("{STATE}{name}{NEXT}"), value));
            let moments = moment_names.into_iter().zip(moments);
            outputs.extend(moments.map(|(name, value)| (format!("{STATE}{name}{NEXT}"), value)));
        }
        outputs.push(("norm".to_owned(), norm));
        Ok(outputs)
    }
}

/// Cotangents summed over replicas.
#[derive(Default)]
struct Sums(BTreeMap<Value, Value>);

impl Sums {
    fn add(&mut self, b: &mut Builder, value: Value, cotangent: Value) -> Result<(), Error> {
        let sum = match self.0.get(&value) {
            Some(&sum) => b.add(sum, cotangent)?,
            None => cotangent,
        };
        self.0.insert(value, sum);
        Ok(())
    }

    fn get(&self, value: Value) -> Option<Value> {
        self.0.get(&value).copied()
    }
}
