//! The quantization dialect: codes, scales and planes as matrices over output rows N and reduction K.

use super::site::{Inferred, Shape, Site, dim, need, one, show, tensor, unify, unknown};
use super::symbolic::{Expr, product};
use super::window::conv_shape;
use crate::op::{Nested, NestedQuantize, WeightLayout, Window};
use crate::quant::Grouping;
use crate::{DType, Dim, TensorType};

fn is_u8(dtype: DType) -> bool {
    dtype == DType::U8
}

/// N and K of a float weight.
fn rows_and_cols(shape: &Shape, layout: WeightLayout) -> Inferred<(Dim, Dim)> {
    let Some(shape) = shape else {
        return Ok((Dim::Unknown, Dim::Unknown));
    };
    match (layout, shape.as_slice()) {
        (WeightLayout::RowsFirst, [n, rest @ ..]) if !rest.is_empty() => Ok((n.clone(), dim(product(rest))?)),
        (WeightLayout::RowsLast, [k, n]) => Ok((n.clone(), k.clone())),
        (WeightLayout::RowsFirst, _) => Err(format!("weight has shape {}, expected [N, K..]", show(shape))),
        (WeightLayout::RowsLast, _) => Err(format!("weight has shape {}, expected [K, N]", show(shape))),
    }
}

/// G: scales of a row of K weights.
fn groups(grouping: Grouping, cols: &Dim) -> Inferred<Dim> {
    match grouping {
        Grouping::PerChannel => Ok(Dim::Size(1)),
        Grouping::Group(size) => {
            let size = Expr::from(i64::from(size.max(1)));
            dim(Expr::of(cols).and_then(|k| k.ceil_div(&size)?.greater(&Expr::from(1))))
        }
    }
}

/// Float weight -> codes u8 [N, K], scale and zero f32 [N, G].
pub(super) fn quantize(site: &Site, parameters: &NestedQuantize) -> Inferred {
    let weight = site.tensor(0, "weight")?;
    need(weight.dtype, DType::is_float, "weight", "a float")?;
    let (n, k) = rows_and_cols(&weight.shape, parameters.layout)?;
    let affine = tensor(Some(DType::F32), Some(vec![n.clone(), groups(parameters.grouping, &k)?]));
    Ok(vec![tensor(Some(DType::U8), Some(vec![n, k])), affine.clone(), affine])
}

pub(super) fn slice_bits(site: &Site) -> Inferred {
    let codes = site.tensor(0, "codes")?;
    need(codes.dtype, is_u8, "codes", "u8")?;
    let (n, k) = matrix(&codes, "codes")?;
    one(Some(DType::U8), Some(vec![n, k]))
}

/// Slice [N, K], scale and zero [N, G] -> the float weight.
pub(super) fn dequantize(site: &Site, grouping: Grouping, layout: WeightLayout, shape: &[u64]) -> Inferred {
    let slice = site.tensor(0, "slice")?;
    need(slice.dtype, is_u8, "slice", "u8")?;
    let dims: Vec<Dim> = shape.iter().copied().map(Dim::Size).collect();
    let (n, k) = rows_and_cols(&Some(dims.clone()), layout)?;
    let (rows, cols) = matrix(&slice, "slice")?;
    unify(&rows, &n, "rows of the slice and of the shape")?;
    unify(&cols, &k, "columns of the slice and of the shape")?;
    let (_, dtype) = affine(site, 1, None, &n, &groups(grouping, &k)?)?;
    one(dtype.or(Some(DType::F32)), Some(dims))
}

/// x [.., K] -> [.., N].
pub(super) fn matmul(site: &Site, nested: &Nested) -> Inferred {
    let x = site.tensor(0, "x")?;
    need(x.dtype, DType::is_float, "x", "a float")?;
    let rows = operands(site, nested, 4)?;
    let Some(mut dims) = x.shape else {
        return one(x.dtype, None);
    };
    let Some(last) = dims.last_mut() else {
        return Err("x is a scalar, expected rank 1 or more".to_owned());
    };
    unify(last, &Dim::Size(nested.cols), "the last dimension of x and the columns of the weight")?;
    *last = rows;
    one(x.dtype, Some(dims))
}

/// x [B, C, ..] -> [B, M, ..].
pub(super) fn conv(site: &Site, nested: &Nested, window: &Window, shape: &[u64]) -> Inferred {
    let x = site.tensor(0, "x")?;
    need(x.dtype, DType::is_float, "x", "a float")?;
    let bias = site.optional(4, "bias")?;
    let weight: Shape = Some(shape.iter().copied().map(Dim::Size).collect());
    let (n, k) = rows_and_cols(&weight, WeightLayout::RowsFirst)?;
    unify(&k, &Dim::Size(nested.cols), "columns of the weight's shape and of its planes")?;
    unify(&n, &operands(site, nested, 5)?, "rows of the weight's shape and of its planes")?;
    one(x.dtype, conv_shape(window, &x.shape, &weight, &bias.and_then(|b| b.shape))?)
}

/// indices -> [indices.., K].
pub(super) fn gather(site: &Site, nested: &Nested) -> Inferred {
    let indices = site.tensor(0, "indices")?;
    need(indices.dtype, |d| matches!(d, DType::I64 | DType::I32), "the indices operand", "i64 or i32")?;
    operands(site, nested, 4)?;
    let dtype = site.tensor(2, "scale")?.dtype.or(Some(DType::F32));
    let shape = indices.shape.map(|mut dims| {
        dims.push(Dim::Size(nested.cols));
        dims
    });
    one(dtype, shape)
}

/// Checks width, scale, zero and the planes from `first_plane` on; gives N.
fn operands(site: &Site, nested: &Nested, first_plane: usize) -> Inferred<Dim> {
    let width = site.tensor(1, "width")?;
    need(width.dtype, |d| d == DType::I64, "width", "i64")?;
    if let Some(shape) = width.shape.filter(|s| !s.is_empty()) {
        return Err(format!("width has shape {}, expected a scalar", show(&shape)));
    }
    let groups = groups(nested.grouping, &Dim::Size(nested.cols))?;
    let maps = Some(1 + nested.map_widths.len() as u64).filter(|maps| *maps > 1);
    let (mut rows, _) = affine(site, 2, maps, &Dim::Unknown, &groups)?;
    let bytes = Dim::Size(nested.cols.div_ceil(8));
    for slot in first_plane..site.operands.len().max(first_plane + 1) {
        let plane = site.tensor(slot, "plane")?;
        need(plane.dtype, is_u8, "plane", "u8")?;
        let (n, k) = matrix(&plane, "plane")?;
        rows = unify(&rows, &n, "rows of the planes and scales")?;
        unify(&bytes, &k, "bytes in a row of a plane")?;
    }
    Ok(rows)
}

/// Checks scale and zero in `slot` and the next, [N, G] or of several maps [maps, N, G]; gives N and their type.
fn affine(
    site: &Site,
    slot: usize,
    maps: Option<u64>,
    rows: &Dim,
    groups: &Dim,
) -> Inferred<(Dim, Option<DType>)> {
    let (scale, zero) = (site.tensor(slot, "scale")?, site.tensor(slot + 1, "zero")?);
    let dtype = super::site::same(&[scale.dtype, zero.dtype])?;
    need(dtype, DType::is_float, "scale", "a float")?;
    let mut rows = rows.clone();
    for (operand, role) in [(&scale, "scale"), (&zero, "zero")] {
        let (n, g) = match maps {
            None => matrix(operand, role)?,
            Some(maps) => stacked(operand, role, maps)?,
        };
        rows = unify(&rows, &n, &format!("rows of {role}"))?;
        unify(groups, &g, &format!("groups of {role}"))?;
    }
    Ok((rows, dtype))
}

fn stacked(operand: &TensorType, role: &str, maps: u64) -> Inferred<(Dim, Dim)> {
    let dims = operand.shape.clone().unwrap_or_else(|| unknown(3));
    let [found, n, g] = dims.as_slice() else {
        return Err(format!("{role} has shape {}, expected [{maps}, rows, groups]", show(&dims)));
    };
    unify(found, &Dim::Size(maps), &format!("maps of {role} and of map_widths"))?;
    Ok((n.clone(), g.clone()))
}

fn matrix(operand: &TensorType, role: &str) -> Inferred<(Dim, Dim)> {
    let dims = operand.shape.clone().unwrap_or_else(|| unknown(2));
    match dims.as_slice() {
        [a, b] => Ok((a.clone(), b.clone())),
        _ => Err(format!("{role} has shape {}, expected a matrix", show(&dims))),
    }
}
