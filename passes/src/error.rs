//! Errors of passes.

use std::path::PathBuf;

/// What can go wrong in a pass.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(transparent)]
    Ir(#[from] mqc_ir::Error),
    #[error("after pass {pass} the graph is not valid, which is a defect of mqc:\n{}", join(.errors))]
    Invalid { pass: &'static str, errors: Vec<mqc_ir::Error> },
    #[error("the graph is not valid:\n{}", join(.0))]
    InvalidInput(Vec<mqc_ir::Error>),
    #[error("no pass is called {0:?}; `mqc passes` lists them")]
    UnknownPass(String),
    #[error("{option} {pattern:?} matches no layer of the model{}", suggestion(.near))]
    UnmatchedPattern { option: &'static str, pattern: String, near: Vec<String> },
    #[error("{option} {pattern:?} is not a valid glob: {reason}")]
    BadPattern { option: &'static str, pattern: String, reason: String },
    #[error("the model has nothing to quantize: {0}")]
    NothingToQuantize(String),
    #[error("layer {layer}: {message}")]
    Layer { layer: String, message: String },
    #[error(transparent)]
    Fuse(#[from] mqc_fuse::Error),
    #[error(transparent)]
    Runtime(#[from] mqc_runtime::Error),
    #[error("cannot write the IR dump {}: {source}", path.display())]
    Dump { path: PathBuf, source: std::io::Error },
}

fn join(errors: &[mqc_ir::Error]) -> String {
    errors.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n")
}

fn suggestion(near: &[String]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!("; layers are called, for example, {}", near.join(", "))
    }
}
