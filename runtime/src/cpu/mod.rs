//! The CPU session: tract runs the graph, our operators multiply by resident nested weights.
//!
//! A graph reaches tract as an ONNX model in which every quantized layer is one node of domain [`DOMAIN`]:
//!
//! | op             | inputs        | attributes                                                     | output            |
//! |----------------|---------------|----------------------------------------------------------------|-------------------|
//! | `NestedMatMul` | `x[, bias]`   | `layer`                                                        | `[..., N]`        |
//! | `NestedConv`   | `x[, bias]`   | `layer`, `kernel_shape`, `strides`, `dilations`, `pads`, `auto_pad`, `group` | as ONNX Conv |
//! | `NestedGather` | `indices`     | `layer`                                                        | `[indices..., K]` |
//!
//! `layer` names a [`Resident`]: the one copy of the weight, shared by every plan and every width.

mod bind;
mod branch;
mod error;
mod model;
mod nested_conv;
mod nested_gather;
mod nested_matmul;
mod nested_op;
mod prepare;
mod product;
mod resident;
mod tensor;

pub use error::CpuError;
pub use model::{ModelInput, TractModel};
pub use nested_conv::{ConvGeometry, Padding, nested_conv};
pub use nested_gather::nested_gather;
pub use nested_matmul::nested_matmul;
pub use resident::Resident;
pub use tensor::tensor_from_bytes;
pub use tract_onnx::prelude::{DatumType, Tensor};

/// The ONNX domain of the nodes that read resident nested weights.
pub const DOMAIN: &str = "ai.mqc";

#[cfg(test)]
mod tests;
