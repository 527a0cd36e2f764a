//! Products with nested weights on the CPU.
//!
//! [`Packed`] keeps planes in the order of `cells`, [`MatMul`] multiplies by them: `streams` lays out activations,
//! a kernel of the processor's instruction set sums, `finish` applies scales and the epilogue.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod by_planes;
mod cells;
mod epilogue;
mod error;
mod finish;
mod floats;
mod isa;
mod matmul;
mod packed;
mod pages;
mod portable;
mod shares;
mod streams;
mod strip;
mod threads;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use epilogue::{Activation, Epilogue};
pub use error::KernelError;
pub use finish::Layout;
pub use isa::Isa;
pub use matmul::MatMul;
pub use packed::Packed;
pub use pages::Pages;
pub use threads::Threads;

#[cfg(test)]
mod tests;
