//! What a kernel is wanted for.

use std::fmt;
use std::str::FromStr;

use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_kernels::cpu::Activation;

use crate::CudaError;

/// A product `y = epilogue(x w^T)` with a weight that is read at a width. All sizes are arguments of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kernel {
    /// Bits that are read.
    pub width: Width,
    /// What they mean.
    pub mode: SliceMode,
    /// Which weights share a scale and a zero.
    pub grouping: Grouping,
    /// The type of x, y, gate and residual.
    pub element: Element,
    /// What is done to outputs.
    pub epilogue: Epilogue,
    /// How many tokens a launch has.
    pub tokens: Tokens,
    /// The device.
    pub target: Target,
}

/// How a weight is read: what its dequantization depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Bits that are read.
    pub width: Width,
    /// What they mean.
    pub mode: SliceMode,
    /// Which weights share a scale and a zero.
    pub grouping: Grouping,
}

/// The type of activations in device memory. Sums are f32 for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE half.
    F16,
    /// The upper half of an f32. Multiplied as f16 after scaling each token by a power of two, which is exact but for
    /// values below 2^-29 of the greatest.
    Bf16,
    /// Multiplied as two f16 each: 22 bits of every activation count.
    F32,
}

/// `activation(y + bias) * gate + residual`, each part where it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epilogue {
    /// f32, one a row.
    pub bias: bool,
    /// Applied after the bias.
    pub activation: Activation,
    /// As the output.
    pub gate: bool,
    /// As the output.
    pub residual: bool,
}

/// The most tokens of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tokens {
    /// Up to 4.
    Four,
    /// Up to 8.
    Eight,
    /// Up to 16.
    Sixteen,
    /// Any number: prefill.
    Many,
}

/// A device by the features that its kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Ampere and all later ones.
    Sm80,
    /// Hopper.
    Sm90a,
}

impl Kernel {
    /// How it reads the weight.
    pub const fn form(&self) -> Form {
        Form { width: self.width, mode: self.mode, grouping: self.grouping }
    }
}

impl Element {
    /// Size in memory.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::F32 => 4,
        }
    }

    /// Columns of f16 that hold one token.
    pub const fn parts(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 1,
            Element::F32 => 2,
        }
    }

    /// The name in kernels' names.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
            Element::F32 => "f32",
        }
    }
}

impl Tokens {
    /// The smallest class with so many.
    pub const fn of(tokens: usize) -> Tokens {
        match tokens {
            0..=4 => Tokens::Four,
            5..=8 => Tokens::Eight,
            9..=16 => Tokens::Sixteen,
            _ => Tokens::Many,
        }
    }

    /// The most tokens, where there is a limit.
    pub const fn most(self) -> Option<usize> {
        match self {
            Tokens::Four => Some(4),
            Tokens::Eight => Some(8),
            Tokens::Sixteen => Some(16),
            Tokens::Many => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Sm80 => "sm_80",
            Target::Sm90a => "sm_90a",
        })
    }
}

impl FromStr for Target {
    type Err = CudaError;

    fn from_str(text: &str) -> Result<Target, CudaError> {
        [Target::Sm80, Target::Sm90a]
            .into_iter()
            .find(|target| target.to_string() == text)
            .ok_or_else(|| CudaError::Target { found: text.to_owned() })
    }
}
