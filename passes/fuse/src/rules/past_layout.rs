//! Reshapes and transposes move behind elementwise operations and products, where they meet and cancel.
//!
//! Before: `%a = reshape %x, [-1, 16]`, `%b = mat_mul %a, %w`, `%y = reshape %b, [2, 3, 8]` with `%x : f32[2, 3, 16]`
//!
//! After:  `%y = mat_mul %x, %w`

use egg::Id;
use mqc_ir::Op;
use mqc_ir::op::Binary;

use super::layout::{is_reshape, keeps_last, permutation, reshape, shape_operand, transpose};
use super::{Needs, Rule, one};
use crate::{Expr, View};

/// See the module.
pub const TRANSPOSE_PAST_MAP: Rule = Rule {
    name: "transpose-past-map",
    about: "f(transpose(x)) -> transpose(f(x)) for f of one operand",
    needs: Needs::Opset(1),
    root: is_map,
    apply: |view, root| one(root, transpose_past_map(view, root)),
};

/// See the module.
pub const TRANSPOSE_PAST_PAIR: Rule = Rule {
    name: "transpose-past-pair",
    about: "f(transpose(a), transpose(b)) -> transpose(f(a, b)); one may be a number",
    needs: Needs::Opset(1),
    root: is_pair,
    apply: |view, root| one(root, transpose_past_pair(view, root)),
};

/// See the module.
pub const RESHAPE_PAST_MAP: Rule = Rule {
    name: "reshape-past-map",
    about: "f(reshape(x)) -> reshape(f(x)) for f of one operand",
    needs: Needs::Opset(5),
    root: is_map,
    apply: |view, root| one(root, reshape_past_map(view, root)),
};

/// See the module.
pub const RESHAPE_PAST_PAIR: Rule = Rule {
    name: "reshape-past-pair",
    about: "f(reshape(a), b) -> reshape(f(a, b)) for b a number, along a last dimension that stays, or reshaped alike",
    needs: Needs::Opset(5),
    root: is_pair,
    apply: |view, root| one(root, reshape_past_pair(view, root)),
};

/// See the module.
pub const TRANSPOSE_PAST_PRODUCT: Rule = Rule {
    name: "transpose-past-product",
    about: "transpose(a) transpose(b) -> transpose(a b) where batches alone are transposed, or (b a)^T of two matrices",
    needs: Needs::Opset(1),
    root: |op| *op == Op::MatMul,
    apply: |view, root| one(root, transpose_past_product(view, root)),
};

/// See the module.
pub const TRANSPOSED_PRODUCT: Rule = Rule {
    name: "transposed-product",
    about: "(a b)^T -> b^T a^T where a or b is a transpose",
    needs: Needs::Opset(1),
    root: |op| matches!(op, Op::Transpose { .. }),
    apply: |view, root| one(root, transposed_product(view, root)),
};

/// See the module.
pub const RESHAPE_PAST_PRODUCT: Rule = Rule {
    name: "reshape-past-product",
    about: "reshape(x) w -> reshape(x w) where the last dimension stays and w is a matrix",
    needs: Needs::Opset(5),
    root: |op| *op == Op::MatMul,
    apply: |view, root| one(root, reshape_past_product(view, root)),
};

/// Whether an operation computes every element from that of its one operand.
fn is_map(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Gelu { .. }
            | Op::LeakyRelu { .. }
            | Op::Elu { .. }
            | Op::HardSigmoid { .. }
            | Op::Cast { .. }
    )
}

/// Whether an operation computes every element from those of its two operands.
fn is_pair(op: &Op) -> bool {
    match op {
        // The slope broadcasts to the input only.
        Op::Binary(kind) => *kind != Binary::PRelu,
        Op::Compare(_) => true,
        _ => false,
    }
}

fn transposed(view: View, id: Id) -> Option<(Id, Vec<usize>)> {
    let rank = view.rank(id)?;
    view.ops(id).find_map(|(op, args)| match op {
        Op::Transpose { perm } => Some((*args.first()?, permutation(perm, rank)?)),
        _ => None,
    })
}

fn reshaped(view: View, id: Id) -> Option<Id> {
    view.ops(id).find_map(|(op, args)| is_reshape(op).then(|| args.first().copied()).flatten())
}

fn transpose_past_map(view: View, root: Id) -> Option<Expr> {
    view.ops(root).filter(|(op, _)| is_map(op)).find_map(|(op, args)| {
        let (x, perm) = transposed(view, *args.first()?)?;
        Some(transpose(Expr::map(op.clone(), Expr::Class(x)), &perm))
    })
}

fn transpose_past_pair(view: View, root: Id) -> Option<Expr> {
    view.ops(root).filter(|(op, _)| is_pair(op)).find_map(|(op, args)| {
        let &[a, b] = args.as_slice() else { return None };
        let (x, y, perm) = match (transposed(view, a), transposed(view, b)) {
            (Some((x, p)), Some((y, q))) if p == q => (x, y, p),
            (Some((x, p)), _) if is_number(view, b) => (x, b, p),
            (_, Some((y, q))) if is_number(view, a) => (a, y, q),
            _ => return None,
        };
        Some(transpose(Expr::Op(op.clone(), vec![Expr::Class(x), Expr::Class(y)]), &perm))
    })
}

/// Whether a class has one element and no dimensions of its own.
fn is_number(view: View, id: Id) -> bool {
    view.rank(id) == Some(0)
}

fn reshape_past_map(view: View, root: Id) -> Option<Expr> {
    let shape = shape_operand(view.shape(root)?)?;
    view.ops(root).filter(|(op, _)| is_map(op)).find_map(|(op, args)| {
        let x = reshaped(view, *args.first()?)?;
        Some(reshape(Expr::map(op.clone(), Expr::Class(x)), &shape))
    })
}

fn reshape_past_pair(view: View, root: Id) -> Option<Expr> {
    let shape = shape_operand(view.shape(root)?)?;
    view.ops(root).filter(|(op, _)| is_pair(op)).find_map(|(op, args)| {
        let &[a, b] = args.as_slice() else { return None };
        let stays = |from: Id, to: Id, other: Id| {
            is_number(view, other)
                || (view.rank(other) == Some(1)
                    && view.is_constant(other)
                    && view.last(other).is_some_and(|n| Some(n) == view.last(from))
                    && keeps_last(view, from, to))
        };
        // The result has the shape of the reshaped operand: nothing broadcasts it.
        let (x, y) = match (reshaped(view, a), reshaped(view, b)) {
            (Some(x), Some(y)) if view.same_shape(x, y) && view.same_shape(a, b) => (x, y),
            (Some(x), _) if view.same_shape(a, root) && stays(x, a, b) => (x, b),
            (_, Some(y)) if view.same_shape(b, root) && stays(y, b, a) => (a, y),
            _ => return None,
        };
        Some(reshape(Expr::Op(op.clone(), vec![Expr::Class(x), Expr::Class(y)]), &shape))
    })
}

fn product(view: View, id: Id) -> Option<(Id, Id)> {
    view.ops(id).find_map(|(op, args)| match (op, args.as_slice()) {
        (Op::MatMul, &[a, b]) => Some((a, b)),
        _ => None,
    })
}

/// Whether only the last two axes change places.
fn swaps(perm: &[usize]) -> bool {
    let rank = perm.len();
    rank >= 2
        && perm[rank - 2..] == [rank - 1, rank - 2]
        && perm[..rank - 2].iter().enumerate().all(|(i, p)| i == *p)
}

fn transpose_past_product(view: View, root: Id) -> Option<Expr> {
    let (a, b) = product(view, root)?;
    let ((x, p), (y, q)) = (transposed(view, a)?, transposed(view, b)?);
    let rank = p.len();
    if p != q || rank < 2 {
        return None;
    }
    let times = |a: Id, b: Id| Expr::Op(Op::MatMul, vec![Expr::Class(a), Expr::Class(b)]);
    if swaps(&p) {
        return Some(transpose(times(y, x), &p));
    }
    (p[rank - 2..] == [rank - 2, rank - 1]).then(|| transpose(times(x, y), &p))
}

fn transposed_product(view: View, root: Id) -> Option<Expr> {
    let (of, perm) = transposed(view, root)?;
    let (a, b) = product(view, of).filter(|_| swaps(&perm))?;
    let same_rank = [a, b].iter().all(|id| view.rank(*id) == Some(perm.len()));
    let cancels = transposed(view, a).is_some() || transposed(view, b).is_some();
    (same_rank && cancels).then(|| {
        let [a, b] = [a, b].map(|id| transpose(Expr::Class(id), &perm));
        Expr::Op(Op::MatMul, vec![b, a])
    })
}

fn reshape_past_product(view: View, root: Id) -> Option<Expr> {
    let shape = shape_operand(view.shape(root)?)?;
    let (a, w) = product(view, root)?;
    let x = reshaped(view, a)?;
    let fits = view.rank(w) == Some(2)
        && view.rank(x)? >= 2
        && view.rank(a)? >= 2
        && keeps_last(view, x, a)
        && view.last(x).is_some();
    fits.then(|| reshape(Expr::Op(Op::MatMul, vec![Expr::Class(x), Expr::Class(w)]), &shape))
}
