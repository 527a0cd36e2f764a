//! Functions of f32 without branches, to about two units in the last place: loops over them become vector instructions.
//!
//! Reductions and polynomials after Cephes (S. L. Moshier). Results below the least normal number are 0.

#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for c in &coefficients[1..] {
        sum = sum * x + c;
    }
    sum
}

/// e^x.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding it rounds to a whole number, which then is the low bits.
    const WHOLE: f32 = 12_582_912.0;
    let inside = if x > 89.0 { 89.0 } else { x };
    let inside = if inside < -88.0 { -88.0 } else { inside };
    let shifted = inside * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = inside - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let series = polynomial(r, [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5]);
    let value = series * r * r + r + 1.0;
    // 2^(n - 1), and twice that: 2^128 has no exponent.
    let exponent = shifted.to_bits().wrapping_sub(WHOLE.to_bits()).wrapping_add(126) << 23;
    let value = value * f32::from_bits(exponent) * 2.0;
    let value = if x < -87.0 { 0.0 } else { value };
    if x > 88.722_84 { f32::INFINITY } else { value }
}

/// The natural logarithm.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    // x = m 2^e with m from sqrt(1/2) to sqrt(2).
    let bits = scaled.to_bits().wrapping_sub(0x3f35_04f3);
    let e = ((bits as i32) >> 23) as f32 - if tiny { 23.0 } else { 0.0 };
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let z = m * m;
    let series = polynomial(
        m,
        [
            7.037_683_6e-2,
            -0.115_146_1,
            0.116_769_984,
            -0.124_201_41,
            0.142_493_23,
            -0.166_680_57,
            0.200_007_15,
            -0.249_999_94,
            0.333_333_3,
        ],
    );
    let value = series * m * z + e * -2.121_944_4e-4 - 0.5 * z + m + e * 0.693_359_4;
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    let value = if x < 0.0 { f32::NAN } else { value };
    if x < f32::INFINITY { value } else { x }
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let large = 1.0 - 2.0 / (exp(2.0 * size) + 1.0);
    let z = x * x;
    let series = polynomial(z, [-5.704_989e-3, 2.063_909e-2, -5.373_971_5e-2, 0.133_314_42, -0.333_332_8]);
    let small = series * z * x + x;
    if size < 0.625 { small } else { large.copysign(x) }
}

/// The error function.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let size = x.abs();
    let z = x * x;
    let small = x * polynomial(
        z,
        [
            7.853_861_4e-5,
            -8.010_194e-4,
            5.188_327_5e-3,
            -2.685_381_2e-2,
            0.112_835_85,
            -0.376_126_26,
            std::f32::consts::FRAC_2_SQRT_PI,
        ],
    );
    let limited = if size < 1.0 { 1.0 } else { size };
    let inverse = 1.0 / limited;
    let y = inverse * inverse;
    let near = polynomial(
        y,
        [
            2.326_82e-2,
            -0.138_703_94,
            0.368_742_47,
            -0.582_473_3,
            0.621_000_47,
            -0.494_451_53,
            0.340_488,
            -0.274_112_7,
            0.563_825_96,
        ],
    );
    let far = polynomial(
        y,
        [
            -10.477_664,
            12.977_2,
            -7.495_518_7,
            2.921_019,
            -1.015_265_2,
            0.421_846_34,
            -0.282_076_75,
            0.564_189_5,
        ],
    );
    let rest = exp(-z) * inverse * if size < 2.0 { near } else { far };
    if size < 1.0 { small } else { (1.0 - rest).copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain::scalar;

    fn check(name: &str, range: (f32, f32), f: fn(f32) -> f32, exact: fn(f64) -> f64) {
        for i in 0..=400_000 {
            let x = range.0 + (range.1 - range.0) * (i as f32 / 400_000.0);
            let (found, expected) = (f64::from(f(x)), exact(f64::from(x)));
            let error = (found - expected).abs() / expected.abs().max(1e-37);
            assert!(error < 3e-7, "{name}({x}) is {expected}, found {found}, error {error:e}");
        }
    }

    #[test]
    fn functions_are_accurate() {
        check("exp", (-86.9, 88.7), exp, f64::exp);
        check("ln", (1e-30, 2e-30), ln, f64::ln);
        check("ln", (0.01, 0.9), ln, f64::ln);
        check("ln", (1.1, 100.0), ln, f64::ln);
        check("ln", (1e30, 3e38), ln, f64::ln);
        check("tanh", (-10.0, 10.0), tanh, f64::tanh);
        check("erf", (-6.0, 6.0), erf, scalar::erf);
    }

    #[test]
    fn ends_of_the_line() {
        for x in [-87.5, -200.0, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp(x), 0.0);
        }
        assert_eq!((exp(89.0), exp(f32::INFINITY), exp(0.0)), (f32::INFINITY, f32::INFINITY, 1.0));
        assert_eq!((ln(0.0), ln(f32::INFINITY), ln(1.0)), (f32::NEG_INFINITY, f32::INFINITY, 0.0));
        assert!((ln(1e-40) - (1e-40f32 as f64).ln() as f32).abs() < 1e-4);
        assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan() && exp(f32::NAN).is_nan());
        assert!(tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
        assert_eq!((tanh(50.0), tanh(f32::NEG_INFINITY), erf(20.0), erf(-20.0)), (1.0, -1.0, 1.0, -1.0));
        assert_eq!((tanh(0.0), erf(0.0)), (0.0, 0.0));
    }
}
