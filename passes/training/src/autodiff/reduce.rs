//! Rules of reductions. What they give has size 1 along reduced axes where all elements have the same cotangent.

use mqc_ir::Value;
use mqc_ir::op::{Compare, Reduction, Unary};

use super::site::{Site, axis};
use super::{Cotangents, sum_kept};
use crate::{Builder, Error};

/// The axes of a reduction, from the front; `None` when it reduces nothing.
pub(crate) fn axes(listed: Option<&[i64]>, noop_with_empty_axes: bool, rank: usize) -> Option<Vec<usize>> {
    match listed {
        None | Some([]) if noop_with_empty_axes => None,
        None | Some([]) => Some((0..rank).collect()),
        Some(list) => list.iter().map(|a| axis(*a, rank)).collect(),
    }
}

pub(super) fn reduce(
    b: &mut Builder,
    site: &Site,
    kind: Reduction,
    attribute: Option<&[i64]>,
    keepdims: bool,
    noop_with_empty_axes: bool,
) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let operand = site.ints(b, 1)?;
    let shape = b.shape(x)?;
    let listed = attribute.or(operand.as_deref());
    let Some(axes) = axes(listed, noop_with_empty_axes, shape.len()) else {
        return match kind {
            Reduction::LogSumExp
            | Reduction::Max
            | Reduction::Mean
            | Reduction::Min
            | Reduction::Prod
            | Reduction::Sum => Ok(vec![Some(dy)]),
            Reduction::L1 | Reduction::L2 | Reduction::LogSum | Reduction::SumSquare => {
                Err(site.no(b, "runtimes disagree on what it computes over no axes"))
            }
        };
    };
    let kept: Vec<usize> = (0..shape.len()).map(|i| if axes.contains(&i) { 1 } else { shape[i] }).collect();
    let widen = |b: &mut Builder, v: Value| if keepdims { Ok(v) } else { b.reshape(v, &kept) };
    let dy = widen(b, dy)?;
    let y = |b: &mut Builder| widen(b, site.y());
    let cotangent = match kind {
        Reduction::Sum => dy,
        Reduction::Mean => {
            let count: usize = axes.iter().map(|&i| shape[i]).product();
            b.scale(dy, 1.0 / count as f32)?
        }
        Reduction::L1 => {
            let sign = b.unary(Unary::Sign, x)?;
            b.mul(sign, dy)?
        }
        // x / y; 0 where all elements are.
        Reduction::L2 => {
            let y = y(b)?;
            let (zero, one) = (b.scalar(0.0), b.scalar(1.0));
            let none = b.compare(Compare::Equal, y, zero)?;
            let y = b.select(none, one, y)?;
            let dy = b.div(dy, y)?;
            b.mul(x, dy)?
        }
        Reduction::LogSum => {
            let y = y(b)?;
            let less = b.neg(y)?;
            let over_sum = b.unary(Unary::Exp, less)?;
            b.mul(dy, over_sum)?
        }
        Reduction::LogSumExp => {
            let y = y(b)?;
            let less = b.sub(x, y)?;
            let share = b.unary(Unary::Exp, less)?;
            b.mul(share, dy)?
        }
        Reduction::Max | Reduction::Min => {
            let y = y(b)?;
            extremes(b, x, y, dy, &axes)?
        }
        Reduction::Prod => {
            let y = y(b)?;
            product(b, x, y, dy, &axes)?
        }
        Reduction::SumSquare => {
            let twice = b.scale(dy, 2.0)?;
            b.mul(x, twice)?
        }
    };
    Ok(vec![Some(cotangent)])
}

/// Elements that are equally great or small share the cotangent (as in JAX).
pub(super) fn extremes(
    b: &mut Builder,
    x: Value,
    y: Value,
    dy: Value,
    axes: &[usize],
) -> Result<Value, Error> {
    let equal = b.compare(Compare::Equal, x, y)?;
    let dtype = b.dtype(x)?;
    let reached = b.cast(equal, dtype)?;
    let count = sum_kept(b, reached, axes)?;
    let share = b.div(dy, count)?;
    b.mul(reached, share)
}

/// The product of the others: y / x, and for the only zero among them the product without it.
fn product(b: &mut Builder, x: Value, y: Value, dy: Value, axes: &[usize]) -> Result<Value, Error> {
    let (zero, one) = (b.scalar(0.0), b.scalar(1.0));
    let dtype = b.dtype(x)?;
    let is_zero = b.compare(Compare::Equal, x, zero)?;
    let safe = b.select(is_zero, one, x)?;
    let zeros = b.cast(is_zero, dtype)?;
    let zeros = sum_kept(b, zeros, axes)?;
    let rest = b.reduce(Reduction::Prod, safe, axes, true)?;
    let single = b.compare(Compare::Equal, zeros, one)?;
    let rest = b.select(single, rest, zero)?;
    let others = b.div(y, safe)?;
    let slope = b.select(is_zero, rest, others)?;
    b.mul(slope, dy)
}
