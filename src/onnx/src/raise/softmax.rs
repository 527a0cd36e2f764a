//! Softmax and its kin before opset 13 work on the input flattened to a matrix at `axis`; since then along one axis.

use mqc_ir::{Attribute, Dim, Op, Type};

use super::site::{Site, verbatim};
use crate::Error;

/// Makes the node `form(axis)`: directly where all other flattened dimensions are known to be 1, else
/// `Reshape(form(-1)(Flatten(x)), Shape(x))`.
pub(super) fn over_one_axis(site: &mut Site, axis: i64, form: impl Fn(i64) -> Op) -> Result<(), Error> {
    let x = site.required(0)?;
    if let Some(axis) = only_axis(site.ty(x), axis) {
        site.set_op(form(axis));
        return Ok(());
    }
    let shape = site.apply(Op::Shape { start: 0, end: None }, "shape", &[x])?;
    let rows = site.apply(Op::Flatten { axis }, "rows", &[x])?;
    let result = site.apply(form(-1), "flat", &[rows])?;
    // Empty dimensions are kept, where the operator set can say so.
    site.set_op(Op::Reshape { allowzero: site.to >= 14 });
    Ok(site.graph.set_operands(site.id, &[Some(result), Some(shape)])?)
}

/// The one axis that the dimensions from `axis` on come down to.
fn only_axis(ty: &Type, axis: i64) -> Option<i64> {
    if axis == -1 {
        return Some(axis);
    }
    let rank = ty.rank()?;
    let first = if axis < 0 {
        rank.checked_sub(usize::try_from(axis.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(axis).ok()?
    };
    let dims = ty.shape()?.get(first..).filter(|dims| !dims.is_empty())?;
    let mut wide = (first..).zip(dims).filter(|(_, dim)| **dim != Dim::Size(1)).map(|(axis, _)| axis);
    let only = wide.next().unwrap_or(first);
    if wide.next().is_some() { None } else { i64::try_from(only).ok() }
}

pub(super) fn hardmax(site: &mut Site) -> Result<(), Error> {
    let axis = site.take_int("axis")?.unwrap_or(1);
    over_one_axis(site, axis, |axis| verbatim("Hardmax", [("axis", Attribute::Int(axis))]))
}
