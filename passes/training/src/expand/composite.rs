//! Expansions of the composites of the IR.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use mqc_ir::op::{GeluKind, Reduction, Unary};
use mqc_ir::quant::{SliceMode, Width};
use mqc_ir::{DType, NodeId, Op, Operands, Tensor, Value};

use crate::autodiff::{axis, no_gradient};
use crate::{Builder, Error};

type All = Result<Vec<Value>, Error>;

/// A node that is expanded.
pub(super) struct Call {
    pub id: NodeId,
    pub operands: Operands,
    pub outputs: usize,
}

impl Call {
    /// An operand that may be absent.
    pub fn operand(&self, slot: usize) -> Option<Value> {
        self.operands.get(slot).copied().flatten()
    }

    /// An operand that must be there.
    pub fn x(&self, b: &Builder, slot: usize) -> Result<Value, Error> {
        self.operand(slot).ok_or_else(|| self.no(b, format!("operand {slot} is absent")))
    }

    /// The error that names the node.
    pub fn no(&self, b: &Builder, reason: impl Into<String>) -> Error {
        no_gradient(b, self.id, reason)
    }

    /// The axes from `at` on, or that one alone.
    pub fn axes(&self, b: &Builder, rank: usize, at: i64, from: bool) -> Result<Vec<usize>, Error> {
        let first = if from && at == rank as i64 { Some(rank) } else { axis(at, rank) };
        let first = first.ok_or_else(|| self.no(b, "its axis is out of range"))?;
        Ok(if from { (first..rank).collect() } else { vec![first] })
    }
}

pub(super) fn gemm(b: &mut Builder, call: &Call, alpha: f32, beta: f32, trans_a: bool, trans_b: bool) -> All {
    let (mut left, mut right) = (call.x(b, 0)?, call.x(b, 1)?);
    if trans_a {
        left = b.transpose_last(left)?;
    }
    if trans_b {
        right = b.transpose_last(right)?;
    }
    let mut y = b.matmul(left, right)?;
    if alpha != 1.0 {
        y = b.scale(y, alpha)?;
    }
    if let Some(c) = call.operand(2) {
        let c = if beta == 1.0 { c } else { b.scale(c, beta)? };
        y = b.add(y, c)?;
    }
    Ok(vec![y])
}

/// Relative to the greatest of the row, so that nothing overflows.
pub(super) fn softmax(b: &mut Builder, call: &Call, at: i64, flatten: bool, log: bool) -> All {
    let x = call.x(b, 0)?;
    let rank = b.shape(x)?.len();
    let axes = call.axes(b, rank, at, flatten)?;
    let over = |b: &mut Builder, kind: Reduction, x: Value| {
        if axes.is_empty() { Ok(x) } else { b.reduce(kind, x, &axes, true) }
    };
    let greatest = over(b, Reduction::Max, x)?;
    let less = b.sub(x, greatest)?;
    let exp = b.unary(Unary::Exp, less)?;
    let sum = over(b, Reduction::Sum, exp)?;
    Ok(vec![if log {
        let log = b.unary(Unary::Log, sum)?;
        b.sub(less, log)?
    } else {
        b.div(exp, sum)?
    }])
}

pub(super) fn gelu(b: &mut Builder, call: &Call, kind: GeluKind) -> All {
    let x = call.x(b, 0)?;
    Ok(vec![gelu_of(b, x, kind)?])
}

pub(super) fn gelu_of(b: &mut Builder, x: Value, kind: GeluKind) -> Result<Value, Error> {
    let half = b.scale(x, 0.5)?;
    let bent = match kind {
        GeluKind::Erf => {
            let scaled = b.scale(x, FRAC_1_SQRT_2)?;
            b.unary(Unary::Erf, scaled)?
        }
        GeluKind::Tanh => {
            let c = (2.0 / PI).sqrt();
            let square = b.mul(x, x)?;
            let cubic = b.scale(square, c * 0.044715)?;
            let cubic = b.add_scalar(cubic, c)?;
            let u = b.mul(x, cubic)?;
            b.unary(Unary::Tanh, u)?
        }
    };
    let bent = b.add_scalar(bent, 1.0)?;
    b.mul(half, bent)
}

pub(super) fn batch_normalization(b: &mut Builder, call: &Call, epsilon: f32) -> All {
    if call.outputs > 1 {
        return Err(call.no(b, "it has the form of training; expected one output"));
    }
    let x = call.x(b, 0)?;
    let shape = b.shape(x)?;
    let mut wide = vec![1; shape.len()];
    if let (Some(place), Some(count)) = (wide.get_mut(1), shape.get(1)) {
        *place = *count;
    }
    let (scale, bias, mean, variance) = (call.x(b, 1)?, call.x(b, 2)?, call.x(b, 3)?, call.x(b, 4)?);
    let variance = b.add_scalar(variance, epsilon)?;
    let root = b.unary(Unary::Sqrt, variance)?;
    let gain = b.div(scale, root)?;
    let (mean, gain, bias) = (b.reshape(mean, &wide)?, b.reshape(gain, &wide)?, b.reshape(bias, &wide)?);
    let centred = b.sub(x, mean)?;
    let scaled = b.mul(centred, gain)?;
    Ok(vec![b.add(scaled, bias)?])
}

pub(super) fn layer_normalization(b: &mut Builder, call: &Call, at: i64, epsilon: f32) -> All {
    let (x, scale) = (call.x(b, 0)?, call.x(b, 1)?);
    let (y, mean, inverse) = normalized(b, call, x, at, epsilon)?;
    let mut y = b.mul(y, scale)?;
    if let Some(bias) = call.operand(2) {
        y = b.add(y, bias)?;
    }
    let mut values = vec![y];
    for (slot, value) in (1..call.outputs).zip([mean, inverse]) {
        values.push(like_output(b, call, slot, value)?);
    }
    Ok(values)
}

/// (x - mean) / deviation, mean, 1 / deviation over the axes from `at` on.
pub(super) fn normalized(
    b: &mut Builder,
    call: &Call,
    x: Value,
    at: i64,
    epsilon: f32,
) -> Result<(Value, Value, Value), Error> {
    let rank = b.shape(x)?.len();
    let axes = call.axes(b, rank, at, true)?;
    let mean = b.reduce(Reduction::Mean, x, &axes, true)?;
    let centred = b.sub(x, mean)?;
    let inverse = inverse_root_mean_square(b, centred, &axes, epsilon)?;
    Ok((b.mul(centred, inverse)?, mean, inverse))
}

/// 1 / sqrt(mean(x^2) + epsilon).
pub(super) fn inverse_root_mean_square(
    b: &mut Builder,
    x: Value,
    axes: &[usize],
    epsilon: f32,
) -> Result<Value, Error> {
    let square = b.mul(x, x)?;
    let mean = b.reduce(Reduction::Mean, square, axes, true)?;
    let mean = b.add_scalar(mean, epsilon)?;
    let root = b.unary(Unary::Sqrt, mean)?;
    b.unary(Unary::Reciprocal, root)
}

/// In the element type that the output has.
fn like_output(b: &mut Builder, call: &Call, slot: usize, value: Value) -> Result<Value, Error> {
    match b.graph.ty(Value { node: call.id, slot }).dtype() {
        Some(dtype) if dtype != b.dtype(value)? => b.cast(value, dtype),
        Some(_) | None => Ok(value),
    }
}

pub(super) fn rms_normalization(b: &mut Builder, call: &Call, at: i64, epsilon: f32) -> All {
    let (x, scale) = (call.x(b, 0)?, call.x(b, 1)?);
    let rank = b.shape(x)?.len();
    let axes = call.axes(b, rank, at, true)?;
    let inverse = inverse_root_mean_square(b, x, &axes, epsilon)?;
    let y = b.mul(x, inverse)?;
    Ok(vec![b.mul(y, scale)?])
}

/// The data; nothing is dropped.
pub(super) fn dropout(b: &mut Builder, call: &Call) -> All {
    let x = call.x(b, 0)?;
    let mut values = vec![b.op(Op::Identity, &[x])?];
    if call.outputs > 1 {
        let shape = b.shape(x)?;
        let yes = b.constant(Tensor::new(DType::Bool, vec![], vec![1].into())?);
        values.push(b.expand(yes, &shape)?);
    }
    Ok(values)
}

/// The nearest code, cut to `width` bits, as the level that it stands for.
pub(super) fn fake_slice(b: &mut Builder, call: &Call, width: Width, mode: SliceMode) -> All {
    let x = call.x(b, 0)?;
    let round = b.unary(Unary::Round, x)?;
    let (zero, most) = (b.scalar(0.0), b.scalar(255.0));
    let code = b.op(Op::Clip, &[round, zero, most])?;
    let dropped = Width::MAX.bits() - width.bits();
    if dropped == 0 {
        return Ok(vec![code]);
    }
    let bucket = f32::from(1u16 << dropped);
    let place = b.scale(code, 1.0 / bucket)?;
    let place = match mode {
        SliceMode::Midpoint => place,
        SliceMode::Round | SliceMode::Extra => b.add_scalar(place, 0.5)?,
    };
    let place = b.unary(Unary::Floor, place)?;
    let level = match mode {
        SliceMode::Midpoint => {
            let low = b.scale(place, bucket)?;
            b.add_scalar(low, (bucket - 1.0) / 2.0)?
        }
        SliceMode::Round => {
            let most = b.scalar(f32::from((1u16 << width.bits()) - 1));
            let place = b.node(Op::Clip, &[Some(place), None, Some(most)], 1)?[0];
            b.scale(place, bucket)?
        }
        SliceMode::Extra => b.scale(place, bucket)?,
    };
    Ok(vec![level])
}
