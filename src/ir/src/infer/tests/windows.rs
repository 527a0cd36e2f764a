//! Convolutions and poolings, sizes counted window by window.

use proptest::prelude::*;

use super::{Model, text};
use crate::op::{AutoPad, Window};
use crate::{Op, infer::infer};

fn window(kernel: i64, stride: i64, pads: [i64; 2]) -> Window {
    Window { kernel_shape: vec![kernel], strides: vec![stride], pads: pads.to_vec(), ..Window::default() }
}

fn pooled(shape: &str, window: Window, ceil_mode: bool) -> String {
    let mut m = Model::default();
    let x = m.x(shape);
    let y = m.apply(Op::MaxPool { window, ceil_mode, storage_order: 0 }, &[x]);
    m.inferred(y)
}

#[test]
fn a_small_network_keeps_its_symbols() {
    let mut m = Model::default();
    let (x, w, b) = (m.x("n 3 h 224"), m.x("32 3 3 3"), m.x("32"));
    let stem = Window { strides: vec![2, 2], pads: vec![1, 1, 1, 1], ..Window::default() };
    let y = m.apply(Op::Conv(stem.clone()), &[x, w, b]);
    let depthwise = m.x("32 1 3 3");
    let z = m.apply(Op::Conv(Window { group: 32, ..stem.clone() }), &[y, depthwise]);
    let pool = m.apply(Op::GlobalAveragePool, &[z]);
    let same = Window { auto_pad: AutoPad::SameUpper, strides: vec![2, 2], ..Window::default() };
    let s = m.apply(Op::Conv(same), &[x, w]);
    let indices = m.node(
        Op::MaxPool {
            window: Window { kernel_shape: vec![2, 2], ..stem },
            ceil_mode: false,
            storage_order: 0,
        },
        &[Some(z)],
        2,
    );
    m.infer();
    assert_eq!(m.ty(y), "f32[n, 32, floor((h + 1) / 2), 112]");
    assert_eq!(m.ty(z), "f32[n, 32, floor((h + 3) / 4), 56]");
    assert_eq!(m.ty(pool), "f32[n, 32, 1, 1]");
    assert_eq!(m.ty(s), "f32[n, 32, floor((h + 1) / 2), 112]");
    assert_eq!(m.ty(indices[1]), "i64[n, 32, floor((h + 3) / 8) + 1, 29]");
}

#[test]
fn kernels_dilate_and_unknown_weights_leave_sizes_open() {
    let mut m = Model::default();
    let (x, w, any) = (m.x("1 4 10"), m.x("8 4 3"), m.x("? ? ?"));
    let dilated = m.apply(Op::Conv(Window { dilations: vec![2], ..Window::default() }), &[x, w]);
    let open = m.apply(Op::Conv(Window::default()), &[x, any]);
    m.infer();
    assert_eq!(m.ty(dilated), "f32[1, 8, 6]");
    assert_eq!(m.ty(open), "f32[1, ?, ?]");
}

#[test]
fn rounding_up_ignores_windows_in_the_padding() {
    assert_eq!(pooled("1 1 5", window(2, 2, [0, 0]), false), "f32[1, 1, 2]");
    assert_eq!(pooled("1 1 5", window(2, 2, [0, 0]), true), "f32[1, 1, 3]");
    // The last of three windows would start at 4, behind the data: PyTorch gives 2.
    assert_eq!(pooled("1 1 3", window(2, 2, [1, 1]), true), "f32[1, 1, 2]");
    assert_eq!(pooled("1 1 h", window(3, 2, [0, 0]), true), "f32[1, 1, floor(h / 2)]");
}

/// Windows that lie in the padded data, or with `ceil_mode` start in the data or the padding before it and reach
/// the first element that is not covered yet.
fn count(size: i64, kernel: i64, stride: i64, dilation: i64, pads: [i64; 2], ceil_mode: bool) -> i64 {
    let extent = (kernel - 1) * dilation + 1;
    let end = size + pads[0] + pads[1];
    let mut windows = 0;
    let mut start = 0;
    while start + extent <= end {
        windows += 1;
        start += stride;
    }
    let covered = start - stride + extent;
    if ceil_mode && windows > 0 && covered < end && start < size + pads[0] {
        windows += 1;
    }
    windows
}

proptest! {
    #[test]
    fn sizes_are_the_windows_counted(
        size in 1i64..40, kernel in 1i64..6, stride in 1i64..5, dilation in 1i64..4,
        before in 0i64..5, after in 0i64..5, ceil_mode: bool, symbolic: bool,
    ) {
        let pads = [before.min(kernel - 1), after.min(kernel - 1)];
        prop_assume!(size + pads[0] + pads[1] > (kernel - 1) * dilation);
        let window = Window { dilations: vec![dilation], ..window(kernel, stride, pads) };
        let mut m = Model::default();
        let x = m.x(&format!("1 1 {}", if symbolic { "s".to_owned() } else { size.to_string() }));
        let y = m.apply(Op::MaxPool { window, ceil_mode, storage_order: 0 }, &[x]);
        prop_assert!(infer(&mut m.0).is_ok());
        let ty = m.0.ty(y);
        let expr = super::super::symbolic::Expr::of(&ty.shape().unwrap()[2]);
        let found = expr.and_then(|e| e.evaluate(&|_| Some(size)));
        prop_assert_eq!(found, Some(count(size, kernel, stride, dilation, pads, ceil_mode)), "{}", text(ty));
    }
}
