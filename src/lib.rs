//! mqc: a compiler for nested-integer (Matryoshka) quantization of ONNX models.
#![doc = include_str!("../README.md")]

pub mod artifact;
pub mod bench;
pub mod cli;
pub mod compile;
pub mod cuda;
pub mod data;
pub mod device;
pub mod emit;
pub mod eval;
pub mod export;
pub mod generate;
pub mod load;
pub mod method;
pub mod precision;
pub mod report;
pub mod run;
mod svg;
pub mod train;
pub mod trained;
pub mod usage;
pub mod verify;
