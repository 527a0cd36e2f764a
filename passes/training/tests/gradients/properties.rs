//! Gradients over random shapes and parameters.

use mqc_ir::op::{AutoPad, Binary, PadMode, Variadic, Window};
use mqc_ir::{DType, Graph, Op};
use mqc_training::Builder;
use proptest::prelude::*;

use super::harness::{Case, check, check_case, ints, real};

/// A shape and others that broadcast to it.
fn broadcast(count: usize) -> impl Strategy<Value = Vec<Vec<usize>>> {
    let full = prop::collection::vec(1..4usize, 0..4);
    full.prop_flat_map(move |full| {
        let part = (0..=full.len(), prop::collection::vec(any::<bool>(), full.len()));
        prop::collection::vec(part, count).prop_map(move |parts| {
            let cut = |(lead, ones): &(usize, Vec<bool>)| {
                let sizes = full.iter().zip(ones).map(|(n, one)| if *one { 1 } else { *n });
                sizes.skip(*lead).collect()
            };
            parts.iter().map(cut).collect()
        })
    })
}

/// Whether the node can be made: random windows may not fit.
fn fits(case: &Case) -> bool {
    case.build(&mut Builder::new(&mut Graph::new("test"), "t")).is_ok()
}

prop_compose! {
    fn windows(rank: usize)(
        kernel in prop::collection::vec(1..4i64, rank),
        strides in prop::collection::vec(1..4i64, rank),
        dilations in prop::collection::vec(1..3i64, rank),
        pads in prop::collection::vec(0..3i64, 2 * rank),
        auto_pad in prop::sample::select(vec![
            AutoPad::Notset, AutoPad::Notset, AutoPad::SameUpper, AutoPad::SameLower, AutoPad::Valid,
        ]),
    ) -> Window {
        let pads = if auto_pad == AutoPad::Notset { pads } else { vec![] };
        Window { auto_pad, dilations, group: 0, kernel_shape: kernel, pads, strides }
    }
}

fn sized(rank: usize) -> impl Strategy<Value = (Window, Vec<usize>)> {
    (windows(rank), prop::collection::vec(1..6usize, rank))
}

fn any_window() -> impl Strategy<Value = (Window, Vec<usize>)> {
    prop_oneof![sized(1), sized(2), sized(3)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broadcasting(shapes in broadcast(3), kind in prop::sample::select(vec![
        Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Pow,
    ])) {
        let args: Vec<_> = shapes.iter().zip(1..).map(|(shape, seed)| real(seed, shape, 0.5, 2.0)).collect();
        check_case(&Case::new(Op::Binary(kind), args[..2].to_vec()));
        check_case(&Case::new(Op::Variadic(Variadic::Max), args));
    }

    // The sum of all elements has a cotangent of one element, which stands for as many as there are.
    #[test]
    fn small_cotangents(shapes in broadcast(3), high in 0..3usize, extra in 1..4usize) {
        let args: Vec<_> = shapes.iter().zip(1..).map(|(shape, seed)| real(seed, shape, 0.5, 2.0)).collect();
        let reals = Case::new(Op::Variadic(Variadic::Mean), args).reals();
        let rank = shapes.iter().map(Vec::len).max().unwrap_or(0);
        check("small cotangents", &reals, |b| {
            let named = shapes.iter().enumerate();
            let x: Vec<_> = named.map(|(i, s)| b.input(format!("x{i}"), DType::F32, s)).collect();
            let sum = b.op(Op::Variadic(Variadic::Mean), &x)?;
            let wide = b.expand(sum, &[vec![extra], vec![1; rank]].concat())?;
            let less = b.sub(wide, x[high])?;
            let total = b.sum_all(less)?;
            let rows = b.sum(less, &[0], true)?;
            let rows = b.sum_all(rows)?;
            let product = b.mul(total, rows)?;
            Ok((x, vec![product]))
        });
    }

    #[test]
    fn expanding(shapes in broadcast(2)) {
        let to: Vec<i64> = shapes[1].iter().map(|n| *n as i64).collect();
        check_case(&Case::new(Op::Expand, vec![real(1, &shapes[0], -2.0, 2.0), ints(&to)]));
    }

    #[test]
    fn products(batch in broadcast(2), m in 1..4usize, k in 1..4usize, n in 1..4usize, left in any::<bool>(), right in any::<bool>()) {
        let a = if left { vec![k] } else { [batch[0].clone(), vec![m, k]].concat() };
        let b = if right { vec![k] } else { [batch[1].clone(), vec![k, n]].concat() };
        check_case(&Case::new(Op::MatMul, vec![real(1, &a, -2.0, 2.0), real(2, &b, -2.0, 2.0)]));
    }

    #[test]
    fn slices(parts in prop::collection::vec((1..7usize, -9..9i64, -9..9i64, prop::sample::select(vec![-3, -2, -1, 1, 2, 3i64])), 1..4)) {
        let shape: Vec<usize> = parts.iter().map(|p| p.0).collect();
        let list = |f: fn(&(usize, i64, i64, i64)) -> i64| ints(&parts.iter().map(f).collect::<Vec<_>>());
        let axes = ints(&(0..parts.len() as i64).collect::<Vec<_>>());
        let case = Case::new(Op::Slice, vec![real(1, &shape, -2.0, 2.0), list(|p| p.1), list(|p| p.2), axes, list(|p| p.3)]);
        check_case(&case);
    }

    #[test]
    fn borders(pads in prop::collection::vec((2..5usize, 0..4i64, 0..4i64), 1..4), mode in prop::sample::select(vec![
        PadMode::Constant, PadMode::Reflect, PadMode::Edge, PadMode::Wrap,
    ])) {
        let shape: Vec<usize> = pads.iter().map(|p| p.0).collect();
        let list: Vec<i64> = pads.iter().map(|p| p.1).chain(pads.iter().map(|p| p.2)).collect();
        check_case(&Case::new(Op::Pad { mode }, vec![real(1, &shape, -2.0, 2.0), ints(&list)]));
    }

    #[test]
    fn convolutions((window, size) in any_window(), batch in 1..3usize, group in 1..4usize, inputs in 1..3usize, outputs in 1..3usize) {
        let kernel: Vec<usize> = window.kernel_shape.iter().map(|k| *k as usize).collect();
        let x = [vec![batch, group * inputs], size].concat();
        let w = [vec![group * outputs, inputs], kernel].concat();
        let case = super::cases::conv_case(&x, &w, Window { group: group as i64, ..window });
        prop_assume!(fits(&case));
        check_case(&case);
    }

    #[test]
    fn pools((window, size) in any_window(), ceil_mode in any::<bool>(), count_include_pad in any::<bool>()) {
        let x = real(1, &[vec![1, 2], size].concat(), -2.0, 2.0);
        // ONNX wants every window to see an element.
        let small = window.pads.iter().zip(window.kernel_shape.iter().cycle()).all(|(pad, kernel)| pad < kernel);
        let bare = window.pads.iter().all(|p| *p == 0) && matches!(window.auto_pad, AutoPad::Notset | AutoPad::Valid);
        prop_assume!(small && (bare || window.dilations.iter().all(|d| *d == 1)));
        let average = Op::AveragePool { window: window.clone(), ceil_mode, count_include_pad };
        let case = Case::new(average, vec![x.clone()]);
        prop_assume!(fits(&case));
        check_case(&case);
        check_case(&Case::new(Op::MaxPool { window, ceil_mode, storage_order: 0 }, vec![x]));
    }
}
