//! Rotary embedding, `x cos + rotated(x) sin` with `rotated(x) = concat(-second half, first half)` of the last axis:
//! ONNX has it as `RotaryEmbedding` from opset 23 on.

use egg::Id;
use mqc_ir::Op;
use mqc_ir::op::Unary;

use crate::View;
use crate::view::Factor;

/// A rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotary {
    /// What is rotated, [.., head size].
    pub x: Id,
    /// The cosines, broadcasting to x.
    pub cos: Id,
    /// The sines, broadcasting to x.
    pub sin: Id,
}

pub(crate) fn rotary(view: View, id: Id) -> Option<Rotary> {
    let pairs = |id: Id| {
        let products = view.products(id).into_iter().filter(|p| p.number == 1.0 && p.factors.len() == 2);
        products.flat_map(|product| {
            let pairs = product.splits().filter_map(|(a, rest)| match rest.factors.as_slice() {
                &[Factor::Of(b)] => Some((a, b)),
                _ => None,
            });
            pairs.collect::<Vec<_>>()
        })
    };
    view.sums(id).into_iter().filter(|s| s.number == 0.0 && s.minus.is_empty()).find_map(|sum| {
        let &[a, b] = sum.plus.as_slice() else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(plain, turned)| {
            pairs(turned).find_map(|(half_turned, sin)| {
                let x = rotated(view, half_turned)?;
                let cos = pairs(plain).find(|(value, _)| *value == x)?.1;
                Some(Rotary { x, cos, sin })
            })
        })
    })
}

/// x of concat(-x2, x1).
fn rotated(view: View, id: Id) -> Option<Id> {
    let rank = view.rank(id)? as i64;
    view.ops(id).find_map(|(op, args)| {
        let (Op::Concat { axis }, &[second, first]) = (op, args.as_slice()) else { return None };
        if *axis != -1 && *axis != rank - 1 {
            return None;
        }
        let second = view.unary(second, Unary::Neg)?;
        halves(view, first, second, rank)
    })
}

/// x of its two halves.
fn halves(view: View, first: Id, second: Id, rank: i64) -> Option<Id> {
    let slice = |id: Id| {
        view.ops(id).find_map(|(op, args)| {
            let (Op::Slice, &[x, starts, ends, axes]) = (op, args.get(..4)?) else { return None };
            let step =
                args.get(4).is_none_or(|s| view.is_absent(*s) || view.ints(*s).as_deref() == Some(&[1]));
            let axis = view.ints(axes).filter(|a| step && (a == &[-1] || a == &[rank - 1]));
            axis.and_then(|_| Some((x, *view.ints(starts)?.first()?, *view.ints(ends)?.first()?)))
        })
    };
    if let (Some((x, 0, middle)), Some((y, start, end))) = (slice(first), slice(second)) {
        let size = i64::try_from(view.last(x)?).ok()?;
        return (x == y && start == middle && end >= size && 2 * middle == size).then_some(x);
    }
    let split = |id: Id| {
        view.outputs(id).find_map(|(op, outputs, args, slot)| match op {
            Op::Split { axis, .. } if outputs == 2 && (*axis == -1 || *axis == rank - 1) => {
                Some((*args.first()?, slot))
            }
            _ => None,
        })
    };
    match (split(first), split(second)) {
        (Some((x, 0)), Some((y, 1))) if x == y && view.last(first) == view.last(second) => Some(x),
        _ => None,
    }
}
