//! The runtime of mqc: the numeric definition of nested quantization and the CPU session.
//!
//! Knows graphs and ONNX messages (tract is fed with them); knows nothing of passes, artifacts and the command line.

pub mod cpu;
pub mod error;
pub mod nested_node;
mod profile;
pub mod session;

pub use error::Error;
pub use mqc_kernels::{nested, roofline};
pub use session::{Session, evaluate};
