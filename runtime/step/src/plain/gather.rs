//! Gathers and scatters.

use mqc_ir::op::ScatterReduction;

use super::{Call, scalar};
use crate::Real;
use crate::array::{Data, Slice, each_kind};
use crate::index::{Offsets, around, axis, count, strides};

type One<T> = Result<Data<T>, String>;

/// The place that an index means; negative ones count from the end.
pub(crate) fn place(index: i64, size: usize) -> Result<usize, String> {
    let place = if index < 0 { index.checked_add_unsigned(size as u64) } else { Some(index) };
    place
        .and_then(|p| usize::try_from(p).ok())
        .filter(|p| *p < size)
        .ok_or_else(|| format!("index {index} is out of range, expected -{size} to {}", size as i64 - 1))
}

pub(super) fn gather<T: Real>(call: &Call<T>, at: i64) -> One<T> {
    let (x, (indices, _)) = (call.arg(0)?, call.ints(1)?);
    let (outer, size, inner) = around(x.shape, axis(at, x.shape.len())?);
    let rows = indices.iter().map(|i| place(*i, size)).collect::<Result<Vec<_>, _>>()?;
    let starts = (0..outer).flat_map(|o| rows.iter().map(move |r| (o * size + r) * inner));
    Ok(each_kind!(x.data, v => starts.flat_map(|s| v[s..s + inner].iter().copied()).collect()))
}

/// Where in the data each index points, when it replaces one coordinate of its own place.
fn element_places(data: &[usize], indices: &[i64], shape: &[usize], at: usize) -> Result<Vec<usize>, String> {
    let fits = shape.len() == data.len() && (0..shape.len()).all(|i| i == at || shape[i] <= data[i]);
    if !fits {
        return Err(format!("indices have shape {shape:?}, larger than the data {data:?}"));
    }
    let own = strides(data);
    let mut steps = own.clone();
    steps[at] = 0;
    Offsets::new(shape, &steps, 0)
        .zip(indices)
        .map(|(base, i)| Ok(base + place(*i, data[at])? * own[at] as usize))
        .collect()
}

pub(super) fn gather_elements<T: Real>(call: &Call<T>, at: i64) -> One<T> {
    let (x, (indices, shape)) = (call.arg(0)?, call.ints(1)?);
    let places = element_places(x.shape, indices, shape, axis(at, x.shape.len())?)?;
    Ok(each_kind!(x.data, v => places.iter().map(|p| v[*p]).collect()))
}

/// Where each index vector points, and how many elements lie there.
fn vector_places(
    data: &[usize],
    indices: &[i64],
    shape: &[usize],
    batch: usize,
) -> Result<(Vec<usize>, usize), String> {
    let depth = *shape.last().ok_or("indices are a scalar")?;
    if batch + depth > data.len() || batch >= shape.len() {
        return Err(format!("index vectors of {depth} elements for data {data:?}"));
    }
    let own = strides(data);
    let inner = count(&data[batch + depth..]);
    let batches = count(&data[..batch]).max(1);
    let per_batch = count(&shape[batch..shape.len() - 1]);
    let whole = count(&data[batch..]);
    let vectors = count(&shape[..shape.len() - 1]);
    let mut places = Vec::with_capacity(vectors);
    for i in 0..vectors {
        let mut at = (i.checked_div(per_batch).unwrap_or(0) % batches) * whole;
        for (j, index) in indices[i * depth..(i + 1) * depth].iter().enumerate() {
            at += place(*index, data[batch + j])? * own[batch + j] as usize;
        }
        places.push(at);
    }
    Ok((places, inner))
}

pub(super) fn gather_nd<T: Real>(call: &Call<T>, batch_dims: i64) -> One<T> {
    let (x, (indices, shape)) = (call.arg(0)?, call.ints(1)?);
    let batch = usize::try_from(batch_dims).map_err(|_| "batch_dims is negative".to_owned())?;
    let (places, inner) = vector_places(x.shape, indices, shape, batch)?;
    Ok(each_kind!(x.data, v => places.iter().flat_map(|p| v[*p..p + inner].iter().copied()).collect()))
}

/// Writes runs of `inner` updates to their places, one after the other.
fn scatter<T: Real>(
    data: Slice<T>,
    updates: Slice<T>,
    places: &[usize],
    inner: usize,
    reduction: ScatterReduction,
) -> One<T> {
    fn write<E: Copy>(
        data: &[E],
        updates: &[E],
        places: &[usize],
        inner: usize,
        f: impl Fn(E, E) -> E,
    ) -> Vec<E> {
        let mut data = data.to_vec();
        for (place, updates) in places.iter().zip(updates.chunks(inner.max(1))) {
            for (value, update) in data[*place..place + inner].iter_mut().zip(updates) {
                *value = f(*value, *update);
            }
        }
        data
    }
    match (data, updates) {
        (Slice::Real(d), Slice::Real(u)) => {
            let f: fn(T, T) -> T = match reduction {
                ScatterReduction::None => |_, b| b,
                ScatterReduction::Add => |a, b| a + b,
                ScatterReduction::Mul => |a, b| a * b,
                ScatterReduction::Max => |a, b| T::of(scalar::max(a.f64(), b.f64())),
                ScatterReduction::Min => |a, b| T::of(scalar::min(a.f64(), b.f64())),
            };
            Ok(Data::Real(write(d, u, places, inner, f)))
        }
        (Slice::Int(d), Slice::Int(u)) => {
            let f: fn(i64, i64) -> i64 = match reduction {
                ScatterReduction::None => |_, b| b,
                ScatterReduction::Add => i64::wrapping_add,
                ScatterReduction::Mul => i64::wrapping_mul,
                ScatterReduction::Max => i64::max,
                ScatterReduction::Min => i64::min,
            };
            Ok(Data::Int(write(d, u, places, inner, f)))
        }
        (Slice::Bool(d), Slice::Bool(u)) => {
            let f: fn(bool, bool) -> bool = match reduction {
                ScatterReduction::None => |_, b| b,
                ScatterReduction::Add | ScatterReduction::Max => |a, b| a || b,
                ScatterReduction::Mul | ScatterReduction::Min => |a, b| a && b,
            };
            Ok(Data::Bool(write(d, u, places, inner, f)))
        }
        _ => Err("data and updates have different types".to_owned()),
    }
}

pub(super) fn scatter_elements<T: Real>(call: &Call<T>, at: i64, reduction: ScatterReduction) -> One<T> {
    let (x, (indices, shape), updates) = (call.arg(0)?, call.ints(1)?, call.arg(2)?);
    let places = element_places(x.shape, indices, shape, axis(at, x.shape.len())?)?;
    scatter(x.data, updates.data, &places, 1, reduction)
}

pub(super) fn scatter_nd<T: Real>(call: &Call<T>, reduction: ScatterReduction) -> One<T> {
    let (x, (indices, shape), updates) = (call.arg(0)?, call.ints(1)?, call.arg(2)?);
    let (places, inner) = vector_places(x.shape, indices, shape, 0)?;
    scatter(x.data, updates.data, &places, inner, reduction)
}
