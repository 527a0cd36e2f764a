//! Reshapes, slices, joins, gathers, reductions.

use super::Model;
use crate::op::{PadMode, Reduction, ScatterReduction};
use crate::{DType, F32, Op};

fn reshaped(shape: &str, target: &[i64]) -> String {
    let mut m = Model::default();
    let (x, target) = (m.x(shape), m.ints(target));
    let y = m.apply(Op::Reshape { allowzero: false }, &[x, target]);
    m.inferred(y)
}

#[test]
fn reshape_divides_products_of_symbols() {
    assert_eq!(reshaped("2 3 4", &[4, -1]), "f32[4, 6]");
    assert_eq!(reshaped("batch seq 384", &[0, 0, 12, 32]), "f32[batch, seq, 12, 32]");
    assert_eq!(reshaped("batch seq 384", &[0, -1, 12, 32]), "f32[batch, seq, 12, 32]");
    assert_eq!(reshaped("batch seq 384", &[-1, 384]), "f32[batch*seq, 384]");
    assert_eq!(reshaped("batch seq 384", &[-1, 96]), "f32[4*batch*seq, 96]");
    assert_eq!(reshaped("n 6", &[-1, 4]), "f32[n + floor(n / 2), 4]");
    assert_eq!(reshaped("? 6 2", &[0, -1]), "f32[?, 12]");
    assert_eq!(reshaped("? 6", &[-1, 3]), "f32[?, 3]");
    assert_eq!(reshaped("1 1", &[]), "f32[]");
    assert_eq!(reshaped("0 3", &[-1, 3]), "f32[0, 3]");
}

#[test]
fn squeeze_and_unsqueeze_count_from_both_ends() {
    let mut m = Model::default();
    let x = m.x("1 n 1");
    let (axes, back) = (m.ints(&[-1]), m.ints(&[0, -1]));
    let last = m.apply(Op::Squeeze { axes: None }, &[x, axes]);
    let first = m.apply(Op::Squeeze { axes: Some(vec![0]) }, &[x]);
    let grown = m.apply(Op::Unsqueeze { axes: None }, &[x, back]);
    let fixed = m.x("1 7 1");
    let all = m.apply(Op::Squeeze { axes: None }, &[fixed]);
    let any = m.apply(Op::Squeeze { axes: None }, &[x]);
    m.infer();
    assert_eq!(m.ty(last), "f32[1, n]");
    assert_eq!(m.ty(first), "f32[n, 1]");
    assert_eq!(m.ty(grown), "f32[1, 1, n, 1, 1]");
    assert_eq!(m.ty(all), "f32[7]");
    assert_eq!(m.ty(any), "f32[*]");
}

#[test]
fn transpose_flatten_expand_tile_pad() {
    let mut m = Model::default();
    let x = m.x("b 3 h 5");
    let reversed = m.apply(Op::Transpose { perm: None }, &[x]);
    let permuted = m.apply(Op::Transpose { perm: Some(vec![0, 2, 3, 1]) }, &[x]);
    let flat = m.apply(Op::Flatten { axis: 1 }, &[x]);
    let row = m.apply(Op::Flatten { axis: -4 }, &[x]);
    let (to, times, pads) =
        (m.ints(&[2, 1, 1, 1, 1]), m.ints(&[2, 1, 3, 0]), m.ints(&[0, 1, 2, 0, 0, 1, -1, 0]));
    let expanded = m.apply(Op::Expand, &[x, to]);
    let tiled = m.apply(Op::Tile, &[x, times]);
    let padded = m.apply(Op::Pad { mode: PadMode::Edge }, &[x, pads]);
    let (two, axes) = (m.ints(&[1, 4]), m.ints(&[-2]));
    let some = m.node(Op::Pad { mode: PadMode::Constant }, &[Some(x), Some(two), None, Some(axes)], 1)[0];
    m.infer();
    assert_eq!(m.ty(reversed), "f32[5, h, 3, b]");
    assert_eq!(m.ty(permuted), "f32[b, h, 5, 3]");
    assert_eq!(m.ty(flat), "f32[b, 15*h]");
    assert_eq!(m.ty(row), "f32[1, 15*b*h]");
    assert_eq!(m.ty(expanded), "f32[2, b, 3, h, 5]");
    assert_eq!(m.ty(tiled), "f32[2*b, 3, 3*h, 0]");
    assert_eq!(m.ty(padded), "f32[b, 5, h + 1, 5]");
    assert_eq!(m.ty(some), "f32[b, 3, h + 5, 5]");
}

fn sliced(shape: &str, start: i64, end: i64, step: i64) -> String {
    let mut m = Model::default();
    let x = m.x(shape);
    let operands = [x, m.ints(&[start]), m.ints(&[end]), m.ints(&[0]), m.ints(&[step])];
    let y = m.apply(Op::Slice, &operands);
    m.inferred(y)
}

#[test]
fn slice_clamps_bounds_to_sizes_and_symbols() {
    assert_eq!(sliced("10", 2, 8, 3), "f32[2]");
    assert_eq!(sliced("10", -3, i64::MAX, 1), "f32[3]");
    assert_eq!(sliced("10", 8, 2, 1), "f32[0]");
    assert_eq!(sliced("10", -1, i64::MIN, -1), "f32[10]");
    assert_eq!(sliced("10", 7, 2, -2), "f32[3]");
    assert_eq!(sliced("n", 0, i64::MAX, 1), "f32[n]");
    assert_eq!(sliced("n", 0, i64::from(i32::MAX), 2), "f32[floor((n + 1) / 2)]");
    assert_eq!(sliced("n", -1, i64::MIN, -1), "f32[n]");
    assert_eq!(sliced("n", 0, 0, 1), "f32[0]");
    // A sequence may be empty: one element less than nothing is nothing.
    assert_eq!(sliced("n", 0, -1, 1), "f32[max(0, n - 1)]");
    assert_eq!(sliced("n", 1, i64::MAX, 1), "f32[max(0, n - 1)]");
    assert_eq!(sliced("n", 0, 4, 1), "f32[min(4, n)]");
}

#[test]
fn concat_and_split_sum_symbols() {
    let mut m = Model::default();
    let (past, now) = (m.x("b 4 past 8"), m.x("b 4 seq 8"));
    let total = m.apply(Op::Concat { axis: -2 }, &[past, now]);
    let half = m.node(Op::Split { axis: -1, sizes: None, num_outputs: None }, &[Some(total)], 2);
    let uneven = m.node(Op::Split { axis: 1, sizes: None, num_outputs: Some(3) }, &[Some(total)], 3);
    let ragged = m.node(Op::Split { axis: 2, sizes: None, num_outputs: Some(2) }, &[Some(now)], 2);
    let sizes = m.ints(&[1, 3]);
    let given = m.node(Op::Split { axis: 1, sizes: None, num_outputs: None }, &[Some(now), Some(sizes)], 2);
    m.infer();
    assert_eq!(m.ty(total), "f32[b, 4, past + seq, 8]");
    assert_eq!(m.ty(half[1]), "f32[b, 4, past + seq, 4]");
    assert_eq!([m.ty(uneven[0]), m.ty(uneven[2])], ["f32[b, 2, past + seq, 8]", "f32[b, 0, past + seq, 8]"]);
    assert_eq!(m.ty(ragged[0]), "f32[b, 4, floor((seq + 1) / 2), 8]");
    assert_eq!(m.ty(ragged[1]), "f32[b, 4, seq - floor((seq + 1) / 2), 8]");
    assert_eq!(m.ty(given[1]), "f32[b, 3, seq, 8]");
}

#[test]
fn gathers_and_scatters() {
    let mut m = Model::default();
    let (table, x) = (m.x("30522 384"), m.x("b 5 6 7"));
    let ids = m.input(DType::I64, "b seq");
    let two = m.int(2);
    let embedded = m.apply(Op::Gather { axis: 0 }, &[table, ids]);
    let row = m.apply(Op::Gather { axis: -3 }, &[x, two]);
    let pairs = m.input(DType::I64, "b n 2");
    let nd = m.apply(Op::GatherNd { batch_dims: 1 }, &[x, pairs]);
    let like = m.input(DType::I64, "b 5 6 2");
    let elements = m.apply(Op::GatherElements { axis: 3 }, &[x, like]);
    let updates = m.x("b n 6 7");
    let scattered = m.apply(Op::ScatterNd { reduction: ScatterReduction::None }, &[x, pairs, updates]);
    let some = m.x("b 5 6 2");
    let put = m.apply(Op::ScatterElements { axis: 3, reduction: ScatterReduction::Add }, &[x, like, some]);
    m.infer();
    assert_eq!(m.ty(embedded), "f32[b, seq, 384]");
    assert_eq!(m.ty(row), "f32[b, 6, 7]");
    assert_eq!(m.ty(nd), "f32[b, n, 7]");
    assert_eq!(m.ty(elements), "f32[b, 5, 6, 2]");
    assert_eq!(m.ty(scattered), "f32[b, 5, 6, 7]");
    assert_eq!(m.ty(put), "f32[b, 5, 6, 7]");
}

fn reduce(axes: Option<Vec<i64>>, keepdims: bool, noop_with_empty_axes: bool) -> Op {
    Op::Reduce { kind: Reduction::Mean, axes, keepdims, noop_with_empty_axes }
}

#[test]
fn reductions_and_normalizations() {
    let mut m = Model::default();
    let x = m.x("b s 8");
    let axes = m.ints(&[-1, 0]);
    let asked = m.input(DType::I64, "1");
    let all = m.apply(reduce(None, false, false), &[x]);
    let none = m.apply(reduce(None, false, true), &[x]);
    let kept = m.apply(reduce(None, true, false), &[x, axes]);
    let gone = m.apply(reduce(Some(vec![1]), false, false), &[x]);
    let some = m.apply(reduce(None, false, false), &[x, asked]);
    let scale = m.x("8");
    let layer = Op::LayerNormalization { axis: -1, epsilon: F32(1e-5), stash_type: 1 };
    let normal = m.node(layer, &[Some(x), Some(scale)], 3);
    let soft = m.apply(Op::Softmax { axis: -1, flatten: false }, &[x]);
    let dropped = m.node(Op::Dropout { seed: None }, &[Some(x)], 2);
    m.infer();
    assert_eq!(m.ty(all), "f32[]");
    assert_eq!(m.ty(none), "f32[b, s, 8]");
    assert_eq!(m.ty(kept), "f32[1, s, 1]");
    assert_eq!(m.ty(gone), "f32[b, 8]");
    assert_eq!(m.ty(some), "f32[?, ?]");
    assert_eq!([m.ty(normal[0]), m.ty(normal[2])], ["f32[b, s, 8]", "f32[b, s, 1]"]);
    assert_eq!(m.ty(soft), "f32[b, s, 8]");
    assert_eq!(m.ty(dropped[1]), "bool[b, s, 8]");
}

#[test]
fn products() {
    let mut m = Model::default();
    let (a, b) = (m.x("b 1 s 64"), m.x("4 64 t"));
    let (row, column) = (m.x("64"), m.x("64 ?"));
    let batched = m.apply(Op::MatMul, &[a, b]);
    let left = m.apply(Op::MatMul, &[row, column]);
    let right = m.apply(Op::MatMul, &[a, row]);
    let dot = m.apply(Op::MatMul, &[row, row]);
    let (x, w, c) = (m.x("n k"), m.x("10 k"), m.x("10"));
    let gemm = Op::Gemm { alpha: F32(1.0), beta: F32(1.0), trans_a: false, trans_b: true };
    let dense = m.apply(gemm, &[x, w, c]);
    m.infer();
    assert_eq!(m.ty(batched), "f32[b, 4, s, t]");
    assert_eq!(m.ty(left), "f32[?]");
    assert_eq!(m.ty(right), "f32[b, 1, s]");
    assert_eq!(m.ty(dot), "f32[]");
    assert_eq!(m.ty(dense), "f32[n, 10]");
}
