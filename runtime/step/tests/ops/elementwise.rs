use mqc_ir::op::{Binary, Compare, GeluKind, Unary, Variadic};
use mqc_ir::quant::{SliceMode, Width};
use mqc_ir::{DType, F32, Op, Tensor};
use proptest::prelude::*;

use super::*;

#[test]
fn unary_functions() {
    let x = [-2.5, -1.0, -0.3, 0.0, 0.4, 0.5, 1.5, 3.0];
    let check = |kind, f: fn(f64) -> f64| {
        let expected: Vec<f64> = x.iter().map(|v| f(*v)).collect();
        close(&reals(Op::Unary(kind), &[(&[8], &x)]), &expected, 1e-12);
    };
    check(Unary::Abs, f64::abs);
    check(Unary::Acos, f64::acos);
    check(Unary::Acosh, f64::acosh);
    check(Unary::Asin, f64::asin);
    check(Unary::Asinh, f64::asinh);
    check(Unary::Atan, f64::atan);
    check(Unary::Atanh, f64::atanh);
    check(Unary::Ceil, f64::ceil);
    check(Unary::Cos, f64::cos);
    check(Unary::Cosh, f64::cosh);
    check(Unary::Exp, f64::exp);
    check(Unary::Floor, f64::floor);
    check(Unary::HardSwish, |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0);
    check(Unary::Log, f64::ln);
    check(Unary::Mish, |x| x * (1.0 + x.exp()).ln().tanh());
    check(Unary::Neg, |x| -x);
    check(Unary::Reciprocal, |x| 1.0 / x);
    check(Unary::Relu, |x| if x > 0.0 { x } else { 0.0 });
    check(Unary::Sigmoid, |x| x.exp() / (1.0 + x.exp()));
    check(Unary::Sign, |x| f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)));
    check(Unary::Sin, f64::sin);
    check(Unary::Sinh, f64::sinh);
    check(Unary::Softplus, |x| (1.0 + x.exp()).ln());
    check(Unary::Softsign, |x| x / (1.0 + x.abs()));
    check(Unary::Sqrt, f64::sqrt);
    check(Unary::Tan, f64::tan);
    check(Unary::Tanh, f64::tanh);
    close(
        &reals(Op::Unary(Unary::Round), &[(&[6], &[0.5, 1.5, 2.5, -0.5, -1.5, 0.6])]),
        &[0.0, 2.0, 2.0, 0.0, -2.0, 1.0],
        0.0,
    );
    // Values of Abramowitz and Stegun, table 7.1, and of the complement at 2 and 5.
    close(
        &reals(Op::Unary(Unary::Erf), &[(&[6], &[0.1, 0.5, -1.0, 2.0, 5.0, 9.0])]),
        &[
            0.112462916018284,
            0.520499877813047,
            -0.842700792949715,
            0.995322265018953,
            1.0 - 1.5374597944e-12,
            1.0,
        ],
        1e-14,
    );
}

#[test]
fn functions_with_attributes() {
    let x: (&[usize], &[f64]) = (&[4], &[-2.0, -0.5, 0.5, 2.0]);
    close(&reals(Op::LeakyRelu { alpha: F32(0.5) }, &[x]), &[-1.0, -0.25, 0.5, 2.0], 1e-7);
    let elu = |v: f64| if v < 0.0 { 2.0 * (v.exp() - 1.0) } else { v };
    close(&reals(Op::Elu { alpha: F32(2.0) }, &[x]), &x.1.iter().map(|v| elu(*v)).collect::<Vec<_>>(), 1e-12);
    close(
        &reals(Op::HardSigmoid { alpha: F32(0.25), beta: F32(0.5) }, &[x]),
        &[0.0, 0.375, 0.625, 1.0],
        1e-12,
    );
    // From the definition with erf(2 / sqrt 2) = 0.954499736103642.
    let gelu = reals(Op::Gelu { approximate: GeluKind::Erf }, &[x]);
    close(&gelu[3..], &[1.0 + 0.954499736103642], 1e-13);
    close(&gelu[..1], &[-1.0 + 0.954499736103642], 1e-13);
    let tanh = |x: f64| 0.5 * x * (1.0 + (0.7978845608028654 * (x + 0.044715 * x.powi(3))).tanh());
    close(
        &reals(Op::Gelu { approximate: GeluKind::Tanh }, &[x]),
        &x.1.iter().map(|v| tanh(*v)).collect::<Vec<_>>(),
        1e-12,
    );
}

#[test]
fn fake_slice_levels() {
    let x: Vec<f64> = (0..=520).map(|i| f64::from(i) / 2.0 - 2.0).collect();
    for bits in 1..=8u8 {
        for mode in [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra] {
            let width = Width::new(bits).unwrap();
            let found = reals(Op::FakeSlice { width, mode }, &[(&[x.len()], &x)]);
            let cut = 8 - u32::from(bits);
            let expected: Vec<f64> = x
                .iter()
                .map(|v| {
                    // Codes in integers; halves go to the even code.
                    let down = v.floor();
                    let up = v - down > 0.5 || v - down == 0.5 && down.rem_euclid(2.0) == 1.0;
                    let q = (down as i64 + i64::from(up)).clamp(0, 255) as u32;
                    let rounded = if cut == 0 { q } else { (q >> cut) + (q >> (cut - 1) & 1) };
                    match mode {
                        SliceMode::Midpoint => {
                            f64::from(q >> cut << cut) + (f64::from(1u32 << cut) - 1.0) / 2.0
                        }
                        SliceMode::Round => f64::from(rounded.min((1 << bits) - 1) << cut),
                        SliceMode::Extra => f64::from(rounded << cut),
                    }
                })
                .collect();
            close(&found, &expected, 0.0);
        }
    }
}

/// Two shapes that broadcast, and their common shape.
fn broadcasting() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    let dim = (0usize..4, 0u8..3);
    (prop::collection::vec(dim, 0..4), 0usize..4, 0usize..4).prop_map(|(dims, cut_a, cut_b)| {
        let size = |which: u8, (n, one): &(usize, u8)| if *one == which { 1 } else { *n };
        let all = |which| dims.iter().map(|d| size(which, d)).collect::<Vec<_>>();
        let (a, b) = (all(1), all(2));
        let (cut_a, cut_b) = (cut_a.min(a.len()), cut_b.min(b.len()));
        let (a, b) = if cut_a > cut_b { (a[cut_a..].to_vec(), b) } else { (a, b[cut_b..].to_vec()) };
        let rank = a.len().max(b.len());
        let get = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
        let to = (0..rank).map(|i| if get(&a, i) == 1 { get(&b, i) } else { get(&a, i) }).collect();
        (a, b, to)
    })
}

proptest! {
    #[test]
    fn binary_functions_broadcast((a, b, to) in broadcasting()) {
        let len = |s: &[usize]| s.iter().product::<usize>();
        let (x, y) = (numbers(len(&a)), numbers(len(&b)).into_iter().rev().collect::<Vec<_>>());
        type Case = (Op, fn(f64, f64) -> f64);
        let table: [Case; 8] = [
            (Op::Binary(Binary::Add), |a, b| a + b),
            (Op::Binary(Binary::Sub), |a, b| a - b),
            (Op::Binary(Binary::Mul), |a, b| a * b),
            (Op::Binary(Binary::Div), |a, b| a / b),
            (Op::Binary(Binary::Pow), f64::powf),
            (Op::Binary(Binary::Fmod), |a, b| a % b),
            (Op::Variadic(Variadic::Max), f64::max),
            (Op::Variadic(Variadic::Mean), |a, b| (a + b) / 2.0),
        ];
        for (op, f) in table {
            let expected: Vec<f64> =
                places(&to).iter().map(|p| f(at(&x, &a, p), at(&y, &b, p))).collect();
            close(&reals(op, &[(&a, &x), (&b, &y)]), &expected, 1e-12);
        }
        let mut model = Model::default();
        let (p, q) = (model.real(&a, &x), model.real(&b, &y));
        let less = model.apply(Op::Compare(Compare::Less), &[p, q]);
        let picked = model.apply(Op::Select, &[less, p, q]);
        let expected: Vec<f64> = places(&to).iter().map(|i| at(&x, &a, i).min(at(&y, &b, i))).collect();
        close(&model.reals(picked), &expected, 0.0);
    }
}

fn ints(op: Op, operands: &[&[i64]]) -> Vec<i64> {
    let mut model = Model::default();
    let operands: Vec<_> = operands.iter().map(|v| model.int(&[v.len()], v)).collect();
    let result = model.apply(op, &operands);
    model.value(result).as_int().expect("integers").to_vec()
}

#[test]
fn integers() {
    let (a, b): (&[i64], &[i64]) = (&[7, -7, 7, -7], &[3, 3, -3, -3]);
    assert_eq!(ints(Op::Binary(Binary::Div), &[a, b]), [2, -2, -2, 2]);
    assert_eq!(ints(Op::Binary(Binary::Mod), &[a, b]), [1, 2, -2, -1]);
    assert_eq!(ints(Op::Binary(Binary::Fmod), &[a, b]), [1, -1, 1, -1]);
    assert_eq!(ints(Op::Binary(Binary::Pow), &[&[2, -3], &[10, 3]]), [1024, -27]);
    assert_eq!(ints(Op::Binary(Binary::BitwiseAnd), &[&[12], &[10]]), [8]);
    assert_eq!(ints(Op::Variadic(Variadic::Min), &[a, b, &[0, 0, 9, 9]]), [0, -7, -3, -7]);
    assert_eq!(ints(Op::Unary(Unary::BitwiseNot), &[&[0, 5]]), [-1, -6]);
    let mut model = Model::default();
    let (x, y) = (model.int(&[1], &[1]), model.int(&[1], &[0]));
    let quotient = model.apply(Op::Binary(Binary::Div), &[x, y]);
    let error = model.run(&[quotient]).unwrap_err().to_string();
    assert!(error.contains("divided by 0") && error.contains("n2"), "{error}");
}

#[test]
fn casts() {
    let mut model = Model::default();
    let x = model.real(&[5], &[-1.9, 0.0, 2.5, 300.0, f64::NAN]);
    let cast = |model: &mut Model, x, to| model.apply(Op::Cast { to, saturate: true }, &[x]);
    let (whole, byte, flag) =
        (cast(&mut model, x, DType::I64), cast(&mut model, x, DType::U8), cast(&mut model, x, DType::Bool));
    let back = cast(&mut model, flag, DType::F32);
    let wide = model.int(&[3], &[-1, 300, 255]);
    let narrow = cast(&mut model, wide, DType::U8);
    let found = model.run(&[whole, byte, flag, back, narrow]).unwrap();
    assert_eq!(data(&found[0]), &Data::Int(vec![-1, 0, 2, 300, 0]));
    assert_eq!(data(&found[1]), &Data::Int(vec![0, 0, 2, 255, 0]));
    assert_eq!(data(&found[2]), &Data::Bool(vec![true, false, true, true, true]));
    assert_eq!(data(&found[3]), &Data::Real(vec![1.0, 0.0, 1.0, 1.0, 1.0]));
    assert_eq!(data(&found[4]), &Data::Int(vec![255, 44, 255]));
}

#[test]
fn logic_and_clip() {
    let mut model = Model::default();
    let (a, b) =
        (model.bool(&[4], &[false, false, true, true]), model.bool(&[4], &[false, true, false, true]));
    let and = model.apply(Op::Binary(Binary::And), &[a, b]);
    let or = model.apply(Op::Binary(Binary::Or), &[a, b]);
    let xor = model.apply(Op::Binary(Binary::Xor), &[a, b]);
    let not = model.apply(Op::Unary(Unary::Not), &[a]);
    let x = model.real(&[3], &[-2.0, 0.5, 9.0]);
    let nan = model.apply(Op::Unary(Unary::IsNan), &[x]);
    let high = model.constant(Tensor::f32_scalar(1.0));
    let clipped = model.node(Op::Clip, &[Some(x), None, Some(high)], 1)[0];
    let found = model.run(&[and, or, xor, not, nan, clipped]).unwrap();
    assert_eq!(data(&found[0]), &Data::Bool(vec![false, false, false, true]));
    assert_eq!(data(&found[1]), &Data::Bool(vec![false, true, true, true]));
    assert_eq!(data(&found[2]), &Data::Bool(vec![false, true, true, false]));
    assert_eq!(data(&found[3]), &Data::Bool(vec![true, true, false, false]));
    assert_eq!(data(&found[4]), &Data::Bool(vec![false, false, false]));
    assert_eq!(data(&found[5]), &Data::Real(vec![-2.0, 0.5, 1.0]));
}
