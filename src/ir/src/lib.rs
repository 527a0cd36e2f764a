//! The intermediate representation of mqc: a dataflow graph over one list of operations.
//!
//! Knows nothing of ONNX files, of runtimes and of passes.

pub mod activations;
pub mod attribute;
pub mod dtype;
pub mod error;
pub mod graph;
pub mod infer;
pub mod op;
pub mod quant;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use activations::Activations;
pub use attribute::{Attribute, F32, SparseTensor, Text};
pub use dtype::DType;
pub use error::Error;
pub use graph::{Graph, Node, NodeId, Operands, Output, Subgraph, Value, ValueInfo};
pub use op::Op;
pub use tensor::Tensor;
pub use types::{Dim, TensorType, Type};
