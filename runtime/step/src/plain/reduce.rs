//! Reductions over axes.

use mqc_ir::op::Reduction;

use super::{Call, scalar};
use crate::Real;
use crate::array::{Data, Slice};
use crate::index::{Offsets, axis, count};

/// Which axes are reduced.
pub(crate) fn reduced(
    rank: usize,
    axes: Option<&[i64]>,
    noop_with_empty_axes: bool,
) -> Result<Vec<bool>, String> {
    let axes = axes.unwrap_or_default();
    let mut reduced = vec![axes.is_empty() && !noop_with_empty_axes; rank];
    for a in axes {
        reduced[axis(*a, rank)?] = true;
    }
    Ok(reduced)
}

pub(super) fn reduce<T: Real>(
    call: &Call<T>,
    kind: Reduction,
    attribute: &Option<Vec<i64>>,
    noop_with_empty_axes: bool,
) -> Result<Data<T>, String> {
    let x = call.arg(0)?;
    let listed = match attribute {
        Some(axes) => Some(axes.as_slice()),
        None => call.list(1)?,
    };
    let reduced = reduced(x.shape.len(), listed, noop_with_empty_axes)?;
    // Where each element goes: strides of the output, 0 along the reduced axes.
    let mut steps = vec![0; x.shape.len()];
    let mut stride = 1;
    for i in (0..x.shape.len()).rev().filter(|i| !reduced[*i]) {
        steps[i] = stride;
        stride *= x.shape[i] as isize;
    }
    let len = count(&call.output()?.shape);
    if reduced.iter().all(|r| !r) && noop_with_empty_axes {
        return Ok(x.data.owned());
    }
    let places = || Offsets::new(x.shape, &steps, 0);
    let over: usize = (0..x.shape.len()).filter(|i| reduced[*i]).map(|i| x.shape[i]).product();
    match x.data {
        Slice::Real(v) => Ok(Data::Real(reals(kind, v, places, len, over).into_iter().map(T::of).collect())),
        Slice::Int(v) => {
            let (first, combine): (i64, fn(i64, i64) -> i64) = match kind {
                Reduction::Sum | Reduction::Mean => (0, i64::wrapping_add),
                Reduction::L1 => (0, |a, b| a.wrapping_add(b.wrapping_abs())),
                Reduction::SumSquare => (0, |a, b| a.wrapping_add(b.wrapping_mul(b))),
                Reduction::Prod => (1, i64::wrapping_mul),
                Reduction::Max => (i64::MIN, i64::max),
                Reduction::Min => (i64::MAX, i64::min),
                Reduction::L2 | Reduction::LogSum | Reduction::LogSumExp => {
                    return Err(format!("{kind:?} has no meaning for {}", x.dtype));
                }
            };
            let mut all = vec![first; len];
            for (at, value) in places().zip(v) {
                all[at] = combine(all[at], *value);
            }
            if kind == Reduction::Mean {
                all.iter_mut().for_each(|v| *v /= (over as i64).max(1));
            }
            Ok(Data::Int(all))
        }
        Slice::Bool(v) => {
            let (first, combine): (bool, fn(bool, bool) -> bool) = match kind {
                Reduction::Max => (false, |a, b| a || b),
                Reduction::Min => (true, |a, b| a && b),
                _ => return Err(format!("{kind:?} has no meaning for {}", x.dtype)),
            };
            let mut all = vec![first; len];
            for (at, value) in places().zip(v) {
                all[at] = combine(all[at], *value);
            }
            Ok(Data::Bool(all))
        }
    }
}

fn reals<T: Real>(
    kind: Reduction,
    v: &[T],
    places: impl Fn() -> Offsets,
    len: usize,
    over: usize,
) -> Vec<f64> {
    let fold = |first: f64, combine: &dyn Fn(f64, f64) -> f64| {
        let mut all = vec![first; len];
        for (at, value) in places().zip(v) {
            all[at] = combine(all[at], value.f64());
        }
        all
    };
    let map = |all: Vec<f64>, f: &dyn Fn(f64) -> f64| all.into_iter().map(f).collect();
    match kind {
        Reduction::Sum => fold(0.0, &|a, b| a + b),
        Reduction::Mean => map(fold(0.0, &|a, b| a + b), &|v| v / over as f64),
        Reduction::L1 => fold(0.0, &|a, b| a + b.abs()),
        Reduction::SumSquare => fold(0.0, &|a, b| a + b * b),
        Reduction::L2 => map(fold(0.0, &|a, b| a + b * b), &f64::sqrt),
        Reduction::LogSum => map(fold(0.0, &|a, b| a + b), &f64::ln),
        Reduction::Prod => fold(1.0, &|a, b| a * b),
        Reduction::Max => fold(f64::NEG_INFINITY, &scalar::max),
        Reduction::Min => fold(f64::INFINITY, &scalar::min),
        Reduction::LogSumExp => {
            let greatest = fold(f64::NEG_INFINITY, &scalar::max);
            let shift: Vec<f64> = greatest.iter().map(|m| if m.is_finite() { *m } else { 0.0 }).collect();
            let mut sums = vec![0.0; len];
            for (at, value) in places().zip(v) {
                sums[at] += (value.f64() - shift[at]).exp();
            }
            sums.iter().zip(shift).map(|(s, m)| s.ln() + m).collect()
        }
    }
}
