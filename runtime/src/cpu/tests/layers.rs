//! Each nested operator against plain f64 loops, on random shapes and widths.

use std::sync::Arc;

use mqc_ir::Activations;
use mqc_kernels::cpu::Epilogue;
use proptest::prelude::*;

use super::fixture::{close, floats, matmul, noise, resident, resident_on, width};
use crate::cpu::{ConvGeometry, Engine, Padding, Resident, nested_conv, nested_gather, nested_matmul};

/// The results on one thread and on four.
fn on_engines<T>(work: impl Fn(&Arc<Engine>) -> T) -> [T; 2] {
    [1, 4].map(|threads| work(&Arc::new(Engine::new(threads, Activations::F32))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn matmul_is_the_product(
        m in 0usize..40,
        n in 1usize..300,
        k in 1usize..300,
        bits in 1u8..=8,
        with_bias: bool,
    ) {
        let weight = resident("w", n, k);
        weight.set_width(width(bits));
        let (x, bias) = (noise(m * k, 7), noise(n, 8));
        let epilogue = Epilogue { bias: with_bias.then_some(&bias), ..Epilogue::default() };
        let found = nested_matmul(&weight, &x, m, epilogue).unwrap();
        let mut expected = matmul(&weight, &x);
        if with_bias {
            expected.iter_mut().enumerate().for_each(|(at, y)| *y += f64::from(bias[at % n]));
        }
        close(&found, &expected, 1e-4);
    }

    #[test]
    fn gather_picks_rows(
        rows in 1usize..40,
        cols in 1usize..70,
        bits in 1u8..=8,
        picks in prop::collection::vec(any::<u16>(), 0..20),
    ) {
        let table = resident("t", rows, cols);
        table.set_width(width(bits));
        let wrap = |pick: &u16| i64::from(*pick) % (2 * rows as i64) - rows as i64;
        let indices: Vec<i64> = picks.iter().map(wrap).collect();
        let found = nested_gather(&table, &indices).unwrap();
        let all = floats(&table);
        let expected: Vec<f64> = indices
            .iter()
            .map(|index| index.rem_euclid(rows as i64) as usize)
            .flat_map(|row| all[row * cols..(row + 1) * cols].to_vec())
            .collect();
        close(&found, &expected, 0.0);
    }

    #[test]
    fn conv_is_the_sliding_window(case in conv_case()) {
        case.check();
    }
}

#[test]
fn matmul_does_not_depend_on_threads() {
    for m in [1, 3, 37] {
        let x = noise(m * 333, 3);
        let [one, four] = on_engines(|engine| {
            nested_matmul(&resident_on(engine, "w", 500, 333), &x, m, Epilogue::default()).unwrap()
        });
        assert_eq!(one, four);
    }
}

#[test]
fn gather_refuses_what_the_table_lacks() {
    let table = resident("t", 5, 8);
    for index in [5, -6, i64::MAX, i64::MIN] {
        let error = nested_gather(&table, &[0, index]).unwrap_err();
        assert_eq!(error.to_string(), format!("index {index} is out of range for a table of 5 rows"));
    }
}

#[derive(Debug)]
struct ConvCase {
    batch: usize,
    channels: usize,
    rows: usize,
    group: usize,
    input: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
    bits: u8,
}

fn conv_case() -> impl Strategy<Value = ConvCase> {
    let axis = (1usize..9, 1usize..4, 1usize..4, 1usize..3, 0usize..3, 0usize..3);
    let sizes =
        (0usize..3, 1usize..4, 1usize..4, 1usize..4, prop::collection::vec(axis, 1..=3), 0usize..3, 1u8..=8);
    sizes.prop_map(|(batch, group, channels, rows, axes, padding, bits)| ConvCase {
        batch,
        channels,
        rows,
        group,
        input: axes.iter().map(|axis| axis.0).collect(),
        kernel: axes.iter().map(|axis| axis.1).collect(),
        strides: axes.iter().map(|axis| axis.2).collect(),
        dilations: axes.iter().map(|axis| axis.3).collect(),
        padding: match padding {
            0 => Padding::SameUpper,
            1 => Padding::SameLower,
            _ => Padding::Explicit {
                begin: axes.iter().map(|axis| axis.4).collect(),
                end: axes.iter().map(|axis| axis.5).collect(),
            },
        },
        bits,
    })
}

impl ConvCase {
    fn weight_on(&self, engine: &Arc<Engine>) -> Arc<Resident> {
        let taps = self.kernel.iter().product::<usize>();
        let weight = resident_on(engine, "w", self.rows * self.group, self.channels * taps);
        weight.set_width(width(self.bits));
        weight
    }

    /// Zeros before and outputs of each axis, by the formulas of the ONNX specification; `None` if the kernel
    /// does not fit.
    fn layout(&self) -> Option<Vec<(usize, usize)>> {
        let axis = |axis: usize| {
            let (input, stride) = (self.input[axis], self.strides[axis]);
            let reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1;
            let same = || {
                let output = input.div_ceil(stride);
                (((output - 1) * stride + reach).saturating_sub(input), output)
            };
            match &self.padding {
                Padding::Explicit { begin, end } => {
                    let padded = input + begin[axis] + end[axis];
                    (padded >= reach).then(|| (begin[axis], (padded - reach) / stride + 1))
                }
                Padding::SameUpper => Some((same().0 / 2, same().1)),
                Padding::SameLower => Some((same().0 - same().0 / 2, same().1)),
            }
        };
        (0..self.input.len()).map(axis).collect()
    }

    fn reference(&self, weight: &Resident, x: &[f32], bias: &[f32], layout: &[(usize, usize)]) -> Vec<f64> {
        let (w, k) = (floats(weight), weight.weight().cols());
        let (m, c) = (weight.weight().rows(), self.channels * self.group);
        let size: usize = self.input.iter().product();
        let outputs: Vec<usize> = layout.iter().map(|axis| axis.1).collect();
        let mut y = vec![];
        for b in 0..self.batch {
            for row in 0..m {
                for window in points(&outputs) {
                    let mut sum = f64::from(bias[row]);
                    for channel in 0..self.channels {
                        for (tap, offset) in points(&self.kernel).into_iter().enumerate() {
                            let at = |axis: usize| {
                                (window[axis] * self.strides[axis] + offset[axis] * self.dilations[axis])
                                    .checked_sub(layout[axis].0)
                                    .filter(|at| *at < self.input[axis])
                            };
                            let Some(at) = (0..self.input.len()).map(at).collect::<Option<Vec<_>>>() else {
                                continue;
                            };
                            let at = at.iter().zip(&self.input).fold(0, |sum, (at, size)| sum * size + at);
                            let source = row / self.rows * self.channels + channel;
                            let taps = k / self.channels;
                            sum += w[row * k + channel * taps + tap]
                                * f64::from(x[(b * c + source) * size + at]);
                        }
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    fn check(&self) {
        let weight = self.weight_on(&Arc::new(Engine::new(1, Activations::F32)));
        let geometry = ConvGeometry::new(
            self.kernel.clone(),
            self.strides.clone(),
            self.dilations.clone(),
            self.padding.clone(),
            self.group,
        )
        .unwrap();
        let mut shape = vec![self.batch, self.channels * self.group];
        shape.extend(&self.input);
        let (x, bias) = (noise(shape.iter().product(), 5), noise(weight.weight().rows(), 6));
        let found =
            on_engines(|engine| nested_conv(&self.weight_on(engine), &geometry, &x, &shape, Some(&bias)));
        let Some(layout) = self.layout() else {
            assert!(found.iter().all(|found| found.is_err()));
            return;
        };
        let [(one, out_shape), (four, _)] = found.map(|found| found.unwrap());
        let mut expected_shape = vec![self.batch, weight.weight().rows()];
        expected_shape.extend(layout.iter().map(|axis| axis.1));
        assert_eq!(out_shape, expected_shape);
        assert_eq!(one, four, "depends on the number of threads");
        close(&one, &self.reference(&weight, &x, &bias, &layout), 1e-4);
    }
}

/// All index tuples below `sizes`, last axis fastest.
fn points(sizes: &[usize]) -> Vec<Vec<usize>> {
    sizes.iter().fold(vec![vec![]], |points, size| {
        points.into_iter().flat_map(|point| (0..*size).map(move |at| [&point[..], &[at]].concat())).collect()
    })
}

#[test]
fn conv_of_many_tiles_and_panels() {
    let wide = |rows, channels, size: usize, kernel: usize| ConvCase {
        batch: 1,
        channels,
        rows,
        group: 1,
        input: vec![size, size],
        kernel: vec![kernel, kernel],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        padding: Padding::SameUpper,
        bits: 8,
    };
    wide(2, 64, 45, 3).check();
    wide(300, 3, 6, 3).check();
    wide(300, 20, 5, 1).check();
}

#[test]
fn depthwise_conv_of_real_size() {
    let case = ConvCase {
        batch: 2,
        channels: 1,
        rows: 1,
        group: 24,
        input: vec![17, 19],
        kernel: vec![5, 5],
        strides: vec![2, 2],
        dilations: vec![1, 1],
        padding: Padding::SameUpper,
        bits: 3,
    };
    case.check();
}

#[test]
fn conv_refuses_contradictions() {
    let none = Padding::Explicit { begin: vec![0], end: vec![0] };
    let geometry = |kernel: Vec<usize>, strides: Vec<usize>, group| {
        ConvGeometry::new(kernel, strides, vec![1], none.clone(), group)
    };
    assert!(geometry(vec![], vec![1], 1).unwrap_err().contains("spatial axes"));
    assert!(geometry(vec![3], vec![0], 1).unwrap_err().contains("strides"));
    assert!(geometry(vec![3], vec![1, 1], 1).unwrap_err().contains("strides"));
    assert!(geometry(vec![3], vec![1], 0).unwrap_err().contains("group"));
    let geometry = geometry(vec![3], vec![1], 1).unwrap();
    let weight = resident("w", 4, 6);
    for shape in [&[1, 3, 9][..], &[1, 2, 2], &[1, 2], &[1, 2, 9, 9]] {
        let x = noise(shape.iter().product(), 1);
        assert!(nested_conv(&weight, &geometry, &x, shape, None).is_err(), "{shape:?}");
    }
}
