//! A graph under construction: its state, its batch, what its losses compare with.

use std::collections::BTreeMap;

use mqc_ir::{DType, Graph, Value};

use crate::equivalent;
use crate::loss::Target;
use crate::nested_layer::Position;
use crate::options::LossKind;
use crate::source::{Shared, Weights};
use crate::training::{State, Training};
use crate::{Builder, Error};

use super::STATE;

pub(super) struct Work<'t, 'g> {
    pub(super) training: &'t Training,
    pub(super) b: Builder<'g>,
    pub(super) state: BTreeMap<String, Value>,
    pub(super) shared: Shared,
    pub(super) labels: Option<Value>,
    pub(super) teacher: Option<Value>,
    step: Option<Value>,
    pub(super) positions: BTreeMap<String, Position>,
    /// What stands for the constants that equivalent transformations change.
    pub(super) transformed: Vec<(equivalent::Constant, Value)>,
}

impl<'t, 'g> Work<'t, 'g> {
    pub(super) fn new(
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
            step: None,
            positions: BTreeMap::new(),
            transformed: vec![],
        };
        if with_batch {
            work.shared = Shared::new(&mut work.b, &training.source);
            work.targets()?;
        }
        Ok(work)
    }

    /// The number of the step, from 1: i64 `[]`.
    pub(super) fn step(&mut self) -> Value {
        let b = &mut self.b;
        *self.step.get_or_insert_with(|| b.input("step", DType::I64, &[]))
    }

    pub(super) fn batch_size(&self) -> Result<usize, Error> {
        let output = self.output_shape()?;
        output
            .first()
            .copied()
            .ok_or_else(|| Error::invalid("output", "", "is a scalar, expected [batch, ..]"))
    }

    pub(super) fn output_shape(&self) -> Result<Vec<usize>, Error> {
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
    pub(super) fn targets(&mut self) -> Result<(), Error> {
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

    pub(super) fn target(&self) -> Result<Target, Error> {
        match (self.labels, self.teacher) {
            (Some(labels), _) => Ok(Target::Labels(labels)),
            (None, Some(teacher)) => Ok(Target::Teacher(teacher)),
            (None, None) => Err(Error::invalid("loss", "", "has no target")),
        }
    }

    pub(super) fn replicate(&mut self, weights: &Weights, scope: &str) -> Result<Value, Error> {
        let outputs = self.training.source.replicate(&mut self.b, &mut self.shared, weights, scope)?;
        let wanted = &self.training.options.loss.output;
        let found = outputs.into_iter().find(|(name, _)| name == wanted);
        found.map(|(_, v)| v).ok_or_else(|| Error::invalid("output", wanted, "was not copied"))
    }

    pub(super) fn get(&self, name: &str) -> Result<Value, Error> {
        self.state.get(name).copied().ok_or_else(|| Error::invalid("state", name, "is not there"))
    }
}
