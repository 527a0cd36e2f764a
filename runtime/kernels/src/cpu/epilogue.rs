//! What is done to an output before it is stored.

use std::f32::consts::FRAC_1_SQRT_2;

/// The function applied to an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// `y`
    #[default]
    Identity,
    /// `max(y, 0)`
    Relu,
    /// `y / 2 * (1 + erf(y / sqrt 2))`
    Gelu,
    /// `y / 2 * (1 + tanh(sqrt(2 / pi) * (y + 0.044715 y^3)))`
    GeluTanh,
    /// `y / (1 + exp(-y))`
    Silu,
}

/// `activation(y + bias) * gate + residual`, each part where it is given.
///
/// `bias` has one value a row of the weight; `gate` and `residual` lie as the output does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// As the output.
    pub gate: Option<&'a [f32]>,
    /// As the output.
    pub residual: Option<&'a [f32]>,
}

impl Activation {
    /// Applies the function in place.
    #[inline(always)]
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Activation::Identity => {}
            Activation::Relu => values.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y }),
            Activation::Gelu => {
                values.iter_mut().for_each(|y| *y = 0.5 * *y * (1.0 + erf(*y * FRAC_1_SQRT_2)))
            }
            Activation::GeluTanh => {
                values.iter_mut().for_each(|y| *y *= sigmoid(1.595_769_2 * (*y + 0.044_715 * *y * *y * *y)));
            }
            Activation::Silu => values.iter_mut().for_each(|y| *y *= sigmoid(*y)),
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` to 2 units in the last place, without branches: 2^n times a polynomial of the remainder.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    let clamped = if x > -87.0 { x } else { -87.0 };
    let clamped = if clamped < 88.0 { clamped } else { 88.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let f = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * f + 1.398_199_9e-3;
    let p = p * f + 8.333_452e-3;
    let p = p * f + 4.166_579_6e-2;
    let p = p * f + 1.666_666_5e-1;
    let p = p * f + 0.5;
    // n as an integer by its bits: a cast looks for what does not fit, value by value.
    let power = f32::from_bits((rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    let e = (p * f * f + f + 1.0) * power;
    if x.is_nan() { x } else { e }
}

/// The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26, in f32 about 4e-7), without branches.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = ((((1.061_405_4 * t - 1.453_152) * t) + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6;
    let y = 1.0 - p * t * exp(-a * a);
    y.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error function by its series, in f64.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    }

    #[test]
    fn functions_are_their_formulas() {
        for i in -4000..=4000 {
            let y = i as f32 / 800.0;
            let x = f64::from(y);
            let expected = [
                (Activation::Identity, x),
                (Activation::Relu, x.max(0.0)),
                (Activation::Gelu, x / 2.0 * (1.0 + erf_series(x / 2f64.sqrt()))),
                (
                    Activation::GeluTanh,
                    x / 2.0
                        * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
                ),
                (Activation::Silu, x / (1.0 + (-x).exp())),
            ];
            for (activation, expected) in expected {
                let mut found = [y];
                activation.apply(&mut found);
                assert!(
                    (f64::from(found[0]) - expected).abs() < 2e-6,
                    "{activation:?} {y}: {} {expected}",
                    found[0]
                );
            }
        }
    }

    #[test]
    fn extremes_stay_extremes() {
        for activation in [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            let mut y = [-1e4, 1e4, f32::NAN, 0.0];
            activation.apply(&mut y);
            assert!(
                y[0].abs() < 1e-30 && y[1] == 1e4 && y[2].is_nan() && y[3] == 0.0,
                "{activation:?} {y:?}"
            );
        }
        let mut y = [f32::NEG_INFINITY, f32::INFINITY];
        Activation::Relu.apply(&mut y);
        assert_eq!(y, [0.0, f32::INFINITY]);
    }
}
