//! Matrix products.

use super::elementwise::{broadcast, check_into};
use super::site::{Inferred, Shape, Site, is_numeric, need, one, same, show, unify};
use crate::Dim;

pub(super) fn matmul(site: &Site) -> Inferred {
    let (a, b) = (site.tensor(0, "left")?, site.tensor(1, "right")?);
    need(a.dtype, is_numeric, "the left operand", "a number")?;
    one(same(&[a.dtype, b.dtype])?, matmul_shape(&a.shape, &b.shape)?)
}

/// The shape of a NumPy matrix product: a vector is a row on the left, a column on the right.
pub(super) fn matmul_shape(a: &Shape, b: &Shape) -> Inferred<Shape> {
    let (Some(a), Some(b)) = (a, b) else {
        return Ok(None);
    };
    let parts = |shape: &[Dim], left: bool| match shape {
        [] => None,
        [k] => Some((vec![], None, k.clone())),
        [batch @ .., m, k] if left => Some((batch.to_vec(), Some(m.clone()), k.clone())),
        [batch @ .., k, n] => Some((batch.to_vec(), Some(n.clone()), k.clone())),
    };
    let (Some((left, rows, ka)), Some((right, cols, kb))) = (parts(a, true), parts(b, false)) else {
        return Err(format!("operands have shapes {} and {}, expected rank 1 or more", show(a), show(b)));
    };
    unify(&ka, &kb, &format!("the inner dimensions of {} and {}", show(a), show(b)))?;
    let mut dims = broadcast(&left, &right)?;
    dims.extend(rows);
    dims.extend(cols);
    Ok(Some(dims))
}

pub(super) fn gemm(site: &Site, trans_a: bool, trans_b: bool) -> Inferred {
    let (a, b) = (site.tensor(0, "A")?, site.tensor(1, "B")?);
    let c = site.optional(2, "C")?;
    let dtype = same(&[a.dtype, b.dtype, c.as_ref().and_then(|c| c.dtype)])?;
    need(dtype, is_numeric, "A", "a number")?;
    let matrix = |shape: &Shape, swap: bool, role: &str| match shape.as_deref() {
        None => Ok([Dim::Unknown, Dim::Unknown]),
        Some([x, y]) => Ok(if swap { [y.clone(), x.clone()] } else { [x.clone(), y.clone()] }),
        Some(other) => Err(format!("{role} has shape {}, expected a matrix", show(other))),
    };
    let ([m, ka], [kb, n]) = (matrix(&a.shape, trans_a, "A")?, matrix(&b.shape, trans_b, "B")?);
    unify(&ka, &kb, "the inner dimensions of A and B")?;
    let shape = Some(vec![m, n]);
    if let Some(c) = c {
        check_into(&c.shape, &shape, "C")?;
    }
    one(dtype, shape)
}
