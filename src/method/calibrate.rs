//! Codes and maps by post-training quantization, as the state that `Latent::Frozen` begins with.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mqc_ir::op::WeightLayout;
use mqc_ir::{Graph, Tensor};
use mqc_runtime::nested::{WeightView, quantize_rows};
use mqc_training::source::Source;
use mqc_training::training::names;

use crate::compile::spec;

/// The codes, scales and zero points of every nested layer, by the names of training state.
///
/// # Errors
/// Weights that cannot be quantized: NaN, infinity.
pub fn codes(graph: &Graph) -> Result<BTreeMap<String, Tensor>> {
    let mut state = BTreeMap::new();
    for layer in Source::new(graph.clone())?.layers {
        let grouped = layer.grouped();
        let values = layer.tensor.to_f32_vec().unwrap_or_default();
        let view = match grouped.layout {
            WeightLayout::RowsFirst => WeightView::row_major(&values, grouped.rows, grouped.cols),
            WeightLayout::RowsLast => WeightView::transposed(&values, grouped.cols, grouped.rows),
        }?;
        let quantized = quantize_rows(&view, 0..grouped.rows, &spec(&layer.spec))
            .with_context(|| format!("layer {}", layer.name))?;
        let codes: Vec<f32> = quantized.codes.iter().map(|c| f32::from(*c)).collect();
        let mut put = |name: String, shape: [usize; 3], values: &[f32]| -> Result<()> {
            state.insert(name, Tensor::from_f32(shape.to_vec(), values)?);
            Ok(())
        };
        let weight = &layer.weight;
        put(names::code(weight), grouped.shape(), &grouped.codes_in_groups(&codes))?;
        put(names::scale(weight), grouped.map_shape(), &grouped.map_in_groups(&quantized.scale))?;
        put(names::zero(weight), grouped.map_shape(), &grouped.map_in_groups(&quantized.zero))?;
    }
    Ok(state)
}
