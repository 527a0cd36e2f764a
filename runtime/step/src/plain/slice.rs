//! Slices with any steps.

use super::Call;
use super::layout::view;
use crate::Real;
use crate::array::Data;
use crate::index::{axis, strides};

/// First place and step of every axis of a slice.
pub(crate) fn plan(
    shape: &[usize],
    starts: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Result<Vec<(usize, i64)>, String> {
    let mut plan = vec![(0, 1); shape.len()];
    for (i, start) in starts.iter().enumerate() {
        let place = match axes {
            None => i,
            Some(axes) => axis(*axes.get(i).ok_or("fewer axes than starts")?, shape.len())?,
        };
        let step = match steps {
            None => 1,
            Some(steps) => *steps.get(i).ok_or("fewer steps than starts")?,
        };
        let slot = plan.get_mut(place).ok_or("more starts than dimensions")?;
        let len = shape[place] as i64;
        let start = if *start < 0 { start.saturating_add(len) } else { *start };
        *slot = (start.clamp(0, (if step < 0 { len - 1 } else { len }).max(0)) as usize, step);
    }
    Ok(plan)
}

pub(super) fn slice<T: Real>(call: &Call<T>) -> Result<Data<T>, String> {
    let (x, to) = (call.arg(0)?, &call.output()?.shape);
    let starts = call.list(1)?.ok_or("starts are missing")?;
    let plan = plan(x.shape, starts, call.list(3)?, call.list(4)?)?;
    let own = strides(x.shape);
    let start = plan.iter().zip(&own).map(|((start, _), s)| *start as isize * s).sum();
    let steps: Vec<isize> = plan.iter().zip(&own).map(|((_, step), s)| *step as isize * s).collect();
    check(&plan, x.shape, to)?;
    Ok(view(x.data, to, &steps, start))
}

/// Error when a slice of these sizes leaves the data.
pub(crate) fn check(plan: &[(usize, i64)], from: &[usize], to: &[usize]) -> Result<(), String> {
    let outside = |i: usize| {
        let (start, step) = plan[i];
        let last = start as i64 + (to[i] as i64 - 1) * step;
        to[i] > 0 && (last < 0 || last >= from[i] as i64)
    };
    match (0..to.len()).find(|i| outside(*i)) {
        Some(i) => Err(format!("axis {i} of the slice leaves the data")),
        None => Ok(()),
    }
}
