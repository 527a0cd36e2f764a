//! Normalization over the last axis.
//!
//! Before: `%s = pow %x, 2.0`, `%m = reduce %s {axes = [-1], kind = mean}`, `%e = add %m, 1e-5`, `%r = sqrt %e`,
//! `%n = div %x, %r`, `%y = mul %n, %scale`
//!
//! After:  `%y = rms_normalization %x, %scale {axis = -1, epsilon = 1e-5}`

use egg::Id;
use mqc_ir::op::{Binary, Reduction, Unary};
use mqc_ir::{Attribute, DType, Dim, F32, Op};

use super::{Needs, Rule, is_mul, one, session_op};
use crate::view::Factor;
use crate::{Expr, View};

/// See the module.
pub const RMS_NORM: Rule = Rule {
    name: "rms-norm",
    about: "x / sqrt(mean(x^2) + epsilon) * scale -> rms_normalization(x, scale)",
    needs: Needs::Opset(23),
    root: is_mul,
    apply: |view, root| one(root, rms_norm(view, root)),
};

/// As the other, of x less its mean, with a bias.
pub const LAYER_NORM: Rule = Rule {
    name: "layer-norm",
    about: "(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias -> layer_normalization(x, scale, bias)",
    needs: Needs::Opset(17),
    root: |op| *op == Op::Binary(Binary::Add),
    apply: |view, root| one(root, layer_norm(view, root)),
};

/// The CPU session has it in one operator, whatever the operator set.
pub const SESSION_RMS_NORM: Rule = Rule {
    name: "session-rms-norm",
    about: "RMS norm over the last axis, spelled out or not -> RmsNorm(x, scale)",
    needs: Needs::Session,
    root: |op| is_mul(op) || matches!(op, Op::RmsNormalization { .. }),
    apply: |view, root| one(root, session_rms_norm(view, root)),
};

/// As the other.
pub const SESSION_LAYER_NORM: Rule = Rule {
    name: "session-layer-norm",
    about: "layer norm over the last axis, spelled out or not -> LayerNorm(x, scale, bias)",
    needs: Needs::Session,
    root: |op| matches!(op, Op::Binary(Binary::Add) | Op::LayerNormalization { .. }),
    apply: |view, root| one(root, session_layer_norm(view, root)),
};

/// A value over the root of its mean square, times a scale.
#[derive(Clone, Copy)]
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
    let (Scaled { value, scale, epsilon }, bias) = spelled_layer_norm(view, root)?;
    let op = Op::LayerNormalization { axis: -1, epsilon, stash_type: 1 };
    Some(Expr::Op(op, vec![Expr::Class(value), Expr::Class(scale), Expr::Class(bias)]))
}

fn session_rms_norm(view: View, root: Id) -> Option<Expr> {
    let whole = view.ops(root).find_map(|(op, args)| match (op, args.as_slice()) {
        (Op::RmsNormalization { axis, epsilon, .. }, &[value, scale]) => {
            let found = Scaled { value, scale, epsilon: *epsilon };
            is_over_last(view, *axis, root).then_some(found)
        }
        _ => None,
    });
    let found = whole.or_else(|| scaled(view, root))?;
    session_norm(view, root, "RmsNorm", found, None)
}

fn session_layer_norm(view: View, root: Id) -> Option<Expr> {
    let whole = view.ops(root).find_map(|(op, args)| match (op, args.as_slice()) {
        (Op::LayerNormalization { axis, epsilon, .. }, &[value, scale, ref bias @ ..]) => {
            let bias = bias.first().copied().filter(|bias| !view.is_absent(*bias));
            let found = Scaled { value, scale, epsilon: *epsilon };
            is_over_last(view, *axis, root).then_some((found, bias))
        }
        _ => None,
    });
    let spelled = || spelled_layer_norm(view, root).map(|(found, bias)| (found, Some(bias)));
    let (found, bias) = whole.or_else(spelled)?;
    session_norm(view, root, "LayerNorm", found, bias)
}

/// The operator of the session, for floats and vectors along the last dimension.
fn session_norm(view: View, root: Id, op_type: &str, found: Scaled, bias: Option<Id>) -> Option<Expr> {
    let vectors = || [Some(found.scale), bias].into_iter().flatten();
    let is_f32 = vectors().chain([found.value, root]).all(|id| view.dtype(id) == Some(DType::F32));
    if !is_f32 || !vectors().all(|id| is_along_last(view, id, root)) || !view.same_shape(found.value, root) {
        return None;
    }
    let op = session_op(op_type, &[("epsilon", Attribute::Float(found.epsilon))]);
    let args = [found.value].into_iter().chain(vectors()).map(Expr::Class).collect();
    Some(Expr::Typed(op, view.ty(root).clone(), args))
}

/// Whether the axis is the last one.
fn is_over_last(view: View, axis: i64, of: Id) -> bool {
    axis == -1 || view.rank(of).is_some_and(|rank| axis + 1 == rank as i64)
}

/// A layer norm written in elementary operations, and its bias; the value is that before its mean is taken off.
fn spelled_layer_norm(view: View, root: Id) -> Option<(Scaled, Id)> {
    let sums = view.ops(root).filter(|(op, _)| **op == Op::Binary(Binary::Add));
    let pairs = sums.flat_map(|(_, args)| match args.as_slice() {
        &[a, b] => vec![(a, b), (b, a)],
        _ => vec![],
    });
    for (product, bias) in pairs {
        if !is_along_last(view, bias, root) {
            continue;
        }
        let Some(found) = scaled(view, product) else { continue };
        if let Some(value) = centred(view, found.value) {
            return Some((Scaled { value, ..found }, bias));
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
