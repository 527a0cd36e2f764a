//! SiLU, `x sigmoid(x)`: ONNX has it as `Swish` from opset 24 on, with a factor alpha inside the sigmoid.

use egg::Id;
use mqc_ir::op::Unary;

use crate::View;
use crate::view::Factor;

/// x of x sigmoid(x).
pub(crate) fn silu(view: View, id: Id) -> Option<Id> {
    view.products(id).into_iter().filter(|p| p.number == 1.0 && p.factors.len() == 2).find_map(|product| {
        product.splits().find_map(|(x, rest)| match rest.factors.as_slice() {
            &[Factor::Of(sigmoid)] if view.unary(sigmoid, Unary::Sigmoid) == Some(x) => Some(x),
            _ => None,
        })
    })
}
