//! Inference with symbols, then numbers put in, equals inference with the numbers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Model, text};
use crate::infer::infer;
use crate::infer::symbolic::Expr;
use crate::op::{AutoPad, Binary, Window};
use crate::{DType, Dim, Op, Type, Value};

/// Sizes of the symbols `s0`, `s1`, ..
type Sizes = BTreeMap<String, i64>;

/// A dimension: a number, or a symbol for it.
#[derive(Clone, Debug)]
struct Axis {
    size: i64,
    symbol: Option<usize>,
}

fn axis(sizes: std::ops::Range<i64>) -> impl Strategy<Value = Axis> {
    (sizes, prop::option::weighted(0.7, 0..4usize)).prop_map(|(size, symbol)| Axis { size, symbol })
}

/// The two ways to write a shape. Equal symbols must be equal sizes, so a symbol is named by its size as well.
fn shapes(axes: &[Axis], sizes: &mut Sizes) -> (String, String) {
    let mut symbolic = vec![];
    for axis in axes {
        symbolic.push(match axis.symbol {
            Some(i) => {
                let name = format!("s{i}_{}", axis.size);
                sizes.insert(name.clone(), axis.size);
                name
            }
            None => axis.size.to_string(),
        });
    }
    let numbers: Vec<_> = axes.iter().map(|a| a.size.to_string()).collect();
    (symbolic.join(" "), numbers.join(" "))
}

/// Builds the same graph with symbols and with numbers and compares. With `all_known`, no dimension may stay unknown.
fn check(
    inputs: &[&[Axis]],
    all_known: bool,
    build: impl Fn(&mut Model, &[Value]) -> Value,
) -> Result<(), TestCaseError> {
    let mut sizes = Sizes::new();
    let shapes: Vec<_> = inputs.iter().map(|axes| shapes(axes, &mut sizes)).collect();
    let (mut symbolic, mut numeric) = (Model::default(), Model::default());
    let xs: Vec<_> = shapes.iter().map(|(s, _)| symbolic.x(s)).collect();
    let ns: Vec<_> = shapes.iter().map(|(_, n)| numeric.x(n)).collect();
    let (y, z) = (build(&mut symbolic, &xs), build(&mut numeric, &ns));
    if infer(&mut numeric.0).is_err() {
        return Ok(());
    }
    prop_assert_eq!(infer(&mut symbolic.0), Ok(()));
    let (found, expected) = (symbolic.0.ty(y), numeric.0.ty(z));
    let (Some(f), Some(e)) = (found.shape(), expected.shape()) else {
        prop_assert!(false, "{} {}", text(found), text(expected));
        return Ok(());
    };
    prop_assert_eq!(f.len(), e.len());
    for (f, e) in f.iter().zip(e) {
        if *f == Dim::Unknown && !all_known {
            continue;
        }
        let value = Expr::of(f).and_then(|f| f.evaluate(&|name| sizes.get(name).copied()));
        prop_assert_eq!(value, e.size().map(|n| n as i64), "{} is {}", text(found), text(expected));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn elementwise(a in prop::collection::vec((axis(1..5), 0..3), 0..4)) {
        let all: Vec<Axis> = a.iter().map(|(axis, _)| axis.clone()).collect();
        let ones = Axis { size: 1, symbol: None };
        let pick = |side| a.iter().map(|(axis, k)| if *k == side { ones.clone() } else { axis.clone() }).collect();
        let (left, right): (Vec<Axis>, Vec<Axis>) = (pick(1), pick(2));
        let add = |m: &mut Model, x: &[Value]| m.apply(Op::Binary(Binary::Add), &[x[0], x[1]]);
        check(&[&left, &right], true, add)?;
        check(&[&all, &right[right.len() / 2..]], true, add)?;
    }

    #[test]
    fn matmul(batch in prop::collection::vec(axis(1..4), 0..3), m in axis(0..9), k in axis(1..9), n in axis(0..9)) {
        let left = [&batch[..], &[m, k.clone()]].concat();
        check(&[&left, &[k, n]], true, |m, x| m.apply(Op::MatMul, &[x[0], x[1]]))?;
    }

    #[test]
    fn conv(
        b in axis(0..3), c in 1i64..3, h in axis(1..40), kernel in 1i64..5, stride in 1i64..4, dilation in 1i64..3,
        pads in prop::array::uniform2(0i64..3), auto_pad in prop::sample::select(
            &[AutoPad::Notset, AutoPad::SameUpper, AutoPad::SameLower, AutoPad::Valid][..]),
    ) {
        let plain = |size| Axis { size, symbol: None };
        let window = Window {
            auto_pad, dilations: vec![dilation], strides: vec![stride],
            pads: if auto_pad == AutoPad::Notset { pads.to_vec() } else { vec![] }, ..Window::default()
        };
        let twice = |m: &mut Model, x: &[Value]| {
            let y = m.apply(Op::Conv(window.clone()), &[x[0], x[1]]);
            m.apply(Op::Conv(window.clone()), &[y, x[1]])
        };
        check(&[&[b, plain(c), h], &[plain(c), plain(c), plain(kernel)]], true, twice)?;
    }

    #[test]
    fn reshape(a in axis(1..6), b in axis(1..6), c in 1i64..5, d in 1i64..5) {
        let last = Axis { size: c * d, symbol: None };
        let shape = [a, b, last];
        for target in [vec![0, -1, c], vec![-1, d], vec![0, 0, c, -1], vec![-1], vec![c, d, -1]] {
            check(&[&shape], true, |m, x| {
                let target = m.ints(&target);
                m.apply(Op::Reshape { allowzero: false }, &[x[0], target])
            })?;
        }
    }

    #[test]
    fn reshape_by_shape(a in axis(1..6), b in axis(1..6), c in axis(1..6)) {
        // Joins the first two of three dimensions by their computed product, then splits them again.
        check(&[&[a, b, c]], true, |m, x| {
            let shape = m.apply(Op::Shape { start: 0, end: None }, &[x[0]]);
            let sizes: Vec<_> = (0..3).map(|i| {
                let at = m.ints(&[i]);
                m.apply(Op::Gather { axis: 0 }, &[shape, at])
            }).collect();
            let both = m.apply(Op::Binary(Binary::Mul), &[sizes[0], sizes[1]]);
            let rest = m.ints(&[-1]);
            let target = m.apply(Op::Concat { axis: 0 }, &[both, rest]);
            let flat = m.apply(Op::Reshape { allowzero: false }, &[x[0], target]);
            let target = m.apply(Op::Concat { axis: 0 }, &[sizes[0], rest, sizes[2]]);
            m.apply(Op::Reshape { allowzero: false }, &[flat, target])
        })?;
    }

    #[test]
    fn concat(axes in prop::collection::vec(axis(0..9), 1..5), other in axis(0..4)) {
        let shapes: Vec<_> = axes.into_iter().map(|a| [other.clone(), a]).collect();
        let inputs: Vec<&[Axis]> = shapes.iter().map(|s| &s[..]).collect();
        check(&inputs, true, |m, x| m.apply(Op::Concat { axis: 1 }, x))?;
    }

    #[test]
    fn slice(n in axis(0..12), start in -14i64..14, end in -14i64..14, step in 1i64..4, open: bool) {
        let end = if open { i64::MAX } else { end };
        check(std::slice::from_ref(&&[n.clone()][..]), true, |m, x| {
            let operands = [x[0], m.ints(&[start]), m.ints(&[end]), m.ints(&[0]), m.ints(&[step])];
            m.apply(Op::Slice, &operands)
        })?;
        // And the numbers are those of the elements walked one by one.
        let clamp = |i: i64| if i < 0 { i.saturating_add(n.size) } else { i }.clamp(0, n.size);
        let walked = (clamp(start)..clamp(end)).step_by(step as usize).count();
        let mut m = Model::default();
        let x = m.x(&n.size.to_string());
        let operands = [x, m.ints(&[start]), m.ints(&[end]), m.ints(&[0]), m.ints(&[step])];
        let y = m.apply(Op::Slice, &operands);
        prop_assert_eq!(m.inferred(y), format!("f32[{walked}]"));
    }

    #[test]
    fn slice_backwards(n in 0i64..12, start in -14i64..14, end in -14i64..14, step in 1i64..4) {
        let mut m = Model::default();
        let x = m.x(&n.to_string());
        let operands = [x, m.ints(&[start]), m.ints(&[end]), m.ints(&[0]), m.ints(&[-step])];
        let y = m.apply(Op::Slice, &operands);
        // Walked from the start, clamped to an element, down to the end, clamped to before the first.
        let place = |i: i64, low: i64| (if i < 0 { i + n } else { i }).min(n - 1).max(low);
        let (start, end) = (place(start, 0), place(end, -1));
        let walked = (0..).map(|i| start - i * step).take_while(|i| n > 0 && *i > end).count();
        prop_assert_eq!(m.inferred(y), format!("f32[{walked}]"));
    }

    #[test]
    fn slice_between_sizes(a in axis(0..9), b in axis(0..9), back: bool) {
        // x of a + b elements, from a to the end or from 0 to a: never unknown.
        check(&[std::slice::from_ref(&a), &[b]], true, |m, x| {
            let whole = m.apply(Op::Concat { axis: 0 }, &[x[0], x[1]]);
            let middle = m.apply(Op::Shape { start: 0, end: None }, &[x[0]]);
            let end = m.apply(Op::Shape { start: 0, end: None }, &[whole]);
            let (zero, axis) = (m.ints(&[0]), m.ints(&[0]));
            let (from, to) = if back { (zero, middle) } else { (middle, end) };
            m.apply(Op::Slice, &[whole, from, to, axis])
        })?;
    }

    /// Anything goes: no panic, no endless loop, whatever the graph claims.
    #[test]
    fn odd_graphs_do_not_panic(
        shapes in prop::collection::vec(prop::collection::vec(prop_oneof![
            Just("?".to_owned()), Just("a".to_owned()), Just("b + 1".to_owned()), Just("floor(a / 2)".to_owned()),
            any::<u64>().prop_map(|n| n.to_string()), (0u64..5).prop_map(|n| n.to_string()),
        ], 0..4), 1..4),
        numbers in prop::collection::vec(prop_oneof![any::<i64>(), -5i64..5, Just(i64::MIN), Just(i64::MAX)], 0..5),
        kinds in prop::collection::vec((0..24usize, 0..9usize, 0..9usize, 0..9usize), 1..12),
    ) {
        let mut m = Model::default();
        let mut values: Vec<Value> = vec![];
        for shape in &shapes {
            let shape = shape.iter().map(|d| match d.as_str() {
                "?" => Dim::Unknown,
                d => d.parse().map_or_else(|_| Dim::Symbol(d.into()), Dim::Size),
            });
            let name = format!("i{}", values.len());
            let ty = Type::tensor(DType::F32, shape.collect());
            values.push(m.0.add_input(name, ty));
        }
        values.push(m.ints(&numbers));
        let n = |i: usize| numbers.get(i).copied().unwrap_or(1);
        for (kind, a, b, c) in kinds {
            let list = || Some(numbers.clone());
            let window = Window { strides: numbers.clone(), pads: numbers.clone(), group: n(1), ..Window::default() };
            let op = match kind {
                0 => Op::Reshape { allowzero: n(0) > 0 },
                1 => Op::Shape { start: n(0), end: Some(n(1)) },
                2 => Op::Concat { axis: n(0) },
                3 => Op::Slice,
                4 => Op::Gather { axis: n(0) },
                5 => Op::Split { axis: n(0), sizes: list(), num_outputs: None },
                6 => Op::Expand,
                7 => Op::Tile,
                8 => Op::Range,
                9 => Op::ConstantOfShape { value: None },
                10 => Op::Conv(window),
                11 => Op::MaxPool { window: Window { kernel_shape: numbers.clone(), ..window }, ceil_mode: true, storage_order: 0 },
                12 => Op::Binary(Binary::Mul),
                13 => Op::Binary(Binary::Div),
                14 => Op::Binary(Binary::Sub),
                15 => Op::Transpose { perm: list() },
                16 => Op::Unsqueeze { axes: list() },
                17 => Op::Squeeze { axes: None },
                18 => Op::GatherNd { batch_dims: n(0) },
                19 => Op::Flatten { axis: n(0) },
                20 => Op::MatMul,
                21 => Op::Size,
                22 => Op::Cast { to: DType::I64, saturate: true },
                _ => Op::Pad { mode: crate::op::PadMode::Constant },
            };
            let pick = |i: usize| values[i % values.len()];
            let operands = [pick(a), pick(b), pick(c)];
            let y = m.apply(op, &operands[..1 + c % 3]);
            values.push(y);
        }
        let first = infer(&mut m.0);
        let once = m.0.clone();
        prop_assert_eq!(infer(&mut m.0), first);
        prop_assert_eq!(m.0, once);
    }
}
