//! Element types and broadcasting.

use super::{Model, Tensor};
use crate::op::{Binary, Compare, Unary, Variadic};
use crate::{DType, F32, Op};

fn added(a: &str, b: &str) -> String {
    let mut m = Model::default();
    let (a, b) = (m.x(a), m.x(b));
    let sum = m.apply(Op::Binary(Binary::Add), &[a, b]);
    m.inferred(sum)
}

#[test]
fn shapes_broadcast_with_symbols() {
    assert_eq!(added("2 3 4", "3 1"), "f32[2, 3, 4]");
    assert_eq!(added("batch seq 8", "8"), "f32[batch, seq, 8]");
    assert_eq!(added("batch 1", "batch seq"), "f32[batch, seq]");
    assert_eq!(added("seq", "5"), "f32[5]");
    assert_eq!(added("seq", "1"), "f32[seq]");
    assert_eq!(added("seq", "other"), "f32[?]");
    assert_eq!(added("?", "seq"), "f32[?]");
    assert_eq!(added("0", "1"), "f32[0]");
    assert_eq!(added("", "2 ?"), "f32[2, ?]");
}

#[test]
fn element_types_follow_the_operation() {
    let mut m = Model::default();
    let (x, n, b) = (m.x("a 2"), m.input(DType::I64, "a 2"), m.input(DType::Bool, "2"));
    let less = m.apply(Op::Compare(Compare::Less), &[n, n]);
    let nan = m.apply(Op::Unary(Unary::IsNan), &[x]);
    let pow = m.apply(Op::Binary(Binary::Pow), &[x, n]);
    let cast = m.apply(Op::Cast { to: DType::F16, saturate: true }, &[n]);
    let pick = m.apply(Op::Select, &[b, x, x]);
    let max = m.apply(Op::Variadic(Variadic::Max), &[n, n, n]);
    let elu = m.apply(Op::Elu { alpha: F32(1.0) }, &[cast]);
    let low = m.constant(Tensor::f32_scalar(0.0));
    let clip = m.node(Op::Clip, &[Some(x), None, Some(low)], 1)[0];
    m.infer();
    assert_eq!(m.ty(less), "bool[a, 2]");
    assert_eq!(m.ty(nan), "bool[a, 2]");
    assert_eq!(m.ty(pow), "f32[a, 2]");
    assert_eq!(m.ty(cast), "f16[a, 2]");
    assert_eq!(m.ty(pick), "f32[a, 2]");
    assert_eq!(m.ty(max), "i64[a, 2]");
    assert_eq!(m.ty(elu), "f16[a, 2]");
    assert_eq!(m.ty(clip), "f32[a, 2]");
}

#[test]
fn a_slope_does_not_grow_its_input() {
    let mut m = Model::default();
    let (x, wide) = (m.x("1 4"), m.x("3 4"));
    m.apply(Op::Binary(Binary::PRelu), &[x, wide]);
    let expected = "node n2 (p_relu): the slope has shape [3, 4], expected one that broadcasts to [1, 4]";
    assert_eq!(m.errors(), [expected]);
}
