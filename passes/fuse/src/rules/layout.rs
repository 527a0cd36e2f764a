//! Reshapes, transposes and casts in a row become one, or none.
//!
//! Before: `%a = reshape %x, [2, 12]`, `%b = reshape %a, [2, 3, 4]`
//!
//! After:  `%b = reshape %x, [2, 3, 4]`

use egg::Id;
use mqc_ir::{DType, Dim, Op};

use super::{Needs, Rule, one};
use crate::view::same_dims;
use crate::{Expr, View};

/// See the module.
pub const DROP_IDENTITY: Rule = Rule {
    name: "drop-identity",
    about: "a reshape, transpose, expand or cast that changes nothing -> its operand",
    needs: Needs::Opset(1),
    root: |op| {
        is_reshape(op) || matches!(op, Op::Transpose { .. } | Op::Cast { .. } | Op::Expand | Op::Identity)
    },
    apply: |view, root| one(root, identity(view, root)),
};

/// See the module.
pub const MERGE_RESHAPES: Rule = Rule {
    name: "merge-reshapes",
    about: "reshape(reshape(x)) -> reshape(x)",
    needs: Needs::Opset(5),
    root: is_reshape,
    apply: |view, root| one(root, reshapes(view, root)),
};

/// See the module.
pub const MERGE_TRANSPOSES: Rule = Rule {
    name: "merge-transposes",
    about: "transpose(transpose(x)) -> transpose(x)",
    needs: Needs::Opset(1),
    root: |op| matches!(op, Op::Transpose { .. }),
    apply: |view, root| one(root, transposes(view, root)),
};

/// See the module.
pub const MERGE_CASTS: Rule = Rule {
    name: "merge-casts",
    about: "cast(cast(x)) -> cast(x) where the inner cast loses nothing",
    needs: Needs::Opset(1),
    root: |op| matches!(op, Op::Cast { .. }),
    apply: |view, root| one(root, casts(view, root)),
};

/// Whether an operation only gives elements another shape.
pub(super) fn is_reshape(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Flatten { .. })
}

fn identity(view: View, root: Id) -> Option<Expr> {
    view.ops(root).find_map(|(op, args)| {
        let of = *args.first()?;
        let same = match op {
            Op::Identity => true,
            Op::Transpose { perm } => {
                let perm = permutation(perm, view.rank(of)?)?;
                perm.iter().enumerate().all(|(place, axis)| place == *axis)
            }
            Op::Cast { to, .. } => view.dtype(of) == Some(*to),
            Op::Expand => view.same_shape(of, root),
            op if is_reshape(op) => view.same_shape(of, root),
            _ => false,
        };
        (same && of != root).then_some(Expr::Class(of))
    })
}

fn reshapes(view: View, root: Id) -> Option<Expr> {
    let target = shape_operand(view.shape(root)?)?;
    let outer =
        view.ops(root).filter(|(op, _)| is_reshape(op)).find_map(|(_, args)| args.first().copied())?;
    let inner =
        view.ops(outer).filter(|(op, _)| is_reshape(op)).find_map(|(_, args)| args.first().copied())?;
    (inner != root).then(|| reshape(Expr::Class(inner), &target))
}

/// A reshape to a list of sizes with at most one -1.
pub(super) fn reshape(of: Expr, shape: &[i64]) -> Expr {
    Expr::Op(Op::Reshape { allowzero: false }, vec![of, Expr::ints(shape)])
}

/// The operand of a Reshape to this shape: one size may be unknown, none may be 0.
pub(super) fn shape_operand(shape: &[Dim]) -> Option<Vec<i64>> {
    let mut free = 0;
    let sizes: Option<Vec<i64>> = shape
        .iter()
        .map(|dim| match dim.size() {
            Some(0) => None,
            Some(size) => i64::try_from(size).ok(),
            None => {
                free += 1;
                Some(-1)
            }
        })
        .collect();
    sizes.filter(|_| free <= 1)
}

fn transposes(view: View, root: Id) -> Option<Expr> {
    let rank = view.rank(root)?;
    let of = |id: Id| {
        view.ops(id).find_map(|(op, args)| match op {
            Op::Transpose { perm } => Some((permutation(perm, rank)?, *args.first()?)),
            _ => None,
        })
    };
    let (outer, middle) = of(root)?;
    let (inner, x) = of(middle)?;
    let perm: Option<Vec<usize>> = outer.iter().map(|axis| inner.get(*axis).copied()).collect();
    Some(transpose(Expr::Class(x), &perm?))
}

/// A transpose.
pub(super) fn transpose(of: Expr, perm: &[usize]) -> Expr {
    Expr::map(Op::Transpose { perm: Some(perm.iter().map(|axis| *axis as i64).collect()) }, of)
}

/// The permutation of a transpose of this rank.
pub(super) fn permutation(perm: &Option<Vec<i64>>, rank: usize) -> Option<Vec<usize>> {
    let perm: Vec<usize> = match perm {
        None => (0..rank).rev().collect(),
        Some(perm) => perm.iter().map(|axis| usize::try_from(*axis).ok()).collect::<Option<_>>()?,
    };
    let is_one = perm.len() == rank && (0..rank).all(|axis| perm.contains(&axis));
    is_one.then_some(perm)
}

fn casts(view: View, root: Id) -> Option<Expr> {
    let of = |id: Id| {
        view.ops(id).find_map(|(op, args)| match op {
            Op::Cast { to, saturate } => Some((*to, *saturate, *args.first()?)),
            _ => None,
        })
    };
    let (to, saturate, middle) = of(root)?;
    let (through, _, x) = of(middle)?;
    // Numbers have other texts in other types.
    let fits = to != DType::String && keeps_all(view.dtype(x)?, through);
    fits.then(|| Expr::map(Op::Cast { to, saturate }, Expr::Class(x)))
}

/// Whether every value of one type is a value of the other.
fn keeps_all(from: DType, to: DType) -> bool {
    use DType::{Bf16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32};
    match from {
        F16 | Bf16 => matches!(to, F32 | F64),
        F32 => to == F64,
        Bool => to != Bool && (to.is_float() || matches!(to, I8 | I16 | I32 | I64 | U8 | U16 | U32)),
        I8 => matches!(to, I16 | I32 | I64 | F32 | F64),
        U8 => matches!(to, I16 | I32 | I64 | U16 | U32 | F32 | F64),
        I16 => matches!(to, I32 | I64 | F32 | F64),
        U16 => matches!(to, I32 | I64 | U32 | F32 | F64),
        I32 => matches!(to, I64 | F64),
        U32 => matches!(to, I64 | F64),
        _ => from == to,
    }
}

/// Whether a reshape keeps the last dimension, and elements of it side by side.
pub(super) fn keeps_last(view: View, from: Id, to: Id) -> bool {
    match (view.shape(from), view.shape(to)) {
        (Some([.., a]), Some([.., b])) => same_dims(std::slice::from_ref(a), std::slice::from_ref(b)),
        _ => false,
    }
}
