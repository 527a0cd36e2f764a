//! Reductions and normalizations.

use super::elementwise::check_into;
use super::reshape::{Axes, find_axes, split_axis};
use super::site::{Inferred, Shape, Site, axes, axis, need, one, tensor, unknown};
use crate::op::Reduction;
use crate::{DType, Dim};

pub(super) fn reduce(
    site: &Site,
    kind: Reduction,
    attribute: &Option<Vec<i64>>,
    keepdims: bool,
    noop_with_empty_axes: bool,
) -> Inferred {
    let data = site.tensor(0, "data")?;
    let (accepts, expected): (fn(DType) -> bool, &str) = match kind {
        Reduction::Max | Reduction::Min => (|d| d != DType::String, "a number or bool"),
        Reduction::L1
        | Reduction::L2
        | Reduction::LogSum
        | Reduction::LogSumExp
        | Reduction::Mean
        | Reduction::Prod
        | Reduction::Sum
        | Reduction::SumSquare => (super::site::is_numeric, "a number"),
    };
    need(data.dtype, accepts, "data", expected)?;
    let found = find_axes(site, attribute, 1)?;
    one(data.dtype, reduced(data.shape, found, keepdims, noop_with_empty_axes)?)
}

/// The shape that a reduction over `axes` leaves; without any, over all or over none.
fn reduced(shape: Shape, found: Axes, keepdims: bool, noop_with_empty_axes: bool) -> Inferred<Shape> {
    let list = match found {
        Axes::Known(list) => list,
        Axes::Absent => vec![],
        Axes::Unknown(count) => {
            let rank = shape.map(|s| s.len());
            let left = |rank: usize| match (keepdims, count) {
                (true, _) => Some(rank),
                (false, Some(n)) if n > 0 => rank.checked_sub(n),
                (false, _) => None,
            };
            return Ok(rank.and_then(left).map(unknown));
        }
    };
    if list.is_empty() && noop_with_empty_axes {
        return Ok(shape);
    }
    let Some(shape) = shape else {
        return Ok((list.is_empty() && !keepdims).then(Vec::new));
    };
    let places = axes(&list, shape.len())?;
    let gone = |i: &usize| list.is_empty() || places.contains(i);
    let kept = shape.into_iter().enumerate().filter_map(|(i, d)| match (gone(&i), keepdims) {
        (false, _) => Some(d),
        (true, true) => Some(Dim::Size(1)),
        (true, false) => None,
    });
    Ok(Some(kept.collect()))
}

/// Softmax and its logarithm.
pub(super) fn softmax(site: &Site, at: i64, flatten: bool) -> Inferred {
    let x = site.tensor(0, "input")?;
    need(x.dtype, DType::is_float, "the input", "a float")?;
    if let Some(shape) = &x.shape {
        if flatten {
            split_axis(at, shape.len())?;
        } else {
            axis(at, shape.len())?;
        }
    }
    one(x.dtype, x.shape)
}

/// x [B, C, ..]; scale, bias, mean and variance are [C].
pub(super) fn batch_normalization(site: &Site) -> Inferred {
    let x = site.tensor(0, "X")?;
    need(x.dtype, DType::is_float, "X", "a float")?;
    // A tensor of rank 1 is one channel.
    let channels = x.shape.as_ref().map(|s| s.get(1).cloned().unwrap_or(Dim::Size(1)));
    for (slot, role) in [(1, "scale"), (2, "bias"), (3, "mean"), (4, "variance")] {
        let operand = site.tensor(slot, role)?;
        need(operand.dtype, DType::is_float, role, "a float")?;
        check_into(&operand.shape, &channels.clone().map(|c| vec![c]), role)?;
    }
    one(x.dtype, x.shape)
}

/// LayerNormalization, which may also return mean and inverse deviation, and RMSNormalization.
pub(super) fn layer_normalization(site: &Site, at: i64, stash_type: i64, moments: bool) -> Inferred {
    let (x, scale) = (site.tensor(0, "X")?, site.tensor(1, "scale")?);
    need(x.dtype, DType::is_float, "X", "a float")?;
    need(scale.dtype, DType::is_float, "scale", "a float")?;
    let at = x.shape.as_ref().map(|s| axis(at, s.len())).transpose()?;
    check_into(&scale.shape, &x.shape, "scale")?;
    if let Some(bias) = site.optional(2, "bias")?.filter(|_| moments) {
        check_into(&bias.shape, &x.shape, "bias")?;
    }
    let mut types = vec![tensor(x.dtype, x.shape.clone())];
    if moments && site.node.outputs.len() > 1 {
        let per_row = x.shape.zip(at).map(|(s, at)| {
            s.into_iter().enumerate().map(|(i, d)| if i < at { d } else { Dim::Size(1) }).collect()
        });
        types
            .resize(site.node.outputs.len().min(3), tensor(super::opaque::element_type(stash_type), per_row));
    }
    Ok(types)
}

/// The data, and the mask when it is asked for.
pub(super) fn dropout(site: &Site) -> Inferred {
    let x = site.tensor(0, "data")?;
    let mask = tensor(Some(DType::Bool), x.shape.clone());
    let mut types = vec![tensor(x.dtype, x.shape)];
    if site.node.outputs.len() > 1 {
        types.push(mask);
    }
    Ok(types)
}
