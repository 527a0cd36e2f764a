//! Rules of operations that move elements.

use mqc_ir::op::PadMode;
use mqc_ir::{Op, Value};

use super::site::{Site, axis};
use super::{Cotangents, index, sum_kept};
use crate::{Builder, Error};

/// Reshape, Squeeze, Unsqueeze, Flatten.
pub(super) fn reshape(b: &mut Builder, site: &Site) -> Cotangents {
    let shape = b.shape(site.x(b, 0)?)?;
    let dy = site.dy(b)?;
    Ok(vec![Some(b.reshape(dy, &shape)?)])
}

pub(super) fn transpose(b: &mut Builder, site: &Site, perm: Option<&[i64]>) -> Cotangents {
    let dy = site.dy(b)?;
    let rank = b.shape(dy)?.len();
    let mut inverse: Vec<usize> = (0..rank).rev().collect();
    for (i, p) in perm.into_iter().flatten().enumerate() {
        inverse[axis(*p, rank).ok_or_else(|| site.no(b, "perm is no permutation"))?] = i;
    }
    Ok(vec![Some(b.transpose(dy, &inverse)?)])
}

/// Zeros around x: `before` and `after` along every axis.
pub(super) fn zeros_around(
    b: &mut Builder,
    x: Value,
    before: &[usize],
    after: &[usize],
) -> Result<Value, Error> {
    if before.iter().chain(after).all(|&n| n == 0) {
        return Ok(x);
    }
    let pads: Vec<i64> = before.iter().chain(after).map(|&n| n as i64).collect();
    let pads = b.ints(&pads);
    b.op(Op::Pad { mode: PadMode::Constant }, &[x, pads])
}

/// Places elements of an axis `step` apart, zeros between them: `(len - 1) step + 1` of them.
pub(super) fn spread(b: &mut Builder, x: Value, at: usize, step: usize) -> Result<Value, Error> {
    let shape = b.shape(x)?;
    let len = shape[at];
    if step == 1 || len <= 1 {
        return Ok(x);
    }
    let mut split = shape.clone();
    split.insert(at + 1, 1);
    let x = b.reshape(x, &split)?;
    let before = vec![0; split.len()];
    let mut after = before.clone();
    after[at + 1] = step - 1;
    let x = zeros_around(b, x, &before, &after)?;
    let mut joined = shape;
    joined[at] = len * step;
    let x = b.reshape(x, &joined)?;
    b.slice(x, at, 0, (len - 1) * step + 1)
}

/// The elements of some axes in reverse.
pub(super) fn reversed(b: &mut Builder, x: Value, axes: &[usize]) -> Result<Value, Error> {
    if axes.is_empty() {
        return Ok(x);
    }
    let axes: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
    let all = vec![1; axes.len()].into_iter();
    let (starts, ends, steps): (Vec<i64>, Vec<i64>, Vec<i64>) = (
        all.clone().map(|_| -1).collect(),
        all.clone().map(|_| i64::MIN).collect(),
        all.map(|_| -1).collect(),
    );
    let operands = [b.ints(&starts), b.ints(&ends), b.ints(&axes), b.ints(&steps)];
    b.op(Op::Slice, &[x, operands[0], operands[1], operands[2], operands[3]])
}

/// Zeros where nothing was taken.
pub(super) fn slice(b: &mut Builder, site: &Site) -> Cotangents {
    let mut dy = site.dy(b)?;
    let shape = b.shape(site.x(b, 0)?)?;
    let rank = shape.len();
    let starts = site.ints(b, 1)?.unwrap_or_default();
    let listed = site.ints(b, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = site.ints(b, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    let mut backwards = vec![];
    let mut apart = vec![];
    for ((start, at), step) in starts.iter().zip(&listed).zip(&steps) {
        let at = axis(*at, rank).ok_or_else(|| site.no(b, "an axis is out of range"))?;
        let (len, size) = (b.shape(dy)?[at], shape[at] as i64);
        let start = if *start < 0 { start.saturating_add(size) } else { *start };
        let start = start.clamp(0, if *step < 0 { (size - 1).max(0) } else { size });
        let stride = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
        let span = len.saturating_sub(1).saturating_mul(stride);
        if *step < 0 {
            backwards.push(at);
        }
        let first = if *step < 0 { (start as usize).saturating_sub(span) } else { start as usize };
        let taken = if len == 0 { 0 } else { span + 1 };
        before[at] = first;
        after[at] = shape[at].saturating_sub(first + taken);
        apart.push((at, stride));
    }
    dy = reversed(b, dy, &backwards)?;
    for (at, stride) in apart {
        dy = spread(b, dy, at, stride)?;
    }
    Ok(vec![Some(zeros_around(b, dy, &before, &after)?)])
}

pub(super) fn concat(b: &mut Builder, site: &Site, at: i64) -> Cotangents {
    let dy = site.dy(b)?;
    let rank = b.shape(dy)?.len();
    let at = axis(at, rank).ok_or_else(|| site.no(b, "its axis is out of range"))?;
    let mut start = 0;
    let mut cotangents = vec![];
    for slot in 0..site.operands.len() {
        let length = b.shape(site.x(b, slot)?)?[at];
        cotangents.push(site.when(slot, || b.slice(dy, at, start, length))?);
        start += length;
    }
    Ok(cotangents)
}

pub(super) fn split(b: &mut Builder, site: &Site, at: i64) -> Cotangents {
    let shape = b.shape(site.x(b, 0)?)?;
    let at = axis(at, shape.len()).ok_or_else(|| site.no(b, "its axis is out of range"))?;
    let mut parts = vec![];
    let mut start = 0;
    for slot in 0..site.dys.len() {
        let part = b.shape(Value { node: site.id, slot })?;
        parts.push((start, part));
        start += parts.last().map_or(0, |(_, part)| part[at]);
    }
    let mut flowing = site.dys.iter().zip(&parts).filter_map(|(dy, part)| Some(((*dy)?, part)));
    if let (Some((dy, (start, part))), None) = (flowing.next(), flowing.next()) {
        let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
        before[at] = *start;
        after[at] = shape[at] - start - part[at];
        return Ok(vec![Some(zeros_around(b, dy, &before, &after)?)]);
    }
    let mut joined = vec![];
    for (dy, (_, part)) in site.dys.iter().zip(&parts) {
        joined.push(match dy {
            Some(dy) => *dy,
            None => b.zeros(part)?,
        });
    }
    Ok(vec![Some(b.op(Op::Concat { axis: at as i64 }, &joined)?)])
}

/// Pads before and after every axis, negative ones crop.
fn pads(b: &Builder, site: &Site, rank: usize) -> Result<Vec<(i64, i64)>, Error> {
    let list = site.ints(b, 1)?.unwrap_or_default();
    let axes = site.ints(b, 3)?.unwrap_or_else(|| (0..rank as i64).collect());
    let mut pads = vec![(0, 0); rank];
    let (before, after) = list.split_at(list.len() / 2);
    for (at, (before, after)) in axes.iter().zip(before.iter().zip(after)) {
        pads[axis(*at, rank).ok_or_else(|| site.no(b, "an axis is out of range"))?] = (*before, *after);
    }
    Ok(pads)
}

/// What lies inside; the value of the border has the rest.
pub(super) fn pad_constant(b: &mut Builder, site: &Site) -> Cotangents {
    let dy = site.dy(b)?;
    let shape = b.shape(site.x(b, 0)?)?;
    let pads = pads(b, site, shape.len())?;
    let size = |n: i64| usize::try_from(n).unwrap_or(0);
    let mut inner = dy;
    for (at, (before, after)) in pads.iter().enumerate() {
        let length = size(shape[at] as i64 + (*before).min(0) + (*after).min(0));
        if b.shape(inner)?[at] != length {
            inner = b.slice(inner, at, size(*before), length)?;
        }
    }
    let value = site.when(2, || {
        let (all, inside) = (b.sum_all(dy)?, b.sum_all(inner)?);
        let rest = b.sub(all, inside)?;
        let shape = match site.operand(2) {
            Some(value) => b.shape(value)?,
            None => vec![],
        };
        b.reshape(rest, &shape)
    })?;
    let data = site.when(0, || {
        let before: Vec<usize> = pads.iter().map(|p| size(-p.0)).collect();
        let after: Vec<usize> = pads.iter().map(|p| size(-p.1)).collect();
        zeros_around(b, inner, &before, &after)
    })?;
    Ok(vec![data, None, value])
}

/// Borders that repeat elements: each is a gather along every axis.
pub(super) fn pad_copy(b: &mut Builder, site: &Site, mode: PadMode) -> Cotangents {
    let shape = b.shape(site.x(b, 0)?)?;
    let pads = pads(b, site, shape.len())?;
    let mut dy = site.dy(b)?;
    for (at, (before, after)) in pads.into_iter().enumerate() {
        let n = shape[at] as i64;
        if (before, after) == (0, 0) || n == 0 {
            continue;
        }
        let source = |place: i64| match mode {
            PadMode::Constant | PadMode::Edge => place.clamp(0, n - 1),
            PadMode::Wrap => place.rem_euclid(n),
            PadMode::Reflect if n == 1 => 0,
            PadMode::Reflect => {
                let place = place.rem_euclid(2 * (n - 1));
                place.min(2 * (n - 1) - place)
            }
        };
        let sources: Vec<i64> = (-before..n + after).map(source).collect();
        let indices = b.ints(&sources);
        dy = index::add_rows(b, dy, indices, at, shape[at])?;
    }
    Ok(vec![Some(dy)])
}

/// The repetitions summed.
pub(super) fn tile(b: &mut Builder, site: &Site) -> Cotangents {
    let dy = site.dy(b)?;
    let shape = b.shape(site.x(b, 0)?)?;
    let tiled = b.shape(dy)?;
    let (mut split, mut axes) = (vec![], vec![]);
    for (size, tiled) in shape.iter().zip(&tiled) {
        let times = tiled.checked_div(*size).unwrap_or(0);
        if times != 1 {
            axes.push(split.len());
            split.push(times);
        }
        split.push(*size);
    }
    let dy = b.reshape(dy, &split)?;
    let sum = sum_kept(b, dy, &axes)?;
    Ok(vec![Some(b.reshape(sum, &shape)?)])
}
