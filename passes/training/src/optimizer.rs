//! Updates of parameters: AdamW (arXiv 1711.05101, algorithm 2) and SGD with momentum, clipping by the global norm.
//!
//! The learning rate and the number of the step, from 1, are values of the graph.

use mqc_ir::op::{Binary, Unary, Variadic};
use mqc_ir::{DType, Op, Value};

use crate::options::{Optimizer, Rule};
use crate::{Builder, Error};

/// A parameter and its gradient.
#[derive(Clone, Debug)]
pub struct Update {
    /// The parameter.
    pub value: Value,
    /// Its gradient, the same shape.
    pub gradient: Value,
    /// Moments, as many as [`moments`] says, the same shape.
    pub moments: Vec<Value>,
    /// The learning rate is multiplied by this.
    pub rate: f32,
    /// Whether it decays.
    pub decays: bool,
}

/// What a parameter becomes.
#[derive(Clone, Debug)]
pub struct Updated {
    /// Its new value.
    pub value: Value,
    /// Its new moments.
    pub moments: Vec<Value>,
}

/// Names of the moments that a rule keeps for each parameter.
pub const fn moments(rule: Rule) -> &'static [&'static str] {
    match rule {
        Rule::AdamW { .. } => &["m", "v"],
        Rule::Sgd { momentum } => {
            if momentum == 0.0 {
                &[]
            } else {
                &["m"]
            }
        }
    }
}

/// New values and new moments, in the order of `updates`, and the global norm of the gradient before clipping.
///
/// `rate` f32 `[]`, `step` i64 `[]`.
///
/// # Errors
/// Shapes that differ.
pub fn updates(
    b: &mut Builder,
    optimizer: &Optimizer,
    updates: &[Update],
    rate: Value,
    step: Value,
) -> Result<(Vec<Updated>, Value), Error> {
    let norm = global_norm(b, updates)?;
    let factor = match optimizer.clip > 0.0 {
        true => Some(clip_factor(b, norm, optimizer.clip)?),
        false => None,
    };
    let corrections = match optimizer.rule {
        Rule::AdamW { beta1, beta2, .. } => {
            let step = b.cast(step, DType::F32)?;
            Some([correction(b, beta1, step)?, correction(b, beta2, step)?])
        }
        Rule::Sgd { .. } => None,
    };
    let mut results = vec![];
    for update in updates {
        let gradient = match factor {
            Some(factor) => b.mul(update.gradient, factor)?,
            None => update.gradient,
        };
        let rate = if update.rate == 1.0 { rate } else { b.scale(rate, update.rate)? };
        let (direction, moments) = match (optimizer.rule, corrections, update.moments.as_slice()) {
            (Rule::AdamW { beta1, beta2, epsilon }, Some([c1, c2]), &[m, v]) => {
                let square = b.mul(gradient, gradient)?;
                let m = average(b, m, gradient, beta1)?;
                let v = average(b, v, square, beta2)?;
                let first = b.div(m, c1)?;
                let second = b.div(v, c2)?;
                let root = b.unary(Unary::Sqrt, second)?;
                let root = b.add_scalar(root, epsilon)?;
                (b.div(first, root)?, vec![m, v])
            }
            (Rule::Sgd { momentum }, _, &[m]) => {
                let kept = b.scale(m, momentum)?;
                let m = b.add(kept, gradient)?;
                (m, vec![m])
            }
            (Rule::Sgd { .. } | Rule::AdamW { .. }, ..) => (gradient, vec![]),
        };
        let direction = match update.decays && optimizer.weight_decay > 0.0 {
            true => {
                let decay = b.scale(update.value, optimizer.weight_decay)?;
                b.add(direction, decay)?
            }
            false => direction,
        };
        let change = b.mul(direction, rate)?;
        results.push(Updated { value: b.sub(update.value, change)?, moments });
    }
    Ok((results, norm))
}

/// 1 - beta^step.
fn correction(b: &mut Builder, beta: f32, step: Value) -> Result<Value, Error> {
    let beta = b.scalar(beta);
    let power = b.binary(Binary::Pow, beta, step)?;
    let one = b.scalar(1.0);
    b.sub(one, power)
}

fn average(b: &mut Builder, old: Value, new: Value, beta: f32) -> Result<Value, Error> {
    let old = b.scale(old, beta)?;
    let new = b.scale(new, 1.0 - beta)?;
    b.add(old, new)
}

fn global_norm(b: &mut Builder, updates: &[Update]) -> Result<Value, Error> {
    let mut total = b.scalar(0.0);
    for update in updates {
        let square = b.mul(update.gradient, update.gradient)?;
        let sum = b.sum_all(square)?;
        total = b.add(total, sum)?;
    }
    b.unary(Unary::Sqrt, total)
}

/// min(1, clip / norm).
fn clip_factor(b: &mut Builder, norm: Value, clip: f32) -> Result<Value, Error> {
    let norm = b.add_scalar(norm, 1e-6)?;
    let clip = b.scalar(clip);
    let factor = b.div(clip, norm)?;
    let one = b.scalar(1.0);
    b.op(Op::Variadic(Variadic::Min), &[factor, one])
}
