//! Sample values of every operation and random graphs, for the tests of this crate.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use mqc_ir::op::*;
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width};
use mqc_ir::*;
use proptest::prelude::*;
use proptest::sample::Index;

/// One number for each variant; the compiler asks for a number, and `samples` for a value, when one is added.
pub fn variant(op: &Op) -> usize {
    match op {
        Op::Input => 0,
        Op::Weight(_) => 1,
        Op::Constant(_) => 2,
        Op::Identity => 3,
        Op::Unary(_) => 4,
        Op::Binary(_) => 5,
        Op::Compare(_) => 6,
        Op::Variadic(_) => 7,
        Op::Select => 8,
        Op::Clip => 9,
        Op::LeakyRelu { .. } => 10,
        Op::Elu { .. } => 11,
        Op::HardSigmoid { .. } => 12,
        Op::Cast { .. } => 13,
        Op::Reduce { .. } => 14,
        Op::Reshape { .. } => 15,
        Op::Transpose { .. } => 16,
        Op::Expand => 17,
        Op::Squeeze { .. } => 18,
        Op::Unsqueeze { .. } => 19,
        Op::Flatten { .. } => 20,
        Op::Slice => 21,
        Op::Concat { .. } => 22,
        Op::Split { .. } => 23,
        Op::Pad { .. } => 24,
        Op::Gather { .. } => 25,
        Op::GatherElements { .. } => 26,
        Op::GatherNd { .. } => 27,
        Op::ScatterElements { .. } => 28,
        Op::ScatterNd { .. } => 29,
        Op::Tile => 30,
        Op::Shape { .. } => 31,
        Op::Size => 32,
        Op::ConstantOfShape { .. } => 33,
        Op::Range => 34,
        Op::MatMul => 35,
        Op::Conv(_) => 36,
        Op::MaxPool { .. } => 37,
        Op::AveragePool { .. } => 38,
        Op::GlobalAveragePool => 39,
        Op::GlobalMaxPool => 40,
        Op::Gemm { .. } => 41,
        Op::Softmax { .. } => 42,
        Op::LogSoftmax { .. } => 43,
        Op::Gelu { .. } => 44,
        Op::BatchNormalization { .. } => 45,
        Op::LayerNormalization { .. } => 46,
        Op::RmsNormalization { .. } => 47,
        Op::Dropout { .. } => 48,
        Op::NestedQuantize(_) => 49,
        Op::SliceBits { .. } => 50,
        Op::Dequantize { .. } => 51,
        Op::NestedMatMul(_) => 52,
        Op::NestedConv { .. } => 53,
        Op::NestedGather(_) => 54,
        Op::Opaque(_) => 55,
        Op::FakeSlice { .. } => 56,
    }
}

pub const VARIANTS: usize = 57;

pub fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

/// Every element of enums without data: serde knows their names.
fn all<T: serde::de::DeserializeOwned>(names: &[&str]) -> Vec<T> {
    names
        .iter()
        .map(|n| serde_json::from_value(serde_json::Value::String((*n).to_owned())).unwrap())
        .collect()
}

pub fn unaries() -> Vec<Unary> {
    all(&[
        "abs",
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "bitwise_not",
        "ceil",
        "cos",
        "cosh",
        "erf",
        "exp",
        "floor",
        "hard_swish",
        "is_nan",
        "log",
        "mish",
        "neg",
        "not",
        "reciprocal",
        "relu",
        "round",
        "sigmoid",
        "sign",
        "sin",
        "sinh",
        "softplus",
        "softsign",
        "sqrt",
        "tan",
        "tanh",
    ])
}

pub fn binaries() -> Vec<Binary> {
    all(&[
        "add",
        "sub",
        "mul",
        "div",
        "pow",
        "mod",
        "fmod",
        "and",
        "or",
        "xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "shift_left",
        "shift_right",
        "p_relu",
    ])
}

pub fn compares() -> Vec<Compare> {
    all(&["equal", "greater", "greater_or_equal", "less", "less_or_equal"])
}

pub fn variadics() -> Vec<Variadic> {
    all(&["max", "mean", "min", "sum"])
}

pub fn window() -> Window {
    Window {
        auto_pad: AutoPad::SameUpper,
        dilations: vec![1, 2],
        group: 3,
        kernel_shape: vec![3, 3],
        pads: vec![0, 1, -1, 2],
        strides: vec![2, 1],
    }
}

pub fn nested(layer: &str, mode: SliceMode, grouping: Grouping, cols: u64) -> Nested {
    Nested { layer: layer.to_owned(), mode, grouping, cols, map_widths: vec![] }
}

/// Tensors of every element type, of up to 64 bytes and of more.
pub fn tensors() -> Vec<Tensor> {
    let mut tensors = vec![
        Tensor::from_f32(vec![3], &[f32::INFINITY, f32::NEG_INFINITY, -0.0]).unwrap(),
        Tensor::from_f32(vec![2], &[f32::from_bits(0x7fc0_0001), f32::from_bits(0xff80_0001)]).unwrap(),
        Tensor::from_f32(vec![2], &[f32::MIN_POSITIVE, f32::from_bits(1)]).unwrap(),
        Tensor::from_f32(vec![40], &[1.5; 40]).unwrap(),
        Tensor::f32_scalar(7.038531e-26),
        Tensor::new(DType::F64, vec![1, 2], [1e300f64, f64::NAN].map(f64::to_le_bytes).concat().into())
            .unwrap(),
        Tensor::new(DType::F64, vec![2], [5e-324f64, f64::INFINITY].map(f64::to_le_bytes).concat().into())
            .unwrap(),
        Tensor::from_i64(vec![2], &[i64::MIN, i64::MAX]).unwrap(),
        Tensor::new(DType::U64, vec![], u64::MAX.to_le_bytes().to_vec().into()).unwrap(),
        Tensor::new(DType::Bool, vec![2], vec![0, 1].into()).unwrap(),
        Tensor::new(DType::Bool, vec![2], vec![0, 7].into()).unwrap(),
        Tensor::strings(vec![2], vec!["a \"b\"\n".into(), vec![0xff, b'\\', 0].into()]).unwrap(),
        Tensor::strings(vec![9], vec!["".into(); 9]).unwrap(),
        Tensor::strings(vec![], vec!["é #".into()]).unwrap(),
    ];
    for dtype in mqc_ir::dtype::ALL.into_iter().filter(|d| *d != DType::String) {
        for shape in [vec![], vec![0, 5], vec![3, 1], vec![9, 17]] {
            let size = dtype.byte_len(shape.iter().product()).unwrap();
            let bytes: Vec<u8> = (0..size).map(|i| (i * 37 + 200) as u8).collect();
            tensors.push(Tensor::new(dtype, shape, bytes.into()).unwrap());
        }
    }
    tensors
}

pub fn types() -> Vec<Type> {
    let symbol = |s: &str| Dim::Symbol(s.into());
    let odd = vec![
        symbol("batch"),
        symbol("a b, [2]"),
        symbol("3"),
        symbol("?"),
        symbol(""),
        symbol("é\"\n"),
        symbol("_"),
    ];
    let tensor = Type::tensor(DType::F32, vec![symbol("N"), Dim::Size(u64::MAX), Dim::Unknown]);
    let mut deep = Type::Unknown;
    for _ in 0..40 {
        deep = Type::Sequence(Box::new(deep));
    }
    let mut types: Vec<_> = mqc_ir::dtype::ALL.map(|d| Type::tensor(d, vec![Dim::Size(2)])).into();
    types.extend([
        Type::Unknown,
        tensor.clone(),
        Type::tensor(DType::Bf16, odd),
        Type::tensor(DType::I64, vec![]),
        Type::Tensor(TensorType { dtype: None, shape: Some(vec![]) }),
        Type::Tensor(TensorType { dtype: None, shape: None }),
        Type::Tensor(TensorType { dtype: Some(DType::Bool), shape: None }),
        Type::Sparse(TensorType { dtype: None, shape: Some(vec![Dim::Size(3)]) }),
        Type::Sequence(Box::new(tensor.clone())),
        Type::Optional(Box::new(Type::Sequence(Box::new(Type::Unknown)))),
        Type::Map(DType::String, Box::new(tensor)),
        Type::Foreign { domain: "ai.onnx.ml".into(), name: "a \\ b".into() },
        Type::Foreign { domain: String::new(), name: String::new() },
        deep,
    ]);
    types
}

/// Every kind of attribute.
pub fn attributes() -> BTreeMap<String, Attribute> {
    let text = |t: &[u8]| Text(t.to_vec());
    let sparse = SparseTensor {
        values: Tensor::from_f32(vec![1], &[2.0]).unwrap(),
        indices: Tensor::i64_vector(&[3]),
        shape: vec![5, -1],
    };
    let all = [
        Attribute::Int(i64::MIN),
        Attribute::Float(F32(0.1)),
        Attribute::Float(F32(7.038531e-26)),
        Attribute::Float(F32(f32::from_bits(1))),
        Attribute::Float(F32(-0.0)),
        Attribute::Float(F32(3e38)),
        Attribute::Float(F32(f32::NEG_INFINITY)),
        Attribute::Float(F32(f32::from_bits(0x7fc0_0001))),
        Attribute::String(text(b"")),
        Attribute::String(text(b"true")),
        Attribute::String(text(b"null")),
        Attribute::String(text(b"12")),
        Attribute::String(text("é \"\\ \u{7f}\u{0}\n# {".as_bytes())),
        Attribute::String(text(&[0xff, 0xfe])),
        Attribute::Tensor(Tensor::from_i64(vec![1, 2], &[-1, 9]).unwrap()),
        Attribute::Tensor(Tensor::strings(vec![1], vec![vec![0xc0].into()]).unwrap()),
        Attribute::SparseTensor(sparse.clone()),
        Attribute::Type(Type::Sequence(Box::new(Type::tensor(
            DType::F32,
            vec![Dim::Symbol("a \"b".into())],
        )))),
        Attribute::Ints(vec![]),
        Attribute::Ints(vec![1, i64::MAX]),
        Attribute::Floats(vec![F32(1.0), F32(f32::INFINITY)]),
        Attribute::Strings(vec![text(b"a"), text(b"a b"), text(&[0x80])]),
        Attribute::Tensors(vec![Tensor::f32_scalar(0.5)]),
        Attribute::SparseTensors(vec![sparse]),
        Attribute::Types(vec![Type::Unknown]),
        Attribute::Reference { name: "alpha".into(), kind: -3 },
    ];
    let mut named: BTreeMap<_, _> = all.into_iter().enumerate().map(|(i, a)| (format!("a{i}"), a)).collect();
    named.insert("odd name = {".into(), Attribute::Int(0));
    named.insert(String::new(), Attribute::Int(1));
    named
}

/// Values of every operation, with defaults and without.
pub fn samples() -> Vec<Op> {
    let (axes, f) = (Some(vec![-1, 2]), F32(0.3));
    let quantize = NestedQuantize {
        scheme: Scheme::Symmetric,
        mode: SliceMode::Extra,
        grouping: Grouping::Group(32),
        range: RangeMethod::Mse,
        widths: "8,4,2".parse().unwrap(),
        lambda: vec![F32(0.1), F32(1.0), F32(f32::INFINITY)],
        layout: WeightLayout::RowsLast,
        allow_nonfinite: true,
    };
    let opaque = |domain: &str, attributes| {
        Op::Opaque(Opaque {
            domain: domain.into(),
            op_type: "If".into(),
            overload: domain.into(),
            attributes,
        })
    };
    let mut samples = vec![
        Op::Input,
        Op::Identity,
        Op::Select,
        Op::Clip,
        Op::LeakyRelu { alpha: f },
        Op::Elu { alpha: F32(f32::NAN) },
        Op::HardSigmoid { alpha: f, beta: F32(-0.0) },
        Op::Cast { to: DType::F8E4M3FNUZ, saturate: true },
        Op::Cast { to: DType::I64, saturate: false },
        Op::Reduce { kind: Reduction::Mean, axes: None, keepdims: true, noop_with_empty_axes: false },
        Op::Reduce {
            kind: Reduction::SumSquare,
            axes: Some(vec![]),
            keepdims: false,
            noop_with_empty_axes: true,
        },
        Op::Reshape { allowzero: false },
        Op::Reshape { allowzero: true },
        Op::Transpose { perm: None },
        Op::Transpose { perm: Some(vec![1, 0]) },
        Op::Expand,
        Op::Squeeze { axes: None },
        Op::Squeeze { axes: axes.clone() },
        Op::Unsqueeze { axes },
        Op::Flatten { axis: -1 },
        Op::Slice,
        Op::Concat { axis: i64::MIN },
        Op::Split { axis: 0, sizes: None, num_outputs: None },
        Op::Split { axis: 1, sizes: Some(vec![2, 3]), num_outputs: Some(2) },
        Op::Gather { axis: 0 },
        Op::GatherElements { axis: 1 },
        Op::GatherNd { batch_dims: 0 },
        Op::GatherNd { batch_dims: 1 },
        Op::Tile,
        Op::Shape { start: 0, end: None },
        Op::Shape { start: -2, end: Some(0) },
        Op::Size,
        Op::ConstantOfShape { value: None },
        Op::Range,
        Op::MatMul,
        Op::Conv(Window::default()),
        Op::Conv(window()),
        Op::MaxPool { window: Window::default(), ceil_mode: false, storage_order: 0 },
        Op::MaxPool { window: window(), ceil_mode: true, storage_order: 1 },
        Op::AveragePool { window: window(), ceil_mode: false, count_include_pad: true },
        Op::GlobalAveragePool,
        Op::GlobalMaxPool,
        Op::Gemm { alpha: F32(1.0), beta: F32(1.0), trans_a: false, trans_b: false },
        Op::Gemm { alpha: f, beta: F32(0.0), trans_a: true, trans_b: true },
        Op::Softmax { axis: -1, flatten: false },
        Op::LogSoftmax { axis: 1, flatten: true },
        Op::Gelu { approximate: GeluKind::Erf },
        Op::Gelu { approximate: GeluKind::Tanh },
        Op::BatchNormalization { epsilon: F32(1e-5), momentum: F32(0.9) },
        Op::LayerNormalization { axis: -1, epsilon: F32(1e-12), stash_type: 1 },
        Op::RmsNormalization { axis: -1, epsilon: F32(1e-6), stash_type: 16 },
        Op::Dropout { seed: None },
        Op::Dropout { seed: Some(-1) },
        Op::NestedQuantize(quantize.clone()),
        Op::NestedQuantize(NestedQuantize {
            grouping: Grouping::PerChannel,
            allow_nonfinite: false,
            ..quantize
        }),
        Op::NestedMatMul(nested("fc1/MatMul \"x\"", SliceMode::Midpoint, Grouping::PerChannel, u64::MAX)),
        Op::NestedGather(nested("", SliceMode::Round, Grouping::Group(64), 0)),
        Op::NestedGather(Nested {
            map_widths: vec![width(8), width(2)],
            ..nested("", SliceMode::Midpoint, Grouping::Group(64), 9)
        }),
        Op::NestedConv {
            nested: nested("conv", SliceMode::Extra, Grouping::PerChannel, 27),
            window: window(),
            shape: vec![8, 3, 3, 3],
        },
        Op::NestedConv {
            nested: nested("conv", SliceMode::Extra, Grouping::Group(8), 27),
            window: Window::default(),
            shape: vec![],
        },
        opaque("", BTreeMap::new()),
        opaque("ai.onnx.ml", attributes()),
    ];
    samples.extend(unaries().into_iter().map(Op::Unary));
    samples.extend(binaries().into_iter().map(Op::Binary));
    samples.extend(compares().into_iter().map(Op::Compare));
    samples.extend(variadics().into_iter().map(Op::Variadic));
    samples.extend(tensors().into_iter().flat_map(|t| {
        [Op::Weight(t.clone()), Op::Constant(t.clone()), Op::ConstantOfShape { value: Some(t) }]
    }));
    samples.extend(
        [PadMode::Constant, PadMode::Reflect, PadMode::Edge, PadMode::Wrap].map(|mode| Op::Pad { mode }),
    );
    use ScatterReduction as R;
    for reduction in [R::None, R::Add, R::Mul, R::Max, R::Min] {
        samples.extend([Op::ScatterNd { reduction }, Op::ScatterElements { axis: 0, reduction }]);
    }
    for bits in 1..=8 {
        for mode in [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra] {
            let width = width(bits);
            samples.push(Op::SliceBits { width, mode });
            samples.push(Op::FakeSlice { width, mode });
            for (grouping, layout) in [
                (Grouping::PerChannel, WeightLayout::RowsFirst),
                (Grouping::Group(128), WeightLayout::RowsLast),
            ] {
                samples.push(Op::Dequantize { width, mode, grouping, layout, shape: vec![3, u64::MAX] });
            }
        }
    }
    let covered: BTreeSet<usize> = samples.iter().map(variant).collect();
    assert_eq!(covered, (0..VARIANTS).collect(), "every operation has a sample");
    samples
}

/// A name: plain, one that looks like part of the text, or anything.
pub fn any_name() -> impl Strategy<Value = String> {
    const ODD: [&str; 27] = [
        "",
        "x",
        "y",
        "w.0",
        "/fc1/MatMul",
        "/fc1/MatMul_output_0",
        "a b",
        "3",
        "0",
        "%0",
        "_",
        "as",
        "return",
        "with",
        "doc",
        "graph",
        "a\"b\\",
        "a\nb",
        "#",
        "é",
        "x::y",
        "}",
        "*",
        "hash",
        "true",
        "f32",
        "0x",
    ];
    prop_oneof![3 => proptest::sample::select(&ODD[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

/// The samples of each variant.
fn families() -> &'static [Vec<Op>] {
    static FAMILIES: LazyLock<Vec<Vec<Op>>> = LazyLock::new(|| {
        let mut families = vec![Vec::new(); VARIANTS];
        samples().into_iter().for_each(|op| families[variant(&op)].push(op));
        families
    });
    &FAMILIES
}

#[derive(Clone, Debug)]
struct Plan {
    op: (Index, Index),
    operands: Vec<Option<Index>>,
    outputs: Vec<(String, Index)>,
    name: String,
    doc: String,
    metadata: Vec<(String, String)>,
    subgraphs: Vec<(String, Graph, Vec<usize>)>,
    /// Where the node is inserted among the others.
    rank: u16,
}

fn plan(depth: u32) -> BoxedStrategy<Plan> {
    let inner = if depth == 0 {
        Just(Vec::new()).boxed()
    } else {
        let subgraph = (any_name(), any_graph(depth - 1), proptest::collection::vec(0..4usize, 0..3));
        prop_oneof![5 => Just(Vec::new()), 1 => proptest::collection::vec(subgraph, 1..3)].boxed()
    };
    let rare = |text| prop_oneof![4 => Just(String::new()), 1 => text];
    (
        any::<(Index, Index)>(),
        proptest::collection::vec(proptest::option::weighted(0.9, any::<Index>()), 0..4),
        proptest::collection::vec((any_name(), any::<Index>()), 0..3),
        any_name(),
        rare(any_name()),
        proptest::collection::vec((any_name(), any_name()), 0..2),
        inner,
        any::<u16>(),
    )
        .prop_map(|(op, operands, outputs, name, doc, metadata, subgraphs, rank)| Plan {
            op,
            operands,
            outputs,
            name,
            doc,
            metadata,
            subgraphs,
            rank,
        })
        .boxed()
}

/// A graph without a cycle; otherwise as odd as its methods allow: any number of operands and outputs, names taken
/// twice, inputs anywhere, weights listed as inputs, an order of insertion that is not the order of use.
pub fn any_graph(depth: u32) -> BoxedStrategy<Graph> {
    let lists = (
        proptest::collection::vec((any_name(), any::<Index>()), 0..3),
        proptest::collection::vec(plan(depth), 0..if depth == 0 { 4 } else { 8 }),
        proptest::collection::vec((any::<Index>(), any_name(), any::<Index>()), 0..3),
        proptest::collection::vec(any::<Index>(), 0..2),
    );
    let about = (
        any_name(),
        any_name(),
        proptest::collection::vec((any_name(), any_name()), 0..2),
        proptest::collection::btree_map(any_name(), any::<i64>(), 0..2),
    );
    (lists, about)
        .prop_map(|((inputs, plans, outputs, listed), (name, doc, metadata, opsets))| {
            let mut graph = build(&inputs, &plans, &outputs, &listed);
            graph.name = name;
            graph.doc = doc;
            graph.metadata = metadata;
            graph.opsets = opsets;
            graph
        })
        .boxed()
}

fn build(
    inputs: &[(String, Index)],
    plans: &[Plan],
    outputs: &[(Index, String, Index)],
    listed: &[Index],
) -> Graph {
    let (families, types) = (families(), types());
    let ty = |index: &Index| types[index.index(types.len())].clone();
    let mut graph = Graph::new("");
    let mut values = Vec::new();
    for (name, index) in inputs {
        values.push(graph.add_input(name.as_str(), ty(index)));
    }
    let mut inserted: Vec<usize> = (0..plans.len()).collect();
    inserted.sort_by_key(|i| plans[*i].rank);
    let mut ids = BTreeMap::new();
    for i in inserted {
        let plan = &plans[i];
        let family = &families[plan.op.0.index(families.len())];
        let op = family[plan.op.1.index(family.len())].clone();
        let outputs =
            plan.outputs.iter().map(|(name, t)| ValueInfo { name: name.clone(), ty: ty(t) }).collect();
        let mut node = Node::new(op, plan.name.as_str(), outputs);
        node.doc = plan.doc.clone();
        node.metadata = plan.metadata.clone();
        for (attribute, graph, captures) in &plan.subgraphs {
            let (attribute, graph, captures) = (attribute.clone(), graph.clone(), captures.clone());
            node.subgraphs.push(Subgraph { attribute, graph, captures });
        }
        ids.insert(i, graph.insert(node, &[]).unwrap());
    }
    for (i, plan) in plans.iter().enumerate() {
        let node = ids[&i];
        let operand =
            |o: &Option<Index>| o.filter(|_| !values.is_empty()).map(|o| values[o.index(values.len())]);
        let operands: Vec<_> = plan.operands.iter().map(operand).collect();
        graph.set_operands(node, &operands).unwrap();
        values.extend((0..plan.outputs.len()).map(|slot| Value { node, slot }));
    }
    for index in listed {
        let sources: Vec<_> = graph
            .ids()
            .into_iter()
            .filter(|id| {
                graph.node(*id).is_some_and(|n| matches!(n.op, Op::Weight(_)) && !n.outputs.is_empty())
            })
            .collect();
        if !sources.is_empty() {
            graph.list_as_input(sources[index.index(sources.len())]);
        }
    }
    if !values.is_empty() {
        let output = |(value, name, declared): &(Index, String, Index)| Output {
            value: values[value.index(values.len())],
            name: name.clone(),
            declared: ty(declared),
        };
        graph.set_outputs(outputs.iter().map(output).collect());
    }
    graph
}
