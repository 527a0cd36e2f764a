//! Programs on a CUDA device: the same fused passes as on the CPU, each a kernel of its own text, and products with nested
//! weights by the kernels of `mqc-cuda`. What has no kernel runs on the host between two copies.

#![allow(unsafe_code, reason = "kernels are launched")]

mod blas;
mod build;
mod engine;
mod error;
mod function;
mod host;
mod kernel;
mod memory;
mod pass;
mod place;
mod program;
mod run;
mod single;
mod weights;
mod window;

pub use engine::Engine;
pub use error::DeviceProgramError;
pub use program::{Program, text};
pub use weights::bind;
pub(crate) use weights::{epilogue, named};
