//! Normalization over the last axis as tract sees it: `x, scale[, bias]` to the shape of x, a row in one go.
//!
//! `RmsNorm` is `x / sqrt(mean(x^2) + epsilon) * scale`; `LayerNorm` the same of `x - mean(x)`, plus bias.

use std::sync::{Arc, Mutex, PoisonError};

use pulp::{Arch, Simd, WithSimd};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Engine;
use super::kv_cache::LANES;
use super::same_shape::{floats, same_shape_op};

/// Elements below which threads cost more than they save, and about as many a task has.
const TASK: usize = 1 << 15;

/// One node of kind `RmsNorm` or `LayerNorm`.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    engine: Arc<Engine>,
    /// Whether the mean is taken off.
    centred: bool,
    /// Its bits, since operators are compared.
    epsilon: u32,
    has_bias: bool,
}

impl PartialEq for Norm {
    fn eq(&self, other: &Self) -> bool {
        self.centred == other.centred && self.epsilon == other.epsilon && self.has_bias == other.has_bias
    }
}

impl Eq for Norm {}

impl Norm {
    /// Reads the attribute.
    pub(super) fn parse(node: &NodeProto, centred: bool, engine: &Arc<Engine>) -> TractResult<Norm> {
        let epsilon: f32 = node.get_attr("epsilon")?;
        let has_bias = node.input.get(2).is_some_and(|name| !name.is_empty());
        Ok(Norm { engine: engine.clone(), centred, epsilon: epsilon.to_bits(), has_bias })
    }

    fn kind(&self) -> &'static str {
        if self.centred { "LayerNorm" } else { "RmsNorm" }
    }

    fn inputs(&self) -> usize {
        2 + usize::from(self.has_bias)
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let floats = floats(inputs)?;
        let (x, scale, bias) = (floats[0], floats[1], floats.get(2).copied());
        let size = inputs[0].shape().last().copied().unwrap_or(1);
        ensure!(
            scale.len() == size && bias.is_none_or(|bias| bias.len() == size),
            "scale and bias do not have {size} elements"
        );
        let mut y = vec![0.0; x.len()];
        if !y.is_empty() {
            let (arch, epsilon) = (Arch::new(), f32::from_bits(self.epsilon));
            let rows = |x: &[f32], y: &mut [f32]| {
                arch.dispatch(Rows { x, y, scale, bias, epsilon, centred: self.centred });
            };
            let task = (TASK / size).max(1) * size;
            if x.len() <= task {
                rows(x, &mut y);
            } else {
                let tasks: Vec<_> = x.chunks(task).zip(y.chunks_mut(task)).map(Mutex::new).collect();
                self.engine.threads().run(tasks.len(), |index| {
                    let mut task = tasks[index].lock().unwrap_or_else(PoisonError::into_inner);
                    rows(task.0, task.1);
                });
            }
        }
        tract_ndarray::Array1::from(y).into_tensor().into_shape(inputs[0].shape())
    }
}

/// Some rows. Not a closure: the work must be inlined where the vectors are enabled.
struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    scale: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    centred: bool,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let size = self.scale.len();
        for (x, y) in self.x.chunks_exact(size).zip(self.y.chunks_exact_mut(size)) {
            let mean = if self.centred { sum(x, |x| x) / size as f32 } else { 0.0 };
            let square = sum(x, |x| (x - mean) * (x - mean)) / size as f32;
            let factor = 1.0 / (square + self.epsilon).sqrt();
            let scaled = y.iter_mut().zip(x).zip(self.scale);
            scaled.for_each(|((y, x), scale)| *y = (x - mean) * factor * scale);
            if let Some(bias) = self.bias {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
    }
}

/// The sum of `term` over all elements, [`LANES`] partial sums at a time.
#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += term(*value));
    }
    sums.iter().sum::<f32>() + rest.iter().map(|value| term(*value)).sum::<f32>()
}

same_shape_op!(Norm);
