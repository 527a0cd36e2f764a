//! Gradients and expansions of every operation.

mod cases;
mod graphs;
mod harness;
mod operators;
mod properties;

use std::collections::BTreeSet;

use cases::{Expected, expected};
use harness::{Arg, check_case, check_expansion, real};
use mqc_ir::op::*;
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width};
use mqc_ir::{DType, F32, Graph, Op, Tensor, text};
use mqc_training::Builder;
use mqc_training::autodiff::vjp;
use serde::Deserialize;
use serde::de::value::{Error as NameError, StrDeserializer};

fn named<'a, T: Deserialize<'a>>(name: &'a str) -> Option<T> {
    T::deserialize(StrDeserializer::<NameError>::new(name)).ok()
}

/// One operation of every kind that the IR lists.
fn operations() -> Vec<Op> {
    let names = text::mnemonics();
    let mut all: Vec<Op> = names.iter().filter_map(|name| named(name)).collect();
    all.extend(names.iter().filter_map(|name| named(name).map(Op::Unary)));
    all.extend(names.iter().filter_map(|name| named(name).map(Op::Binary)));
    all.extend(names.iter().filter_map(|name| named(name).map(Op::Compare)));
    all.extend(names.iter().filter_map(|name| named(name).map(Op::Variadic)));
    let (f, width, mode, grouping) = (F32(0.5), Width::MAX, SliceMode::Midpoint, Grouping::PerChannel);
    let nested = || Nested { layer: String::new(), mode, grouping, cols: 8, map_widths: vec![] };
    let window = Window::default;
    all.extend([
        Op::Weight(Tensor::f32_scalar(0.0)),
        Op::Constant(Tensor::f32_scalar(0.0)),
        Op::LeakyRelu { alpha: f },
        Op::Elu { alpha: f },
        Op::HardSigmoid { alpha: f, beta: f },
        Op::Cast { to: DType::F32, saturate: true },
        Op::Reduce { kind: Reduction::Sum, axes: None, keepdims: true, noop_with_empty_axes: false },
        Op::Reshape { allowzero: false },
        Op::Transpose { perm: None },
        Op::Squeeze { axes: None },
        Op::Unsqueeze { axes: None },
        Op::Flatten { axis: 1 },
        Op::Concat { axis: 0 },
        Op::Split { axis: 0, sizes: None, num_outputs: None },
        Op::Pad { mode: PadMode::Constant },
        Op::Gather { axis: 0 },
        Op::GatherElements { axis: 0 },
        Op::GatherNd { batch_dims: 0 },
        Op::ScatterElements { axis: 0, reduction: ScatterReduction::None },
        Op::ScatterNd { reduction: ScatterReduction::None },
        Op::Shape { start: 0, end: None },
        Op::ConstantOfShape { value: None },
        Op::Conv(window()),
        Op::MaxPool { window: window(), ceil_mode: false, storage_order: 0 },
        Op::AveragePool { window: window(), ceil_mode: false, count_include_pad: false },
        Op::Gemm { alpha: f, beta: f, trans_a: false, trans_b: false },
        Op::Softmax { axis: 0, flatten: false },
        Op::LogSoftmax { axis: 0, flatten: false },
        Op::Gelu { approximate: GeluKind::Erf },
        Op::BatchNormalization { epsilon: f, momentum: f },
        Op::LayerNormalization { axis: 0, epsilon: f, stash_type: 1 },
        Op::RmsNormalization { axis: 0, epsilon: f, stash_type: 1 },
        Op::Dropout { seed: None },
        Op::NestedQuantize(NestedQuantize {
            scheme: Scheme::Symmetric,
            mode,
            grouping,
            range: RangeMethod::Minmax,
            widths: Default::default(),
            lambda: vec![],
            layout: WeightLayout::RowsFirst,
            allow_nonfinite: false,
        }),
        Op::SliceBits { width, mode },
        Op::Dequantize { width, mode, grouping, layout: WeightLayout::RowsFirst, shape: vec![] },
        Op::FakeSlice { width, mode },
        Op::NestedMatMul(nested()),
        Op::NestedConv { nested: nested(), window: window(), shape: vec![] },
        Op::NestedGather(nested()),
        Op::Opaque(Opaque {
            domain: String::new(),
            op_type: "Det".to_owned(),
            overload: String::new(),
            attributes: Default::default(),
        }),
    ]);
    let found: BTreeSet<String> = all.iter().map(text::mnemonic).collect();
    let listed: BTreeSet<String> = names.iter().map(|n| (*n).to_owned()).collect();
    assert_eq!(found, listed, "every operation that the IR lists has a sample");
    all
}

#[test]
fn gradients_are_those_of_central_differences() {
    let mut checked = 0;
    for op in operations() {
        let Expected::Differences(cases) = expected(&op) else { continue };
        cases.iter().for_each(check_case);
        checked += cases.len();
    }
    assert!(checked > 200, "{checked}");
}

#[test]
fn nothing_flows_through_steps_and_integers() {
    for op in operations() {
        let Expected::Nothing(cases) = expected(&op) else { continue };
        for case in cases {
            let mut graph = Graph::new("test");
            let mut b = Builder::new(&mut graph, "t");
            let (inputs, _) = case.build(&mut b).unwrap();
            // Whatever becomes of the output, as a float that is summed.
            let output = b.graph.users(inputs[0])[0].0;
            let value = b.cast(mqc_ir::Value { node: output, slot: 0 }, DType::F32).unwrap();
            let loss = b.sum_all(value).unwrap();
            let one = b.scalar(1.0);
            let found = vjp(&mut b, &[(loss, one)], &inputs, &[]).unwrap();
            assert!(found.iter().all(Option::is_none), "{case:?}");
        }
    }
}

fn gradient_error(case: &harness::Case) -> String {
    let mut graph = Graph::new("test");
    let mut b = Builder::new(&mut graph, "t");
    let (inputs, values) = case.build(&mut b).unwrap();
    for value in &values {
        if b.shape(*value).is_err() {
            b.graph.set_type(*value, mqc_ir::Type::tensor(DType::F32, vec![mqc_ir::Dim::Size(3)]));
        }
    }
    let one = b.scalar(1.0);
    vjp(&mut b, &[(values[0], one)], &inputs, &[]).unwrap_err().to_string()
}

#[test]
fn operations_without_a_gradient_are_named() {
    for op in operations() {
        let Expected::Error(cases) = expected(&op) else { continue };
        for case in cases {
            let error = gradient_error(&case);
            let start = format!("node t/{}_", text::mnemonic(&op));
            assert!(error.starts_with(&start), "{error}");
            assert!(
                error.contains(&format!("({}): no gradient flows through it: ", text::mnemonic(&op))),
                "{error}"
            );
        }
    }
    for reduction in cases::scatters() {
        if matches!(reduction, ScatterReduction::None | ScatterReduction::Add) {
            continue;
        }
        let args = |rank: usize| {
            let shape = [vec![2], vec![1; rank - 1]].concat();
            vec![real(1, &[4], -2.0, 2.0), harness::indices(&shape, &[1, 3]), real(2, &[2], -2.0, 2.0)]
        };
        let elements = harness::Case::new(Op::ScatterElements { axis: 0, reduction }, args(1));
        assert!(gradient_error(&elements).contains("(scatter_elements)"));
        let vectors = harness::Case::new(Op::ScatterNd { reduction }, args(2));
        assert!(gradient_error(&vectors).contains("(scatter_nd)"));
    }
}

#[test]
fn an_unknown_operator_is_an_error_only_where_the_gradient_flows() {
    let mut graph = Graph::new("test");
    let mut b = Builder::new(&mut graph, "t");
    let x = b.input("x", DType::F32, &[2, 2]);
    let op = |domain: &str| {
        Op::Opaque(Opaque {
            domain: domain.to_owned(),
            op_type: "Det".to_owned(),
            overload: String::new(),
            attributes: Default::default(),
        })
    };
    let det = b.op(op("my.domain"), &[x]).unwrap();
    b.graph.set_type(det, mqc_ir::Type::tensor(DType::F32, vec![]));
    let y = b.mul(x, det).unwrap();
    let one = b.scalar(1.0);
    let error = vjp(&mut b, &[(y, one)], &[x], &[]).unwrap_err().to_string();
    assert!(error.contains("(my.domain::Det): no gradient flows through it"), "{error}");
    // Stopped before it, or cut behind it, there is nothing to differentiate.
    assert!(vjp(&mut b, &[(y, one)], &[x], &[det]).unwrap()[0].is_some());
    assert!(vjp(&mut b, &[(y, one)], &[det], &[]).unwrap()[0].is_some());
}

#[test]
fn composites_are_what_they_expand_to() {
    let mut expanded = BTreeSet::new();
    for op in operations() {
        let Expected::Differences(cases) = expected(&op) else { continue };
        for case in cases {
            if check_expansion(&case) {
                expanded.insert(text::mnemonic(&op));
            }
        }
    }
    let positions: Vec<f32> = (-12..1048).map(|i| i as f32 * 0.25 + 0.01).collect();
    for mode in cases::slice_modes() {
        for width in Width::all() {
            let x = Arg::Real(vec![positions.len()], positions.clone());
            assert!(check_expansion(&harness::Case::new(Op::FakeSlice { width, mode }, vec![x])));
        }
    }
    let names: Vec<_> = expanded.iter().map(String::as_str).collect();
    let all = [
        "batch_normalization",
        "dropout",
        "gelu",
        "gemm",
        "layer_normalization",
        "log_softmax",
        "rms_normalization",
        "softmax",
    ];
    assert_eq!(names, all);
}
