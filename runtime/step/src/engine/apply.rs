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

/// An operand: elements one behind the other, or one for all.
#[derive(Clone, Copy)]
pub(super) enum Side<'a, T> {
    Block(&'a [T]),
    One(T),
}

#[inline(always)]
fn each<T: Real>(to: &mut [T], a: Side<T>, f: impl Fn(T) -> T) {
    match a {
        Side::Block(a) => {
            for (to, a) in to.iter_mut().zip(a) {
                *to = f(*a);
            }
        }
        Side::One(a) => to.fill(f(a)),
    }
}

#[inline(always)]
fn both<T: Real>(to: &mut [T], a: Side<T>, b: Side<T>, f: impl Fn(T, T) -> T) {
    match (a, b) {
        (Side::Block(a), Side::Block(b)) => {
            for (to, (a, b)) in to.iter_mut().zip(a.iter().zip(b)) {
                // Read before it is chosen: else the place is chosen, and vectors are gathered.
                let (a, b) = (*a, *b);
                *to = f(a, b);
            }
        }
        (a @ Side::Block(_), Side::One(b)) => each(to, a, move |a| f(a, b)),
        (Side::One(a), b) => each(to, b, move |b| f(a, b)),
    }
}

#[inline(always)]
fn three<T: Real>(to: &mut [T], a: Side<T>, b: Side<T>, c: Side<T>, f: impl Fn(T, T, T) -> T) {
    match (a, b, c) {
        (Side::Block(a), Side::Block(b), Side::Block(c)) => {
            for (to, (a, (b, c))) in to.iter_mut().zip(a.iter().zip(b.iter().zip(c))) {
                let (a, b, c) = (*a, *b, *c);
                *to = f(a, b, c);
            }
        }
        (a @ Side::Block(_), b @ Side::Block(_), Side::One(c)) => both(to, a, b, move |a, b| f(a, b, c)),
        (a @ Side::Block(_), Side::One(b), c) => both(to, a, c, move |a, c| f(a, b, c)),
        (Side::One(a), b, c) => both(to, b, c, move |b, c| f(a, b, c)),
    }
}

/// Whether an operand is this number everywhere.
#[inline(always)]
fn is_all<T: Real>(side: Side<T>, number: f64) -> bool {
    match side {
        Side::Block(values) => values.iter().all(|v| *v == T::of(number)),
        Side::One(value) => value == T::of(number),
    }
}

/// Goes on with the function from a position to the level of its slice.
macro_rules! with_level {
    ($T:ty, $width:expr, $mode:expr, |$level:ident| $then:expr) => {{
        let step = f64::from(1u32 << (8 - u32::from($width.bits())));
        let (inverse, most) = (<$T>::of(1.0 / step), <$T>::of(256.0 / step - 1.0));
        let (step, middle) = (<$T>::of(step), <$T>::of((step - 1.0) / 2.0));
        let (half, top) = (<$T>::of(0.5), <$T>::of(255.0));
        let code = move |u: $T| {
            let q = u.round();
            let q = if q < <$T>::ZERO { <$T>::ZERO } else { q };
            if q > top { top } else { q }
        };
        match $mode {
            // All modes: codes as they are.
            _ if step == <$T>::ONE => {
                let $level = code;
                $then
            }
            SliceMode::Midpoint => {
                let $level = move |a: $T| (code(a) * inverse).floor() * step + middle;
                $then
            }
            SliceMode::Extra => {
                let $level = move |a: $T| (code(a) * inverse + half).floor() * step;
                $then
            }
            SliceMode::Round => {
                let $level = move |a: $T| {
                    let level = (code(a) * inverse + half).floor();
                    (if level > most { most } else { level }) * step
                };
                $then
            }
        }
    }};
}

#[inline(always)]
pub(super) fn apply<T: Real>(func: &Func, a: Side<T>, b: Side<T>, c: Side<T>, to: &mut [T]) {
    match func {
        Func::Copy => each(to, a, |a| a),
        Func::NotZero => each(to, a, |a| flag(a != T::ZERO)),
        Func::Not => each(to, a, |a| T::ONE - a),
        Func::Max => both(to, a, b, greater),
        Func::Min => both(to, a, b, lesser),
        Func::Select => three(to, a, b, c, |c, a, b| if c != T::ZERO { a } else { b }),
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
            Binary::Pow if is_all(b, 2.0) => each(to, a, |a| a * a),
            Binary::Pow if is_all(b, 3.0) => each(to, a, |a| a * a * a),
            Binary::Pow if is_all(b, 0.5) => each(to, a, T::sqrt),
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
        Func::MulAdd => three(to, a, b, c, |a, b, c| a * b + c),
        Func::MulSub => three(to, a, b, c, |a, b, c| c - a * b),
        Func::Within { low, high } => {
            let (low, high) = (T::of(*low), T::of(*high));
            both(to, a, b, move |x, y| if (x < low) | (x > high) { T::ZERO } else { y });
        }
        Func::WithinProduct { low, high } => {
            let (low, high) = (T::of(*low), T::of(*high));
            three(to, a, b, c, move |x, a, b| if (x < low) | (x > high) { T::ZERO } else { a * b });
        }
        Func::RootAdd => three(to, a, b, c, |a, b, c| (a * b).sqrt() + c),
        Func::MulDiv => three(to, a, b, c, |a, b, c| a * b / c),
        Func::EqualProduct => three(to, a, b, c, |a, b, c| flag::<T>(a == b) * c),
        Func::Unary(kind) => unary(*kind, a, to),
        Func::Map(op) => mapped(op, a, to),
        Func::SliceMulAdd { width, mode } => {
            with_level!(T, *width, *mode, |level| three(to, a, b, c, move |a, b, c| level(a) * b + c));
        }
    }
}

#[inline(always)]
fn unary<T: Real>(kind: Unary, a: Side<T>, to: &mut [T]) {
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
fn mapped<T: Real>(op: &Op, a: Side<T>, to: &mut [T]) {
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
        Op::FakeSlice { width, mode } => with_level!(T, *width, *mode, |level| each(to, a, level)),
        op => each(to, a, |a| T::of(scalar::map(op, a.f64()).unwrap_or(f64::NAN))),
    }
}
