//! The quantization dialect.

use super::{Model, Tensor};
use crate::op::{Nested, NestedQuantize, WeightLayout, Window};
use crate::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width};
use crate::{DType, F32, Op, Value};

fn nested(cols: u64) -> Nested {
    Nested {
        layer: "l".into(),
        mode: SliceMode::Midpoint,
        grouping: Grouping::Group(32),
        cols,
        map_widths: vec![],
    }
}

/// Width, scale and zero for 100 rows of `groups` groups.
fn affine(m: &mut Model, groups: u64) -> [Value; 3] {
    let width = m.constant(Tensor::i64_scalar(4));
    [width, m.x(&format!("100 {groups}")), m.x(&format!("100 {groups}"))]
}

fn quantize(layout: WeightLayout) -> Op {
    Op::NestedQuantize(NestedQuantize {
        scheme: Scheme::Asymmetric,
        mode: SliceMode::Midpoint,
        grouping: Grouping::Group(32),
        range: RangeMethod::Minmax,
        widths: "8,4,2".parse().unwrap(),
        lambda: vec![F32(1.0); 3],
        layout,
        allow_nonfinite: false,
    })
}

#[test]
fn a_weight_is_coded_sliced_and_restored() {
    let mut m = Model::default();
    let (conv, dense) = (m.x("16 4 3 3"), m.x("70 100"));
    let rows = m.node(quantize(WeightLayout::RowsFirst), &[Some(conv)], 3);
    let cols = m.node(quantize(WeightLayout::RowsLast), &[Some(dense)], 3);
    let width = Width::new(2).unwrap();
    let slice = m.apply(Op::SliceBits { width, mode: SliceMode::Round }, &[rows[0]]);
    let restore = Op::Dequantize {
        width,
        mode: SliceMode::Round,
        grouping: Grouping::Group(32),
        layout: WeightLayout::RowsFirst,
        shape: vec![16, 4, 3, 3],
    };
    let back = m.apply(restore, &[slice, rows[1], rows[2]]);
    m.infer();
    assert_eq!([m.ty(rows[0]), m.ty(rows[1]), m.ty(rows[2])], ["u8[16, 36]", "f32[16, 2]", "f32[16, 2]"]);
    assert_eq!([m.ty(cols[0]), m.ty(cols[1])], ["u8[100, 70]", "f32[100, 3]"]);
    assert_eq!(m.ty(slice), "u8[16, 36]");
    assert_eq!(m.ty(back), "f32[16, 4, 3, 3]");
}

#[test]
fn products_gathers_and_convolutions_read_planes() {
    let mut m = Model::default();
    let (x, ids, image) = (m.x("batch seq 70"), m.input(DType::I64, "batch seq"), m.x("batch 4 h h"));
    let [width, scale, zero] = affine(&mut m, 3);
    let plane = m.input(DType::U8, "100 9");
    let y = m.apply(Op::NestedMatMul(nested(70)), &[x, width, scale, zero, plane, plane]);
    let rows = m.apply(Op::NestedGather(nested(70)), &[ids, width, scale, zero, plane]);
    let [_, scale, zero] = affine(&mut m, 2);
    let plane = m.input(DType::U8, "100 5");
    let op = Op::NestedConv { nested: nested(36), window: Window::default(), shape: vec![100, 4, 3, 3] };
    let conv = m.node(op, &[Some(image), Some(width), Some(scale), Some(zero), None, Some(plane)], 1)[0];
    m.infer();
    assert_eq!(m.ty(y), "f32[batch, seq, 100]");
    assert_eq!(m.ty(rows), "f32[batch, seq, 70]");
    assert_eq!(m.ty(conv), "f32[batch, 100, h - 2, h - 2]");
}

#[test]
fn widths_with_maps_of_their_own_stack_them() {
    let own = || Nested { map_widths: vec![Width::MAX, Width::new(2).unwrap()], ..nested(64) };
    let mut m = Model::default();
    let x = m.x("n 64");
    let width = m.constant(Tensor::i64_scalar(4));
    let (maps, two, flat) = (m.x("3 100 2"), m.x("2 100 2"), m.x("100 2"));
    let plane = m.input(DType::U8, "100 8");
    let y = m.apply(Op::NestedMatMul(own()), &[x, width, maps, maps, plane]);
    m.infer();
    assert_eq!(m.ty(y), "f32[n, 100]");
    m.apply(Op::NestedMatMul(own()), &[x, width, maps, two, plane]);
    m.apply(Op::NestedMatMul(own()), &[x, width, flat, maps, plane]);
    let errors = m.errors();
    assert!(
        errors[0].ends_with("maps of zero and of map_widths: found 2 and 3, expected equal sizes"),
        "{errors:?}"
    );
    assert!(errors[1].ends_with("scale has shape [100, 2], expected [3, rows, groups]"), "{errors:?}");
    assert_eq!(errors.len(), 2);
}

#[test]
fn planes_that_do_not_fit_are_errors() {
    let mut m = Model::default();
    let x = m.x("n 64");
    let [width, scale, zero] = affine(&mut m, 2);
    let short = m.input(DType::U8, "100 7");
    let other = m.input(DType::U8, "99 8");
    let float = m.x("100 8");
    m.apply(Op::NestedMatMul(nested(64)), &[x, width, scale, zero, short]);
    m.apply(Op::NestedMatMul(nested(64)), &[x, width, scale, zero, other]);
    m.apply(Op::NestedMatMul(nested(64)), &[x, width, scale, zero, float]);
    m.apply(Op::NestedMatMul(nested(64)), &[x, width, scale, zero]);
    m.apply(Op::NestedMatMul(nested(32)), &[x, width, scale, zero, short]);
    let expected = [
        "bytes in a row of a plane: found 8 and 7, expected equal sizes",
        "rows of the planes and scales: found 100 and 99, expected equal sizes",
        "plane has type f32, expected u8",
        "operand 4 (plane) is missing, found 4 operands",
        "groups of scale: found 1 and 2, expected equal sizes",
    ];
    let errors = m.errors();
    assert_eq!(errors.len(), expected.len());
    for (found, expected) in errors.iter().zip(expected) {
        assert!(found.ends_with(expected), "{found}");
    }
}
