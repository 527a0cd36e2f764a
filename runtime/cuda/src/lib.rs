//! CUDA kernels for products with nested weights.
//!
//! [`Kernel`] says what is wanted, [`emit`] gives its text, [`layout`] puts planes and maps into the order that it reads,
//! [`Plan`] says how to launch it. All this knows no device and no driver: it can be made and tested anywhere. [`device`] is
//! the driver's side (feature `cuda`).

mod describe;
#[cfg(feature = "cuda")]
pub mod device;
mod emit;
mod error;
mod launch;
pub mod layout;

pub use describe::{Element, Epilogue, Form, Kernel, Target, Tokens};
pub use emit::{Emitted, EmittedRows, Family, emit, emit_general, emit_rows};
pub use error::{CudaError, TooFewPlanes};
pub use launch::{Arguments, Launch, Plan, Problem};
pub use mqc_kernels::cpu::Activation;
