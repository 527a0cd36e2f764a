//! ONNX messages, reading and writing of model files, import into the mqc IR and export from it.

mod attributes;
mod error;
pub mod export;
pub mod file;
pub mod import;
pub mod inline;
mod model;
pub mod nested_functions;
pub mod ops;
pub mod proto;
pub mod raise;
pub mod tensors;
#[cfg(test)]
mod testing;
pub mod types;

pub use error::Error;
pub use model::{Header, Model};
