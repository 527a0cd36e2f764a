//! Constant factors move into constant weights; scales and zero points of computed weights move out of products.
//!
//! Before: `%y = mat_mul %x, %w`, `%z = mul %y, %c` with `%c : f32[8]`
//!
//! After:  `%v = mul %w, %c`, `%z = mat_mul %x, %v`, where `%v` is computed once, before the model runs

use egg::Id;
use mqc_ir::Op;
use mqc_ir::op::{Binary, Reduction};

use super::layout::reshape;
use super::{Needs, Rule, is_mul, one};
use crate::{Expr, View};

/// See the module.
pub const FOLD_SCALE_AFTER: Rule = Rule {
    name: "fold-scale-after",
    about: "(x w) c -> x (w c) for constant w and c",
    needs: Needs::Opset(5),
    root: is_mul,
    apply: |view, root| one(root, fold_after(view, root)),
};

/// See the module.
pub const FOLD_SCALE_BEFORE: Rule = Rule {
    name: "fold-scale-before",
    about: "(x g) w -> x (g w) for constant w and g",
    needs: Needs::Opset(5),
    root: |op| *op == Op::MatMul,
    apply: |view, root| one(root, fold_before(view, root)),
};

/// See the module.
pub const FOLD_SCALE_NESTED: Rule = Rule {
    name: "fold-scale-nested",
    about: "nested(x, scale, ..) c -> nested(x, scale c, ..) for a constant c",
    needs: Needs::Opset(5),
    root: is_mul,
    apply: |view, root| one(root, fold_nested(view, root)),
};

/// See the module. A factor for each column is not one of the scale, which belongs to rows.
pub const FOLD_SCALE_BEFORE_NESTED: Rule = Rule {
    name: "fold-scale-before-nested",
    about: "nested(x c, scale, ..) -> nested(x, scale c, ..) for a constant number c",
    needs: Needs::Opset(1),
    root: |op| matches!(op, Op::NestedMatMul(_)),
    apply: |view, root| one(root, fold_before_nested(view, root)),
};

/// See the module.
pub const SCALE_OUT_OF_PRODUCT: Rule = Rule {
    name: "scale-out-of-product",
    about: "x (w s) -> (x w) s for a computed weight and a scale of its columns",
    needs: Needs::Opset(1),
    root: |op| *op == Op::MatMul,
    apply: |view, root| one(root, scale_out(view, root)),
};

/// See the module.
pub const ZERO_OUT_OF_PRODUCT: Rule = Rule {
    name: "zero-out-of-product",
    about: "x (w - z) -> x w - sum(x) z for a computed weight and a zero point of its columns",
    needs: Needs::Opset(13),
    root: |op| *op == Op::MatMul,
    apply: |view, root| one(root, zero_out(view, root)),
};

/// Both orders of the operands of a product of elements.
fn factors(view: View, id: Id) -> Vec<(Id, Id)> {
    let pairs = view.ops(id).filter(|(op, _)| is_mul(op)).flat_map(|(_, args)| match args.as_slice() {
        &[a, b] => vec![(a, b), (b, a)],
        _ => vec![],
    });
    pairs.collect()
}

fn operands(view: View, id: Id) -> Option<(Id, Id)> {
    view.ops(id).find_map(|(op, args)| match (op, args.as_slice()) {
        (Op::MatMul, &[a, b]) => Some((a, b)),
        _ => None,
    })
}

fn is_scalar(view: View, id: Id) -> bool {
    view.rank(id) == Some(0)
}

/// Whether a class is a number or a vector of so many elements.
fn is_along(view: View, id: Id, size: Option<u64>) -> bool {
    is_scalar(view, id) || (view.rank(id) == Some(1) && size.is_some() && view.last(id) == size)
}

/// Whether a class is a number, a vector or a row of so many elements.
fn is_row(view: View, id: Id, size: Option<u64>) -> bool {
    let row = matches!(view.shape(id), Some([one, n]) if one.size() == Some(1) && n.size() == size);
    is_along(view, id, size) || (row && size.is_some())
}

fn times(a: Expr, b: Expr) -> Expr {
    Expr::Op(Op::Binary(Binary::Mul), vec![a, b])
}

fn product(a: Expr, b: Expr) -> Expr {
    Expr::Op(Op::MatMul, vec![a, b])
}

fn fold_after(view: View, root: Id) -> Option<Expr> {
    factors(view, root).into_iter().find_map(|(y, c)| {
        let (x, w) = operands(view, y)?;
        let fits = view.is_constant(w)
            && view.is_constant(c)
            && view.rank(w) == Some(2)
            && is_along(view, c, view.last(w));
        fits.then(|| product(Expr::Class(x), times(Expr::Class(w), Expr::Class(c))))
    })
}

fn fold_before(view: View, root: Id) -> Option<Expr> {
    let (y, w) = operands(view, root)?;
    if !view.is_constant(w) || view.rank(w) != Some(2) {
        return None;
    }
    factors(view, y).into_iter().find_map(|(x, g)| {
        let size = view.last(y);
        let fits = view.is_constant(g) && view.same_shape(x, y) && is_along(view, g, size);
        fits.then(|| {
            let column = match (is_scalar(view, g), size.and_then(|n| i64::try_from(n).ok())) {
                (false, Some(size)) => reshape(Expr::Class(g), &[size, 1]),
                (true, _) | (false, None) => Expr::Class(g),
            };
            product(Expr::Class(x), times(column, Expr::Class(w)))
        })
    })
}

fn fold_nested(view: View, root: Id) -> Option<Expr> {
    factors(view, root).into_iter().find_map(|(y, c)| {
        if !view.is_constant(c) || !is_along(view, c, view.last(y)) {
            return None;
        }
        view.ops(y).find_map(|(op, args)| {
            let (Op::NestedMatMul(_), Some(scale)) = (op, args.get(2)) else { return None };
            let column = match (is_scalar(view, c), view.last(y).and_then(|n| i64::try_from(n).ok())) {
                (false, Some(rows)) => reshape(Expr::Class(c), &[rows, 1]),
                (true, _) | (false, None) => Expr::Class(c),
            };
            let mut args: Vec<Expr> = args.iter().copied().map(Expr::Class).collect();
            args[2] = times(Expr::Class(*scale), column);
            Some(Expr::Op(op.clone(), args))
        })
    })
}

fn fold_before_nested(view: View, root: Id) -> Option<Expr> {
    view.ops(root).find_map(|(op, args)| {
        let (Op::NestedMatMul(_), &[y, _, scale, ..]) = (op, args.as_slice()) else { return None };
        let (x, c) = factors(view, y)
            .into_iter()
            .find(|(x, c)| view.is_constant(*c) && is_scalar(view, *c) && view.same_shape(*x, y))?;
        let mut args: Vec<Expr> = args.iter().copied().map(Expr::Class).collect();
        (args[0], args[2]) = (Expr::Class(x), times(Expr::Class(scale), Expr::Class(c)));
        Some(Expr::Op(op.clone(), args))
    })
}

fn scale_out(view: View, root: Id) -> Option<Expr> {
    let (x, d) = operands(view, root)?;
    factors(view, d).into_iter().find_map(|(w, s)| {
        let fits = !view.is_constant(w) && view.same_shape(w, d) && view.rank(w) == Some(2);
        (fits && is_row(view, s, view.last(w)))
            .then(|| times(product(Expr::Class(x), Expr::Class(w)), Expr::Class(s)))
    })
}

fn zero_out(view: View, root: Id) -> Option<Expr> {
    let (x, d) = operands(view, root)?;
    view.ops(d).find_map(|(op, args)| {
        let (Op::Binary(Binary::Sub), &[w, z]) = (op, args.as_slice()) else { return None };
        let fits = !view.is_constant(w) && view.same_shape(w, d) && view.rank(w) == Some(2);
        (fits && view.is_float(w) && is_row(view, z, view.last(w))).then(|| {
            let sum =
                Op::Reduce { kind: Reduction::Sum, axes: None, keepdims: true, noop_with_empty_axes: false };
            let sums = Expr::Op(sum, vec![Expr::Class(x), Expr::ints(&[-1])]);
            let correction = times(sums, Expr::Class(z));
            Expr::Op(Op::Binary(Binary::Sub), vec![product(Expr::Class(x), Expr::Class(w)), correction])
        })
    })
}
