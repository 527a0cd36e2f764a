//! The loss of one replica: a mean over positions, each position's term, and what evaluation counts.
//!
//! Cross-entropy is `log sum exp(x) - x[label]`, so that neither a softmax nor a one-hot matrix is kept; its gradient
//! comes out as `softmax(x) - onehot`.

use mqc_ir::op::{Compare, Reduction, Unary};
use mqc_ir::{DType, Op, Tensor, Value};

use crate::options::LossKind;
use crate::{Builder, Error};

/// What a loss compares the output with.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Class indices i64 `[..]`, distributions or values `[.., classes]`, as the kind asks.
    Labels(Value),
    /// The float model's output.
    Teacher(Value),
}

/// One term for each position (row of the last axis).
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The terms, `[batch, ..]`.
    pub terms: Value,
    /// 1 where a term counts, 0 elsewhere; the same shape. All count when it is absent.
    pub counted: Option<Value>,
    /// 1 where the greatest output is the target's; the same shape.
    pub correct: Option<Value>,
}

/// The terms of a loss.
///
/// # Errors
/// Outputs and targets whose shapes do not fit.
pub fn terms(b: &mut Builder, kind: LossKind, output: Value, target: Target) -> Result<Terms, Error> {
    match (kind, target) {
        (LossKind::CrossEntropy { ignore, smoothing, shift }, Target::Labels(labels)) => {
            let (output, labels) = if shift { shifted(b, output, labels)? } else { (output, labels) };
            cross_entropy(b, output, labels, ignore, smoothing)
        }
        (LossKind::SoftLabels, Target::Labels(labels)) => soft_cross_entropy(b, output, labels),
        (LossKind::Mse, Target::Labels(target)) | (LossKind::DistillMse, Target::Teacher(target)) => {
            squared_error(b, output, target)
        }
        (LossKind::DistillKl, Target::Teacher(teacher)) => divergence(b, output, teacher),
        (kind, Target::Labels(_)) => Err(wrong(kind, "labels")),
        (kind, Target::Teacher(_)) => Err(wrong(kind, "a teacher's output")),
    }
}

fn wrong(kind: LossKind, found: &str) -> Error {
    Error::invalid("loss", format!("{kind:?}"), format!("does not compare with {found}"))
}

/// The mean over the terms that count; 0 when none does.
pub fn mean(b: &mut Builder, terms: Terms) -> Result<Value, Error> {
    let positions = b.shape(terms.terms)?.iter().product::<usize>();
    match terms.counted {
        None => {
            let sum = b.sum_all(terms.terms)?;
            b.scale(sum, 1.0 / positions.max(1) as f32)
        }
        Some(counted) => {
            let kept = b.mul(terms.terms, counted)?;
            let sum = b.sum_all(kept)?;
            let count = b.sum_all(counted)?;
            let one = b.scalar(1.0);
            let count = b.op(Op::Variadic(mqc_ir::op::Variadic::Max), &[count, one])?;
            b.div(sum, count)
        }
    }
}

/// Sums for evaluation: of the terms, of the positions, of the correct ones (absent where nothing can be correct).
/// `rows` f32 `[batch]` weighs samples: 0 leaves one out.
pub fn sums(b: &mut Builder, terms: Terms, rows: Value) -> Result<(Value, Value, Option<Value>), Error> {
    let shape = b.shape(terms.terms)?;
    let mut each_row = vec![1; shape.len()];
    if let (Some(first), Some(&batch)) = (each_row.first_mut(), shape.first()) {
        *first = batch;
    }
    let rows = b.reshape(rows, &each_row)?;
    let weights = match terms.counted {
        Some(counted) => b.mul(counted, rows)?,
        None => b.expand(rows, &shape)?,
    };
    let total = b.mul(terms.terms, weights)?;
    let correct = match terms.correct {
        Some(correct) => {
            let kept = b.mul(correct, weights)?;
            Some(b.sum_all(kept)?)
        }
        None => None,
    };
    Ok((b.sum_all(total)?, b.sum_all(weights)?, correct))
}

/// Output position t is compared with label t + 1.
fn shifted(b: &mut Builder, output: Value, labels: Value) -> Result<(Value, Value), Error> {
    let shape = b.shape(labels)?;
    let axis = shape.len().saturating_sub(1);
    let length = shape.get(axis).copied().unwrap_or(0);
    if length < 2 {
        return Err(Error::invalid(
            "loss",
            "next token",
            format!("needs sequences of two and more, found {length}"),
        ));
    }
    Ok((b.slice(output, axis, 0, length - 1)?, b.slice(labels, axis, 1, length - 1)?))
}

fn classes(b: &Builder, output: Value) -> Result<(usize, usize), Error> {
    let shape = b.shape(output)?;
    match shape.last() {
        Some(&classes) if shape.len() >= 2 && classes > 0 => Ok((shape.len() - 1, classes)),
        _ => Err(Error::invalid(
            "loss",
            "output",
            format!("has shape {shape:?}, expected [batch, .., classes]"),
        )),
    }
}

fn cross_entropy(
    b: &mut Builder,
    output: Value,
    labels: Value,
    ignore: Option<i64>,
    smoothing: f32,
) -> Result<Terms, Error> {
    let (axis, classes) = classes(b, output)?;
    let shape = b.shape(output)?;
    if b.shape(labels)? != shape[..axis] {
        let found = b.shape(labels)?;
        return Err(Error::invalid(
            "loss",
            "labels",
            format!("have shape {found:?}, the output is {shape:?}"),
        ));
    }
    let log_sum = b.reduce(Reduction::LogSumExp, output, &[axis], false)?;
    let indices: Vec<i64> = (0..classes as i64).collect();
    let indices = b.constant(Tensor::i64_vector(&indices));
    let column = [&shape[..axis], &[1]].concat();
    let column = b.reshape(labels, &column)?;
    let chosen = b.compare(Compare::Equal, column, indices)?;
    let zero = b.scalar(0.0);
    let picked = b.select(chosen, output, zero)?;
    let picked = b.sum(picked, &[axis], false)?;
    let mut terms = b.sub(log_sum, picked)?;
    if smoothing > 0.0 {
        let average = b.reduce(Reduction::Mean, output, &[axis], false)?;
        let spread = b.sub(log_sum, average)?;
        let spread = b.scale(spread, smoothing)?;
        terms = b.scale(terms, 1.0 - smoothing)?;
        terms = b.add(terms, spread)?;
    }
    let counted = match ignore {
        Some(index) => {
            let index = b.constant(Tensor::i64_scalar(index));
            let ignored = b.compare(Compare::Equal, labels, index)?;
            let counted = b.unary(Unary::Not, ignored)?;
            Some(b.cast(counted, DType::F32)?)
        }
        None => None,
    };
    let greatest = b.reduce(Reduction::Max, output, &[axis], false)?;
    let hit = b.compare(Compare::GreaterOrEqual, picked, greatest)?;
    let correct = b.cast(hit, DType::F32)?;
    Ok(Terms { terms, counted, correct: Some(correct) })
}

fn soft_cross_entropy(b: &mut Builder, output: Value, labels: Value) -> Result<Terms, Error> {
    let (axis, _) = classes(b, output)?;
    let log_sum = b.reduce(Reduction::LogSumExp, output, &[axis], true)?;
    let log = b.sub(output, log_sum)?;
    let each = b.mul(labels, log)?;
    let sum = b.sum(each, &[axis], false)?;
    Ok(Terms { terms: b.neg(sum)?, counted: None, correct: None })
}

/// The mean over the last axis of the squared difference.
fn squared_error(b: &mut Builder, output: Value, target: Value) -> Result<Terms, Error> {
    let shape = b.shape(output)?;
    if b.shape(target)? != shape || shape.is_empty() {
        let found = b.shape(target)?;
        return Err(Error::invalid("loss", "target", format!("has shape {found:?}, the output {shape:?}")));
    }
    let difference = b.sub(output, target)?;
    let square = b.mul(difference, difference)?;
    let terms = match shape.len() {
        1 => square,
        rank => b.reduce(Reduction::Mean, square, &[rank - 1], false)?,
    };
    Ok(Terms { terms, counted: None, correct: None })
}

/// KL(teacher || output) over the last axis; correct where both have their greatest value at the same place.
pub fn divergence(b: &mut Builder, output: Value, teacher: Value) -> Result<Terms, Error> {
    let (axis, _) = classes(b, output)?;
    let sum = b.reduce(Reduction::LogSumExp, teacher, &[axis], true)?;
    let teacher_log = b.sub(teacher, sum)?;
    let probability = b.unary(Unary::Exp, teacher_log)?;
    let sum = b.reduce(Reduction::LogSumExp, output, &[axis], true)?;
    let output_log = b.sub(output, sum)?;
    let difference = b.sub(teacher_log, output_log)?;
    let each = b.mul(probability, difference)?;
    let terms = b.sum(each, &[axis], false)?;
    let most = b.reduce(Reduction::Max, teacher, &[axis], true)?;
    let at_most = b.compare(Compare::GreaterOrEqual, teacher, most)?;
    let zero = b.scalar(f32::MIN);
    let there = b.select(at_most, output, zero)?;
    let there = b.reduce(Reduction::Max, there, &[axis], false)?;
    let greatest = b.reduce(Reduction::Max, output, &[axis], false)?;
    let same = b.compare(Compare::GreaterOrEqual, there, greatest)?;
    let correct = b.cast(same, DType::F32)?;
    Ok(Terms { terms, counted: None, correct: Some(correct) })
}

/// `sum_i weight_i loss_i / sum_i weight_i`.
pub fn weighted_mean(b: &mut Builder, losses: &[(f32, Value)]) -> Result<Value, Error> {
    let total: f32 = losses.iter().map(|(w, _)| w).sum();
    let mut parts = vec![];
    for &(weight, loss) in losses {
        parts.push(b.scale(loss, weight / total)?);
    }
    b.sum_of(&parts)
}
