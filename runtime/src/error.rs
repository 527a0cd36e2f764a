//! Errors of the runtime.

use mqc_ir::quant::Width;

/// What can go wrong when a model is loaded or run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(transparent)]
    Ir(#[from] mqc_ir::Error),
    #[error(transparent)]
    Onnx(#[from] mqc_onnx::Error),
    #[error(transparent)]
    Nested(#[from] crate::nested::NestedError),
    #[error(transparent)]
    Cpu(#[from] crate::cpu::CpuError),
    #[error("layer {layer} has no width; give a default")]
    NoWidth { layer: String },
    #[error("layer {layer} is asked for at {width} bits, but only {most} are stored")]
    WidthNotStored { layer: String, width: Width, most: Width },
    #[error("layer {layer}: {message}")]
    Layer { layer: String, message: String },
}
