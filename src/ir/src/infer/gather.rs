//! Gathers and scatters.

use super::site::{Inferred, Site, axis, need, one, same, show, unify};
use crate::{DType, Dim, TensorType};

fn indices(site: &Site, slot: usize) -> Inferred<TensorType> {
    let indices = site.tensor(slot, "indices")?;
    need(indices.dtype, |d| matches!(d, DType::I64 | DType::I32), "the indices operand", "i64 or i32")?;
    Ok(indices)
}

pub(super) fn gather(site: &Site, at: i64) -> Inferred {
    let (data, indices) = (site.tensor(0, "data")?, indices(site, 1)?);
    let Some(shape) = data.shape else {
        return one(data.dtype, None);
    };
    let at = axis(at, shape.len())?;
    one(data.dtype, indices.shape.map(|places| [&shape[..at], &places, &shape[at + 1..]].concat()))
}

pub(super) fn gather_elements(site: &Site, at: i64) -> Inferred {
    let (data, indices) = (site.tensor(0, "data")?, indices(site, 1)?);
    if let (Some(data), Some(indices)) = (&data.shape, &indices.shape) {
        axis(at, data.len())?;
        if data.len() != indices.len() {
            let (data, indices) = (show(data), show(indices));
            return Err(format!("indices have shape {indices}, expected the rank of the data {data}"));
        }
    }
    one(data.dtype, indices.shape)
}

/// The dimensions of `data` that one index vector leaves; `None` where it is not known how long it is.
fn rest<'a>(data: &'a [Dim], indices: &[Dim], batch: usize) -> Inferred<Option<&'a [Dim]>> {
    let Some(last) = indices.last() else {
        return Err("indices are a scalar, expected rank 1 or more".to_owned());
    };
    let Some(depth) = last.size() else {
        return Ok(None);
    };
    let skip = usize::try_from(depth).ok().and_then(|d| d.checked_add(batch));
    skip.and_then(|s| data.get(s..)).map(Some).ok_or_else(|| {
        format!(
            "indices have shape {}, expected index vectors no longer than shape {}",
            show(indices),
            show(data)
        )
    })
}

pub(super) fn gather_nd(site: &Site, batch_dims: i64) -> Inferred {
    let (data, indices) = (site.tensor(0, "data")?, indices(site, 1)?);
    let (Some(shape), Some(mut places)) = (data.shape, indices.shape) else {
        return one(data.dtype, None);
    };
    let batch = usize::try_from(batch_dims).ok().filter(|b| *b < shape.len().min(places.len()));
    let Some(batch) = batch else {
        let (shape, places) = (show(&shape), show(&places));
        return Err(format!(
            "batch_dims is {batch_dims}, expected less than the ranks of {shape} and {places}"
        ));
    };
    let Some(rest) = rest(&shape, &places, batch)? else {
        return one(data.dtype, None);
    };
    places.pop();
    for i in 0..batch {
        places[i] = unify(&places[i], &shape[i], &format!("batch dimension {i}"))?;
    }
    places.extend_from_slice(rest);
    one(data.dtype, Some(places))
}

pub(super) fn scatter_elements(site: &Site, at: i64) -> Inferred {
    let (data, indices) = (site.tensor(0, "data")?, indices(site, 1)?);
    let updates = site.tensor(2, "updates")?;
    let dtype = same(&[data.dtype, updates.dtype])?;
    if let Some(shape) = &data.shape {
        axis(at, shape.len())?;
    }
    if let (Some(places), Some(updates)) = (&indices.shape, &updates.shape) {
        equal(places, updates)?;
    }
    one(dtype, data.shape)
}

pub(super) fn scatter_nd(site: &Site) -> Inferred {
    let (data, indices) = (site.tensor(0, "data")?, indices(site, 1)?);
    let updates = site.tensor(2, "updates")?;
    let dtype = same(&[data.dtype, updates.dtype])?;
    if let (Some(shape), Some(places)) = (&data.shape, &indices.shape)
        && let Some(rest) = rest(shape, places, 0)?
        && let Some(updates) = &updates.shape
    {
        equal(&[&places[..places.len() - 1], rest].concat(), updates)?;
    }
    one(dtype, data.shape)
}

fn equal(expected: &[Dim], updates: &[Dim]) -> Inferred<()> {
    let fits = expected.len() == updates.len() && expected.iter().zip(updates).all(|(a, b)| a.compatible(b));
    if fits {
        return Ok(());
    }
    Err(format!("updates have shape {}, expected {}", show(updates), show(expected)))
}
