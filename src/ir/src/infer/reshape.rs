//! Operations that make a shape: reshapes, transposes, expansion, ranges, and shapes as values.

use super::elementwise::broadcast;
use super::site::{Inferred, Shape, Site, axes, dim, need, one, same, show, unknown};
use super::symbolic::{Expr, product};
use crate::{DType, Dim, Tensor};

/// A dimension as far as the target says it.
enum Target {
    Copy(usize),
    Is(Expr),
    /// -1, or not known: whatever the others leave.
    Rest,
}

pub(super) fn reshape(site: &Site, allowzero: bool) -> Inferred {
    let data = site.tensor(0, "data")?;
    let Some(target) = site.vector(1, "shape")? else {
        return one(data.dtype, None);
    };
    let mut inferred = 0;
    let mut targets = Vec::with_capacity(target.len());
    for (i, size) in target.iter().enumerate() {
        let constant = size.as_ref().and_then(Expr::constant);
        inferred += usize::from(constant == Some(-1));
        targets.push(match (constant, size) {
            (Some(-1), _) | (None, None) => Target::Rest,
            (Some(0), _) if !allowzero => Target::Copy(i),
            (Some(n), _) if n < 0 => {
                return Err(format!("the target shape has {n} at {i}, expected a size, 0 or -1"));
            }
            // An expression that can be negative could also be the -1 of this operation.
            (None, Some(size)) if !size.is_non_negative() => Target::Rest,
            (_, Some(size)) => Target::Is(size.clone()),
            (Some(_), None) => Target::Rest,
        });
    }
    if inferred > 1 {
        return Err(format!("the target shape has -1 {inferred} times, expected at most once"));
    }
    one(data.dtype, Some(fill(&targets, &data.shape)?))
}

fn fill(targets: &[Target], data: &Shape) -> Inferred<Vec<Dim>> {
    let mut dims = Vec::with_capacity(targets.len());
    let mut left = data.clone();
    let mut known = Some(Expr::from(1));
    for target in targets {
        dims.push(match target {
            Target::Copy(i) => match data {
                None => Dim::Unknown,
                Some(shape) => {
                    let copied = shape.get(*i).cloned().ok_or_else(|| {
                        format!("the target shape copies dimension {i}, found data of shape {}", show(shape))
                    })?;
                    // What is copied is the same on both sides, even when unknown.
                    if let Some(left) = &mut left {
                        left[*i] = Dim::Size(1);
                    }
                    copied
                }
            },
            Target::Is(size) => {
                known = known.and_then(|k| k.mul(size));
                dim(Some(size.clone()))?
            }
            Target::Rest => Dim::Unknown,
        });
    }
    let mut rest = targets.iter().enumerate().filter(|(_, t)| matches!(t, Target::Rest)).map(|(i, _)| i);
    let (place, more) = (rest.next(), rest.next());
    let copies_of_unknown = data.is_none() && targets.iter().any(|t| matches!(t, Target::Copy(_)));
    let (Some(left), Some(known), None, false) = (left, known, more, copies_of_unknown) else {
        return Ok(dims);
    };
    let Some(total) = product(&left) else {
        return Ok(dims);
    };
    match place {
        Some(place) if known.constant() != Some(0) => {
            let size = total.floor_div(&known);
            let exact = size.as_ref().and_then(|s| s.mul(&known)).and_then(|n| n.constant());
            if total.constant().is_some() && known.constant().is_some() && exact != total.constant() {
                return Err(format!("{total} elements do not divide into {known}"));
            }
            dims[place] = dim(size)?;
        }
        Some(_) => {}
        None => {
            if let (Some(found), Some(expected)) = (total.constant(), known.constant())
                && found != expected
            {
                return Err(format!(
                    "the target shape {} has another number of elements than the data",
                    show(&dims)
                ));
            }
        }
    }
    Ok(dims)
}

pub(super) fn transpose(site: &Site, perm: &Option<Vec<i64>>) -> Inferred {
    let data = site.tensor(0, "data")?;
    let Some(shape) = data.shape else {
        return one(data.dtype, perm.as_ref().map(|p| unknown(p.len())));
    };
    let places = match perm {
        None => (0..shape.len()).rev().collect(),
        Some(perm) if perm.len() != shape.len() => {
            return Err(format!(
                "perm is {perm:?}, expected {} axes for shape {}",
                shape.len(),
                show(&shape)
            ));
        }
        Some(perm) => axes(perm, shape.len())?,
    };
    one(data.dtype, Some(places.into_iter().map(|p| shape[p].clone()).collect()))
}

pub(super) fn expand(site: &Site) -> Inferred {
    let data = site.tensor(0, "data")?;
    let target = site.vector(1, "shape")?;
    let (Some(shape), Some(target)) = (data.shape, target) else {
        return one(data.dtype, None);
    };
    let target: Vec<Dim> = target.into_iter().map(dim).collect::<Inferred<_>>()?;
    one(data.dtype, Some(broadcast(&shape, &target)?))
}

/// The axes of Squeeze, Unsqueeze and reductions: an attribute or a constant operand.
pub(super) enum Axes {
    Absent,
    Known(Vec<i64>),
    /// As many as this, when even that is known.
    Unknown(Option<usize>),
}

pub(super) fn find_axes(site: &Site, attribute: &Option<Vec<i64>>, slot: usize) -> Inferred<Axes> {
    if let Some(list) = attribute {
        return Ok(Axes::Known(list.clone()));
    }
    let Some(operand) = site.optional(slot, "axes")? else {
        return Ok(Axes::Absent);
    };
    need(operand.dtype, |d| matches!(d, DType::I64 | DType::I32), "axes", "i64")?;
    Ok(match site.constants(slot) {
        Some(list) => Axes::Known(list),
        None => Axes::Unknown(site.ints(slot).map(|i| i.items.len())),
    })
}

pub(super) fn squeeze(site: &Site, attribute: &Option<Vec<i64>>) -> Inferred {
    let data = site.tensor(0, "data")?;
    let found = find_axes(site, attribute, 1)?;
    let Some(shape) = data.shape else {
        return one(data.dtype, None);
    };
    let places = match found {
        Axes::Known(list) => axes(&list, shape.len())?,
        Axes::Absent if shape.iter().any(|d| d.size().is_none()) => return one(data.dtype, None),
        Axes::Absent => (0..shape.len()).filter(|i| shape[*i] == Dim::Size(1)).collect(),
        Axes::Unknown(count) => {
            return one(data.dtype, count.and_then(|n| shape.len().checked_sub(n)).map(unknown));
        }
    };
    if let Some(place) = places.iter().find(|p| !shape[**p].compatible(&Dim::Size(1))) {
        return Err(format!("shape {} has no size 1 at axis {place}, expected 1", show(&shape)));
    }
    let kept = shape.iter().enumerate().filter(|(i, _)| !places.contains(i)).map(|(_, d)| d.clone());
    one(data.dtype, Some(kept.collect()))
}

pub(super) fn unsqueeze(site: &Site, attribute: &Option<Vec<i64>>) -> Inferred {
    let data = site.tensor(0, "data")?;
    let found = find_axes(site, attribute, 1)?;
    let Some(shape) = data.shape else {
        return one(data.dtype, None);
    };
    let list = match found {
        Axes::Known(list) => list,
        Axes::Absent => return Err("axes are missing, expected an attribute or an operand".to_owned()),
        Axes::Unknown(count) => return one(data.dtype, count.map(|n| unknown(shape.len() + n))),
    };
    let rank = shape.len() + list.len();
    let places = axes(&list, rank)?;
    let mut kept = shape.into_iter();
    let place = |i| if places.contains(&i) { Dim::Size(1) } else { kept.next().unwrap_or(Dim::Unknown) };
    one(data.dtype, Some((0..rank).map(place).collect()))
}

pub(super) fn flatten(site: &Site, axis: i64) -> Inferred {
    let data = site.tensor(0, "data")?;
    let Some(shape) = data.shape else {
        return one(data.dtype, Some(unknown(2)));
    };
    let at = split_axis(axis, shape.len())?;
    one(data.dtype, Some(vec![dim(product(&shape[..at]))?, dim(product(&shape[at..]))?]))
}

/// An axis before which a shape is split: also the one behind the last.
pub(super) fn split_axis(axis: i64, rank: usize) -> Inferred<usize> {
    let place = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    place
        .and_then(|a| usize::try_from(a).ok())
        .filter(|a| *a <= rank)
        .ok_or_else(|| format!("axis is {axis}, expected -{rank} to {rank}"))
}

/// The part of the dimensions that `Shape` returns: bounds are clamped.
pub(super) fn shape_range(rank: usize, start: i64, end: Option<i64>) -> std::ops::Range<usize> {
    let rank = rank as i64;
    let clamp = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end.unwrap_or(rank)));
    start..end.max(start)
}

pub(super) fn shape(site: &Site, start: i64, end: Option<i64>) -> Inferred {
    let data = site.tensor(0, "data")?;
    let len = data.shape.map(|s| Dim::Size(shape_range(s.len(), start, end).len() as u64));
    one(Some(DType::I64), Some(vec![len.unwrap_or(Dim::Unknown)]))
}

pub(super) fn size(site: &Site) -> Inferred {
    site.tensor(0, "data")?;
    one(Some(DType::I64), Some(vec![]))
}

pub(super) fn constant_of_shape(site: &Site, value: &Option<Tensor>) -> Inferred {
    let dtype = value.as_ref().map_or(DType::F32, Tensor::dtype);
    if let Some(value) = value.as_ref().filter(|v| v.len() != 1) {
        return Err(format!("the value has {} elements, expected 1", value.len()));
    }
    let target = site.vector(0, "shape")?;
    let dims = target.map(|t| t.into_iter().map(dim).collect::<Inferred<_>>()).transpose()?;
    one(Some(dtype), dims)
}

pub(super) fn range(site: &Site) -> Inferred {
    let operands = [site.tensor(0, "start")?, site.tensor(1, "limit")?, site.tensor(2, "delta")?];
    let dtype = same(&operands.map(|t| t.dtype))?;
    let item = |slot| site.ints(slot).filter(|i| i.items.len() == 1).and_then(|i| i.items[0].clone());
    if let Some(0) = item(2).and_then(|d| d.constant()) {
        return Err("delta is 0, expected another step".to_owned());
    }
    let integer = dtype.is_some_and(super::site::is_integer);
    let len = integer.then(|| range_len(&item(0)?, &item(1)?, item(2)?.constant()?)).flatten();
    one(dtype, Some(vec![dim(len)?]))
}

/// The number of steps of `step` from `start` to before `end`.
pub(super) fn range_len(start: &Expr, end: &Expr, step: i64) -> Option<Expr> {
    let distance = if step > 0 { end.sub(start)? } else { start.sub(end)? };
    distance.ceil_div(&Expr::from(step.checked_abs()?))?.greater(&Expr::from(0))
}
