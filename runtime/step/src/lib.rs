//! The training engine: runs a static IR graph on the CPU, or (feature `cuda`) on a CUDA device.
//!
//! Knows the IR; knows nothing of ONNX files, of passes and of training methods.

mod array;
#[cfg(feature = "cuda")]
pub mod cuda;
mod engine;
mod error;
mod fuse;
mod graph;
mod index;
mod lower;
mod math;
mod plain;
mod product;
mod program;
mod real;
mod reference;
mod view;
mod workers;

pub use array::{Array, Data, Kind};
pub use error::Error;
pub use program::{Port, Program, Setup};
pub use real::Real;
