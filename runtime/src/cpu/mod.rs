//! The CPU session: tract runs the graph, our operators multiply by resident nested weights.
//!
//! A graph reaches tract as an ONNX model in which every quantized layer is one node of domain [`DOMAIN`]:
//!
//! | op             | inputs                          | attributes                | output            |
//! |----------------|---------------------------------|---------------------------|-------------------|
//! | `NestedMatMul` | `x[, bias][, gate][, residual]` | `layer`\[, `activation`\]  | `[..., N]`        |
//! | `NestedConv`   | `x[, bias]`                     | `layer` and those of Conv | as Conv           |
//! | `NestedGather` | `indices`                       | `layer`                   | `[indices..., K]` |
//!
//! `NestedMatMul` is `activation(x W^T + bias) * gate + residual` with gate and residual as the output, and the activation
//! `relu`, `gelu`, `gelu_tanh`, `silu` or none. `Epilogue` does the same to a product that is there, its first input.
//!
//! `NestedConv` needs `kernel_shape`: the weight is a matrix and does not tell. Outputs have the type of
//! `x`, a gather's are f32.
//!
//! `layer` names a [`Resident`]: the one copy of the weight, shared by every plan and every width.
//!
//! Attention of a decoder over all positions so far is one node, `CachedAttention`, with the inputs `q` `[1, heads,
//! S, key_size]`, `keys` `[1, kv_heads, S, key_size]` and `values` `[1, kv_heads, S, value_size]` of the new
//! positions, and an optional `mask` that is added to the scores `[1, heads, S, all positions]`; its attributes are
//! `cache` (a name), `kv_heads`, `key_size`, `value_size` and `scale`. Each node has a [`KvCache`] of its own.
//!
//! Without a cache it is `Attention`, with the inputs `q` `[batch, S, heads, key_size]`, `keys` `[batch, N, kv_heads,
//! key_size]`, `values` `[batch, N, kv_heads, value_size]` and an optional `mask` that broadcasts to `[batch, heads, S, N]`,
//! the attribute `scale`, and the output `[batch, S, heads, value_size]`; all f32. `Rotary` turns `x` `[batch, S, heads,
//! size]` by `cos` and `sin` `[.., S, size]`, those of all heads. `RmsNorm` and `LayerNorm` normalize the last axis of `x`:
//! inputs `x`, `scale` and an optional `bias`, attribute `epsilon`.

mod attention;
mod attention_rows;
mod bind;
mod branch;
mod cached_attention;
mod engine;
mod epilogue;
mod error;
mod guard;
mod kv_cache;
mod model;
mod nested_conv;
mod nested_gather;
mod nested_matmul;
mod nested_op;
mod norm;
mod prepare;
mod profile;
mod resident;
mod rotary;
mod same_shape;
mod self_attention;
mod tensor;
mod typed_branch;

pub use engine::Engine;
pub use error::CpuError;
pub use kv_cache::{CacheShape, KvCache};
pub use model::{ModelInput, TractModel};
pub use nested_conv::{ConvError, ConvGeometry, Padding, nested_conv};
pub use nested_gather::{GatherError, nested_gather};
pub use nested_matmul::nested_matmul;
pub use profile::OpTime;
pub use resident::Resident;
pub use tensor::{tensor_from_tract, tensor_to_tract};
/// The element type of a tensor in tract.
pub use tract_onnx::prelude::DatumType;
/// A tensor in tract's memory.
pub use tract_onnx::prelude::Tensor as TractTensor;

/// The ONNX domain of the nodes that read resident nested weights.
pub const DOMAIN: &str = "ai.mqc";

#[cfg(test)]
mod tests;
