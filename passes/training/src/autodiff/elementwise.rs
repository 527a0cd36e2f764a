//! Rules of the operations that map elements: one derivative each, times the cotangent.
//!
//! Where a function has a kink, its derivative there is that of one side, or what is between the two.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use mqc_ir::Value;
use mqc_ir::op::{Binary, Compare, GeluKind, Unary, Variadic};

use super::Cotangents;
use super::site::Site;
use crate::{Builder, Error};

type One = Result<Value, Error>;

/// Operand, result and cotangent of the result.
#[derive(Clone, Copy)]
pub(super) struct Point {
    x: Value,
    y: Value,
    dy: Value,
}

/// The cotangent of the operand; `None` for those that are constant in steps or have no real result.
pub(super) fn unary(kind: Unary) -> Option<fn(&mut Builder, Point) -> One> {
    Some(match kind {
        Unary::Ceil
        | Unary::Floor
        | Unary::Round
        | Unary::Sign
        | Unary::IsNan
        | Unary::Not
        | Unary::BitwiseNot => return None,
        Unary::Abs => |b, p| {
            let sign = b.unary(Unary::Sign, p.x)?;
            b.mul(p.dy, sign)
        },
        Unary::Acos => |b, p| {
            let slope = over_root(b, p, -1.0, 1.0)?;
            b.neg(slope)
        },
        Unary::Acosh => |b, p| over_root(b, p, 1.0, -1.0),
        Unary::Asin => |b, p| over_root(b, p, -1.0, 1.0),
        Unary::Asinh => |b, p| over_root(b, p, 1.0, 1.0),
        Unary::Atan => |b, p| {
            let below = square_plus(b, p.x, 1.0, 1.0)?;
            b.div(p.dy, below)
        },
        Unary::Atanh => |b, p| {
            let below = square_plus(b, p.x, -1.0, 1.0)?;
            b.div(p.dy, below)
        },
        Unary::Cos => |b, p| {
            let sin = b.unary(Unary::Sin, p.x)?;
            let slope = b.neg(sin)?;
            b.mul(p.dy, slope)
        },
        Unary::Cosh => |b, p| times(b, p.dy, Unary::Sinh, p.x),
        Unary::Erf => |b, p| {
            let slope = bell(b, p.x, -1.0, FRAC_2_SQRT_PI)?;
            b.mul(p.dy, slope)
        },
        Unary::Exp => |b, p| b.mul(p.dy, p.y),
        // x / 3 + 1 / 2 between -3 and 3.
        Unary::HardSwish => |b, p| {
            let third = b.scale(p.x, 1.0 / 3.0)?;
            let slope = b.add_scalar(third, 0.5)?;
            let inside = b.mul(p.dy, slope)?;
            let three = b.scalar(3.0);
            let high = b.compare(Compare::Less, p.x, three)?;
            let upper = b.select(high, inside, p.dy)?;
            keep_above(b, p.x, -3.0, upper)
        },
        Unary::Log => |b, p| b.div(p.dy, p.x),
        // x t with t = tanh(softplus(x)): t + x (1 - t^2) sigmoid(x).
        Unary::Mish => |b, p| {
            let softplus = b.unary(Unary::Softplus, p.x)?;
            let t = b.unary(Unary::Tanh, softplus)?;
            let slope = square_plus(b, t, -1.0, 1.0)?;
            let sigmoid = b.unary(Unary::Sigmoid, p.x)?;
            let bend = b.mul(slope, sigmoid)?;
            let bend = b.mul(p.x, bend)?;
            let slope = b.add(t, bend)?;
            b.mul(p.dy, slope)
        },
        Unary::Neg => |b, p| b.neg(p.dy),
        Unary::Reciprocal => |b, p| {
            let square = b.mul(p.y, p.y)?;
            let slope = b.neg(square)?;
            b.mul(p.dy, slope)
        },
        // The output says as much as the operand, and is more often kept.
        Unary::Relu => |b, p| keep_above(b, p.y, 0.0, p.dy),
        Unary::Sigmoid => |b, p| {
            let one = b.scalar(1.0);
            let rest = b.sub(one, p.y)?;
            let slope = b.mul(p.y, rest)?;
            b.mul(p.dy, slope)
        },
        Unary::Sin => |b, p| times(b, p.dy, Unary::Cos, p.x),
        Unary::Sinh => |b, p| times(b, p.dy, Unary::Cosh, p.x),
        Unary::Softplus => |b, p| times(b, p.dy, Unary::Sigmoid, p.x),
        Unary::Softsign => |b, p| {
            let size = b.unary(Unary::Abs, p.x)?;
            let root = b.add_scalar(size, 1.0)?;
            let below = b.mul(root, root)?;
            b.div(p.dy, below)
        },
        Unary::Sqrt => |b, p| {
            let half = b.scale(p.dy, 0.5)?;
            b.div(half, p.y)
        },
        Unary::Tan => |b, p| {
            let slope = square_plus(b, p.y, 1.0, 1.0)?;
            b.mul(p.dy, slope)
        },
        Unary::Tanh => |b, p| {
            let slope = square_plus(b, p.y, -1.0, 1.0)?;
            b.mul(p.dy, slope)
        },
    })
}

/// Applies a rule of [`unary`].
pub(super) fn map(b: &mut Builder, site: &Site, f: fn(&mut Builder, Point) -> One) -> Cotangents {
    let point = Point { x: site.x(b, 0)?, y: site.y(), dy: site.dy(b)? };
    Ok(vec![Some(f(b, point)?)])
}

/// dy f(x).
fn times(b: &mut Builder, dy: Value, f: Unary, x: Value) -> One {
    let slope = b.unary(f, x)?;
    b.mul(dy, slope)
}

/// sign x^2 + number, for a sign of 1 or -1.
fn square_plus(b: &mut Builder, x: Value, sign: f32, number: f32) -> One {
    let square = b.mul(x, x)?;
    let number = b.scalar(number);
    if sign < 0.0 { b.sub(number, square) } else { b.add(square, number) }
}

/// dy / sqrt(sign x^2 + number).
fn over_root(b: &mut Builder, p: Point, sign: f32, number: f32) -> One {
    let below = square_plus(b, p.x, sign, number)?;
    let root = b.unary(Unary::Sqrt, below)?;
    b.div(p.dy, root)
}

/// height exp(rate x^2).
fn bell(b: &mut Builder, x: Value, rate: f32, height: f32) -> One {
    let square = b.mul(x, x)?;
    let exponent = b.scale(square, rate)?;
    let exp = b.unary(Unary::Exp, exponent)?;
    b.scale(exp, height)
}

/// `value` where x is above a number, 0 elsewhere.
fn keep_above(b: &mut Builder, x: Value, number: f32, value: Value) -> One {
    let number = b.scalar(number);
    let above = b.compare(Compare::Greater, x, number)?;
    keep(b, above, value)
}

/// `value` where the condition holds, 0 elsewhere.
fn keep(b: &mut Builder, condition: Value, value: Value) -> One {
    let zero = b.scalar(0.0);
    b.select(condition, value, zero)
}

/// `value` where the condition does not hold, 0 elsewhere.
fn keep_unless(b: &mut Builder, condition: Value, value: Value) -> One {
    let zero = b.scalar(0.0);
    b.select(condition, zero, value)
}

/// The cotangents of both operands; `None` for integers and booleans.
pub(super) fn binary(kind: Binary) -> Option<fn(&mut Builder, &Site) -> Cotangents> {
    Some(match kind {
        // ONNX has `Mod` with fmod = 0 for integers only.
        Binary::Mod
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::ShiftLeft
        | Binary::ShiftRight => return None,
        Binary::Add => |b, s| {
            let dy = s.dy(b)?;
            Ok(vec![s.when(0, || Ok(dy))?, s.when(1, || Ok(dy))?])
        },
        Binary::Sub => |b, s| {
            let dy = s.dy(b)?;
            Ok(vec![s.when(0, || Ok(dy))?, s.when(1, || b.neg(dy))?])
        },
        Binary::Mul => |b, s| {
            let (x, y, dy) = (s.x(b, 0)?, s.x(b, 1)?, s.dy(b)?);
            Ok(vec![s.when(0, || b.mul(dy, y))?, s.when(1, || b.mul(dy, x))?])
        },
        Binary::Div => |b, s| {
            let (below, dy) = (s.x(b, 1)?, s.dy(b)?);
            let above = b.div(dy, below)?;
            let other = s.when(1, || {
                let slope = b.mul(above, s.y())?;
                b.neg(slope)
            })?;
            Ok(vec![s.when(0, || Ok(above))?, other])
        },
        Binary::Pow => pow,
        // a - b trunc(a / b).
        Binary::Fmod => |b, s| {
            let (x, by, dy) = (s.x(b, 0)?, s.x(b, 1)?, s.dy(b)?);
            let other = s.when(1, || {
                let whole = b.sub(x, s.y())?;
                let times = b.div(whole, by)?;
                let times = b.unary(Unary::Round, times)?;
                let slope = b.neg(times)?;
                b.mul(dy, slope)
            })?;
            Ok(vec![s.when(0, || Ok(dy))?, other])
        },
        Binary::PRelu => |b, s| {
            let (x, slope, dy) = (s.x(b, 0)?, s.x(b, 1)?, s.dy(b)?);
            let zero = b.scalar(0.0);
            let below = b.compare(Compare::Less, x, zero)?;
            let first = s.when(0, || {
                let lower = b.mul(dy, slope)?;
                b.select(below, lower, dy)
            })?;
            let second = s.when(1, || {
                let lower = b.mul(dy, x)?;
                keep(b, below, lower)
            })?;
            Ok(vec![first, second])
        },
    })
}

fn pow(b: &mut Builder, site: &Site) -> Cotangents {
    let (x, exponent, dy) = (site.x(b, 0)?, site.x(b, 1)?, site.dy(b)?);
    let dtype = b.dtype(x)?;
    let constant = b.graph.constant(exponent).filter(|t| t.len() == 1);
    let number = constant.and_then(|t| match t.to_f32_vec() {
        Some(v) => v.first().copied(),
        None => t.to_i64_vec()?.first().map(|n| *n as f32),
    });
    let base = match number {
        _ if !site.wants(0) => None,
        Some(0.0) => None,
        Some(1.0) => Some(dy),
        Some(0.5) => {
            let half = b.scale(dy, 0.5)?;
            Some(b.div(half, site.y())?)
        }
        Some(number) => {
            let power = if number == 2.0 {
                x
            } else {
                let less = b.scalar(number - 1.0);
                b.binary(Binary::Pow, x, less)?
            };
            let dy = b.scale(dy, number)?;
            Some(b.mul(dy, power)?)
        }
        None => {
            let exponent = if b.dtype(exponent)? == dtype { exponent } else { b.cast(exponent, dtype)? };
            let less = b.add_scalar(exponent, -1.0)?;
            let power = b.binary(Binary::Pow, x, less)?;
            let slope = b.mul(exponent, power)?;
            // 0 to the power of 0 has the slope 0, not 0 / 0.
            let zero = b.scalar(0.0);
            let flat = b.compare(Compare::Equal, exponent, zero)?;
            let slope = keep_unless(b, flat, slope)?;
            Some(b.mul(dy, slope)?)
        }
    };
    let power = site.when(1, || {
        // The logarithm where there is one: 0 to a power stays 0.
        let (zero, one) = (b.scalar(0.0), b.scalar(1.0));
        let positive = b.compare(Compare::Greater, x, zero)?;
        let x = b.select(positive, x, one)?;
        let log = b.unary(Unary::Log, x)?;
        let slope = b.mul(site.y(), log)?;
        b.mul(dy, slope)
    })?;
    Ok(vec![base, power])
}

/// The cotangent as it is.
pub(super) fn same(b: &mut Builder, site: &Site) -> Cotangents {
    Ok(vec![Some(site.dy(b)?)])
}

/// The cotangent in the operand's element type.
pub(super) fn cast(b: &mut Builder, site: &Site) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let dtype = b.dtype(x)?;
    Ok(vec![Some(if b.dtype(dy)? == dtype { dy } else { b.cast(dy, dtype)? })])
}

/// Operands that are equally great or small share the cotangent.
pub(super) fn variadic(b: &mut Builder, site: &Site, kind: Variadic) -> Cotangents {
    let dy = site.dy(b)?;
    let count = site.operands.len();
    let share = match kind {
        Variadic::Sum => dy,
        Variadic::Mean => b.scale(dy, 1.0 / count as f32)?,
        Variadic::Max | Variadic::Min if count < 2 => dy,
        Variadic::Max | Variadic::Min => return extremes(b, site, dy),
    };
    (0..count).map(|slot| site.when(slot, || Ok(share))).collect()
}

fn extremes(b: &mut Builder, site: &Site, dy: Value) -> Cotangents {
    let dtype = b.dtype(site.y())?;
    let mut reached = vec![];
    for slot in 0..site.operands.len() {
        let x = site.x(b, slot)?;
        let equal = b.compare(Compare::Equal, x, site.y())?;
        reached.push(b.cast(equal, dtype)?);
    }
    let mut count = reached[0];
    for other in &reached[1..] {
        count = b.add(count, *other)?;
    }
    let share = b.div(dy, count)?;
    let reached = reached.into_iter().enumerate();
    reached.map(|(slot, reached)| site.when(slot, || b.mul(reached, share))).collect()
}

/// The chosen side has the cotangent.
pub(super) fn select(b: &mut Builder, site: &Site) -> Cotangents {
    let (condition, dy) = (site.x(b, 0)?, site.dy(b)?);
    let yes = site.when(1, || keep(b, condition, dy))?;
    let no = site.when(2, || keep_unless(b, condition, dy))?;
    Ok(vec![None, yes, no])
}

/// The input inside the bounds and on them; outside, the bound that holds there.
pub(super) fn clip(b: &mut Builder, site: &Site) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let (low, high) = (site.operand(1), site.operand(2));
    let below = low.map(|low| b.compare(Compare::Less, x, low)).transpose()?;
    let above = high.map(|high| b.compare(Compare::Greater, x, high)).transpose()?;
    let input = site.when(0, || {
        let outside = match (below, above) {
            (Some(below), Some(above)) => b.binary(Binary::Or, below, above)?,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Ok(dy),
        };
        keep_unless(b, outside, dy)
    })?;
    // Bounds that cross: the upper one wins.
    let crossed = match (low, high) {
        (Some(low), Some(high)) if site.wants(1) || site.wants(2) => {
            Some(b.compare(Compare::Greater, low, high)?)
        }
        (Some(_) | None, Some(_) | None) => None,
    };
    let lower = match below.filter(|_| site.wants(1)) {
        Some(below) => {
            let dy = keep(b, below, dy)?;
            Some(match crossed {
                Some(crossed) => keep_unless(b, crossed, dy)?,
                None => dy,
            })
        }
        None => None,
    };
    let upper = match above.filter(|_| site.wants(2)) {
        Some(above) => Some(match crossed {
            Some(crossed) => {
                let at_high = b.binary(Binary::Or, above, crossed)?;
                keep(b, at_high, dy)?
            }
            None => keep(b, above, dy)?,
        }),
        None => None,
    };
    Ok(vec![input, lower, upper])
}

pub(super) fn leaky_relu(b: &mut Builder, site: &Site, alpha: f32) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let zero = b.scalar(0.0);
    let below = b.compare(Compare::Less, x, zero)?;
    let lower = b.scale(dy, alpha)?;
    Ok(vec![Some(b.select(below, lower, dy)?)])
}

/// alpha exp(x) is y + alpha.
pub(super) fn elu(b: &mut Builder, site: &Site, alpha: f32) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let zero = b.scalar(0.0);
    let below = b.compare(Compare::Less, x, zero)?;
    let slope = b.add_scalar(site.y(), alpha)?;
    let lower = b.mul(dy, slope)?;
    Ok(vec![Some(b.select(below, lower, dy)?)])
}

pub(super) fn hard_sigmoid(b: &mut Builder, site: &Site, alpha: f32) -> Cotangents {
    let dy = site.dy(b)?;
    let one = b.scalar(1.0);
    let slope = b.scale(dy, alpha)?;
    let low = b.compare(Compare::Less, site.y(), one)?;
    let slope = keep(b, low, slope)?;
    Ok(vec![Some(keep_above(b, site.y(), 0.0, slope)?)])
}

/// Straight through: the cotangent where the position lies in the range of codes.
pub(super) fn fake_slice(b: &mut Builder, site: &Site) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let (zero, most) = (b.scalar(0.0), b.scalar(255.0));
    let below = b.compare(Compare::Less, x, zero)?;
    let above = b.compare(Compare::Greater, x, most)?;
    let outside = b.binary(Binary::Or, below, above)?;
    Ok(vec![Some(keep_unless(b, outside, dy)?)])
}

pub(super) fn gelu(b: &mut Builder, site: &Site, kind: GeluKind) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let slope = match kind {
        // Phi(x) + x phi(x).
        GeluKind::Erf => {
            let scaled = b.scale(x, FRAC_1_SQRT_2)?;
            let erf = b.unary(Unary::Erf, scaled)?;
            let phi = b.add_scalar(erf, 1.0)?;
            let phi = b.scale(phi, 0.5)?;
            let density = bell(b, x, -0.5, 0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI)?;
            let bend = b.mul(x, density)?;
            b.add(phi, bend)?
        }
        // (1 + t) / 2 + x / 2 (1 - t^2) u' with t = tanh(u), u = c (x + 0.044715 x^3).
        GeluKind::Tanh => {
            let c = (2.0 / PI).sqrt();
            let square = b.mul(x, x)?;
            let cubic = b.scale(square, c * 0.044715)?;
            let cubic = b.add_scalar(cubic, c)?;
            let u = b.mul(x, cubic)?;
            let t = b.unary(Unary::Tanh, u)?;
            let inner = b.scale(square, 3.0 * c * 0.044715)?;
            let inner = b.add_scalar(inner, c)?;
            let bend = square_plus(b, t, -1.0, 1.0)?;
            let bend = b.mul(bend, inner)?;
            let bend = b.mul(x, bend)?;
            let sum = b.add(t, bend)?;
            let sum = b.add_scalar(sum, 1.0)?;
            b.scale(sum, 0.5)?
        }
    };
    Ok(vec![Some(b.mul(dy, slope)?)])
}
