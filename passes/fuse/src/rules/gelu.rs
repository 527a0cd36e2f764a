//! GELU, exact and by tanh.
//!
//! Before: `%a = div %x, 1.41421356`, `%b = erf %a`, `%c = add %b, 1.0`, `%d = mul %x, 0.5`, `%y = mul %d, %c`
//!
//! After:  `%y = gelu %x {approximate = erf}`

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use egg::Id;
use mqc_ir::Op;
use mqc_ir::op::{GeluKind, Unary};

use super::{Needs, Rule, is_mul, one};
use crate::view::{Factor, about};
use crate::{Expr, View};

/// See the module.
pub const GELU_ERF: Rule = Rule {
    name: "gelu-erf",
    about: "x/2 (1 + erf(x / sqrt 2)) -> gelu(x)",
    needs: Needs::Opset(20),
    root: is_mul,
    apply: |view, root| one(root, gelu(view, root, GeluKind::Erf)),
};

/// See the module.
pub const GELU_TANH: Rule = Rule {
    name: "gelu-tanh",
    about: "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) -> gelu(x), approximate",
    needs: Needs::Opset(20),
    root: is_mul,
    apply: |view, root| one(root, gelu(view, root, GeluKind::Tanh)),
};

fn gelu(view: View, root: Id, approximate: GeluKind) -> Option<Expr> {
    let x = spelled(view, root, approximate)?;
    Some(Expr::map(Op::Gelu { approximate }, Expr::Class(x)))
}

/// What a class is the GELU of, however that is spelled.
pub(super) fn argument(view: View, root: Id) -> Option<(Id, GeluKind)> {
    let whole = view.ops(root).find_map(|(op, args)| match op {
        Op::Gelu { approximate } => Some((*args.first()?, *approximate)),
        _ => None,
    });
    let spelled = |kind| Some((spelled(view, root, kind)?, kind));
    whole.or_else(|| spelled(GeluKind::Erf)).or_else(|| spelled(GeluKind::Tanh))
}

fn spelled(view: View, root: Id, kind: GeluKind) -> Option<Id> {
    match kind {
        GeluKind::Erf => half_times_one_plus(view, root, Unary::Erf, erf_argument),
        GeluKind::Tanh => half_times_one_plus(view, root, Unary::Tanh, tanh_argument),
    }
}

/// x of x/2 (1 + f(u)) where `argument` knows u as a function of x.
fn half_times_one_plus(
    view: View,
    root: Id,
    function: Unary,
    argument: fn(View, Id, Id) -> bool,
) -> Option<Id> {
    let product = view.products(root).into_iter().filter(|p| about(p.number, 0.5) && p.factors.len() == 2);
    for (x, rest) in product.flat_map(|p| p.splits().collect::<Vec<_>>()) {
        let &[Factor::Of(other)] = rest.factors.as_slice() else { continue };
        let inner = view
            .sums(other)
            .into_iter()
            .filter_map(|sum| sum.shifted())
            .find_map(|(number, f)| about(number, 1.0).then(|| view.unary(f, function)).flatten());
        if inner.is_some_and(|u| argument(view, u, x)) && view.same_shape(x, root) {
            return Some(x);
        }
    }
    None
}

/// x / sqrt 2.
fn erf_argument(view: View, u: Id, x: Id) -> bool {
    view.products(u).iter().any(|p| about(p.number, FRAC_1_SQRT_2) && p.is_of(&[Factor::Of(x)]))
}

/// sqrt(2/pi) (x + 0.044715 x^3), or with x taken out of the bracket.
fn tanh_argument(view: View, u: Id, x: Id) -> bool {
    let x_ = Factor::Of(x);
    let cubic = |id: Id, factors: &[Factor]| {
        view.products(id).iter().any(|p| about(p.number, 0.044_715) && p.is_of(factors))
    };
    view.products(u).iter().filter(|p| about(p.number, (2.0 / PI).sqrt())).any(|p| {
        let whole = match p.factors.as_slice() {
            &[Factor::Of(sum)] => view.sums(sum).iter().any(|s| {
                s.number == 0.0
                    && s.minus.is_empty()
                    && match s.plus.as_slice() {
                        &[a, b] => (a == x && cubic(b, &[x_; 3])) || (b == x && cubic(a, &[x_; 3])),
                        _ => false,
                    }
            }),
            _ => false,
        };
        let factored = p.splits().any(|(id, rest)| {
            id == x
                && match rest.factors.as_slice() {
                    &[Factor::Of(sum)] => view.sums(sum).into_iter().any(|s| {
                        s.shifted().is_some_and(|(one, square)| about(one, 1.0) && cubic(square, &[x_; 2]))
                    }),
                    _ => false,
                }
        });
        whole || factored
    })
}
