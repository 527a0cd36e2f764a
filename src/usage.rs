//! Mistakes in how mqc was called, as opposed to what is wrong with a model.

/// The message says what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
