//! One width's replica of the model: its weights as functions of the state, and its output.

use std::collections::BTreeMap;

use mqc_ir::Value;
use mqc_ir::quant::Width;

use super::replica_name;
use super::work::Work;
use crate::Error;
use crate::equivalent::{self, Equivalent, Learned};
use crate::nested_layer::{self, AffineParameters, Ends, Line, Position};
use crate::options::{Latent, Range};
use crate::source::{Layer, Weights};
use crate::training::names;

/// A nested weight at a width, as what reads it takes it.
#[derive(Clone, Copy)]
pub(super) struct Sliced {
    /// The weight, or its levels where a line is applied to their products.
    pub(super) value: Value,
    /// The line from levels to the weight.
    pub(super) line: Option<Line>,
}

impl Sliced {
    /// What stands for the weight in the replica.
    pub(super) fn values(&self) -> impl Iterator<Item = Value> {
        let line = self.line.map(|line| [line.slope, line.offset]);
        std::iter::once(self.value).chain(line.into_iter().flatten())
    }
}

impl Work<'_, '_> {
    pub(super) fn position(&mut self, layer: &Layer) -> Result<Position, Error> {
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

    pub(super) fn learned(&self, equivalent: &Equivalent) -> Result<Learned, Error> {
        let delta = equivalent.biases.as_ref().map(|_| self.get(&names::delta(&equivalent.name)));
        let log_scale = self.get(&names::log_scale(&equivalent.name))?;
        Ok(Learned { log_scale, delta: delta.transpose()? })
    }

    pub(super) fn equivalent_of(&self, layer: &Layer) -> Result<Option<Learned>, Error> {
        let layers = &self.training.source.layers;
        let reads = |e: &&Equivalent| e.layers.iter().any(|i| layers[*i].name == layer.name);
        self.training.equivalents.iter().find(reads).map(|e| self.learned(e)).transpose()
    }

    /// The constants that equivalent transformations change, made once for all replicas.
    pub(super) fn transformed(&mut self) -> Result<(), Error> {
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

    pub(super) fn affine(&self, layer: &Layer, width: Width) -> Result<AffineParameters, Error> {
        Ok(AffineParameters {
            scale: self.get(&names::width_scale(&layer.weight, width))?,
            shift: self.get(&names::width_shift(&layer.weight, width))?,
        })
    }

    /// The output at a width, and the weights that it used, by layer.
    pub(super) fn forward(
        &mut self,
        width: Option<Width>,
    ) -> Result<(Value, BTreeMap<String, Sliced>), Error> {
        let training = self.training;
        let mut weights = Weights::default();
        for parameter in &training.source.parameters {
            weights.floats.extend(self.state.get(&parameter.name).map(|v| (parameter.name.clone(), *v)));
        }
        let scope = format!("float{}", replica_name(width));
        self.b.set_scope(scope.clone());
        let mut sliced = BTreeMap::new();
        for layer in &training.source.layers {
            weights.floats.extend(self.state.get(&layer.weight).map(|v| (layer.weight.clone(), *v)));
            let used = match width {
                None => Sliced { value: self.get(&layer.weight)?, line: None },
                Some(width) => self.sliced(layer, width)?,
            };
            weights.sliced.insert(layer.name.clone(), used.value);
            weights.lines.extend(layer.uses().iter().filter_map(|at| Some((*at, used.line?))));
            sliced.insert(layer.name.clone(), used);
        }
        if width.is_some() {
            self.transformed()?;
            weights.bound = self.transformed.iter().map(|(old, new)| (old.value, *new)).collect();
        }
        let output = self.replicate(&weights, &scope)?;
        Ok((output, sliced))
    }

    fn sliced(&mut self, layer: &Layer, width: Width) -> Result<Sliced, Error> {
        let training = self.training;
        let at = self.position(layer)?;
        let map = training.options.map_of(width);
        let affine = map.map(|w| self.affine(layer, w)).transpose()?;
        let b = &mut self.b;
        let (groups, line) = match !training.options.is_straight() && training.source.has_line_behind(layer) {
            true => {
                let slice = mqc_ir::Op::FakeSlice { width, mode: layer.spec.mode };
                (b.op(slice, &[at.position])?, Some(nested_layer::line_at(b, at, affine)?))
            }
            false => (nested_layer::weight_at(b, at, width, layer.spec.mode, affine)?, None),
        };
        let value = nested_layer::out_of_groups(b, groups, layer.grouped(), layer.tensor.shape())?;
        Ok(Sliced { value, line })
    }
}
