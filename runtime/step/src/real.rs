//! The two element types that graphs are computed in.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::math;
use crate::plain::scalar;

/// f32, in which training runs, and f64, in which gradients are checked.
///
/// The functions are those of whole blocks: without branches where f32 is concerned, so that loops over them become
/// vector instructions.
pub trait Real:
    bytemuck::Pod
    + Send
    + Sync
    + Debug
    + Default
    + PartialOrd
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// The nearest value.
    fn of(value: f64) -> Self;
    /// The same value.
    fn f64(self) -> f64;
    /// The absolute value.
    fn abs(self) -> Self;
    /// e^x.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The greatest whole number that is not above.
    fn floor(self) -> Self;
    /// The least whole number that is not below.
    fn ceil(self) -> Self;
    /// The nearest whole number, of two the even one.
    fn round(self) -> Self;
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;

    #[inline(always)]
    fn of(value: f64) -> f32 {
        value as f32
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn abs(self) -> f32 {
        self.abs()
    }

    #[inline(always)]
    fn exp(self) -> f32 {
        math::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> f32 {
        math::ln(self)
    }

    #[inline(always)]
    fn tanh(self) -> f32 {
        math::tanh(self)
    }

    #[inline(always)]
    fn erf(self) -> f32 {
        math::erf(self)
    }

    #[inline(always)]
    fn sqrt(self) -> f32 {
        self.sqrt()
    }

    #[inline(always)]
    fn floor(self) -> f32 {
        self.floor()
    }

    #[inline(always)]
    fn ceil(self) -> f32 {
        self.ceil()
    }

    #[inline(always)]
    fn round(self) -> f32 {
        self.round_ties_even()
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;

    #[inline(always)]
    fn of(value: f64) -> f64 {
        value
    }

    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn abs(self) -> f64 {
        self.abs()
    }

    #[inline(always)]
    fn exp(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn ln(self) -> f64 {
        self.ln()
    }

    #[inline(always)]
    fn tanh(self) -> f64 {
        self.tanh()
    }

    #[inline(always)]
    fn erf(self) -> f64 {
        scalar::erf(self)
    }

    #[inline(always)]
    fn sqrt(self) -> f64 {
        self.sqrt()
    }

    #[inline(always)]
    fn floor(self) -> f64 {
        self.floor()
    }

    #[inline(always)]
    fn ceil(self) -> f64 {
        self.ceil()
    }

    #[inline(always)]
    fn round(self) -> f64 {
        self.round_ties_even()
    }
}
