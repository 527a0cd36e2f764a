//! Integer arithmetic on expressions, as ONNX defines it.

use super::Item;
use crate::DType;
use crate::infer::symbolic::Expr;
use crate::op::{Binary, Compare, Unary};

pub(super) fn cast(item: &Expr, to: DType) -> Item {
    match (to, item.constant()) {
        (DType::I64, _) => Some(item.clone()),
        (DType::I32, Some(v)) => i32::try_from(v).ok().map(|v| Expr::from(i64::from(v))),
        // Sizes fit 32 bits in any graph that computes with them so.
        (DType::I32, None) => Some(item.clone()),
        (DType::Bool, Some(v)) => Some(Expr::from(i64::from(v != 0))),
        _ => None,
    }
}

pub(super) fn unary(kind: Unary, item: &Expr) -> Item {
    match kind {
        Unary::Neg => Expr::from(0).sub(item),
        Unary::Not => Expr::from(1).sub(item),
        Unary::Abs | Unary::Relu if item.is_non_negative() => Some(item.clone()),
        _ => None,
    }
}

pub(super) fn binary(kind: Binary, a: &Expr, b: &Expr) -> Item {
    let flags = || Some((a.constant()? != 0, b.constant()? != 0));
    let flag = |v: bool| Some(Expr::from(i64::from(v)));
    match kind {
        Binary::Add => a.add(b),
        Binary::Sub => a.sub(b),
        Binary::Mul => a.mul(b),
        Binary::Div => quotient(a, b),
        // The result has the sign of the divisor: a - b floor(a / b).
        Binary::Mod if b.constant().is_some_and(|b| b > 0) => a.sub(&b.mul(&a.floor_div(b)?)?),
        Binary::And => flags().and_then(|(a, b)| flag(a && b)),
        Binary::Or => flags().and_then(|(a, b)| flag(a || b)),
        Binary::Xor => flags().and_then(|(a, b)| flag(a != b)),
        Binary::Mod
        | Binary::Fmod
        | Binary::Pow
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::ShiftLeft
        | Binary::ShiftRight
        | Binary::PRelu => None,
    }
}

/// Integer division of ONNX, towards zero: for what is not negative that is down.
fn quotient(a: &Expr, b: &Expr) -> Item {
    match (a.constant(), b.constant()) {
        (Some(a), Some(b)) => a.checked_div(b).map(Expr::from),
        _ => a.div_exact(b).or_else(|| {
            let known = a.is_non_negative() && b.is_non_negative();
            known.then(|| a.floor_div(b)).flatten()
        }),
    }
}

pub(super) fn compare(kind: Compare, a: &Expr, b: &Expr) -> Item {
    let limits = a.sub(b)?.bounds();
    let (low, high) = (limits.low, limits.high);
    let above = |n: i64| low.is_some_and(|v| v >= n);
    let below = |n: i64| high.is_some_and(|v| v <= n);
    let decide = |yes: bool, no: bool| if yes || no { Some(Expr::from(i64::from(yes))) } else { None };
    match kind {
        Compare::Equal => decide(above(0) && below(0), above(1) || below(-1)),
        Compare::Greater => decide(above(1), below(0)),
        Compare::GreaterOrEqual => decide(above(0), below(-1)),
        Compare::Less => decide(below(-1), above(0)),
        Compare::LessOrEqual => decide(below(0), above(1)),
    }
}
