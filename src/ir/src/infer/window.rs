//! Convolutions and poolings.

use super::site::{Inferred, Shape, Site, dim, need, one, same, show, show_dim, tensor, unify, unknown};
use super::symbolic::Expr;
use crate::op::{AutoPad, Window};
use crate::{DType, Dim};

pub(super) fn conv(site: &Site, window: &Window) -> Inferred {
    let (x, w) = (site.tensor(0, "X")?, site.tensor(1, "W")?);
    let bias = site.optional(2, "B")?;
    let dtype = same(&[x.dtype, w.dtype, bias.as_ref().and_then(|b| b.dtype)])?;
    need(dtype, DType::is_float, "X", "a float")?;
    one(dtype, conv_shape(window, &x.shape, &w.shape, &bias.and_then(|b| b.shape))?)
}

/// The shape of a convolution: x [B, C, ..], w [M, C / group, ..], bias [M] -> [B, M, ..].
pub(super) fn conv_shape(window: &Window, x: &Shape, w: &Shape, bias: &Shape) -> Inferred<Shape> {
    let kernel_rank = (!window.kernel_shape.is_empty()).then(|| window.kernel_shape.len() + 2);
    let Some(rank) = x.as_ref().or(w.as_ref()).map(Vec::len).or(kernel_rank) else {
        return Ok(None);
    };
    let x = x.clone().unwrap_or_else(|| unknown(rank));
    let w = w.clone().unwrap_or_else(|| unknown(rank));
    if rank < 3 || x.len() != w.len() {
        return Err(format!(
            "X and W have shapes {} and {}, expected one rank of 3 or more",
            show(&x),
            show(&w)
        ));
    }
    let group = if window.group == 0 { 1 } else { window.group };
    if group < 1 {
        return Err(format!("group is {group}, expected 1 or more"));
    }
    let channels = w[1].size().and_then(|c| c.checked_mul(group.unsigned_abs()));
    if let (Some(found), Some(expected)) = (x[1].size(), channels)
        && found != expected
    {
        let w = show(&w);
        return Err(format!("X has {found} channels, expected {expected} for W {w} and group {group}"));
    }
    if w[0].size().is_some_and(|m| m % group.unsigned_abs() != 0) {
        return Err(format!(
            "W has {} output channels, expected a multiple of group {group}",
            show_dim(&w[0])
        ));
    }
    let mut channels = w[0].clone();
    if let Some(bias) = bias {
        let [m] = bias.as_slice() else {
            return Err(format!("B has shape {}, expected a vector", show(bias)));
        };
        channels = unify(&channels, m, "output channels of W and B")?;
    }
    let kernel = match window.kernel_shape.as_slice() {
        [] => w[2..].iter().map(Dim::size).map(|k| k.and_then(|k| i64::try_from(k).ok())).collect(),
        given => {
            for (k, w) in given.iter().zip(&w[2..]) {
                if w.size().is_some_and(|w| i64::try_from(w) != Ok(*k)) {
                    return Err(format!(
                        "kernel_shape has {k} where W has {}, expected the same",
                        show_dim(w)
                    ));
                }
            }
            given.iter().copied().map(Some).collect::<Vec<_>>()
        }
    };
    let mut dims = vec![x[0].clone(), channels];
    dims.extend(slide(window, &kernel, &x[2..], false)?);
    Ok(Some(dims))
}

/// MaxPool, with `indices` as its second output, and AveragePool.
pub(super) fn pool(site: &Site, window: &Window, ceil_mode: bool, indices: bool) -> Inferred {
    let x = site.tensor(0, "X")?;
    need(x.dtype, super::site::is_numeric, "X", "a number")?;
    let shape = x.shape.unwrap_or_else(|| unknown(window.kernel_shape.len() + 2));
    if shape.len() < 3 {
        return Err(format!("X has shape {}, expected rank 3 or more", show(&shape)));
    }
    let kernel: Vec<_> = window.kernel_shape.iter().copied().map(Some).collect();
    let mut dims = shape[..2].to_vec();
    dims.extend(slide(window, &kernel, &shape[2..], ceil_mode)?);
    let mut types = vec![tensor(x.dtype, Some(dims.clone()))];
    if indices && site.node.outputs.len() > 1 {
        types.push(tensor(Some(DType::I64), Some(dims)));
    }
    Ok(types)
}

/// Batch and channels stay, every other dimension becomes 1.
pub(super) fn global_pool(site: &Site) -> Inferred {
    let x = site.tensor(0, "X")?;
    need(x.dtype, DType::is_float, "X", "a float")?;
    if let Some(shape) = x.shape.as_ref().filter(|s| s.len() < 2) {
        return Err(format!("X has shape {}, expected rank 2 or more", show(shape)));
    }
    let pooled = |(i, d)| if i < 2 { d } else { Dim::Size(1) };
    one(x.dtype, x.shape.map(|s| s.into_iter().enumerate().map(pooled).collect()))
}

/// One value for each spatial dimension: the list, or the default where it is empty.
pub(super) fn per_axis(
    list: &[i64],
    default: i64,
    count: usize,
    least: i64,
    what: &str,
) -> Inferred<Vec<i64>> {
    if list.is_empty() {
        return Ok(vec![default; count]);
    }
    if list.len() != count {
        return Err(format!("{what} are {list:?}, expected {count} values"));
    }
    if list.iter().any(|v| *v < least) {
        return Err(format!("{what} are {list:?}, expected {least} or more"));
    }
    Ok(list.to_vec())
}

/// The spatial dimensions behind a sliding window.
fn slide(window: &Window, kernel: &[Option<i64>], dims: &[Dim], ceil_mode: bool) -> Inferred<Vec<Dim>> {
    let n = dims.len();
    if kernel.len() != n {
        return Err(format!("the kernel has {} dimensions, expected {n}", kernel.len()));
    }
    let strides = per_axis(&window.strides, 1, n, 1, "strides")?;
    let dilations = per_axis(&window.dilations, 1, n, 1, "dilations")?;
    let pads = match window.auto_pad {
        AutoPad::Notset => per_axis(&window.pads, 0, 2 * n, 0, "pads")?,
        AutoPad::SameUpper | AutoPad::SameLower | AutoPad::Valid => vec![0; 2 * n],
    };
    (0..n)
        .map(|i| {
            let Some(size) = Expr::of(&dims[i]) else {
                return Ok(Dim::Unknown);
            };
            let stride = Expr::from(strides[i]);
            match window.auto_pad {
                AutoPad::SameUpper | AutoPad::SameLower => return dim(size.ceil_div(&stride)),
                AutoPad::Notset | AutoPad::Valid => {}
            }
            let Some(k) = kernel[i] else {
                return Ok(Dim::Unknown);
            };
            if k < 1 {
                return Err(format!("the kernel has size {k} at {i}, expected 1 or more"));
            }
            let too_large = || format!("the window at {i} is too large: kernel {k}, dilation {}", dilations[i]);
            let extent = (k - 1).checked_mul(dilations[i]).and_then(|e| e.checked_add(1)).ok_or_else(too_large)?;
            let (before, after) = (pads[i], pads[n + i]);
            let places = before.checked_add(after).and_then(|p| p.checked_sub(extent)).ok_or_else(too_large)?;
            // Rounding up adds a last partial window unless that would start in the padding behind.
            let slack = if ceil_mode { (strides[i] - 1).min(extent - 1 - after).max(0) } else { 0 };
            let len = size
                .add(&Expr::from(places.checked_add(slack).ok_or_else(too_large)?))
                .and_then(|span| span.floor_div(&stride)?.add(&Expr::from(1)));
            match (size.constant(), len.as_ref().and_then(Expr::constant)) {
                (Some(0), Some(len)) if len < 1 => Ok(Dim::Size(0)),
                (Some(size), Some(len)) if len < 1 => Err(format!(
                    "a window of {extent} does not fit dimension {} of size {size} with pads {before} and {after}",
                    i + 2
                )),
                _ => dim(len),
            }
        })
        .collect()
}
