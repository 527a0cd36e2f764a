//! Errors of the IR.

use crate::{DType, Type};

/// What can be wrong with a graph, a tensor or a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(
        "a {dtype} tensor of shape {shape:?} needs {} {}, found {found}",
        needed.map_or("uncountably many".to_owned(), |n| n.to_string()),
        if *dtype == DType::String { "strings" } else { "bytes" }
    )]
    TensorSize { dtype: DType, shape: Vec<usize>, needed: Option<usize>, found: usize },
    #[error("node {node}: operand {slot} does not exist in the graph")]
    UnknownOperand { node: String, slot: usize },
    #[error("value {value} of type {found} cannot take the place of {replaced} of type {expected}")]
    Replace { value: String, found: Box<Type>, replaced: String, expected: Box<Type> },
    #[error("the graph has a cycle through node {node}")]
    Cycle { node: String },
    #[error("node {node} ({op}): {message}")]
    Node { node: String, op: String, message: String },
    #[error("graph {graph}: {message}")]
    Graph { graph: String, message: String },
    #[error("line {line}, column {column}: {message}")]
    Text { line: usize, column: usize, message: String },
}
