//! Every form of every operator in the table, and forms that must stay verbatim.

use std::collections::BTreeMap;

use mqc_ir::op::{AutoPad, Binary, Nested, Opaque, Reduction, ScatterReduction, Variadic, Window};
use mqc_ir::quant::{Grouping, SliceMode};
use mqc_ir::{Attribute, DType, F32, Op, Tensor, Text};

use super::{Form, NESTED_DOMAIN, read, write};
use crate::Error;

type Attributes = Vec<(&'static str, Attribute)>;

fn attributes(list: &Attributes) -> BTreeMap<String, Attribute> {
    list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn op(op_type: &str, opset: i64, inputs: usize, outputs: usize, list: &Attributes) -> Op {
    let inputs = vec![true; inputs];
    let attributes = attributes(list);
    read(Form { domain: "", op_type, overload: "", opset, inputs: &inputs, outputs, attributes })
}

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

fn float(value: f32) -> Attribute {
    Attribute::Float(F32(value))
}

fn text(value: &str) -> Attribute {
    Attribute::String(Text(value.as_bytes().to_vec()))
}

fn one() -> Attribute {
    Attribute::Tensor(Tensor::from_f32(vec![1], &[3.0]).unwrap())
}

/// Operator, opsets, numbers of inputs and outputs, attributes that are not defaults.
fn understood() -> Vec<(&'static str, Vec<i64>, usize, usize, Attributes)> {
    let window = || {
        vec![
            ("auto_pad", text("SAME_LOWER")),
            ("kernel_shape", ints(&[3, 3])),
            ("pads", ints(&[1, 1, 1, 1])),
            ("strides", ints(&[2, 2])),
        ]
    };
    let and = |mut list: Attributes, more: Attributes| {
        list.extend(more);
        list
    };
    vec![
        ("Identity", vec![7, 28], 1, 1, vec![]),
        ("Where", vec![9, 28], 3, 1, vec![]),
        ("Clip", vec![11, 28], 1, 1, vec![]),
        ("Clip", vec![11, 28], 3, 1, vec![]),
        ("LeakyRelu", vec![7, 28], 1, 1, vec![("alpha", float(0.5))]),
        ("Elu", vec![7, 28], 1, 1, vec![("alpha", float(0.5))]),
        ("HardSigmoid", vec![7, 28], 1, 1, vec![("alpha", float(0.5)), ("beta", float(0.25))]),
        ("Gelu", vec![20, 28], 1, 1, vec![("approximate", text("tanh"))]),
        ("Mod", vec![10, 28], 2, 1, vec![]),
        ("Mod", vec![10, 28], 2, 1, vec![("fmod", int(1))]),
        ("BitShift", vec![11, 28], 2, 1, vec![("direction", text("LEFT"))]),
        ("BitShift", vec![11, 28], 2, 1, vec![("direction", text("RIGHT"))]),
        ("Cast", vec![7, 28], 1, 1, vec![("to", int(10))]),
        ("Cast", vec![19, 28], 1, 1, vec![("to", int(17)), ("saturate", int(0))]),
        ("Reshape", vec![7, 28], 2, 1, vec![]),
        ("Reshape", vec![14, 28], 2, 1, vec![("allowzero", int(1))]),
        ("Transpose", vec![7, 28], 1, 1, vec![("perm", ints(&[1, 0]))]),
        ("Expand", vec![8, 28], 2, 1, vec![]),
        ("Squeeze", vec![7, 11, 12], 1, 1, vec![("axes", ints(&[0]))]),
        ("Squeeze", vec![7, 13, 28], 1, 1, vec![]),
        ("Squeeze", vec![13, 28], 2, 1, vec![]),
        ("Unsqueeze", vec![7, 12], 1, 1, vec![("axes", ints(&[0, 2]))]),
        ("Unsqueeze", vec![13, 28], 2, 1, vec![]),
        ("Flatten", vec![7, 28], 1, 1, vec![("axis", int(2))]),
        ("Slice", vec![10, 28], 3, 1, vec![]),
        ("Slice", vec![10, 28], 5, 1, vec![]),
        ("Concat", vec![7, 28], 3, 1, vec![("axis", int(0))]),
        ("Split", vec![7, 12], 1, 3, vec![("axis", int(1)), ("split", ints(&[1, 2, 3]))]),
        ("Split", vec![7, 13, 28], 1, 2, vec![]),
        ("Split", vec![13, 28], 2, 2, vec![("axis", int(-1))]),
        ("Split", vec![18, 28], 1, 2, vec![("num_outputs", int(2))]),
        ("Pad", vec![11, 28], 3, 1, vec![("mode", text("reflect"))]),
        ("Pad", vec![18, 28], 4, 1, vec![("mode", text("edge"))]),
        ("Pad", vec![19, 28], 2, 1, vec![("mode", text("wrap"))]),
        ("Gather", vec![7, 28], 2, 1, vec![("axis", int(1))]),
        ("GatherElements", vec![11, 28], 2, 1, vec![("axis", int(1))]),
        ("GatherND", vec![11, 28], 2, 1, vec![]),
        ("GatherND", vec![12, 28], 2, 1, vec![("batch_dims", int(1))]),
        ("ScatterElements", vec![11, 28], 3, 1, vec![("axis", int(1))]),
        ("ScatterElements", vec![16, 28], 3, 1, vec![("reduction", text("add"))]),
        ("ScatterND", vec![11, 28], 3, 1, vec![]),
        ("ScatterND", vec![18, 28], 3, 1, vec![("reduction", text("max"))]),
        ("Tile", vec![7, 28], 2, 1, vec![]),
        ("Shape", vec![7, 28], 1, 1, vec![]),
        ("Shape", vec![15, 28], 1, 1, vec![("start", int(1)), ("end", int(-1))]),
        ("Size", vec![7, 28], 1, 1, vec![]),
        ("ConstantOfShape", vec![9, 28], 1, 1, vec![]),
        ("ConstantOfShape", vec![9, 28], 1, 1, vec![("value", one())]),
        ("Range", vec![11, 28], 3, 1, vec![]),
        ("Constant", vec![7, 28], 0, 1, vec![("value", one())]),
        ("MatMul", vec![7, 28], 2, 1, vec![]),
        ("Gemm", vec![11, 28], 2, 1, vec![]),
        (
            "Gemm",
            vec![7, 28],
            3,
            1,
            vec![("alpha", float(2.0)), ("beta", float(0.0)), ("transA", int(1)), ("transB", int(1))],
        ),
        ("Conv", vec![7, 28], 2, 1, and(window(), vec![("dilations", ints(&[2, 2])), ("group", int(4))])),
        ("Conv", vec![7, 28], 3, 1, vec![]),
        ("MaxPool", vec![7, 28], 1, 1, window()),
        ("MaxPool", vec![8, 28], 1, 2, and(window(), vec![("storage_order", int(1))])),
        (
            "MaxPool",
            vec![10, 28],
            1,
            1,
            and(window(), vec![("ceil_mode", int(1)), ("dilations", ints(&[2, 2]))]),
        ),
        ("AveragePool", vec![7, 28], 1, 1, and(window(), vec![("count_include_pad", int(1))])),
        ("AveragePool", vec![10, 28], 1, 1, and(window(), vec![("ceil_mode", int(1))])),
        ("AveragePool", vec![19, 28], 1, 1, and(window(), vec![("dilations", ints(&[2, 2]))])),
        ("GlobalAveragePool", vec![7, 28], 1, 1, vec![]),
        ("GlobalMaxPool", vec![7, 28], 1, 1, vec![]),
        ("Softmax", vec![7, 12, 13, 28], 1, 1, vec![("axis", int(2))]),
        ("LogSoftmax", vec![7, 12, 13, 28], 1, 1, vec![("axis", int(2))]),
        (
            "BatchNormalization",
            vec![7, 9, 14, 28],
            5,
            1,
            vec![("epsilon", float(0.5)), ("momentum", float(0.5))],
        ),
        (
            "LayerNormalization",
            vec![17, 28],
            3,
            3,
            vec![("axis", int(1)), ("epsilon", float(0.5)), ("stash_type", int(10))],
        ),
        ("RMSNormalization", vec![23, 28], 2, 1, vec![("axis", int(1)), ("epsilon", float(0.5))]),
        ("Dropout", vec![7, 12, 28], 1, 2, vec![]),
        ("Dropout", vec![12, 28], 3, 2, vec![("seed", int(7))]),
        ("ReduceSum", vec![7, 11, 12], 1, 1, vec![("axes", ints(&[-1])), ("keepdims", int(0))]),
        ("ReduceSum", vec![13, 28], 2, 1, vec![("noop_with_empty_axes", int(1))]),
        ("ReduceMean", vec![7, 13, 17], 1, 1, vec![("axes", ints(&[-1]))]),
        ("ReduceMean", vec![18, 28], 2, 1, vec![("keepdims", int(0))]),
        ("ReduceMax", vec![7, 28], 1, 1, vec![]),
        ("Max", vec![7, 8, 28], 3, 1, vec![]),
        ("Sum", vec![7, 28], 1, 1, vec![]),
        ("LessOrEqual", vec![12, 28], 2, 1, vec![]),
        ("PRelu", vec![7, 28], 2, 1, vec![]),
        ("BitwiseXor", vec![18, 28], 2, 1, vec![]),
        ("IsNaN", vec![9, 28], 1, 1, vec![]),
        ("HardSwish", vec![14, 28], 1, 1, vec![]),
    ]
}

#[test]
fn understood_forms_come_back() {
    for (op_type, opsets, inputs, outputs, list) in understood() {
        for opset in opsets {
            let op = op(op_type, opset, inputs, outputs, &list);
            assert!(!matches!(op, Op::Opaque(_)), "{op_type} at {opset} {list:?} is opaque");
            let written = write(&op, inputs, opset, "n").unwrap();
            assert_eq!((written.op_type.as_str(), written.domain.as_str()), (op_type, ""));
            assert_eq!(written.attributes, attributes(&list), "{op_type} at {opset}");
        }
    }
}

#[test]
fn forms_that_say_more_stay_verbatim() {
    let cases: Vec<(&str, i64, usize, usize, Attributes)> = vec![
        ("Clip", 10, 1, 1, vec![("min", float(0.0)), ("max", float(6.0))]),
        ("Slice", 9, 1, 1, vec![("starts", ints(&[0])), ("ends", ints(&[1]))]),
        ("Pad", 10, 1, 1, vec![("pads", ints(&[0, 0])), ("value", float(0.0))]),
        ("Pad", 11, 4, 1, vec![]),
        ("Pad", 18, 2, 1, vec![("mode", text("wrap"))]),
        ("Upsample", 9, 2, 1, vec![("mode", text("nearest"))]),
        ("Dropout", 10, 1, 1, vec![("ratio", float(0.3))]),
        ("BatchNormalization", 7, 5, 1, vec![("spatial", int(0))]),
        ("BatchNormalization", 7, 5, 5, vec![]),
        ("BatchNormalization", 15, 5, 3, vec![("training_mode", int(1))]),
        ("BatchNormalization", 15, 5, 1, vec![("training_mode", int(1))]),
        ("Cast", 24, 1, 1, vec![("to", int(24)), ("round_mode", text("down"))]),
        ("Cast", 18, 1, 1, vec![("to", int(1)), ("saturate", int(1))]),
        ("Cast", 28, 1, 1, vec![("to", int(29))]),
        ("Range", 27, 3, 1, vec![("stash_type", int(10))]),
        ("ScatterND", 15, 3, 1, vec![("reduction", text("add"))]),
        ("ScatterND", 16, 3, 1, vec![("reduction", text("max"))]),
        ("ReduceMean", 18, 1, 1, vec![("axes", ints(&[0]))]),
        ("ReduceSum", 12, 2, 1, vec![]),
        ("Squeeze", 13, 1, 1, vec![("axes", ints(&[0]))]),
        ("Unsqueeze", 12, 1, 1, vec![]),
        ("Split", 17, 1, 2, vec![("num_outputs", int(2))]),
        ("Shape", 14, 1, 1, vec![("start", int(1))]),
        ("GatherND", 11, 2, 1, vec![("batch_dims", int(0))]),
        ("MaxPool", 9, 1, 1, vec![("kernel_shape", ints(&[2])), ("ceil_mode", int(0))]),
        ("AveragePool", 18, 1, 1, vec![("kernel_shape", ints(&[2])), ("dilations", ints(&[1]))]),
        ("MaxPool", 12, 1, 1, vec![]),
        ("Gemm", 9, 2, 1, vec![]),
        ("Gemm", 11, 3, 1, vec![("transA", int(2))]),
        ("Conv", 11, 2, 1, vec![("group", int(0))]),
        ("Conv", 11, 2, 1, vec![("auto_pad", text("SAME"))]),
        ("Concat", 11, 2, 1, vec![]),
        ("Gather", 11, 2, 1, vec![("axis", float(1.0))]),
        ("Relu", 11, 1, 1, vec![("vendor", int(1))]),
        ("Relu", 11, 1, 2, vec![]),
        ("Add", 11, 3, 1, vec![]),
        ("Mish", 17, 1, 1, vec![]),
        ("GreaterOrEqual", 11, 2, 1, vec![]),
        ("ConstantOfShape", 9, 1, 1, vec![("value", Attribute::Tensor(Tensor::i64_vector(&[1, 2])))]),
        ("BitShift", 11, 2, 1, vec![("direction", text("UP"))]),
        ("BitShift", 11, 2, 1, vec![]),
        ("FutureOperator", 40, 1, 1, vec![]),
        ("", 11, 1, 1, vec![]),
    ];
    for (op_type, opset, inputs, outputs, list) in cases {
        let op = op(op_type, opset, inputs, outputs, &list);
        let Op::Opaque(opaque) = &op else { panic!("{op_type} at {opset} {list:?} is {op:?}") };
        assert_eq!((opaque.op_type.as_str(), &opaque.attributes), (op_type, &attributes(&list)));
        assert_eq!(&write(&op, inputs, opset, "n").unwrap(), opaque);
    }
}

#[test]
fn explicit_defaults_are_left_out() {
    let cases: Vec<(&str, i64, usize, Attributes)> = vec![
        ("LeakyRelu", 16, 1, vec![("alpha", float(0.01))]),
        ("Gemm", 13, 3, vec![("alpha", float(1.0)), ("beta", float(1.0)), ("transA", int(0))]),
        ("Softmax", 12, 1, vec![("axis", int(1))]),
        ("Softmax", 13, 1, vec![("axis", int(-1))]),
        ("Conv", 11, 2, vec![("group", int(1)), ("auto_pad", text("NOTSET")), ("pads", ints(&[]))]),
        ("BatchNormalization", 8, 5, vec![("spatial", int(1))]),
        ("BatchNormalization", 15, 5, vec![("training_mode", int(0)), ("epsilon", float(1e-5))]),
        ("Pad", 13, 2, vec![("mode", text("constant"))]),
        ("Range", 27, 3, vec![("stash_type", int(1))]),
        ("Reshape", 14, 2, vec![("allowzero", int(0))]),
    ];
    for (op_type, opset, inputs, list) in cases {
        let op = op(op_type, opset, inputs, 1, &list);
        assert!(!matches!(op, Op::Opaque(_)), "{op_type}");
        assert_eq!(
            write(&op, inputs, opset, "n").unwrap().attributes,
            BTreeMap::new(),
            "{op_type} at {opset}"
        );
    }
}

#[test]
fn operations_mean_what_the_form_says() {
    let none = vec![];
    assert_eq!(op("Mod", 13, 2, 1, &none), Op::Binary(Binary::Mod));
    assert_eq!(op("Mod", 13, 2, 1, &vec![("fmod", int(1))]), Op::Binary(Binary::Fmod));
    assert_eq!(op("BitShift", 13, 2, 1, &vec![("direction", text("RIGHT"))]), Op::Binary(Binary::ShiftRight));
    assert_eq!(op("Softmax", 12, 1, 1, &none), Op::Softmax { axis: 1, flatten: true });
    assert_eq!(op("Softmax", 13, 1, 1, &none), Op::Softmax { axis: -1, flatten: false });
    assert_eq!(op("Mean", 8, 2, 1, &none), Op::Variadic(Variadic::Mean));
    assert_eq!(op("Cast", 13, 1, 1, &vec![("to", int(16))]), Op::Cast { to: DType::Bf16, saturate: true });
    let reduction = ScatterReduction::None;
    assert_eq!(op("ScatterElements", 11, 3, 1, &none), Op::ScatterElements { axis: 0, reduction });
    let reduce = op("ReduceL2", 13, 1, 1, &vec![("axes", ints(&[1]))]);
    let (kind, axes) = (Reduction::L2, Some(vec![1]));
    assert_eq!(reduce, Op::Reduce { kind, axes, keepdims: true, noop_with_empty_axes: false });
    let conv = op("Conv", 11, 3, 1, &vec![("group", int(2)), ("auto_pad", text("VALID"))]);
    assert_eq!(conv, Op::Conv(Window { auto_pad: AutoPad::Valid, group: 2, ..Window::default() }));
    let strings = Attribute::Strings(vec![Text(b"a".to_vec()), Text(b"bc".to_vec())]);
    let texts = Tensor::strings(vec![2], vec!["a".into(), "bc".into()]).unwrap();
    for (name, value, tensor) in [
        ("value_int", int(5), Tensor::i64_scalar(5)),
        ("value_ints", ints(&[5, 6]), Tensor::i64_vector(&[5, 6])),
        ("value_float", float(0.5), Tensor::f32_scalar(0.5)),
        ("value_floats", Attribute::Floats(vec![F32(0.5)]), Tensor::from_f32(vec![1], &[0.5]).unwrap()),
        ("value_strings", strings, texts),
    ] {
        assert_eq!(op("Constant", 13, 0, 1, &vec![(name, value)]), Op::Constant(tensor));
    }
}

#[test]
fn an_absent_required_input_is_no_known_form() {
    let read = |op_type, inputs: &[bool]| {
        let attributes = BTreeMap::new();
        read(Form { domain: "", op_type, overload: "", opset: 13, inputs, outputs: 1, attributes })
    };
    assert_eq!(read("Clip", &[true, false, true]), Op::Clip);
    assert!(matches!(read("Add", &[true, false]), Op::Opaque(_)));
    assert!(matches!(read("Max", &[true, false]), Op::Opaque(_)));
}

#[test]
fn what_the_opset_cannot_say_is_an_error() {
    let axes = Op::Squeeze { axes: Some(vec![0]) };
    assert!(matches!(write(&axes, 1, 13, "n"), Err(Error::OpsetTooNew { until: 13, found: 13, .. })));
    let by_operand = Op::Squeeze { axes: None };
    assert!(matches!(write(&by_operand, 2, 12, "n"), Err(Error::OpsetTooOld { since: 13, found: 12, .. })));
    let softmax = Op::Softmax { axis: 1, flatten: true };
    assert!(matches!(write(&softmax, 1, 13, "n"), Err(Error::OpsetTooNew { .. })));
    let slice = Op::SliceBits { width: mqc_ir::quant::Width::MAX, mode: SliceMode::Midpoint };
    let error = write(&slice, 1, 21, "fc1").unwrap_err().to_string();
    assert_eq!(error, "node 'fc1': slice_bits has no ONNX form; lower the quantization dialect first");
}

#[test]
fn nested_operators_come_back() {
    let nested =
        |mode, grouping| Nested { layer: "fc/1".to_owned(), mode, grouping, cols: 96, map_widths: vec![] };
    let map_widths = ["8", "4"].map(|width| width.parse().unwrap()).to_vec();
    let own_maps = Nested { map_widths, ..nested(SliceMode::Midpoint, Grouping::PerChannel) };
    let window = Window { strides: vec![2, 2], group: 3, ..Window::default() };
    let conv = Op::NestedConv {
        nested: nested(SliceMode::Extra, Grouping::Group(32)),
        window,
        shape: vec![9, 32, 1, 3],
    };
    let cases = [
        (Op::NestedMatMul(nested(SliceMode::Midpoint, Grouping::PerChannel)), "NestedMatMul", vec![true; 7]),
        (Op::NestedMatMul(own_maps), "NestedMatMul", vec![true; 5]),
        (Op::NestedGather(nested(SliceMode::Round, Grouping::Group(16))), "NestedGatherRound", vec![true; 5]),
        (conv, "NestedConvExtra", vec![true, true, true, true, false, true]),
    ];
    for (op, op_type, inputs) in cases {
        let Opaque { domain, op_type: written, overload, attributes } =
            write(&op, inputs.len(), 21, "n").unwrap();
        assert_eq!((domain.as_str(), written.as_str(), overload.as_str()), (NESTED_DOMAIN, op_type, ""));
        let form = Form {
            domain: &domain,
            op_type,
            overload: "",
            opset: 21,
            inputs: &inputs,
            outputs: 1,
            attributes,
        };
        assert_eq!(read(form), op);
    }
}
