//! Operations that move elements: transpose, expand, slice, concat, split, pad, tile, and those that make shapes.

use mqc_ir::op::PadMode;
use mqc_ir::{DType, Tensor};

use super::Call;
use crate::array::{Data, Slice, each_kind};
use crate::index::{Offsets, around, axis, broadcast, count, strides};
use crate::{Array, Real};

type One<T> = Result<Data<T>, String>;

/// The elements of a strided view of an operand.
pub(super) fn view<T: Real>(data: Slice<T>, shape: &[usize], strides: &[isize], start: isize) -> Data<T> {
    each_kind!(data, v => Offsets::new(shape, strides, start).map(|at| v[at]).collect())
}

/// For each output axis the input axis.
pub(crate) fn permutation(perm: &Option<Vec<i64>>, rank: usize) -> Result<Vec<usize>, String> {
    match perm {
        None => Ok((0..rank).rev().collect()),
        Some(perm) => perm.iter().map(|p| axis(*p, rank)).collect(),
    }
}

pub(super) fn transpose<T: Real>(call: &Call<T>, perm: &Option<Vec<i64>>) -> One<T> {
    let x = call.arg(0)?;
    let own = strides(x.shape);
    let order = permutation(perm, x.shape.len())?;
    let moved: Vec<isize> = order.iter().map(|i| own[*i]).collect();
    Ok(view(x.data, &call.output()?.shape, &moved, 0))
}

pub(super) fn expand<T: Real>(call: &Call<T>) -> One<T> {
    let (x, to) = (call.arg(0)?, &call.output()?.shape);
    Ok(view(x.data, to, &broadcast(x.shape, to), 0))
}

pub(super) fn concat<T: Real>(call: &Call<T>, at: i64) -> One<T> {
    let to = &call.output()?.shape;
    let at = axis(at, to.len())?;
    let (outer, _, _) = around(to, at);
    let rows = |i: usize| -> Result<(Slice<T>, usize), String> {
        let part = call.arg(i)?;
        let (_, size, inner) = around(part.shape, at);
        Ok((part.data, size * inner))
    };
    let parts = (0..call.args.len()).map(rows).collect::<Result<Vec<_>, _>>()?;
    macro_rules! join {
        ($kind:ident) => {{
            let mut all = Vec::with_capacity(count(to));
            for row in 0..outer {
                for (data, len) in &parts {
                    let Slice::$kind(v) = data else {
                        return Err("operands have different types".to_owned());
                    };
                    all.extend_from_slice(&v[row * len..(row + 1) * len]);
                }
            }
            Data::$kind(all)
        }};
    }
    Ok(match call.arg(0)?.data {
        Slice::Real(_) => join!(Real),
        Slice::Int(_) => join!(Int),
        Slice::Bool(_) => join!(Bool),
    })
}

pub(super) fn split<T: Real>(call: &Call<T>, at: i64) -> Result<Vec<Data<T>>, String> {
    let x = call.arg(0)?;
    let at = axis(at, x.shape.len())?;
    let own = strides(x.shape);
    let mut start = 0;
    let mut parts = Vec::with_capacity(call.outputs.len());
    for part in call.outputs {
        let size = part.shape.get(at).copied().filter(|s| start + s <= x.shape[at]);
        let size = size.ok_or("the parts are larger than the data")?;
        parts.push(view(x.data, &part.shape, &own, start as isize * own[at]));
        start += size;
    }
    Ok(parts)
}

/// The source of every place of a padded axis; `None` in a constant border.
fn sources(len: usize, before: i64, to: usize, mode: PadMode) -> Result<Vec<Option<usize>>, String> {
    let n = len as i64;
    let source = |place: i64| match mode {
        _ if (0..n).contains(&place) => Some(place),
        PadMode::Constant => None,
        PadMode::Edge => Some(place.clamp(0, n - 1)),
        PadMode::Wrap => Some(place.rem_euclid(n)),
        PadMode::Reflect if n == 1 => Some(0),
        PadMode::Reflect => {
            let place = place.rem_euclid(2 * (n - 1));
            Some(place.min(2 * (n - 1) - place))
        }
    };
    if n == 0 && mode != PadMode::Constant && to > 0 {
        return Err("an empty axis has nothing to pad with".to_owned());
    }
    Ok((0..to as i64).map(|i| source(i - before).map(|p| p as usize)).collect())
}

pub(super) fn pad<T: Real>(call: &Call<T>, mode: PadMode) -> One<T> {
    let (x, to) = (call.arg(0)?, &call.output()?.shape);
    let pads = call.list(1)?.ok_or("pads are missing")?;
    let axes = match call.list(3)? {
        None => (0..x.shape.len()).collect(),
        Some(axes) => axes.iter().map(|a| axis(*a, x.shape.len())).collect::<Result<Vec<_>, _>>()?,
    };
    let mut before = vec![0; x.shape.len()];
    for (place, pad) in axes.iter().zip(pads) {
        before[*place] = *pad;
    }
    let own = strides(x.shape);
    let sources: Vec<_> =
        (0..to.len()).map(|i| sources(x.shape[i], before[i], to[i], mode)).collect::<Result<_, _>>()?;
    // The places of the output in order: those of each axis, one axis after the other.
    let mut places: Vec<Option<usize>> = vec![Some(0)];
    for (axis, stride) in sources.iter().zip(&own) {
        places = places
            .iter()
            .flat_map(|p| axis.iter().map(move |s| Some((*p)? + (*s)? * *stride as usize)))
            .collect();
    }
    let value = call.optional(2).map(|v| v.data);
    if value.is_some_and(|v| v.len() != 1) {
        return Err("the value has more or less than one element".to_owned());
    }
    Ok(match (x.data, value) {
        (Slice::Real(v), None) => Data::Real(places.iter().map(|p| p.map_or(T::ZERO, |p| v[p])).collect()),
        (Slice::Real(v), Some(Slice::Real(w))) => {
            Data::Real(places.iter().map(|p| p.map_or(w[0], |p| v[p])).collect())
        }
        (Slice::Int(v), None) => Data::Int(places.iter().map(|p| p.map_or(0, |p| v[p])).collect()),
        (Slice::Int(v), Some(Slice::Int(w))) => {
            Data::Int(places.iter().map(|p| p.map_or(w[0], |p| v[p])).collect())
        }
        (Slice::Bool(v), None) => Data::Bool(places.iter().map(|p| p.is_some_and(|p| v[p])).collect()),
        (Slice::Bool(v), Some(Slice::Bool(w))) => {
            Data::Bool(places.iter().map(|p| p.map_or(w[0], |p| v[p])).collect())
        }
        _ => return Err("data and value have different types".to_owned()),
    })
}

pub(super) fn tile<T: Real>(call: &Call<T>) -> One<T> {
    let (x, to) = (call.arg(0)?, &call.output()?.shape);
    // Every axis twice: how often it repeats, and its places.
    let own = strides(x.shape);
    let mut shape = Vec::new();
    let mut steps = Vec::new();
    for (i, size) in x.shape.iter().enumerate() {
        shape.extend([to[i].checked_div(*size).unwrap_or(0), *size]);
        steps.extend([0, own[i]]);
    }
    Ok(view(x.data, &shape, &steps, 0))
}

pub(super) fn shape<T: Real>(call: &Call<T>, start: i64, end: Option<i64>) -> One<T> {
    let shape = call.arg(0)?.shape;
    let rank = shape.len() as i64;
    let clamp = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end.unwrap_or(rank)));
    Ok(Data::Int(shape[start..end.max(start)].iter().map(|d| *d as i64).collect()))
}

pub(super) fn constant_of_shape<T: Real>(call: &Call<T>, value: &Option<Tensor>) -> One<T> {
    let len = count(&call.output()?.shape);
    let Some(value) = value else { return Ok(Data::Real(vec![T::ZERO; len])) };
    let value = Array::<T>::from_tensor(value).map_err(|e| e.to_string())?;
    let first = || "the value is empty".to_owned();
    Ok(each_kind!(value.data().slice(), v => vec![*v.first().ok_or_else(first)?; len]))
}

pub(super) fn range<T: Real>(call: &Call<T>) -> One<T> {
    let spec = call.output()?;
    let len = count(&spec.shape);
    let one = |slot: usize| call.arg(slot).map(|a| a.data.len() == 1);
    if !(one(0)? && one(1)? && one(2)?) {
        return Err("start, limit and delta must have one element each".to_owned());
    }
    match call.arg(0)?.data {
        Slice::Real(start) => {
            let (start, limit, delta) = (start[0].f64(), call.real(1)?.0[0].f64(), call.real(2)?.0[0].f64());
            let found = ((limit - start) / delta).ceil().max(0.0);
            if found != len as f64 {
                return Err(format!("the range has {found} elements, expected {len}"));
            }
            Ok(Data::Real((0..len).map(|i| T::of(start + i as f64 * delta)).collect()))
        }
        Slice::Int(start) => {
            let (start, delta) = (start[0], call.ints(2)?.0[0]);
            let value = |i: usize| start.wrapping_add(delta.wrapping_mul(i as i64));
            Ok(Data::Int((0..len).map(value).collect()))
        }
        Slice::Bool(_) => Err(format!("a range of {}, expected numbers", DType::Bool)),
    }
}
