//! Rotary embedding as tract sees it: `x [batch, positions, heads, size], cos, sin` to the shape of x.
//!
//! `y = x * cos + concat(-second half, first half) * sin` over the last axis; cos and sin are `[.., positions, size]`, one for
//! all sequences or one for each.

use tract_onnx::tract_hir::internal::*;

use super::same_shape::{floats, same_shape_op};

/// One node of kind `Rotary`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rotary;

impl Rotary {
    fn kind(&self) -> &'static str {
        "Rotary"
    }

    fn inputs(&self) -> usize {
        3
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let &[batch, positions, heads, size] = inputs[0].shape() else {
            bail!("x has rank {}, expected 4", inputs[0].rank());
        };
        ensure!(
            heads > 0 && size > 0 && size % 2 == 0,
            "{heads} heads of {size} elements, expected at least one of an even number"
        );
        let floats = floats(inputs)?;
        let (x, all) = (floats[0], positions * size);
        for angles in &floats[1..] {
            ensure!(
                angles.len() == all || angles.len() == batch * all,
                "{} angles, expected {all} or {batch} times as many",
                angles.len()
            );
        }
        let mut y = vec![0.0; x.len()];
        let vectors = y.chunks_exact_mut(heads * size).zip(x.chunks_exact(heads * size)).enumerate();
        for (at, (y, x)) in vectors {
            let [cos, sin] = [floats[1], floats[2]].map(|angles| &angles[at * size % angles.len()..][..size]);
            let half = size / 2;
            let ((cos, cos2), (sin, sin2)) = (cos.split_at(half), sin.split_at(half));
            for (y, x) in y.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                let ((a, b), (y, y2)) = (x.split_at(half), y.split_at_mut(half));
                for i in 0..half {
                    y[i] = a[i] * cos[i] - b[i] * sin[i];
                    y2[i] = b[i] * cos2[i] + a[i] * sin2[i];
                }
            }
        }
        tract_ndarray::Array1::from(y).into_tensor().into_shape(inputs[0].shape())
    }
}

same_shape_op!(Rotary);
