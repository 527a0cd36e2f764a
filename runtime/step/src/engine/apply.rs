//! Functions of whole blocks.

use mqc_ir::Op;
use mqc_ir::op::{Binary, Compare, GeluKind, Unary};
use mqc_ir::quant::SliceMode;

use super::combine::{flag, greater, is_nan, lesser};
use crate::Real;
use crate::lower::task::Func;
use crate::plain::scalar;

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

#[inline(always)]
fn each<T: Real>(to: &mut [T], a: &[T], f: impl Fn(T) -> T) {
    for (to, a) in to.iter_mut().zip(a) {
        *to = f(*a);
    }
}

#[inline(always)]
fn both<T: Real>(to: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T) {
    for (to, (a, b)) in to.iter_mut().zip(a.iter().zip(b)) {
        *to = f(*a, *b);
    }
}

#[inline(always)]
pub(super) fn apply<T: Real>(func: &Func, a: &[T], b: &[T], c: &[T], to: &mut [T]) {
    match func {
        Func::Copy => to.copy_from_slice(a),
        Func::NotZero => each(to, a, |a| flag(a != T::ZERO)),
        Func::Not => each(to, a, |a| T::ONE - a),
        Func::Max => both(to, a, b, greater),
        Func::Min => both(to, a, b, lesser),
        Func::Select => {
            for (to, (c, (a, b))) in to.iter_mut().zip(a.iter().zip(b.iter().zip(c))) {
                // Read before it is chosen: else the place is chosen, and vectors are gathered.
                let (a, b) = (*a, *b);
                *to = if *c != T::ZERO { a } else { b };
            }
        }
        Func::Compare(kind) => match kind {
            Compare::Equal => both(to, a, b, |a, b| flag(a == b)),
            Compare::Greater => both(to, a, b, |a, b| flag(a > b)),
            Compare::GreaterOrEqual => both(to, a, b, |a, b| flag(a >= b)),
            Compare::Less => both(to, a, b, |a, b| flag(a < b)),
            Compare::LessOrEqual => both(to, a, b, |a, b| flag(a <= b)),
        },
        Func::Binary(kind) => match kind {
            Binary::Add => both(to, a, b, |a, b| a + b),
            Binary::Sub => both(to, a, b, |a, b| a - b),
            Binary::Mul => both(to, a, b, |a, b| a * b),
            Binary::Div => both(to, a, b, |a, b| a / b),
            Binary::PRelu => both(to, a, b, |a, b| if a < T::ZERO { a * b } else { a }),
            Binary::And => both(to, a, b, |a, b| a * b),
            Binary::Or => both(to, a, b, |a, b| if a > b { a } else { b }),
            Binary::Xor => both(to, a, b, |a, b| flag(a != b)),
            Binary::Pow if b.iter().all(|e| *e == T::of(2.0)) => each(to, a, |a| a * a),
            Binary::Pow if b.iter().all(|e| *e == T::of(3.0)) => each(to, a, |a| a * a * a),
            Binary::Pow if b.iter().all(|e| *e == T::of(0.5)) => each(to, a, T::sqrt),
            Binary::Pow
            | Binary::Fmod
            | Binary::Mod
            | Binary::BitwiseAnd
            | Binary::BitwiseOr
            | Binary::BitwiseXor
            | Binary::ShiftLeft
            | Binary::ShiftRight => {
                both(to, a, b, |a, b| T::of(scalar::binary(*kind, a.f64(), b.f64()).unwrap_or(f64::NAN)));
            }
        },
        Func::MulAdd => {
            for (to, (c, (a, b))) in to.iter_mut().zip(c.iter().zip(a.iter().zip(b))) {
                *to = *a * *b + *c;
            }
        }
        Func::MulSub => {
            for (to, (c, (a, b))) in to.iter_mut().zip(c.iter().zip(a.iter().zip(b))) {
                *to = *c - *a * *b;
            }
        }
        Func::Within { low, high } => {
            let (low, high) = (T::of(*low), T::of(*high));
            both(to, a, b, |x, y| if (x < low) | (x > high) { T::ZERO } else { y });
        }
        Func::Unary(kind) => unary(*kind, a, to),
        Func::Map(op) => mapped(op, a, to),
    }
}

#[inline(always)]
fn unary<T: Real>(kind: Unary, a: &[T], to: &mut [T]) {
    match kind {
        Unary::Abs => each(to, a, T::abs),
        Unary::Ceil => each(to, a, T::ceil),
        Unary::Erf => each(to, a, T::erf),
        Unary::Exp => each(to, a, T::exp),
        Unary::Floor => each(to, a, T::floor),
        Unary::IsNan => each(to, a, |a| flag(is_nan(a))),
        Unary::Log => each(to, a, T::ln),
        Unary::Neg => each(to, a, |a| -a),
        Unary::Reciprocal => each(to, a, |a| T::ONE / a),
        Unary::Relu => each(to, a, |a| greater(a, T::ZERO)),
        Unary::Round => each(to, a, T::round),
        Unary::Sigmoid => each(to, a, sigmoid),
        Unary::Sign => each(to, a, |a| {
            let sign = if a > T::ZERO { T::ONE } else { -T::ONE };
            if a == T::ZERO || is_nan(a) { a } else { sign }
        }),
        Unary::Softsign => each(to, a, |a| a / (T::ONE + a.abs())),
        Unary::Sqrt => each(to, a, T::sqrt),
        Unary::Tanh => each(to, a, T::tanh),
        Unary::Not => each(to, a, |a| T::ONE - a),
        Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::BitwiseNot
        | Unary::Cos
        | Unary::Cosh
        | Unary::HardSwish
        | Unary::Mish
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Tan => each(to, a, |a| T::of(scalar::unary(kind, a.f64()).unwrap_or(f64::NAN))),
    }
}

/// Operations of one operand that have attributes.
#[inline(always)]
fn mapped<T: Real>(op: &Op, a: &[T], to: &mut [T]) {
    match op {
        Op::LeakyRelu { alpha } => {
            let alpha = T::of(f64::from(alpha.0));
            each(to, a, |a| if a < T::ZERO { alpha * a } else { a });
        }
        Op::Gelu { approximate: GeluKind::Erf } => {
            let (half, scale) = (T::of(0.5), T::of(std::f64::consts::FRAC_1_SQRT_2));
            each(to, a, |a| half * a * (T::ONE + (a * scale).erf()));
        }
        Op::Gelu { approximate: GeluKind::Tanh } => {
            let (half, scale, cube) =
                (T::of(0.5), T::of((2.0 / std::f64::consts::PI).sqrt()), T::of(0.044715));
            each(to, a, |a| half * a * (T::ONE + (scale * (a + cube * a * a * a)).tanh()));
        }
        Op::FakeSlice { width, mode } => {
            let step = f64::from(1u32 << (8 - u32::from(width.bits())));
            let (inverse, most) = (T::of(1.0 / step), T::of(256.0 / step - 1.0));
            let (step, middle) = (T::of(step), T::of((step - 1.0) / 2.0));
            let (half, top) = (T::of(0.5), T::of(255.0));
            let code = |u: T| {
                let q = u.round();
                let q = if q < T::ZERO { T::ZERO } else { q };
                if q > top { top } else { q }
            };
            match mode {
                SliceMode::Midpoint => each(to, a, |a| (code(a) * inverse).floor() * step + middle),
                SliceMode::Extra => each(to, a, |a| (code(a) * inverse + half).floor() * step),
                SliceMode::Round => each(to, a, |a| {
                    let level = (code(a) * inverse + half).floor();
                    (if level > most { most } else { level }) * step
                }),
            }
        }
        op => each(to, a, |a| T::of(scalar::map(op, a.f64()).unwrap_or(f64::NAN))),
    }
}
