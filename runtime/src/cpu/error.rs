//! What can go wrong in the CPU session.

/// Errors of the CPU session: loading a graph into tract, planning it for a set of shapes, running it.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// tract refused the graph or failed on it; `reason` is its chain of causes.
    #[error("tract could not {step} the graph: {reason}")]
    Tract { step: &'static str, reason: String },
    /// The CPU session has no implementation of an operator.
    #[error(
        "node `{node}`: operator `{op}` of domain `{domain}` does not run on the CPU session; \
         run an exported model in onnxruntime instead"
    )]
    UnsupportedOp { node: String, op: String, domain: String },
    /// A graph or subgraph returns a value that it does not define.
    #[error(
        "graph `{graph}`: output `{output}` is neither an input, nor an initializer, nor made by a node of it"
    )]
    UndefinedOutput { graph: String, output: String },
    /// A node reads a value that nothing defines.
    #[error("value `{0}` is read but no input, initializer or node defines it")]
    UndefinedValue(String),
    /// A nested node names a layer that is not resident.
    #[error("node `{node}`: layer `{layer}` is not among the resident weights")]
    UnknownLayer { node: String, layer: String },
    /// A nested node whose attributes are missing or contradict each other.
    #[error("node `{node}`: {reason}")]
    BadNode { node: String, reason: String },
    /// A tensor that does not pass between the IR and tract.
    #[error("tensor `{name}`: {reason}")]
    BadTensor { name: String, reason: String },
    /// A run without one of the model's inputs.
    #[error("input `{0}` is missing")]
    MissingInput(String),
    /// A run with an input that the model does not have.
    #[error("the model has no input `{name}`; its inputs are {expected}")]
    UnknownInput { name: String, expected: String },
    /// An input of the wrong type or shape.
    #[error("input `{name}` is {found}; the model expects {expected}")]
    InputType { name: String, found: String, expected: String },
}
