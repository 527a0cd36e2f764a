//! Scaled dot-product attention, `softmax(scale q k^T + mask) v`: ONNX has it as `Attention` from opset 23 on.
//!
//! Keys and values that several heads share are repeated by Unsqueeze, Tile or Expand, and Reshape; the operation
//! would take them unrepeated.

use egg::Id;
use mqc_ir::Op;

use crate::View;
use crate::view::Factor;

/// Attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Queries [.., M, K].
    pub queries: Id,
    /// Keys, transposed, [.., K, N].
    pub keys: Id,
    /// Values [.., N, V].
    pub values: Id,
    /// What is added to the scores.
    pub mask: Option<Id>,
    /// Factor of the scores.
    pub scale: f64,
}

pub(crate) fn attention(view: View, id: Id) -> Option<Attention> {
    let (weights, values) = product(view, id)?;
    let scores = view.ops(weights).find_map(|(op, args)| match op {
        Op::Softmax { axis, flatten: false } => {
            let last = *axis == -1 || view.rank(weights).is_some_and(|rank| *axis == rank as i64 - 1);
            args.first().copied().filter(|_| last)
        }
        _ => None,
    })?;
    view.sums(scores).into_iter().filter(|s| s.number == 0.0 && s.minus.is_empty()).find_map(|sum| {
        let (scaled, mask) = match *sum.plus.as_slice() {
            [scores] => vec![(scores, None)],
            [a, b] => vec![(a, Some(b)), (b, Some(a))],
            _ => vec![],
        }
        .into_iter()
        .find_map(|(scores, mask)| Some((scaled(view, scores)?, mask)))?;
        let (queries, keys, scale) = scaled;
        Some(Attention { queries, keys, values, mask, scale })
    })
}

fn product(view: View, id: Id) -> Option<(Id, Id)> {
    view.ops(id).find_map(|(op, args)| match (op, args.as_slice()) {
        (Op::MatMul, &[a, b]) if !view.is_constant(b) => Some((a, b)),
        _ => None,
    })
}

/// Queries, keys and the number of number q k^T; factors of the queries stay in them.
fn scaled(view: View, id: Id) -> Option<(Id, Id, f64)> {
    view.products(id).into_iter().find_map(|p| match p.factors.as_slice() {
        &[Factor::Of(scores)] => product(view, scores).map(|(q, k)| (q, k, p.number)),
        _ => None,
    })
}
