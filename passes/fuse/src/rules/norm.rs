//! Normalization over the last axis.
//!
//! Before: `%s = pow %x, 2.0`, `%m = reduce %s {axes = [-1], kind = mean}`, `%e = add %m, 1e-5`, `%r = sqrt %e`,
//! `%n = div %x, %r`, `%y = mul %n, %scale`
//!
//! After:  `%y = rms_normalization %x, %scale {axis = -1, epsilon = 1e-5}`

use egg::Id;
use mqc_ir::op::{Binary, Reduction, Unary};
use mqc_ir::{DType, Dim, F32, Op};

use super::{Rule, is_mul, one};
use crate::view::Factor;
use crate::{Expr, View};

/// See the module.
pub const RMS_NORM: Rule = Rule {
    name: "rms-norm",
    about: "x / sqrt(mean(x^2) + epsilon) * scale -> rms_normalization(x, scale)",
    opset: 23,
    root: is_mul,
    apply: |view, root| one(root, rms_norm(view, root)),
};

/// As the other, of x less its mean, with a bias.
pub const LAYER_NORM: Rule = Rule {
    name: "layer-norm",
    about: "(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias -> layer_normalization(x, scale, bias)",
    opset: 17,
    root: |op| *op == Op::Binary(Binary::Add),
    apply: |view, root| one(root, layer_norm(view, root)),
};

/// A value over the root of its mean square, times a scale.
struct Scaled {
    value: Id,
    scale: Id,
    epsilon: F32,
}

fn rms_norm(view: View, root: Id) -> Option<Expr> {
    let Scaled { value, scale, epsilon } = scaled(view, root)?;
    let op = Op::RmsNormalization { axis: -1, epsilon, stash_type: 1 };
    Some(Expr::Op(op, vec![Expr::Class(value), Expr::Class(scale)]))
}

fn layer_norm(view: View, root: Id) -> Option<Expr> {
    let sums = view.ops(root).filter(|(op, _)| **op == Op::Binary(Binary::Add));
    let pairs = sums.flat_map(|(_, args)| match args.as_slice() {
        &[a, b] => vec![(a, b), (b, a)],
        _ => vec![],
    });
    for (product, bias) in pairs {
        if !is_along_last(view, bias, root) {
            continue;
        }
        let Some(Scaled { value, scale, epsilon }) = scaled(view, product) else { continue };
        if let Some(x) = centred(view, value) {
            let op = Op::LayerNormalization { axis: -1, epsilon, stash_type: 1 };
            return Some(Expr::Op(op, vec![Expr::Class(x), Expr::Class(scale), Expr::Class(bias)]));
        }
    }
    None
}

/// x of x - mean(x).
fn centred(view: View, id: Id) -> Option<Id> {
    view.ops(id).find_map(|(op, args)| match (op, args.as_slice()) {
        (Op::Binary(Binary::Sub), &[x, mean]) if mean_of(view, mean, x) == Some(x) => Some(x),
        _ => None,
    })
}

fn scaled(view: View, root: Id) -> Option<Scaled> {
    if view.dtype(root) != Some(DType::F32) {
        return None;
    }
    let products = view.products(root);
    for product in products.iter().filter(|p| p.number == 1.0 && p.factors.len() == 3) {
        for (scale, rest) in product.splits() {
            if !is_along_last(view, scale, root) {
                continue;
            }
            for (value, rest) in rest.splits() {
                let epsilon = rest.factors.first().and_then(|f| root_mean_square(view, *f, value));
                if let Some(epsilon) = epsilon
                    && view.same_shape(value, root)
                {
                    return Some(Scaled { value, scale, epsilon });
                }
            }
        }
    }
    None
}

/// epsilon, when the factor is one over the root of (mean of squares + epsilon).
fn root_mean_square(view: View, factor: Factor, of: Id) -> Option<F32> {
    let powers = |id: Id, exponent: f64| {
        view.ops(id).find_map(|(op, args)| match (op, args.as_slice()) {
            (Op::Binary(Binary::Pow), &[base, e]) if view.number(e) == Some(exponent) => Some(base),
            _ => None,
        })
    };
    let mean = match factor {
        Factor::Over(root) => view.unary(root, Unary::Sqrt).or_else(|| powers(root, 0.5))?,
        Factor::Of(id) => powers(id, -0.5)?,
    };
    view.sums(mean).into_iter().filter_map(|sum| sum.shifted()).find_map(|(epsilon, mean)| {
        let square = mean_of(view, mean, of)?;
        let is_square = view
            .products(square)
            .iter()
            .any(|p| p.number == 1.0 && p.is_of(&[Factor::Of(of), Factor::Of(of)]));
        (is_square && epsilon > 0.0).then_some(F32(epsilon as f32))
    })
}

/// What the class is the mean of over the last axis, kept as a dimension; `like` tells the rank.
fn mean_of(view: View, id: Id, like: Id) -> Option<Id> {
    let rank = view.rank(like)? as i64;
    view.ops(id).find_map(|(op, args)| {
        let Op::Reduce { kind: Reduction::Mean, axes, keepdims: true, .. } = op else { return None };
        let axes = match (axes, args.get(1)) {
            (Some(axes), _) => axes.clone(),
            (None, Some(axes)) => view.ints(*axes)?,
            (None, None) => return None,
        };
        let is_last = matches!(axes[..], [axis] if axis == -1 || axis == rank - 1);
        args.first().copied().filter(|_| is_last)
    })
}

/// Whether a class is a vector along the last dimension of another.
fn is_along_last(view: View, id: Id, of: Id) -> bool {
    let last = view.shape(of).and_then(<[Dim]>::last);
    match view.shape(id) {
        Some([size]) => size.size().is_some() && Some(size) == last,
        Some(_) | None => false,
    }
}
