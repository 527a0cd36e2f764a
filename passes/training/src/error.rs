//! Errors of training graphs.

/// What can go wrong when a training graph is made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(transparent)]
    Ir(#[from] mqc_ir::Error),
    #[error("node {node} ({op}): no gradient flows through it: {reason}")]
    NoGradient { node: String, op: String, reason: String },
    #[error("value {value} has type {found}, expected {expected}; training graphs have fixed shapes")]
    NotStatic { value: String, found: String, expected: &'static str },
    #[error("{what} {name:?}: {message}")]
    Invalid { what: &'static str, name: String, message: String },
}

impl Error {
    /// What is wrong with something that has a name.
    pub fn invalid(what: &'static str, name: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Invalid { what, name: name.into(), message: message.into() }
    }
}
