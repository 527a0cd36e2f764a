//! The numeric definition of nested quantization, and the CPU kernels that multiply by nested weights.
//!
//! Knows weights, codes, planes and activations as plain slices; knows nothing of graphs, ONNX, sessions and tract, so that
//! it builds in seconds and runs under sanitizers and emulators.

pub mod cpu;
pub mod nested;
pub mod roofline;
