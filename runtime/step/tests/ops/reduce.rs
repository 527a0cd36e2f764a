use mqc_ir::op::Reduction;
use mqc_ir::{F32, Op};
use proptest::prelude::*;

use super::*;

const KINDS: [Reduction; 10] = [
    Reduction::L1,
    Reduction::L2,
    Reduction::LogSum,
    Reduction::LogSumExp,
    Reduction::Max,
    Reduction::Mean,
    Reduction::Min,
    Reduction::Prod,
    Reduction::Sum,
    Reduction::SumSquare,
];

fn expected(kind: Reduction, v: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| v.iter().map(|v| f(*v)).sum::<f64>();
    match kind {
        Reduction::L1 => sum(f64::abs),
        Reduction::L2 => sum(|v| v * v).sqrt(),
        Reduction::LogSum => sum(|v| v).ln(),
        Reduction::LogSumExp => sum(f64::exp).ln(),
        Reduction::Max => v.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduction::Mean => sum(|v| v) / v.len() as f64,
        Reduction::Min => v.iter().copied().fold(f64::INFINITY, f64::min),
        Reduction::Prod => v.iter().product(),
        Reduction::Sum => sum(|v| v),
        Reduction::SumSquare => sum(|v| v * v),
    }
}

proptest! {
    #[test]
    fn reductions(shape in prop::collection::vec(1usize..4, 0..5), mask in any::<u8>(), keepdims: bool) {
        let gone: Vec<usize> = (0..shape.len()).filter(|i| mask >> i & 1 == 1).collect();
        let all = if gone.is_empty() { (0..shape.len()).collect() } else { gone.clone() };
        let x = numbers(shape.iter().product());
        for kind in KINDS {
            let mut groups = std::collections::BTreeMap::<Vec<usize>, Vec<f64>>::new();
            for (p, v) in places(&shape).iter().zip(&x) {
                let key = p.iter().enumerate().map(|(i, v)| if all.contains(&i) { 0 } else { *v }).collect();
                groups.entry(key).or_default().push(*v);
            }
            let values: Vec<f64> = groups.values().map(|v| expected(kind, v)).collect();
            let mut model = Model::default();
            let data = model.real(&shape, &x);
            let axes = model.ints(&gone.iter().map(|a| *a as i64 - shape.len() as i64).collect::<Vec<_>>());
            let op = Op::Reduce { kind, axes: None, keepdims, noop_with_empty_axes: false };
            let reduced = model.apply(op, &[data, axes]);
            let found = model.value(reduced);
            close(found.as_real().unwrap(), &values, 1e-12);
            let kept = if keepdims { shape.len() } else { shape.len() - all.len() };
            prop_assert_eq!(found.shape().len(), kept);
        }
    }

    #[test]
    fn softmax_and_normalizations(shape in prop::collection::vec(1usize..5, 1..4), axis in 0usize..3) {
        let axis = axis % shape.len();
        let x = numbers(shape.iter().product());
        let near = |p: &[usize], same: &dyn Fn(usize) -> bool| -> Vec<f64> {
            places(&shape).iter().zip(&x).filter(|(q, _)| (0..p.len()).all(|i| !same(i) || p[i] == q[i])).map(|(_, v)| *v).collect()
        };
        let all = places(&shape);
        let softmax: Vec<f64> = all.iter().zip(&x).map(|(p, v)| {
            v.exp() / near(p, &|i| i != axis).iter().map(|v| v.exp()).sum::<f64>()
        }).collect();
        let at_axis = axis as i64 - shape.len() as i64;
        close(&reals(Op::Softmax { axis: at_axis, flatten: false }, &[(&shape, &x)]), &softmax, 1e-12);
        let logs: Vec<f64> = softmax.iter().map(|v| v.ln()).collect();
        close(&reals(Op::LogSoftmax { axis: at_axis, flatten: false }, &[(&shape, &x)]), &logs, 1e-12);
        let scale = numbers(shape[shape.len() - 1]);
        let last: &[usize] = &shape[shape.len() - 1..];
        let normal = |centred: bool| -> Vec<f64> {
            all.iter().zip(&x).map(|(p, v)| {
                let row = near(p, &|i| i < axis);
                let mean = if centred { row.iter().sum::<f64>() / row.len() as f64 } else { 0.0 };
                let square = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / row.len() as f64;
                (v - mean) / (square + 0.25).sqrt() * scale[p[p.len() - 1]]
            }).collect()
        };
        let rms = Op::RmsNormalization { axis: axis as i64, epsilon: F32(0.25), stash_type: 1 };
        close(&reals(rms, &[(&shape, &x), (last, &scale)]), &normal(false), 1e-12);
        let layer = Op::LayerNormalization { axis: axis as i64, epsilon: F32(0.25), stash_type: 1 };
        let biased: Vec<f64> = normal(true).iter().map(|v| v + 2.0).collect();
        close(&reals(layer, &[(&shape, &x), (last, &scale), (&[], &[2.0])]), &biased, 1e-12);
    }
}

#[test]
fn integers_and_booleans() {
    let reduce =
        |kind| Op::Reduce { kind, axes: Some(vec![1]), keepdims: false, noop_with_empty_axes: false };
    let mut model = Model::default();
    let x = model.int(&[2, 3], &[1, -5, 3, 7, 8, 9]);
    let flags = model.bool(&[2, 2], &[true, false, false, false]);
    let results =
        [Reduction::Sum, Reduction::Max, Reduction::Mean].map(|kind| model.apply(reduce(kind), &[x]));
    let any = model.apply(reduce(Reduction::Max), &[flags]);
    let found = model.run(&[results[0], results[1], results[2], any]).unwrap();
    assert_eq!(found[0].as_int().unwrap(), [-1, 24]);
    assert_eq!(found[1].as_int().unwrap(), [3, 9]);
    assert_eq!(found[2].as_int().unwrap(), [0, 8]);
    assert_eq!(found[3].as_bool().unwrap(), [true, false]);
}

#[test]
fn moments_batch_norm_and_dropout() {
    let mut model = Model::default();
    let x = model.real(&[2, 2], &[1.0, 3.0, -2.0, 2.0]);
    let one = model.real(&[2], &[1.0, 1.0]);
    let op = Op::LayerNormalization { axis: 1, epsilon: F32(0.0), stash_type: 1 };
    let moments = model.node(op, &[Some(x), Some(one)], 3);
    let [bias, mean, variance] = [[5.0, 6.0], [1.0, 2.0], [4.0, 1.0]].map(|v| model.real(&[2], &v));
    let op = Op::BatchNormalization { epsilon: F32(0.0), momentum: F32(0.9) };
    let batch = model.apply(op, &[x, one, bias, mean, variance]);
    let dropped = model.node(Op::Dropout { seed: None }, &[Some(x)], 2);
    let found = model.run(&[moments[1], moments[2], batch, dropped[0], dropped[1]]).unwrap();
    close(found[0].as_real().unwrap(), &[2.0, 0.0], 1e-12);
    close(found[1].as_real().unwrap(), &[1.0, 0.5], 1e-12);
    close(found[2].as_real().unwrap(), &[5.0, 7.0, 3.5, 6.0], 1e-12);
    close(found[3].as_real().unwrap(), &[1.0, 3.0, -2.0, 2.0], 0.0);
    assert_eq!(found[4].as_bool().unwrap(), [true; 4]);
}
