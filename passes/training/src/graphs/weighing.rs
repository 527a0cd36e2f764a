//! What the losses of widths count for: `lambda`, its way over the steps, and the balance of their gradients.

use mqc_ir::op::{Compare, Unary, Variadic};
use mqc_ir::quant::Width;
use mqc_ir::{DType, Op, Value};

use super::work::Work;
use crate::Error;
use crate::options::Ramp;
use crate::training::names;

/// Norms below this are not known yet.
const LEAST_NORM: f32 = 1e-12;
/// A width's loss is made at most so many times greater.
const MOST: f32 = 10.0;
/// How much of the average norm each step keeps.
const KEPT: f32 = 0.9;

/// The weight of one replica's loss, scalars.
#[derive(Clone, Copy)]
pub(super) struct Weight {
    /// In the loss that is reported; all together are 1.
    pub(super) share: Value,
    /// In the gradient.
    pub(super) seed: Value,
}

impl Work<'_, '_> {
    /// The weight of each trained width; of the float model where there is none.
    pub(super) fn weights(&mut self) -> Result<Vec<Weight>, Error> {
        let options = &self.training.options;
        if options.widths.is_empty() {
            let one = self.b.scalar(1.0);
            return Ok(vec![Weight { share: one, seed: one }]);
        }
        let shares = match &options.lambda_ramp {
            None => {
                let sum: f32 = options.lambda.iter().sum();
                options.lambda.iter().map(|lambda| self.b.scalar(lambda / sum)).collect()
            }
            Some(ramp) => self.ramp(&options.lambda, ramp)?,
        };
        let balance = match options.balances() {
            true => Some(self.balance(&shares)?),
            false => None,
        };
        let mut weights = vec![];
        for (index, share) in shares.into_iter().enumerate() {
            let seed = match &balance {
                Some(factors) => self.b.mul(share, factors[index])?,
                None => share,
            };
            weights.push(Weight { share, seed });
        }
        Ok(weights)
    }

    /// `lambda_r + t (to_r - lambda_r)`, made to add up to 1; t goes from 0 to 1.
    fn ramp(&mut self, lambda: &[f32], ramp: &Ramp) -> Result<Vec<Value>, Error> {
        let step = self.step();
        let b = &mut self.b;
        let step = b.cast(step, DType::F32)?;
        let gone = b.add_scalar(step, -1.0)?;
        let way = b.scale(gone, 1.0 / ramp.steps.saturating_sub(1).max(1) as f32)?;
        let one = b.scalar(1.0);
        let way = b.op(Op::Variadic(Variadic::Min), &[way, one])?;
        let mut weights = vec![];
        for (from, to) in lambda.iter().zip(&ramp.to) {
            let moved = b.scale(way, to - from)?;
            weights.push(b.add_scalar(moved, *from)?);
        }
        let sum = b.sum_of(&weights)?;
        weights.into_iter().map(|weight| b.div(weight, sum)).collect()
    }

    /// For each width the mean norm of all by its own, by the averages of the steps before.
    fn balance(&mut self, shares: &[Value]) -> Result<Vec<Value>, Error> {
        let least = self.b.scalar(LEAST_NORM);
        let mut norms = vec![];
        for width in &self.training.options.widths {
            let norm = self.get(&names::norm(*width))?;
            norms.push(self.b.op(Op::Variadic(Variadic::Max), &[norm, least])?);
        }
        let b = &mut self.b;
        let parts = shares.iter().zip(&norms).map(|(share, norm)| b.mul(*share, *norm));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let mean = b.sum_of(&parts)?;
        let most = b.scalar(MOST);
        let factor = |norm| {
            let factor = b.div(mean, norm)?;
            b.op(Op::Variadic(Variadic::Min), &[factor, most])
        };
        norms.into_iter().map(factor).collect()
    }

    /// The norm of a width's own gradient, from what its replica gave the codes under `seed`.
    pub(super) fn measured_norm(&mut self, cotangents: &[Value], seed: Value) -> Result<Value, Error> {
        let b = &mut self.b;
        let mut squares = vec![];
        for &cotangent in cotangents {
            let square = b.mul(cotangent, cotangent)?;
            squares.push(b.sum_all(square)?);
        }
        let norm = match squares.is_empty() {
            true => b.scalar(0.0),
            false => b.sum_of(&squares)?,
        };
        let norm = b.unary(Unary::Sqrt, norm)?;
        let least = b.scalar(f32::MIN_POSITIVE);
        let seed = b.op(Op::Variadic(Variadic::Max), &[seed, least])?;
        b.div(norm, seed)
    }

    /// The average norm of a width after a step that measured `found`; the first one is taken as it is.
    pub(super) fn averaged_norm(&mut self, width: Width, found: Value) -> Result<Value, Error> {
        let old = self.get(&names::norm(width))?;
        let b = &mut self.b;
        let kept = b.scale(old, KEPT)?;
        let new = b.scale(found, 1.0 - KEPT)?;
        let average = b.add(kept, new)?;
        let zero = b.scalar(0.0);
        let is_first = b.compare(Compare::Equal, old, zero)?;
        b.select(is_first, found, average)
    }
}
