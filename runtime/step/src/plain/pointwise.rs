//! Elementwise operations with broadcasting.

use mqc_ir::op::{Binary, Compare, Unary, Variadic};
use mqc_ir::{DType, Op};

use super::{Arg, Call, scalar};
use crate::Real;
use crate::array::{Data, Kind, Slice, each_kind};
use crate::index::{Offsets, broadcast};

type One<T> = Result<Data<T>, String>;

fn wrong(what: impl std::fmt::Debug, dtype: DType) -> String {
    format!("{what:?} has no meaning for {dtype}")
}

/// The elements of an operand in the order of the output.
fn spread<'a, E: Copy>(
    values: &'a [E],
    from: &[usize],
    to: &[usize],
) -> impl Iterator<Item = E> + use<'a, E> {
    Offsets::new(to, &broadcast(from, to), 0).map(|at| values[at])
}

pub(super) fn unary<T: Real>(call: &Call<T>, kind: Unary) -> One<T> {
    let x = call.arg(0)?;
    let no = || wrong(kind, x.dtype);
    match x.data {
        Slice::Real(v) if kind == Unary::IsNan => {
            Ok(Data::Bool(v.iter().map(|v| v.f64().is_nan()).collect()))
        }
        Slice::Real(v) => {
            let values = v.iter().map(|v| scalar::unary(kind, v.f64()).map(T::of));
            Ok(Data::Real(values.collect::<Option<_>>().ok_or_else(no)?))
        }
        Slice::Int(v) => {
            let f: fn(i64) -> i64 = match kind {
                Unary::Abs => i64::wrapping_abs,
                Unary::Neg => i64::wrapping_neg,
                Unary::Sign => i64::signum,
                Unary::Relu => |v| v.max(0),
                Unary::BitwiseNot => |v| !v,
                _ => return Err(no()),
            };
            Ok(Data::Int(v.iter().map(|v| wrap(f(*v), x.dtype)).collect()))
        }
        Slice::Bool(v) if kind == Unary::Not => Ok(Data::Bool(v.iter().map(|v| !v).collect())),
        Slice::Bool(_) => Err(no()),
    }
}

pub(super) fn binary<T: Real>(call: &Call<T>, kind: Binary) -> One<T> {
    let (a, b, to) = (call.arg(0)?, call.arg(1)?, &call.output()?.shape);
    let no = || wrong(kind, a.dtype);
    match (a.data, b.data) {
        (Slice::Real(x), Slice::Real(y)) => {
            let pairs = spread(x, a.shape, to).zip(spread(y, b.shape, to));
            let values = pairs.map(|(x, y)| scalar::binary(kind, x.f64(), y.f64()).map(T::of));
            Ok(Data::Real(values.collect::<Option<_>>().ok_or_else(no)?))
        }
        (Slice::Real(x), Slice::Int(y)) if kind == Binary::Pow => {
            let pairs = spread(x, a.shape, to).zip(spread(y, b.shape, to));
            Ok(Data::Real(pairs.map(|(x, y)| T::of(x.f64().powf(y as f64))).collect()))
        }
        (Slice::Int(x), Slice::Real(y)) if kind == Binary::Pow => {
            let pairs = spread(x, a.shape, to).zip(spread(y, b.shape, to));
            Ok(Data::Int(pairs.map(|(x, y)| wrap((x as f64).powf(y.f64()) as i64, a.dtype)).collect()))
        }
        (Slice::Int(x), Slice::Int(y)) => {
            let pairs = spread(x, a.shape, to).zip(spread(y, b.shape, to));
            let values = pairs.map(|(x, y)| Ok(wrap(binary_int(kind, x, y)?, a.dtype)));
            Ok(Data::Int(values.collect::<Result<_, String>>()?))
        }
        (Slice::Bool(x), Slice::Bool(y)) => {
            let f: fn(bool, bool) -> bool = match kind {
                Binary::And => |a, b| a && b,
                Binary::Or => |a, b| a || b,
                Binary::Xor => |a, b| a != b,
                _ => return Err(no()),
            };
            Ok(Data::Bool(spread(x, a.shape, to).zip(spread(y, b.shape, to)).map(|(x, y)| f(x, y)).collect()))
        }
        _ => Err(format!("operands have types {} and {}, expected one type", a.dtype, b.dtype)),
    }
}

fn binary_int(kind: Binary, a: i64, b: i64) -> Result<i64, String> {
    Ok(match kind {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div | Binary::Mod | Binary::Fmod if b == 0 => {
            return Err("an integer is divided by 0".to_owned());
        }
        Binary::Div => a.wrapping_div(b),
        Binary::Fmod => a.wrapping_rem(b),
        Binary::Mod => {
            let rest = a.wrapping_rem(b);
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        }
        Binary::Pow => match u32::try_from(b) {
            Ok(b) => a.wrapping_pow(b),
            Err(_) => (a as f64).powf(b as f64) as i64,
        },
        Binary::PRelu => {
            if a < 0 {
                a.wrapping_mul(b)
            } else {
                a
            }
        }
        Binary::BitwiseAnd => a & b,
        Binary::BitwiseOr => a | b,
        Binary::BitwiseXor => a ^ b,
        Binary::ShiftLeft => u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0),
        Binary::ShiftRight => {
            u32::try_from(b).ok().and_then(|b| (a as u64).checked_shr(b)).unwrap_or(0) as i64
        }
        Binary::And | Binary::Or | Binary::Xor => return Err(wrong(kind, DType::I64)),
    })
}

pub(super) fn compare<T: Real>(call: &Call<T>, kind: Compare) -> One<T> {
    fn pairs<E: Copy + PartialOrd>(kind: Compare, pairs: impl Iterator<Item = (E, E)>) -> Vec<bool> {
        let holds: fn(&E, &E) -> bool = match kind {
            Compare::Equal => E::eq,
            Compare::Greater => E::gt,
            Compare::GreaterOrEqual => E::ge,
            Compare::Less => E::lt,
            Compare::LessOrEqual => E::le,
        };
        pairs.map(|(a, b)| holds(&a, &b)).collect()
    }
    let (a, b, to) = (call.arg(0)?, call.arg(1)?, &call.output()?.shape);
    Ok(Data::Bool(match (a.data, b.data) {
        (Slice::Real(x), Slice::Real(y)) => pairs(kind, spread(x, a.shape, to).zip(spread(y, b.shape, to))),
        (Slice::Int(x), Slice::Int(y)) => pairs(kind, spread(x, a.shape, to).zip(spread(y, b.shape, to))),
        (Slice::Bool(x), Slice::Bool(y)) => pairs(kind, spread(x, a.shape, to).zip(spread(y, b.shape, to))),
        _ => return Err(format!("operands have types {} and {}, expected one type", a.dtype, b.dtype)),
    }))
}

pub(super) fn variadic<T: Real>(call: &Call<T>, kind: Variadic) -> One<T> {
    let to = &call.output()?.shape;
    let count = call.args.len() as f64;
    let first = call.arg(0)?;
    match first.data {
        Slice::Real(_) => {
            let combine: fn(f64, f64) -> f64 = match kind {
                Variadic::Max => scalar::max,
                Variadic::Min => scalar::min,
                Variadic::Mean | Variadic::Sum => |a, b| a + b,
            };
            let mut all: Option<Vec<f64>> = None;
            for slot in 0..call.args.len() {
                let (values, shape) = call.real(slot)?;
                let values = spread(values, shape, to).map(Real::f64);
                all = Some(match all {
                    None => values.collect(),
                    Some(all) => all.into_iter().zip(values).map(|(a, b)| combine(a, b)).collect(),
                });
            }
            let scale = if kind == Variadic::Mean { count } else { 1.0 };
            Ok(Data::Real(all.unwrap_or_default().into_iter().map(|v| T::of(v / scale)).collect()))
        }
        Slice::Int(_) => {
            let combine: fn(i64, i64) -> i64 = match kind {
                Variadic::Max => i64::max,
                Variadic::Min => i64::min,
                Variadic::Sum => i64::wrapping_add,
                Variadic::Mean => return Err(wrong(kind, first.dtype)),
            };
            let mut all: Option<Vec<i64>> = None;
            for slot in 0..call.args.len() {
                let (values, shape) = call.ints(slot)?;
                let values = spread(values, shape, to);
                all = Some(match all {
                    None => values.collect(),
                    Some(all) => all.into_iter().zip(values).map(|(a, b)| combine(a, b)).collect(),
                });
            }
            Ok(Data::Int(all.unwrap_or_default()))
        }
        Slice::Bool(_) => Err(wrong(kind, first.dtype)),
    }
}

pub(super) fn select<T: Real>(call: &Call<T>) -> One<T> {
    fn pick<E: Copy>(
        condition: impl Iterator<Item = bool>,
        a: impl Iterator<Item = E>,
        b: impl Iterator<Item = E>,
    ) -> Vec<E> {
        condition.zip(a.zip(b)).map(|(c, (a, b))| if c { a } else { b }).collect()
    }
    let (condition, a, b, to) = (call.arg(0)?, call.arg(1)?, call.arg(2)?, &call.output()?.shape);
    let Slice::Bool(c) = condition.data else {
        return Err(format!("the condition has type {}, expected bool", condition.dtype));
    };
    let c = spread(c, condition.shape, to);
    Ok(match (a.data, b.data) {
        (Slice::Real(x), Slice::Real(y)) => {
            Data::Real(pick(c, spread(x, a.shape, to), spread(y, b.shape, to)))
        }
        (Slice::Int(x), Slice::Int(y)) => Data::Int(pick(c, spread(x, a.shape, to), spread(y, b.shape, to))),
        (Slice::Bool(x), Slice::Bool(y)) => {
            Data::Bool(pick(c, spread(x, a.shape, to), spread(y, b.shape, to)))
        }
        _ => return Err(format!("operands have types {} and {}, expected one type", a.dtype, b.dtype)),
    })
}

pub(super) fn clip<T: Real>(call: &Call<T>) -> One<T> {
    fn bound<E: Copy>(values: Option<&[E]>) -> Result<Option<E>, String> {
        match values {
            None => Ok(None),
            Some([value]) => Ok(Some(*value)),
            Some(values) => Err(format!("a bound has {} elements, expected 1", values.len())),
        }
    }
    let x = call.arg(0)?;
    let (low, high) = (call.optional(1), call.optional(2));
    match x.data {
        Slice::Real(v) => {
            let low = bound(low.map(|_| call.real(1)).transpose()?.map(|r| r.0))?;
            let high = bound(high.map(|_| call.real(2)).transpose()?.map(|r| r.0))?;
            let clip = |mut v: f64| {
                if let Some(low) = low {
                    v = scalar::max(v, low.f64());
                }
                if let Some(high) = high {
                    v = scalar::min(v, high.f64());
                }
                T::of(v)
            };
            Ok(Data::Real(v.iter().map(|v| clip(v.f64())).collect()))
        }
        Slice::Int(v) => {
            let low = bound(low.map(|_| call.ints(1)).transpose()?.map(|r| r.0))?.unwrap_or(i64::MIN);
            let high = bound(high.map(|_| call.ints(2)).transpose()?.map(|r| r.0))?.unwrap_or(i64::MAX);
            Ok(Data::Int(v.iter().map(|v| (*v).max(low).min(high)).collect()))
        }
        Slice::Bool(_) => Err(wrong("clip", x.dtype)),
    }
}

/// An operation of one float operand that has attributes.
pub(super) fn map<T: Real>(call: &Call<T>, op: &Op) -> One<T> {
    let values = call.real(0)?.0.iter().map(|v| scalar::map(op, v.f64()).map(T::of));
    Ok(Data::Real(values.collect::<Option<_>>().ok_or("the operation is not elementwise")?))
}

pub(super) fn cast<T: Real>(call: &Call<T>, to: DType) -> One<T> {
    let x: &Arg<T> = call.arg(0)?;
    let kind = Kind::of(to).ok_or_else(|| format!("cannot cast to {to}"))?;
    Ok(match (kind, x.data) {
        (Kind::Real, Slice::Real(_)) | (Kind::Bool, Slice::Bool(_)) => each_kind!(x.data, v => v.to_vec()),
        (Kind::Real, Slice::Int(v)) => Data::Real(v.iter().map(|v| T::of(*v as f64)).collect()),
        (Kind::Real, Slice::Bool(v)) => {
            Data::Real(v.iter().map(|v| if *v { T::ONE } else { T::ZERO }).collect())
        }
        (Kind::Int, Slice::Real(v)) => Data::Int(v.iter().map(|v| saturate(v.f64() as i64, to)).collect()),
        (Kind::Int, Slice::Int(v)) => Data::Int(v.iter().map(|v| wrap(*v, to)).collect()),
        (Kind::Int, Slice::Bool(v)) => Data::Int(v.iter().map(|v| i64::from(*v)).collect()),
        (Kind::Bool, Slice::Real(v)) => Data::Bool(v.iter().map(|v| *v != T::ZERO).collect()),
        (Kind::Bool, Slice::Int(v)) => Data::Bool(v.iter().map(|v| *v != 0).collect()),
    })
}

/// The least and the greatest value of a narrow integer type.
fn range(dtype: DType) -> Option<(i64, i64)> {
    let bits = dtype.bits().filter(|b| *b < 64)?;
    let signed = matches!(dtype, DType::I32 | DType::I16 | DType::I8 | DType::I4 | DType::I2);
    Some(if signed { (-1 << (bits - 1), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) })
}

fn saturate(value: i64, dtype: DType) -> i64 {
    range(dtype).map_or(value, |(low, high)| value.clamp(low, high))
}

/// The value that an integer of so few bits would have.
fn wrap(value: i64, dtype: DType) -> i64 {
    match range(dtype) {
        None => value,
        Some((low, high)) => (value - low).rem_euclid(high - low + 1) + low,
    }
}
