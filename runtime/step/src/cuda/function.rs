//! Functions of single elements in CUDA C++. Booleans are 0 and 1, as in the other engine.

use mqc_ir::Op;
use mqc_ir::op::{Binary, Compare, GeluKind, Unary};
use mqc_ir::quant::SliceMode;

use crate::lower::task::{Combine, Func};

/// A number that C++ reads as the same f32.
pub(super) fn literal(value: f64) -> String {
    let value = value as f32;
    if value.is_finite() { format!("({value:?}f)") } else { format!("bits({:#010x}u)", value.to_bits()) }
}

/// The value of a function, an expression.
pub(super) fn expression(func: &Func, [a, b, c]: [&str; 3]) -> String {
    match func {
        Func::Copy => a.to_owned(),
        Func::NotZero => format!("flag({a} != 0.f)"),
        Func::Not => format!("1.f - {a}"),
        Func::Max => format!("greater({a}, {b})"),
        Func::Min => format!("lesser({a}, {b})"),
        Func::Select => format!("{a} != 0.f ? {b} : {c}"),
        Func::Compare(kind) => format!("flag({a} {} {b})", comparison(*kind)),
        Func::Binary(kind) => binary(*kind, a, b),
        Func::MulAdd => format!("fmaf({a}, {b}, {c})"),
        Func::MulSub => format!("fmaf(-({a}), {b}, {c})"),
        Func::Within { low, high } => {
            format!("{a} < {} || {a} > {} ? 0.f : {b}", literal(*low), literal(*high))
        }
        Func::WithinProduct { low, high } => {
            format!("{a} < {} || {a} > {} ? 0.f : {b} * {c}", literal(*low), literal(*high))
        }
        Func::EqualProduct => format!("flag({a} == {b}) * {c}"),
        Func::RootAdd => format!("sqrtf({a} * {b}) + {c}"),
        Func::MulDiv => format!("{a} * {b} / {c}"),
        Func::SliceMulAdd { width, mode } => {
            let slice = mapped(&Op::FakeSlice { width: *width, mode: *mode }, a);
            format!("fmaf({slice}, {b}, {c})")
        }
        Func::Unary(kind) => unary(*kind, a),
        Func::Map(op) => mapped(op, a),
    }
}

/// The operator of a comparison.
pub(super) fn comparison(kind: Compare) -> &'static str {
    match kind {
        Compare::Equal => "==",
        Compare::Greater => ">",
        Compare::GreaterOrEqual => ">=",
        Compare::Less => "<",
        Compare::LessOrEqual => "<=",
    }
}

/// What combines two elements, what combines those of threads, and the first value.
pub(super) fn combining(combine: Combine) -> [String; 3] {
    let [pair, threads, first] = match combine {
        Combine::Sum => ["sum", "combine_sum", "0.f"],
        Combine::Prod => ["product", "combine_prod", "1.f"],
        Combine::Max => ["greater", "combine_max", "bits(0xff800000u)"],
        Combine::Min => ["lesser", "combine_min", "bits(0x7f800000u)"],
    };
    [pair.to_owned(), threads.to_owned(), first.to_owned()]
}

fn nan() -> String {
    literal(f64::NAN)
}

fn binary(kind: Binary, a: &str, b: &str) -> String {
    match kind {
        Binary::Add => format!("{a} + {b}"),
        Binary::Sub => format!("{a} - {b}"),
        Binary::Mul | Binary::And => format!("{a} * {b}"),
        Binary::Div => format!("{a} / {b}"),
        Binary::PRelu => format!("{a} < 0.f ? {a} * {b} : {a}"),
        Binary::Or => format!("{a} > {b} ? {a} : {b}"),
        Binary::Xor => format!("flag({a} != {b})"),
        Binary::Pow => format!("powf({a}, {b})"),
        Binary::Fmod => format!("fmodf({a}, {b})"),
        Binary::Mod
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::ShiftLeft
        | Binary::ShiftRight => nan(),
    }
}

fn unary(kind: Unary, a: &str) -> String {
    let call = |name: &str| format!("{name}({a})");
    match kind {
        Unary::Abs => call("fabsf"),
        Unary::Acos => call("acosf"),
        Unary::Acosh => call("acoshf"),
        Unary::Asin => call("asinf"),
        Unary::Asinh => call("asinhf"),
        Unary::Atan => call("atanf"),
        Unary::Atanh => call("atanhf"),
        Unary::Ceil => call("ceilf"),
        Unary::Cos => call("cosf"),
        Unary::Cosh => call("coshf"),
        Unary::Erf => call("erff"),
        Unary::Exp => call("expf"),
        Unary::Floor => call("floorf"),
        Unary::HardSwish => format!("{a} * clamp({a} / 6.f + 0.5f, 0.f, 1.f)"),
        Unary::IsNan => format!("flag({a} != {a})"),
        Unary::Log => call("logf"),
        Unary::Mish => format!("{a} * tanhf(softplus({a}))"),
        Unary::Neg => format!("-({a})"),
        Unary::Not => format!("1.f - {a}"),
        Unary::Reciprocal => format!("1.f / {a}"),
        Unary::Relu => format!("greater({a}, 0.f)"),
        Unary::Round => call("rintf"),
        Unary::Sigmoid => format!("1.f / (1.f + expf(-({a})))"),
        Unary::Sign => format!("{a} > 0.f ? 1.f : {a} < 0.f ? -1.f : {a}"),
        Unary::Sin => call("sinf"),
        Unary::Sinh => call("sinhf"),
        Unary::Softplus => call("softplus"),
        Unary::Softsign => format!("{a} / (1.f + fabsf({a}))"),
        Unary::Sqrt => call("sqrtf"),
        Unary::Tan => call("tanf"),
        Unary::Tanh => call("tanhf"),
        Unary::BitwiseNot => nan(),
    }
}

/// Operations of one operand that have attributes.
fn mapped(op: &Op, a: &str) -> String {
    let number = |v: f32| literal(f64::from(v));
    match op {
        Op::LeakyRelu { alpha } => format!("{a} < 0.f ? {} * {a} : {a}", number(alpha.0)),
        Op::Elu { alpha } => format!("{a} < 0.f ? {} * expm1f({a}) : {a}", number(alpha.0)),
        Op::HardSigmoid { alpha, beta } => {
            format!("clamp({} * {a} + {}, 0.f, 1.f)", number(alpha.0), number(beta.0))
        }
        Op::Gelu { approximate: GeluKind::Erf } => {
            format!("0.5f * {a} * (1.f + erff({a} * {}))", literal(std::f64::consts::FRAC_1_SQRT_2))
        }
        Op::Gelu { approximate: GeluKind::Tanh } => {
            let scale = literal((2.0 / std::f64::consts::PI).sqrt());
            format!("0.5f * {a} * (1.f + tanhf({scale} * ({a} + 0.044715f * {a} * {a} * {a})))")
        }
        Op::FakeSlice { width, mode } => {
            let step = f64::from(1u32 << (8 - u32::from(width.bits())));
            let (inverse, most) = (literal(1.0 / step), literal(256.0 / step - 1.0));
            let (middle, step) = (literal((step - 1.0) / 2.0), literal(step));
            let code = format!("clamp(rintf({a}), 0.f, 255.f)");
            match mode {
                SliceMode::Midpoint => format!("floorf({code} * {inverse}) * {step} + {middle}"),
                SliceMode::Extra => format!("floorf({code} * {inverse} + 0.5f) * {step}"),
                SliceMode::Round => format!("lesser(floorf({code} * {inverse} + 0.5f), {most}) * {step}"),
            }
        }
        _ => nan(),
    }
}
