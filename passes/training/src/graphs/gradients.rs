//! The losses of all replicas and their gradients: back through a replica to its weights, then through the weights to
//! maps, ranges and latent weights.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::Value;
use mqc_ir::quant::Width;

use super::replica::Sliced;
use super::work::Work;
use crate::autodiff::vjp;
use crate::equivalent;
use crate::loss::{self, Target};
use crate::nested_layer::Line;
use crate::options::LossKind;
use crate::training::names;
use crate::{Builder, Error};

/// Gradients by the name of the state, losses by replica.
pub(super) struct Gradients {
    pub(super) total: Value,
    pub(super) losses: Vec<(Option<Width>, Value)>,
    pub(super) by_name: BTreeMap<String, Value>,
}

impl Work<'_, '_> {
    pub(super) fn gradients(&mut self) -> Result<Gradients, Error> {
        let options = &self.training.options;
        let replicas: Vec<Option<Width>> = match options.widths.is_empty() {
            true => vec![None],
            false => options.widths.iter().copied().map(Some).collect(),
        };
        let weights = self.weights()?;
        let mut by_name = BTreeMap::new();
        let mut sums = Sums::default();
        let mut outputs: BTreeMap<Width, Value> = BTreeMap::new();
        let mut losses = vec![];
        let mut levels = Levels::new();
        for (width, weight) in replicas.into_iter().zip(&weights) {
            let (output, sliced) = self.forward(width)?;
            let loss = self.replica_loss(width, output, &outputs)?;
            outputs.extend(width.map(|w| (w, output)));
            losses.push((width, loss));
            let stops: Vec<Value> =
                outputs.iter().filter(|(w, _)| Some(**w) != width).map(|(_, v)| *v).collect();
            let of_codes =
                self.backward(width, &sliced, (loss, weight.seed), &stops, &mut sums, &mut levels)?;
            if let Some(width) = width.filter(|_| self.training.options.balances()) {
                by_name.insert(names::norm(width), self.measured_norm(&of_codes, weight.seed)?);
            }
        }
        self.level_gradients(levels, &mut sums)?;
        self.latent_gradients(&mut sums)?;
        let mut terms = vec![];
        for ((_, loss), weight) in losses.iter().zip(&weights) {
            terms.push(self.b.mul(*loss, weight.share)?);
        }
        let total = self.b.sum_of(&terms)?;
        for state in self.training.state.iter().filter(|s| s.is_optimized()) {
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

    /// From the loss to the weights of the replica and the float parameters; from there to maps and positions. Gives the
    /// replica's own gradients by the codes.
    fn backward(
        &mut self,
        width: Option<Width>,
        sliced: &BTreeMap<String, Sliced>,
        seed: (Value, Value),
        stops: &[Value],
        sums: &mut Sums,
        levels: &mut Levels,
    ) -> Result<Vec<Value>, Error> {
        let training = self.training;
        let layers = &training.source.layers;
        let floats = training.source.parameters.iter().map(|p| p.name.as_str());
        let floats = floats.chain(layers.iter().map(|l| l.weight.as_str()));
        let mut wrt: Vec<Value> = floats.filter_map(|name| self.trained(name)).collect();
        let of_replica: BTreeSet<Value> = sliced.values().flat_map(Sliced::values).collect();
        wrt.extend(&of_replica);
        wrt.extend(self.transformed.iter().map(|(_, new)| *new).filter(|_| width.is_some()));
        wrt.sort_unstable();
        wrt.dedup();
        let cotangents = vjp(&mut self.b, &[seed], &wrt, stops)?;
        let mut of_slices = BTreeMap::new();
        for (value, cotangent) in wrt.into_iter().zip(cotangents) {
            let Some(cotangent) = cotangent else { continue };
            match width.is_some() && of_replica.contains(&value) {
                true => {
                    of_slices.insert(value, cotangent);
                }
                false => sums.add(&mut self.b, value, cotangent)?,
            }
        }
        let Some(width) = width else { return Ok(vec![]) };
        let straight = training.options.is_straight();
        let mut of_codes = vec![];
        let mut positions = BTreeSet::new();
        let mut leaves = vec![];
        let mut seeds = vec![];
        for layer in layers {
            let Some(&Sliced { value, line }) = sliced.get(&layer.name) else { continue };
            let Some(&cotangent) = of_slices.get(&value) else { continue };
            match line {
                None => seeds.push((value, cotangent)),
                Some(Line { slope, offset }) => {
                    let parts = [slope, offset].into_iter();
                    seeds.extend(parts.filter_map(|value| Some((value, *of_slices.get(&value)?))));
                    of_codes.push(cotangent);
                    let waiting = levels.remove(&layer.name);
                    let joined = match waiting {
                        Some((_, sum)) => self.b.add_products(sum, cotangent)?,
                        None => Some(cotangent),
                    };
                    match joined {
                        Some(sum) => drop(levels.insert(layer.name.clone(), (value, sum))),
                        // Nothing is gained by waiting, and memory is held.
                        None => seeds.extend(waiting.into_iter().chain([(value, cotangent)])),
                    }
                }
            }
            if let Some(map) = training.options.map_of(width) {
                leaves.extend(self.trained(&names::width_scale(&layer.weight, map)));
                leaves.extend(self.trained(&names::width_shift(&layer.weight, map)));
            }
            let at = self.position(layer)?;
            if !straight {
                positions.extend(line.is_none().then_some(at.position));
                leaves.extend([at.position, at.scale, at.zero]);
            } else if let Some(weight) = self.trained(&layer.weight) {
                sums.add(&mut self.b, weight, cotangent)?;
                of_codes.push(cotangent);
            }
        }
        leaves.sort_unstable();
        leaves.dedup();
        let cotangents = vjp(&mut self.b, &seeds, &leaves, &[])?;
        for (leaf, cotangent) in leaves.into_iter().zip(cotangents) {
            if let Some(cotangent) = cotangent {
                sums.add(&mut self.b, leaf, cotangent)?;
                of_codes.extend(positions.contains(&leaf).then_some(cotangent));
            }
        }
        Ok(of_codes)
    }

    /// From levels, summed over replicas, to positions: the gradient passes the slices of all widths at the same places.
    fn level_gradients(&mut self, levels: Levels, sums: &mut Sums) -> Result<(), Error> {
        let positions: BTreeSet<Value> =
            levels.keys().filter_map(|layer| Some(self.positions.get(layer)?.position)).collect();
        let positions: Vec<Value> = positions.into_iter().collect();
        let seeds: Vec<(Value, Value)> = levels.into_values().collect();
        let cotangents = vjp(&mut self.b, &seeds, &positions, &[])?;
        for (position, cotangent) in positions.into_iter().zip(cotangents) {
            if let Some(cotangent) = cotangent {
                sums.add(&mut self.b, position, cotangent)?;
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
}

/// By layer: its levels at a width, and the cotangents of that and of widths before, summed.
type Levels = BTreeMap<String, (Value, Value)>;

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
