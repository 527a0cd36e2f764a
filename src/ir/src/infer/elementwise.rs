//! Elementwise operations: element types and broadcasting.

use super::site::{Inferred, Shape, Site, is_integer, is_numeric, need, one, same, show};
use super::symbolic::Expr;
use crate::op::{Binary, Compare, Unary, Variadic};
use crate::{DType, Dim};

/// The size of two dimensions broadcast together. A symbol may be 1, so two different ones give no certainty.
pub(super) fn broadcast_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    Some(match (a, b) {
        (Dim::Size(1), other) | (other, Dim::Size(1)) => other.clone(),
        (Dim::Size(x), Dim::Size(y)) if x != y => return None,
        (Dim::Size(n), _) | (_, Dim::Size(n)) => Dim::Size(*n),
        (Dim::Symbol(x), Dim::Symbol(y)) if x == y => a.clone(),
        // A position table cut to the sequence: where min(512, n) and n broadcast, they are equal or the former is 1.
        (Dim::Symbol(_), Dim::Symbol(_)) if is_limited(a, b) => b.clone(),
        (Dim::Symbol(_), Dim::Symbol(_)) if is_limited(b, a) => a.clone(),
        (Dim::Symbol(_) | Dim::Unknown, Dim::Symbol(_) | Dim::Unknown) => Dim::Unknown,
    })
}

fn is_limited(a: &Dim, b: &Dim) -> bool {
    Expr::of(a).zip(Expr::of(b)).is_some_and(|(a, b)| a.is_limited(&b))
}

/// Two shapes broadcast together, aligned at the end. Error when sizes differ and none is 1.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Inferred<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |shape: &[Dim], i: usize| {
        (i + shape.len()).checked_sub(rank).map_or(Dim::Size(1), |place| shape[place].clone())
    };
    (0..rank)
        .map(|i| {
            broadcast_dim(&at(a, i), &at(b, i)).ok_or_else(|| {
                format!("shapes {} and {} do not broadcast: sizes must be equal or 1", show(a), show(b))
            })
        })
        .collect()
}

/// Any number of shapes broadcast together; unknown when one rank is.
pub(super) fn broadcast_all(shapes: &[Shape]) -> Inferred<Shape> {
    let Some(shapes) = shapes.iter().map(|s| s.as_deref()).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    shapes.into_iter().try_fold(vec![], |all, shape| broadcast(&all, shape)).map(Some)
}

/// Error when `small` does not broadcast to `large` without changing it.
pub(super) fn check_into(small: &Shape, large: &Shape, role: &str) -> Inferred<()> {
    let (Some(small), Some(large)) = (small, large) else {
        return Ok(());
    };
    let aligned = large.len().checked_sub(small.len()).map(|skip| small.iter().zip(&large[skip..]));
    let fits = aligned.is_some_and(|mut pairs| pairs.all(|(s, l)| *s == Dim::Size(1) || s.compatible(l)));
    if fits {
        return Ok(());
    }
    Err(format!("{role} has shape {}, expected one that broadcasts to {}", show(small), show(large)))
}

pub(super) fn unary(site: &Site, kind: Unary) -> Inferred {
    let x = site.tensor(0, "input")?;
    let (accepts, expected): (fn(DType) -> bool, &str) = match kind {
        Unary::Not => (|d| d == DType::Bool, "bool"),
        Unary::BitwiseNot => (is_integer, "an integer"),
        Unary::Abs | Unary::Erf | Unary::Neg | Unary::Relu | Unary::Sign => (is_numeric, "a number"),
        Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::Ceil
        | Unary::Cos
        | Unary::Cosh
        | Unary::Exp
        | Unary::Floor
        | Unary::HardSwish
        | Unary::IsNan
        | Unary::Log
        | Unary::Mish
        | Unary::Reciprocal
        | Unary::Round
        | Unary::Sigmoid
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Softsign
        | Unary::Sqrt
        | Unary::Tan
        | Unary::Tanh => (DType::is_float, "a float"),
    };
    need(x.dtype, accepts, "the input", expected)?;
    one(if kind == Unary::IsNan { Some(DType::Bool) } else { x.dtype }, x.shape)
}

/// One operand, the result like it; the type must be a float.
pub(super) fn float_map(site: &Site) -> Inferred {
    let x = site.tensor(0, "input")?;
    need(x.dtype, DType::is_float, "the input", "a float")?;
    one(x.dtype, x.shape)
}

pub(super) fn binary(site: &Site, kind: Binary) -> Inferred {
    let (a, b) = (site.tensor(0, "left")?, site.tensor(1, "right")?);
    let (accepts, expected): (fn(DType) -> bool, &str) = match kind {
        Binary::And | Binary::Or | Binary::Xor => (|d| d == DType::Bool, "bool"),
        Binary::Mod | Binary::BitwiseAnd | Binary::BitwiseOr | Binary::BitwiseXor => {
            (is_integer, "an integer")
        }
        Binary::ShiftLeft | Binary::ShiftRight => {
            (|d| matches!(d, DType::U8 | DType::U16 | DType::U32 | DType::U64), "an unsigned integer")
        }
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Pow
        | Binary::Fmod
        | Binary::PRelu => (is_numeric, "a number"),
    };
    need(a.dtype, accepts, "the left operand", expected)?;
    need(b.dtype, accepts, "the right operand", expected)?;
    // The exponent may have a type of its own.
    let dtype = if kind == Binary::Pow { a.dtype } else { same(&[a.dtype, b.dtype])? };
    if kind == Binary::PRelu {
        check_into(&b.shape, &a.shape, "the slope")?;
        return one(dtype, a.shape);
    }
    one(dtype, broadcast_all(&[a.shape, b.shape])?)
}

pub(super) fn compare(site: &Site, kind: Compare) -> Inferred {
    let (a, b) = (site.tensor(0, "left")?, site.tensor(1, "right")?);
    let dtype = same(&[a.dtype, b.dtype])?;
    match kind {
        Compare::Equal => {}
        Compare::Greater | Compare::GreaterOrEqual | Compare::Less | Compare::LessOrEqual => {
            need(dtype, is_numeric, "the left operand", "a number")?;
        }
    }
    one(Some(DType::Bool), broadcast_all(&[a.shape, b.shape])?)
}

pub(super) fn variadic(site: &Site, kind: Variadic) -> Inferred {
    let operands: Vec<_> =
        (0..site.operands.len().max(1)).map(|slot| site.tensor(slot, "operand")).collect::<Inferred<_>>()?;
    let dtypes: Vec<_> = operands.iter().map(|t| t.dtype).collect();
    let dtype = same(&dtypes)?;
    match kind {
        Variadic::Mean | Variadic::Sum => need(dtype, DType::is_float, "the first operand", "a float")?,
        Variadic::Max | Variadic::Min => need(dtype, is_numeric, "the first operand", "a number")?,
    }
    let shapes: Vec<_> = operands.into_iter().map(|t| t.shape).collect();
    one(dtype, broadcast_all(&shapes)?)
}

pub(super) fn select(site: &Site) -> Inferred {
    let condition = site.tensor(0, "condition")?;
    let (a, b) = (site.tensor(1, "if true")?, site.tensor(2, "if false")?);
    need(condition.dtype, |d| d == DType::Bool, "the condition", "bool")?;
    one(same(&[a.dtype, b.dtype])?, broadcast_all(&[condition.shape, a.shape, b.shape])?)
}

pub(super) fn clip(site: &Site) -> Inferred {
    let x = site.tensor(0, "input")?;
    let low = site.optional(1, "min")?.and_then(|t| t.dtype);
    let high = site.optional(2, "max")?.and_then(|t| t.dtype);
    need(x.dtype, is_numeric, "the input", "a number")?;
    one(same(&[x.dtype, low, high])?, x.shape)
}
