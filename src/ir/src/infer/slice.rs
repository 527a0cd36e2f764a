//! Operations that cut and join along axes: Slice, Concat, Split, Pad, Tile.

use super::reshape::range_len;
use super::site::{Inferred, MAX_ITEMS, Site, axes, axis, dim, one, same, show, tensor, unify, unknown};
use super::symbolic::Expr;
use crate::Dim;

/// From here on a bound means "to the end": exporters write the largest 32- or 64-bit integer.
const END: i64 = i32::MAX as i64;

pub(super) fn slice(site: &Site) -> Inferred {
    let data = site.tensor(0, "data")?;
    let (starts, ends) = (site.vector(1, "starts")?, site.vector(2, "ends")?);
    let listed = site.optional(3, "axes")?.map(|_| site.constants(3));
    let steps = site.optional(4, "steps")?.map(|_| site.vector(4, "steps")).transpose()?;
    let Some(mut dims) = data.shape else {
        return one(data.dtype, None);
    };
    let count = starts.as_ref().or(ends.as_ref()).map(Vec::len);
    let places = match listed {
        Some(Some(list)) => Some(axes(&list, dims.len())?),
        Some(None) => None,
        None => match count {
            Some(n) if n > dims.len() => {
                return Err(format!("{n} starts for shape {}, expected at most its rank", show(&dims)));
            }
            count => count.map(|n| (0..n).collect()),
        },
    };
    let Some(places) = places else {
        return one(data.dtype, Some(unknown(dims.len())));
    };
    for lengths in
        [starts.as_ref(), ends.as_ref(), steps.as_ref().and_then(Option::as_ref)].into_iter().flatten()
    {
        if lengths.len() != places.len() {
            return Err(format!(
                "{} bounds or steps for {} axes, expected as many",
                lengths.len(),
                places.len()
            ));
        }
    }
    let item = |list: &Option<Vec<Option<Expr>>>, i: usize| list.as_ref().and_then(|l| l[i].clone());
    for (i, place) in places.into_iter().enumerate() {
        let step = match &steps {
            None => Some(1),
            Some(steps) => item(steps, i).and_then(|s| s.constant()),
        };
        if step == Some(0) {
            return Err("a step is 0, expected another".to_owned());
        }
        let len =
            Expr::of(&dims[place]).and_then(|d| slice_len(&d, &item(&starts, i)?, &item(&ends, i)?, step?));
        dims[place] = dim(len)?;
    }
    one(data.dtype, Some(dims))
}

/// The number of elements of `start..end` by `step` in a dimension, as ONNX clamps the bounds.
fn slice_len(size: &Expr, start: &Expr, end: &Expr, step: i64) -> Option<Expr> {
    if step > 0 {
        // A start behind the end gives nothing, also when it is not clamped to the size.
        let start = if start.is_non_negative() { start.clone() } else { clamp(size, start)? };
        return range_len(&start, &clamp(size, end)?, step);
    }
    if let (Some(n), Some(start), Some(end)) = (size.constant(), start.constant(), end.constant()) {
        let place =
            |i: i64, low: i64| (if i < 0 { i.saturating_add(n) } else { i }).clamp(low, (n - 1).max(low));
        let (start, end) = if n == 0 { (0, 0) } else { (place(start, 0), place(end, -1)) };
        return range_len(&Expr::from(start), &Expr::from(end), step);
    }
    // Of the symbolic reversals only the whole one is certain.
    let from_end = start.constant().is_some_and(|s| s == -1 || s >= END);
    let to_start = end.constant().is_some_and(|e| e <= -END);
    (from_end && to_start).then(|| size.ceil_div(&Expr::from(step.checked_abs()?))).flatten()
}

/// A bound of a forward slice within 0 and the size.
fn clamp(size: &Expr, bound: &Expr) -> Option<Expr> {
    if size.constant().is_none() {
        match bound.constant() {
            Some(b) if b >= END => return Some(size.clone()),
            Some(b) if b <= -END => return Some(Expr::from(0)),
            Some(_) | None => {}
        }
    }
    let limits = bound.bounds();
    if limits.low.is_some_and(|low| low >= 0) {
        return bound.lesser(size);
    }
    if limits.high.is_some_and(|high| high < 0) {
        return size.add(bound)?.greater(&Expr::from(0));
    }
    None
}

pub(super) fn concat(site: &Site, at: i64) -> Inferred {
    let operands: Vec<_> =
        (0..site.operands.len().max(1)).map(|slot| site.tensor(slot, "operand")).collect::<Inferred<_>>()?;
    let dtypes: Vec<_> = operands.iter().map(|t| t.dtype).collect();
    let dtype = same(&dtypes)?;
    let mut shapes = operands.iter().filter_map(|t| t.shape.as_ref());
    let Some(mut dims) = shapes.next().cloned() else {
        return one(dtype, None);
    };
    let at = axis(at, dims.len())?;
    for shape in shapes {
        if shape.len() != dims.len() {
            return Err(format!(
                "operands have shapes {} and {}, expected one rank",
                show(&dims),
                show(shape)
            ));
        }
        for (i, (ours, theirs)) in dims.iter_mut().zip(shape).enumerate().filter(|(i, _)| *i != at) {
            *ours = unify(ours, theirs, &format!("operands along axis {i}"))?;
        }
    }
    let parts = operands.iter().map(|t| Expr::of(&t.shape.as_ref()?[at]));
    dims[at] = dim(parts.reduce(|a, b| a?.add(&b?)).flatten())?;
    one(dtype, Some(dims))
}

pub(super) fn split(site: &Site, at: i64, sizes: &Option<Vec<i64>>, num_outputs: Option<i64>) -> Inferred {
    let data = site.tensor(0, "data")?;
    let count = site.node.outputs.len();
    if num_outputs.is_some_and(|n| n != count as i64) {
        return Err(format!("num_outputs is {num_outputs:?}, found {count} outputs"));
    }
    let operand = match site.optional(1, "sizes")? {
        Some(_) => Some(site.vector(1, "sizes")?),
        None => None,
    };
    let Some(shape) = data.shape else {
        return Ok(vec![tensor(data.dtype, None); count]);
    };
    let at = axis(at, shape.len())?;
    let whole = Expr::of(&shape[at]);
    let parts: Vec<Option<Expr>> = match (sizes, operand) {
        (Some(sizes), _) => sizes.iter().map(|s| Some(Expr::from(*s))).collect(),
        (None, Some(sizes)) => sizes.unwrap_or(vec![None; count]),
        (None, None) => equal_parts(whole.as_ref(), count, num_outputs.is_some())?,
    };
    if parts.len() != count {
        return Err(format!("{} sizes for {count} outputs, expected as many", parts.len()));
    }
    let sum = parts.iter().try_fold(Expr::from(0), |sum, p| sum.add(p.as_ref()?)).and_then(|s| s.constant());
    let whole = whole.and_then(|w| w.constant());
    if let (Some(found), Some(expected)) = (sum, whole)
        && found != expected
    {
        return Err(format!("sizes sum to {found}, expected {expected}, the size of axis {at}"));
    }
    let part = |size: Option<Expr>| {
        let mut dims = shape.clone();
        dims[at] = dim(size)?;
        Ok(tensor(data.dtype, Some(dims)))
    };
    parts.into_iter().map(part).collect()
}

/// Equal parts; with `ragged` the last may be smaller.
fn equal_parts(whole: Option<&Expr>, count: usize, ragged: bool) -> Inferred<Vec<Option<Expr>>> {
    let mut parts = vec![None; count];
    let (Some(whole), Some(last)) = (whole, parts.len().checked_sub(1)) else {
        return Ok(parts);
    };
    let n = Expr::from(count as i64);
    if !ragged && whole.constant().is_some() && whole.div_exact(&n).is_none() {
        return Err(format!("size {whole} does not divide into {count} equal parts"));
    }
    let size = if ragged { whole.ceil_div(&n) } else { whole.floor_div(&n) };
    parts.fill(size.clone());
    if ragged {
        parts[last] = size.and_then(|s| whole.sub(&s.mul(&Expr::from(last as i64))?));
    }
    Ok(parts)
}

pub(super) fn pad(site: &Site) -> Inferred {
    let data = site.tensor(0, "data")?;
    let pads = site.vector(1, "pads")?;
    let value = site.optional(2, "value")?.and_then(|t| t.dtype);
    let dtype = same(&[data.dtype, value])?;
    let listed = site.optional(3, "axes")?.map(|_| site.constants(3));
    let Some(mut dims) = data.shape else {
        return one(dtype, None);
    };
    let places = match listed {
        None => (0..dims.len()).collect(),
        Some(Some(list)) => axes(&list, dims.len())?,
        Some(None) => return one(dtype, Some(unknown(dims.len()))),
    };
    let pads = pads.unwrap_or(vec![None; 2 * places.len()]);
    if pads.len() != 2 * places.len() {
        return Err(format!("{} pads for {} axes, expected two each", pads.len(), places.len()));
    }
    let (before, after) = pads.split_at(places.len());
    for (place, (before, after)) in places.into_iter().zip(before.iter().zip(after)) {
        let size = Expr::of(&dims[place]);
        dims[place] = dim(size.and_then(|s| s.add(before.as_ref()?)?.add(after.as_ref()?)))?;
    }
    one(dtype, Some(dims))
}

pub(super) fn tile(site: &Site) -> Inferred {
    let data = site.tensor(0, "data")?;
    let repeats = site.vector(1, "repeats")?;
    let Some(shape) = data.shape else {
        let rank = repeats.map(|r| r.len()).filter(|n| *n <= MAX_ITEMS);
        return one(data.dtype, rank.map(unknown));
    };
    let repeats = repeats.unwrap_or(vec![None; shape.len()]);
    if repeats.len() != shape.len() {
        return Err(format!("{} repeats for shape {}, expected one each", repeats.len(), show(&shape)));
    }
    let tiled =
        |(size, times): (&Dim, &Option<Expr>)| dim(Expr::of(size).and_then(|s| s.mul(times.as_ref()?)));
    one(data.dtype, Some(shape.iter().zip(&repeats).map(tiled).collect::<Inferred<_>>()?))
}
