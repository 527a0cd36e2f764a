//! With few rows in a batch the line from levels to weights is applied to products; gradients are the same.

use std::collections::BTreeMap;

use mqc_ir::Tensor;
use mqc_ir::op::WeightLayout;
use mqc_ir::quant::{Affine, Grouping, Scheme, SliceMode};
use mqc_training::options::Range;
use mqc_training::{Options, Training};

use crate::small::{CLASSES, INPUTS, Machine, initial, of_rows, options, random};

const ROWS: usize = 3;

/// Gradients of a batch of these rows, so many times over.
fn gradients(times: usize, options: &Options, scheme: Scheme) -> BTreeMap<String, Vec<f32>> {
    let (layout, mode) = (WeightLayout::RowsLast, SliceMode::Midpoint);
    let graph = of_rows(ROWS * times, layout, Grouping::PerChannel, mode, scheme);
    let training = Training::new(graph, options.clone(), &BTreeMap::new()).unwrap();
    let mut machine = Machine::new(training.gradient_graph().unwrap(), &initial(&training));
    let x = random(7, ROWS * INPUTS).repeat(times);
    machine.feed("x", &Tensor::from_f32(vec![ROWS * times, INPUTS], &x).unwrap());
    let labels: Vec<i64> = (0..ROWS as i64).map(|i| i * i % CLASSES as i64).collect();
    machine.feed("labels", &Tensor::from_i64(vec![ROWS * times], &labels.repeat(times)).unwrap());
    machine.program.run().unwrap();
    let vector = |(name, tensor): (String, Tensor)| (name, tensor.to_f32_vec().unwrap());
    machine.results().into_iter().map(vector).collect()
}

#[test]
fn gradients_are_those_of_lines_applied_to_weights() {
    for affine in [Affine::PerWidth, Affine::Shared] {
        for range in [Range::Learned, Range::MinMax] {
            for scheme in [Scheme::Asymmetric, Scheme::Symmetric] {
                let options = Options { affine, range, ..options("8,4,2") };
                let (few, many) = (gradients(1, &options, scheme), gradients(4, &options, scheme));
                assert!(few.keys().eq(many.keys()));
                for (name, values) in &few {
                    for (found, expected) in values.iter().zip(&many[name]) {
                        let close = (found - expected).abs() <= 1e-4 * expected.abs().max(0.01);
                        assert!(
                            close,
                            "{affine:?} {range:?} {scheme:?} {name}: {found}, expected {expected}"
                        );
                    }
                }
            }
        }
    }
}
