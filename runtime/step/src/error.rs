//! Errors of the engine.

/// What can be wrong with a graph, an input or a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error("node {node} ({op}): {message}")]
    Node { node: String, op: String, message: String },
    #[error(transparent)]
    Graph(#[from] mqc_ir::Error),
    #[error("input {index} ({name}): {message}")]
    Input { index: usize, name: String, message: String },
    #[error("setup: {0}")]
    Setup(String),
    #[error("array: {0}")]
    Array(String),
    #[error("the program needs {bytes} bytes of memory, which the system does not give")]
    Memory { bytes: usize },
}
