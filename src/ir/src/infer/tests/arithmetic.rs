//! Shapes that a model computes itself.

use super::{Model, Tensor};
use crate::op::{Binary, Compare, PadMode, Reduction};
use crate::{DType, Op, Value};

const SHAPE: Op = Op::Shape { start: 0, end: None };

impl Model {
    /// Shape -> Gather -> Unsqueeze, as exporters write `x.size(i)`.
    fn size_of(&mut self, x: Value, axis: i64) -> Value {
        let (shape, at) = (self.apply(SHAPE, &[x]), self.int(axis));
        let size = self.apply(Op::Gather { axis: 0 }, &[shape, at]);
        self.apply(Op::Unsqueeze { axes: Some(vec![0]) }, &[size])
    }
}

#[test]
fn heads_are_split_and_joined() {
    let mut m = Model::default();
    let x = m.x("batch seq 384");
    let (batch, seq) = (m.size_of(x, 0), m.size_of(x, -2));
    let (heads, size) = (m.ints(&[12]), m.ints(&[32]));
    let target = m.apply(Op::Concat { axis: 0 }, &[batch, seq, heads, size]);
    let split = m.apply(Op::Reshape { allowzero: false }, &[x, target]);
    let swapped = m.apply(Op::Transpose { perm: Some(vec![0, 2, 1, 3]) }, &[split]);
    let back = m.apply(Op::Transpose { perm: Some(vec![0, 2, 1, 3]) }, &[swapped]);
    let rest = m.ints(&[-1]);
    let target = m.apply(Op::Concat { axis: 0 }, &[batch, seq, rest]);
    let joined = m.apply(Op::Reshape { allowzero: false }, &[back, target]);
    m.infer();
    assert_eq!(m.ty(swapped), "f32[batch, 12, seq, 32]");
    assert_eq!(m.ty(joined), "f32[batch, seq, 384]");
}

#[test]
fn integer_arithmetic_is_followed() {
    let mut m = Model::default();
    let x = m.x("past seq 6");
    let (a, b) = (m.size_of(x, 0), m.size_of(x, 1));
    let total = m.apply(Op::Binary(Binary::Add), &[a, b]);
    let two = m.ints(&[2]);
    let twice = m.apply(Op::Binary(Binary::Mul), &[total, two]);
    let half = m.apply(Op::Binary(Binary::Div), &[total, two]);
    let again = m.apply(Op::Binary(Binary::Sub), &[total, a]);
    let odd = m.apply(Op::Binary(Binary::Mod), &[b, two]);
    let sizes = m.apply(Op::Concat { axis: 0 }, &[twice, half, again, odd]);
    let y = m.apply(Op::ConstantOfShape { value: None }, &[sizes]);
    let shape = m.apply(SHAPE, &[x]);
    let product =
        Op::Reduce { kind: Reduction::Prod, axes: None, keepdims: true, noop_with_empty_axes: false };
    let count = m.apply(product, &[shape]);
    let flat = m.apply(Op::Reshape { allowzero: false }, &[x, count]);
    let end = m.apply(Op::Shape { start: -1, end: None }, &[x]);
    let last = m.apply(Op::ConstantOfShape { value: Some(Tensor::i64_vector(&[7])) }, &[end]);
    m.infer();
    assert_eq!(m.ty(y), "f32[2*past + 2*seq, floor((past + seq) / 2), seq, seq - 2*floor(seq / 2)]");
    assert_eq!(m.ty(flat), "f32[6*past*seq]");
    assert_eq!(m.ty(last), "i64[6]");
}

#[test]
fn expand_with_minus_one_is_resolved() {
    // where(equal(shape, -1), ones, shape): torch's expand.
    let mut m = Model::default();
    let x = m.x("batch seq");
    let shape = m.apply(SHAPE, &[x]);
    let minus = m.ints(&[-1]);
    let ones = m.ints(&[1, 1]);
    let same = m.apply(Op::Compare(Compare::Equal), &[shape, minus]);
    let target = m.apply(Op::Select, &[same, ones, shape]);
    let mask = m.x("1 seq");
    let y = m.apply(Op::Expand, &[mask, target]);
    assert_eq!(m.inferred(y), "f32[batch, seq]");
}

#[test]
fn ranges_and_slices_have_symbolic_bounds() {
    let mut m = Model::default();
    let x = m.x("batch past 4");
    let n = m.x("batch seq 4");
    let both = m.apply(Op::Concat { axis: 1 }, &[x, n]);
    let shape = m.apply(SHAPE, &[both]);
    let one = m.int(1);
    let total = m.apply(Op::Gather { axis: 0 }, &[shape, one]);
    let zero = m.int(0);
    let positions = m.apply(Op::Range, &[zero, total, one]);
    let past = m.size_of(x, 1);
    let end = m.size_of(both, 1);
    let axis = m.ints(&[1]);
    let new = m.apply(Op::Slice, &[both, past, end, axis]);
    let old = m.apply(Op::Slice, &[both, axis, past, axis]);
    m.infer();
    assert_eq!(m.ty(positions), "i64[past + seq]");
    assert_eq!(m.ty(new), "f32[batch, seq, 4]");
    assert_eq!(m.ty(old), "f32[batch, max(0, past - 1), 4]");
}

#[test]
fn vectors_are_sliced_split_and_cast() {
    let mut m = Model::default();
    let x = m.x("a b c d");
    let shape = m.apply(SHAPE, &[x]);
    let (from, to, back) = (m.ints(&[-1]), m.ints(&[i64::MIN]), m.ints(&[-2]));
    let axis = m.ints(&[0]);
    let every = m.apply(Op::Slice, &[shape, from, to, axis, back]);
    let parts = m.node(Op::Split { axis: 0, sizes: Some(vec![3, 1]), num_outputs: None }, &[Some(shape)], 2);
    let narrow = m.apply(Op::Cast { to: DType::I32, saturate: true }, &[parts[1]]);
    let wide = m.apply(Op::Cast { to: DType::I64, saturate: true }, &[narrow]);
    let all = m.apply(Op::Concat { axis: 0 }, &[every, wide]);
    let y = m.apply(Op::ConstantOfShape { value: None }, &[all]);
    assert_eq!(m.inferred(y), "f32[d, b, d]");
}

#[test]
fn pads_are_reordered_as_a_matrix() {
    // torch's pad: (last before, last after, ..) padded with zeros, as rows, reversed, transposed, flat.
    let mut m = Model::default();
    let x = m.x("batch seq 4");
    let (given, missing) = (m.ints(&[128, 64, 1, 2]), m.ints(&[2]));
    let zeros = m.apply(Op::ConstantOfShape { value: Some(Tensor::i64_vector(&[0])) }, &[missing]);
    let all = m.apply(Op::Concat { axis: 0 }, &[given, zeros]);
    let pairs = m.ints(&[-1, 2]);
    let rows = m.apply(Op::Reshape { allowzero: false }, &[all, pairs]);
    let (first, last, axis) = (m.ints(&[-1]), m.ints(&[i64::MIN + 1]), m.ints(&[0]));
    let reversed = m.apply(Op::Slice, &[rows, first, last, axis, first]);
    let columns = m.apply(Op::Transpose { perm: Some(vec![1, 0]) }, &[reversed]);
    let pads = m.apply(Op::Reshape { allowzero: false }, &[columns, first]);
    let y = m.apply(Op::Pad { mode: PadMode::Constant }, &[x, pads]);
    assert_eq!(m.inferred(y), "f32[batch, seq + 3, 196]");
}

#[test]
fn a_position_table_is_cut_to_the_sequence() {
    let mut m = Model::default();
    let (x, table) = (m.x("batch seq"), m.x("1 512"));
    let seq = m.size_of(x, 1);
    let (zero, axis) = (m.ints(&[0]), m.ints(&[1]));
    let positions = m.apply(Op::Slice, &[table, zero, seq, axis]);
    let sum = m.apply(Op::Binary(Binary::Add), &[x, positions]);
    m.infer();
    assert_eq!(m.ty(positions), "f32[1, min(512, seq)]");
    assert_eq!(m.ty(sum), "f32[batch, seq]");
}

#[test]
fn values_that_only_the_run_knows_stay_unknown() {
    let mut m = Model::default();
    let x = m.x("a 6");
    let asked = m.input(DType::I64, "2");
    let any = m.input(DType::I64, "?");
    let y = m.apply(Op::Reshape { allowzero: false }, &[x, asked]);
    let z = m.apply(Op::Reshape { allowzero: false }, &[x, any]);
    let three = m.ints(&[3]);
    let one = m.input(DType::I64, "1");
    let half = m.apply(Op::Concat { axis: 0 }, &[one, three]);
    let w = m.apply(Op::Reshape { allowzero: false }, &[x, half]);
    m.infer();
    assert_eq!(m.ty(y), "f32[?, ?]");
    assert_eq!(m.ty(z), "f32[*]");
    assert_eq!(m.ty(w), "f32[2*a, 3]");
}
