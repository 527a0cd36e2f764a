//! Codes, maps and ranges by post-training quantization, as the state that a training begins with.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mqc_ir::op::{NestedQuantize, WeightLayout};
use mqc_ir::quant::RangeMethod;
use mqc_ir::{Graph, Tensor};
use mqc_runtime::nested::{Codes, WeightView, quantize_rows};
use mqc_training::source::{Grouped, Layer, Source};
use mqc_training::training::names;

use crate::compile::spec;

/// The codes, scales and zero points of every nested layer, by the names of training state: for `Latent::Frozen`.
///
/// # Errors
/// Weights that cannot be quantized: NaN, infinity.
pub fn codes(graph: &Graph) -> Result<BTreeMap<String, Tensor>> {
    let mut state = BTreeMap::new();
    for layer in Source::new(graph.clone())?.layers {
        let quantized = quantized(&layer, &layer.spec)?;
        let codes: Vec<f32> = quantized.codes.iter().map(|c| f32::from(*c)).collect();
        let (weight, grouped) = (&layer.weight, layer.grouped());
        let codes = Tensor::from_f32(grouped.shape().to_vec(), &grouped.codes_in_groups(&codes))?;
        state.insert(names::code(weight), codes);
        state.insert(names::scale(weight), map(grouped, &quantized.scale)?);
        state.insert(names::zero(weight), map(grouped, &quantized.zero)?);
    }
    Ok(state)
}

/// The factors gamma and beta that give every layer the range of its calibration: for `Range::Learned`.
///
/// # Errors
/// Those of [`codes`].
pub fn ends(graph: &Graph) -> Result<BTreeMap<String, Tensor>> {
    let mut state = BTreeMap::new();
    for layer in Source::new(graph.clone())?.layers {
        let found = quantized(&layer, &layer.spec)?;
        let whole = quantized(&layer, &NestedQuantize { range: RangeMethod::Minmax, ..layer.spec.clone() })?;
        let factors = |end: fn(f32, f32) -> f32| -> Vec<f32> {
            let ends = |q: &Codes| -> Vec<f32> {
                q.scale.iter().zip(&q.zero).map(|(scale, zero)| end(*scale, *zero)).collect()
            };
            ends(&found).iter().zip(ends(&whole)).map(|(f, w)| if w == 0.0 { 1.0 } else { f / w }).collect()
        };
        let (gamma, beta) = (factors(|s, z| s * (255.0 - z)), factors(|s, z| s * z));
        let grouped = layer.grouped();
        state.insert(names::gamma(&layer.weight), map(grouped, &gamma)?);
        state.insert(names::beta(&layer.weight), map(grouped, &beta)?);
    }
    Ok(state)
}

fn map(grouped: Grouped, values: &[f32]) -> Result<Tensor> {
    Ok(Tensor::from_f32(grouped.map_shape().to_vec(), &grouped.map_in_groups(values))?)
}

fn quantized(layer: &Layer, how: &NestedQuantize) -> Result<Codes> {
    let grouped = layer.grouped();
    let values = layer.tensor.to_f32_vec().unwrap_or_default();
    let view = match grouped.layout {
        WeightLayout::RowsFirst => WeightView::row_major(&values, grouped.rows, grouped.cols),
        WeightLayout::RowsLast => WeightView::transposed(&values, grouped.cols, grouped.rows),
    }?;
    quantize_rows(&view, 0..grouped.rows, &spec(how)).with_context(|| format!("layer {}", layer.name))
}
