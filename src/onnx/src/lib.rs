//! ONNX messages, reading and writing of model files, import into the mqc IR and export from it.

mod error;
pub mod file;
pub mod proto;

pub use error::Error;
