//! Errors of the optimizer.

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(transparent)]
    Ir(#[from] mqc_ir::Error),
    #[error("no device is called {name:?}, expected one of {}", known.join(", "))]
    UnknownDevice { name: String, known: Vec<String> },
    #[error("no rule is called {0:?}; docs/fuse.md lists them")]
    UnknownRule(String),
    #[error("cost table: {0}")]
    CostTable(#[from] toml::de::Error),
    #[error("cost table: device {device} has {field} = {found}, expected a positive number")]
    CostValue { device: String, field: &'static str, found: f64 },
}
