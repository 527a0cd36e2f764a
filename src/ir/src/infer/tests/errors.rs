//! What is reported, and what is not.

use super::{Model, dims};
use crate::infer::infer;
use crate::op::{Binary, PadMode, Reduction, Unary, Window};
use crate::{DType, Op, Tensor, Type, Value};

fn error(op: Op, shapes: &[&str]) -> String {
    let mut m = Model::default();
    let operands: Vec<Value> = shapes.iter().map(|s| m.x(s)).collect();
    m.apply(op, &operands);
    let errors = m.errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

#[test]
fn contradictions_name_node_operation_found_and_expected() {
    let sum = |axes| Op::Reduce { kind: Reduction::Sum, axes, keepdims: true, noop_with_empty_axes: false };
    let table = [
        (
            Op::MatMul,
            vec!["2 3", "4 5"],
            "the inner dimensions of [2, 3] and [4, 5]: found 3 and 4, expected equal sizes",
        ),
        (Op::MatMul, vec!["", "4"], "operands have shapes [] and [4], expected rank 1 or more"),
        (
            Op::Binary(Binary::Add),
            vec!["2 3", "2 4"],
            "shapes [2, 3] and [2, 4] do not broadcast: sizes must be equal or 1",
        ),
        (Op::Binary(Binary::And), vec!["2", "2"], "the left operand has type f32, expected bool"),
        (Op::Unary(Unary::Not), vec!["2"], "the input has type f32, expected bool"),
        (Op::Unary(Unary::Exp), vec![], "operand 0 (input) is missing, found 0 operands"),
        (Op::Concat { axis: 2 }, vec!["2 3"], "axis is 2, expected -2 to 1 for rank 2"),
        (
            Op::Concat { axis: 0 },
            vec!["2 3", "2 4"],
            "operands along axis 1: found 3 and 4, expected equal sizes",
        ),
        (Op::Transpose { perm: Some(vec![0, 0]) }, vec!["2 3"], "axes are [0, 0], expected different axes"),
        (
            Op::Squeeze { axes: Some(vec![0]) },
            vec!["2 3"],
            "shape [2, 3] has no size 1 at axis 0, expected 1",
        ),
        (sum(Some(vec![i64::MIN])), vec!["2"], "axis is -9223372036854775808, expected -1 to 0 for rank 1"),
        (
            Op::Conv(Window::default()),
            vec!["1 3 8", "4 2 3"],
            "X has 3 channels, expected 2 for W [4, 2, 3] and group 1",
        ),
        (
            Op::Conv(Window::default()),
            vec!["1 2 5", "4 2 7"],
            "a window of 7 does not fit dimension 2 of size 5 with pads 0 and 0",
        ),
        (
            Op::Conv(Window { strides: vec![0], ..Window::default() }),
            vec!["1 2 5", "4 2 3"],
            "strides are [0], expected 1 or more",
        ),
        (
            Op::Conv(Window { dilations: vec![i64::MAX], ..Window::default() }),
            vec!["1 2 5", "4 2 3"],
            "the window at 0 is too large: kernel 3, dilation 9223372036854775807",
        ),
        (
            Op::Split { axis: 0, sizes: Some(vec![2]), num_outputs: None },
            vec!["3"],
            "sizes sum to 2, expected 3, the size of axis 0",
        ),
        (Op::Gather { axis: 0 }, vec!["3", "2"], "the indices operand has type f32, expected i64 or i32"),
    ];
    for (op, shapes, expected) in table {
        let message = error(op, &shapes);
        assert!(message.starts_with(&format!("node n{} (", shapes.len())), "{message}");
        assert!(message.ends_with(expected), "{message}");
    }
}

#[test]
fn computed_sizes_that_cannot_be_are_errors() {
    let reshape = |target: &[i64]| {
        let mut m = Model::default();
        let (x, target) = (m.x("2 3"), m.ints(target));
        m.apply(Op::Reshape { allowzero: false }, &[x, target]);
        m.errors().remove(0)
    };
    assert!(reshape(&[-1, -1]).ends_with("the target shape has -1 2 times, expected at most once"));
    assert!(reshape(&[-2]).ends_with("the target shape has -2 at 0, expected a size, 0 or -1"));
    assert!(reshape(&[4, -1]).ends_with("6 elements do not divide into 4"));
    assert!(reshape(&[7]).ends_with("the target shape [7] has another number of elements than the data"));
    assert!(reshape(&[2, 3, 0]).ends_with("the target shape copies dimension 2, found data of shape [2, 3]"));

    let mut m = Model::default();
    let (x, pads) = (m.x("2"), m.ints(&[-3, 0]));
    m.apply(Op::Pad { mode: PadMode::Constant }, &[x, pads]);
    assert!(m.errors()[0].ends_with("a dimension would be -1, expected zero or more"));

    let mut m = Model::default();
    let huge = m.ints(&[i64::MAX, i64::MAX]);
    m.apply(Op::ConstantOfShape { value: None }, &[huge]);
    assert!(m.errors()[0].contains("more than 2^63 bytes"));

    let mut m = Model::default();
    m.x(&u64::MAX.to_string());
    assert!(m.errors()[0].contains("more than 2^63 bytes"));
}

#[test]
fn all_errors_are_returned_and_the_rest_is_inferred() {
    let mut m = Model::default();
    let (a, b) = (m.x("2 3"), m.x("4 5"));
    let first = m.apply(Op::MatMul, &[a, b]);
    let second = m.apply(Op::Binary(Binary::Add), &[a, b]);
    let good = m.apply(Op::Unary(Unary::Relu), &[a]);
    let after = m.apply(Op::Binary(Binary::Add), &[first, second]);
    assert_eq!(m.errors().len(), 2);
    assert_eq!(m.ty(good), "f32[2, 3]");
    assert_eq!(m.ty(after), "?[*]");
}

#[test]
fn too_many_outputs_are_an_error() {
    let mut m = Model::default();
    let x = m.x("2");
    m.node(Op::Unary(Unary::Relu), &[Some(x)], 2);
    assert_eq!(m.errors(), ["node n1 (relu): found 2 outputs, expected at most 1"]);
}

#[test]
fn declared_types_fill_gaps_and_lose_to_what_is_inferred() {
    let mut m = Model::default();
    let (x, asked) = (m.x("a 6"), m.input(DType::I64, "2"));
    let filled = m.apply(Op::Reshape { allowzero: false }, &[x, asked]);
    let wrong = m.apply(Op::Unary(Unary::Relu), &[x]);
    let other = m.apply(Op::Unary(Unary::Relu), &[x]);
    m.0.set_type(filled, Type::tensor(DType::F32, dims("rows 3")));
    m.0.set_type(wrong, Type::tensor(DType::F32, dims("9 5")));
    m.0.set_type(other, Type::tensor(DType::F32, dims("9")));
    m.infer();
    assert_eq!(m.ty(filled), "f32[rows, 3]");
    assert_eq!(m.ty(wrong), "f32[a, 6]");
    assert_eq!(m.ty(other), "f32[a, 6]");
}

#[test]
fn inference_is_idempotent() {
    let mut m = Model::default();
    let (x, w) = (m.x("n 3 h w"), m.constant(Tensor::from_f32(vec![8, 3, 3, 3], &[0.0; 216]).unwrap()));
    let y = m.apply(Op::Conv(Window { strides: vec![2, 3], ..Window::default() }), &[x, w]);
    let z = m.apply(Op::Flatten { axis: 1 }, &[y]);
    m.infer();
    let once = m.0.clone();
    infer(&mut m.0).unwrap();
    assert_eq!(m.0, once);
    assert_eq!(m.ty(z), "f32[n, 8*floor((h + 1) / 2)*floor(w / 3) - 8*floor(w / 3)]");
}
