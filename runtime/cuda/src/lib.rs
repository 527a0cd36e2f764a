//! CUDA kernels for products with nested weights.
//!
//! [`Kernel`] says what is wanted, [`emit`] gives its text, [`layout`] puts planes and maps into the order that it reads,
//! [`Plan`] says how to launch it. Knows no device and no driver: what is made here can be made and tested anywhere.

mod describe;
mod emit;
mod error;
mod launch;
pub mod layout;

pub use describe::{Element, Epilogue, Kernel, Target, Tokens};
pub use emit::{Emitted, Family, emit, emit_general};
pub use error::CudaError;
pub use launch::{Arguments, Launch, Plan, Problem};
pub use mqc_kernels::cpu::Activation;
