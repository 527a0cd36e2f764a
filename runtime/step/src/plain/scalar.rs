//! Pointwise functions of one element, in f64.

use mqc_ir::Op;
use mqc_ir::op::{Binary, GeluKind, Unary};
use mqc_ir::quant::{SliceMode, Width};

/// The greater; NaN when one is.
pub(crate) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The lesser; NaN when one is.
pub(crate) fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// The error function, from its series without cancellation.
pub(crate) fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

/// 1 / (1 + e^-x).
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A function of floats; `None` for those of other types.
pub(crate) fn unary(kind: Unary, x: f64) -> Option<f64> {
    Some(match kind {
        Unary::Abs => x.abs(),
        Unary::Acos => x.acos(),
        Unary::Acosh => x.acosh(),
        Unary::Asin => x.asin(),
        Unary::Asinh => x.asinh(),
        Unary::Atan => x.atan(),
        Unary::Atanh => x.atanh(),
        Unary::Ceil => x.ceil(),
        Unary::Cos => x.cos(),
        Unary::Cosh => x.cosh(),
        Unary::Erf => erf(x),
        Unary::Exp => x.exp(),
        Unary::Floor => x.floor(),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::Log => x.ln(),
        Unary::Mish => x * softplus(x).tanh(),
        Unary::Neg => -x,
        Unary::Reciprocal => 1.0 / x,
        Unary::Relu => max(x, 0.0),
        Unary::Round => x.round_ties_even(),
        Unary::Sigmoid => sigmoid(x),
        Unary::Sign => {
            if x == 0.0 || x.is_nan() {
                x
            } else {
                x.signum()
            }
        }
        Unary::Sin => x.sin(),
        Unary::Sinh => x.sinh(),
        Unary::Softplus => softplus(x),
        Unary::Softsign => x / (1.0 + x.abs()),
        Unary::Sqrt => x.sqrt(),
        Unary::Tan => x.tan(),
        Unary::Tanh => x.tanh(),
        Unary::BitwiseNot | Unary::IsNan | Unary::Not => return None,
    })
}

/// A function of two floats; `None` for those of other types.
pub(crate) fn binary(kind: Binary, a: f64, b: f64) -> Option<f64> {
    Some(match kind {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Fmod => a % b,
        Binary::PRelu => {
            if a < 0.0 {
                a * b
            } else {
                a
            }
        }
        Binary::Mod
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::ShiftLeft
        | Binary::ShiftRight => return None,
    })
}

/// The operations of one float operand that have attributes; `None` for other operations.
pub(crate) fn map(op: &Op, x: f64) -> Option<f64> {
    Some(match op {
        Op::LeakyRelu { alpha } => {
            if x < 0.0 {
                f64::from(alpha.0) * x
            } else {
                x
            }
        }
        Op::Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha.0) * x.exp_m1()
            } else {
                x
            }
        }
        Op::HardSigmoid { alpha, beta } => (f64::from(alpha.0) * x + f64::from(beta.0)).clamp(0.0, 1.0),
        Op::Gelu { approximate: GeluKind::Erf } => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Op::Gelu { approximate: GeluKind::Tanh } => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Op::FakeSlice { width, mode } => level(x, *width, *mode),
        _ => return None,
    })
}

/// The level of the code nearest to a position, cut to `width` bits.
fn level(x: f64, width: Width, mode: SliceMode) -> f64 {
    let cut = 8 - i32::from(width.bits());
    let step = f64::from(1 << cut);
    let q = x.round_ties_even().clamp(0.0, 255.0);
    match mode {
        SliceMode::Midpoint => (q / step).floor() * step + (step - 1.0) / 2.0,
        SliceMode::Extra => (q / step + 0.5).floor() * step,
        SliceMode::Round => min((q / step + 0.5).floor(), 256.0 / step - 1.0) * step,
    }
}
