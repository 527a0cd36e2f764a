//! Sums along an axis up to each place: ONNX's CumSum, which the IR keeps as it is.

use mqc_ir::op::Opaque;
use mqc_ir::{Attribute, Op};

use super::Call;
use crate::Real;
use crate::array::{Data, Slice};
use crate::index::{around, axis};

/// How sums run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// Without the place itself.
    exclusive: bool,
    /// From the end.
    reverse: bool,
}

/// What a CumSum says; `None` for other operations.
pub(crate) fn running(op: &Op) -> Option<Running> {
    let Op::Opaque(Opaque { domain, op_type, attributes, .. }) = op else { return None };
    let on = |name: &str| matches!(attributes.get(name), Some(Attribute::Int(value)) if *value != 0);
    let is_it = matches!(domain.as_str(), "" | "ai.onnx") && op_type == "CumSum";
    is_it.then(|| Running { exclusive: on("exclusive"), reverse: on("reverse") })
}

/// The sums of the first operand along the axis that the second says.
pub(super) fn sums<T: Real>(call: &Call<T>, how: Running) -> Result<Data<T>, String> {
    let x = call.arg(0)?;
    let Some(&[at]) = call.list(1)? else { return Err("the axis is not one integer".to_owned()) };
    let (outer, size, inner) = around(x.shape, axis(at, x.shape.len())?);
    let shape = (outer, size, inner);
    match x.data {
        Slice::Real(v) => {
            Ok(Data::Real(along(v, shape, how, 0.0, |sum, v| sum + v.f64()).into_iter().map(T::of).collect()))
        }
        Slice::Int(v) => Ok(Data::Int(along(v, shape, how, 0, |sum: i64, v| sum.wrapping_add(v)))),
        Slice::Bool(_) => Err(format!("operand 0 has type {}, expected numbers", x.dtype)),
    }
}

fn along<E: Copy, S: Copy>(
    values: &[E],
    (outer, size, inner): (usize, usize, usize),
    how: Running,
    zero: S,
    add: impl Fn(S, E) -> S,
) -> Vec<S> {
    let mut out = vec![zero; values.len()];
    for line in 0..outer * inner {
        let first = line / inner * size * inner + line % inner;
        let mut sum = zero;
        for step in 0..size {
            let place = first + inner * if how.reverse { size - 1 - step } else { step };
            let before = sum;
            sum = add(sum, values[place]);
            out[place] = if how.exclusive { before } else { sum };
        }
    }
    out
}
