//! One width's replica of the model: its weights as functions of the state, and its output.

use std::collections::BTreeMap;

use mqc_ir::Value;
use mqc_ir::quant::Width;

use super::replica_name;
use super::work::Work;
use crate::Error;
use crate::equivalent::{self, Equivalent, Learned};
use crate::nested_layer::{self, AffineParameters, Ends, Position};
use crate::options::{Latent, Range};
use crate::source::{Layer, Weights};
use crate::training::names;

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
    ) -> Result<(Value, BTreeMap<String, Value>), Error> {
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
}
