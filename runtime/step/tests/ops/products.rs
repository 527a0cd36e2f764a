use mqc_ir::op::{AutoPad, Window};
use mqc_ir::{F32, Op};
use proptest::prelude::*;

use super::*;

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

proptest! {
    #[test]
    fn matmul_broadcasts(batch in prop::collection::vec((1usize..4, 0u8..3), 0..3), m in 1usize..5, k in 0usize..5, n in 1usize..5, skip in 0usize..3, vectors in 0u8..4) {
        let dims = |one: u8| batch.iter().map(|(d, o)| if *o == one { 1 } else { *d }).collect::<Vec<_>>();
        let (mut a, mut b) = (dims(1), dims(2));
        a.extend([m, k]);
        b.drain(..skip.min(b.len()));
        b.extend([k, n]);
        let (x, y) = (numbers(count(&a)), numbers(count(&b)));
        let batches: Vec<usize> = {
            let rank = a.len().max(b.len()) - 2;
            let get = |s: &[usize], i: usize| (i + s.len() - 2).checked_sub(rank).map_or(1, |j| s[j]);
            (0..rank).map(|i| if get(&a, i) == 1 { get(&b, i) } else { get(&a, i) }).collect()
        };
        // Vectors: one row, one column.
        let (m, n) = (if vectors & 1 == 1 { 1 } else { m }, if vectors & 2 == 2 { 1 } else { n });
        let (mut expected, mut to) = (vec![], batches.clone());
        to.extend([m, n]);
        if vectors & 1 == 1 { a = vec![k]; }
        if vectors & 2 == 2 { b = vec![k]; }
        let one_row = |s: &[usize], row: bool| match s { [k] if row => vec![1, *k], [k] => vec![*k, 1], s => s.to_vec() };
        let (wide_a, wide_b) = (one_row(&a, true), one_row(&b, false));
        let batches = {
            let rank = wide_a.len().max(wide_b.len()) - 2;
            let get = |s: &[usize], i: usize| (i + s.len() - 2).checked_sub(rank).map_or(1, |j| s[j]);
            (0..rank).map(|i| if get(&wide_a, i) == 1 { get(&wide_b, i) } else { get(&wide_a, i) }).collect::<Vec<_>>()
        };
        for p in places(&[batches.as_slice(), &[m, n]].concat()) {
            let (batch, at_matrix) = p.split_at(p.len() - 2);
            expected.push((0..k).map(|i| {
                at(&x, &wide_a, &[batch, &[at_matrix[0], i]].concat()) * at(&y, &wide_b, &[batch, &[i, at_matrix[1]]].concat())
            }).sum());
        }
        close(&reals(Op::MatMul, &[(&a, &x[..count(&a)]), (&b, &y[..count(&b)])]), &expected, 1e-12);
    }

    #[test]
    fn gemm(m in 1usize..5, k in 1usize..5, n in 1usize..5, trans_a: bool, trans_b: bool, c in prop::sample::select(vec![0u8, 1, 2, 3, 4])) {
        let (x, y) = (numbers(m * k), numbers(k * n));
        let a: [usize; 2] = if trans_a { [k, m] } else { [m, k] };
        let b: [usize; 2] = if trans_b { [n, k] } else { [k, n] };
        let c: Option<Vec<usize>> = match c { 0 => None, 1 => Some(vec![]), 2 => Some(vec![n]), 3 => Some(vec![m, 1]), _ => Some(vec![m, n]) };
        let z = numbers(m * n);
        let expected: Vec<f64> = places(&[m, n]).iter().map(|p| {
            let sum: f64 = (0..k).map(|i| {
                let left = if trans_a { x[i * m + p[0]] } else { x[p[0] * k + i] };
                let right = if trans_b { y[p[1] * k + i] } else { y[i * n + p[1]] };
                left * right
            }).sum();
            0.5 * sum + c.as_ref().map_or(0.0, |c| 2.0 * at(&z, c, p))
        }).collect();
        let op = Op::Gemm { alpha: F32(0.5), beta: F32(2.0), trans_a, trans_b };
        let mut operands: Vec<(&[usize], &[f64])> = vec![(&a, &x), (&b, &y)];
        if let Some(c) = &c { operands.push((c, &z[..count(c)])); }
        close(&reals(op, &operands), &expected, 1e-12);
    }

    #[test]
    fn convolutions(
        spatial in 1usize..4, batch in 1usize..3, group in 1usize..3, per_group in 1usize..3, features in 1usize..3,
        sizes in prop::collection::vec((3usize..6, 1usize..4, 1i64..3, 1i64..3, 0i64..2, 0i64..3), 3), auto in 0u8..4, bias: bool,
    ) {
        let sizes = &sizes[..spatial];
        type Axis = (usize, usize, i64, i64, i64, i64);
        let pick = |f: fn(&Axis) -> i64| sizes.iter().map(f).collect::<Vec<i64>>();
        let (size, kernel, stride, dilation) = (pick(|s| s.0 as i64), pick(|s| s.1 as i64), pick(|s| s.2), pick(|s| s.3));
        let auto_pad = [AutoPad::Notset, AutoPad::Valid, AutoPad::SameUpper, AutoPad::SameLower][usize::from(auto)];
        let extent = |i: usize| (kernel[i] - 1) * dilation[i] + 1;
        let same = |i: usize| (((size[i] + stride[i] - 1) / stride[i] - 1) * stride[i] + extent(i) - size[i]).max(0);
        let (before, after): (Vec<i64>, Vec<i64>) = (0..spatial).map(|i| match auto_pad {
            AutoPad::Notset => (sizes[i].4, sizes[i].5),
            AutoPad::Valid => (0, 0),
            AutoPad::SameUpper => (same(i) / 2, same(i) - same(i) / 2),
            AutoPad::SameLower => (same(i) - same(i) / 2, same(i) / 2),
        }).unzip();
        prop_assume!((0..spatial).all(|i| size[i] + before[i] + after[i] >= extent(i)));
        let out: Vec<usize> = (0..spatial).map(|i| ((size[i] + before[i] + after[i] - extent(i)) / stride[i] + 1) as usize).collect();
        let dims = |first: &[usize], rest: &[i64]| [first, &rest.iter().map(|d| *d as usize).collect::<Vec<_>>()].concat();
        let (a, b) = (dims(&[batch, group * per_group], &size), dims(&[group * features, per_group], &kernel));
        let (x, w, bias_values) = (numbers(count(&a)), numbers(count(&b)), numbers(group * features));
        let taps = places(&b[2..]);
        let expected: Vec<f64> = places(&[&[batch, group * features], out.as_slice()].concat()).iter().map(|p| {
            let mut sum = if bias { bias_values[p[1]] } else { 0.0 };
            for channel in 0..per_group {
                for tap in &taps {
                    let from: Vec<i64> = (0..spatial).map(|i| p[2 + i] as i64 * stride[i] - before[i] + tap[i] as i64 * dilation[i]).collect();
                    if from.iter().zip(&size).all(|(v, n)| (0..*n).contains(v)) {
                        let place = dims(&[p[0], p[1] / features * per_group + channel], &from);
                        sum += at(&x, &a, &place) * at(&w, &b, &[&[p[1], channel], tap.as_slice()].concat());
                    }
                }
            }
            sum
        }).collect();
        let pads = if auto_pad == AutoPad::Notset { [before, after].concat() } else { vec![] };
        let window = Window { auto_pad, dilations: dilation, group: group as i64, kernel_shape: kernel, pads, strides: stride };
        let mut operands: Vec<(&[usize], &[f64])> = vec![(&a, &x), (&b, &w)];
        let features = [group * features];
        if bias { operands.push((&features, &bias_values)); }
        close(&reals(Op::Conv(window), &operands), &expected, 1e-12);
    }
}

fn window(kernel: &[i64], strides: &[i64], pads: &[i64]) -> Window {
    Window {
        kernel_shape: kernel.to_vec(),
        strides: strides.to_vec(),
        pads: pads.to_vec(),
        ..Window::default()
    }
}

#[test]
fn pools() {
    let x: Vec<f64> = (1..=9).map(f64::from).collect();
    let image: (&[usize], &[f64]) = (&[1, 1, 3, 3], &x);
    let max = |window, ceil_mode| reals(Op::MaxPool { window, ceil_mode, storage_order: 0 }, &[image]);
    assert_eq!(max(window(&[2, 2], &[1, 1], &[]), false), [5.0, 6.0, 8.0, 9.0]);
    assert_eq!(max(window(&[2, 2], &[2, 2], &[]), true), [5.0, 6.0, 8.0, 9.0]);
    assert_eq!(max(window(&[2, 2], &[2, 2], &[1, 1, 1, 1]), false), [1.0, 3.0, 7.0, 9.0]);
    let average = |count_include_pad, ceil_mode, window| {
        reals(Op::AveragePool { window, ceil_mode, count_include_pad }, &[image])
    };
    assert_eq!(average(false, false, window(&[2, 2], &[1, 1], &[])), [3.0, 4.0, 6.0, 7.0]);
    assert_eq!(average(false, false, window(&[2, 2], &[2, 2], &[1, 1, 1, 1])), [1.0, 2.5, 5.5, 7.0]);
    assert_eq!(average(true, false, window(&[2, 2], &[2, 2], &[1, 1, 1, 1])), [0.25, 1.25, 2.75, 7.0]);
    assert_eq!(average(true, true, window(&[2, 2], &[2, 2], &[])), [3.0, 4.5, 7.5, 9.0]);
    assert_eq!(reals(Op::GlobalAveragePool, &[image]), [5.0]);
    assert_eq!(reals(Op::GlobalMaxPool, &[image]), [9.0]);
    let mut model = Model::default();
    let data = model.real(image.0, image.1);
    for (storage_order, expected) in [(0, [4, 5, 7, 8]), (1, [4, 7, 5, 8])] {
        let op = Op::MaxPool { window: window(&[2, 2], &[1, 1], &[]), ceil_mode: false, storage_order };
        let outputs = model.node(op, &[Some(data)], 2);
        assert_eq!(model.run(&outputs).unwrap()[1].as_int().unwrap(), expected);
    }
}
