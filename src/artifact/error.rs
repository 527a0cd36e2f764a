//! What can be wrong with an artifact, or with writing one.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of reading or writing an artifact. Paths are as the caller gave them.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: not the JSON that is expected here", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Field { path: PathBuf, field: String, expected: String, found: String },
    #[error("{}: format version {found} was written by a newer mqc, this one reads {supported}; update mqc", path.display())]
    NewerVersion { path: PathBuf, found: String, supported: u32 },
    #[error(
        "{}: {part}: sha256 should be {expected} and is {found}; the file was changed or damaged, compile the model again",
        path.display()
    )]
    Checksum { path: PathBuf, part: String, expected: String, found: String },
    #[error("{}: there is no tensor {name:?}", path.display())]
    UnknownTensor { path: PathBuf, name: String },
    #[error("{}: tensor {name:?} ends at byte {needed}, the file has {found}; {hint}", path.display())]
    Cut { path: PathBuf, name: String, needed: u64, found: u64, hint: &'static str },
    #[error("tensor {name:?} cannot be stored: {message}")]
    Layout { name: String, message: String },
    #[error("{}: tensor {name:?}: {message}", path.display())]
    Write { path: PathBuf, name: String, message: String },
    #[error("{}: width {asked} is asked for, the bit planes there reach width {widest}", path.display())]
    Width { path: PathBuf, asked: u8, widest: u8 },
    #[error("{} exists; remove it or allow it to be replaced (--force)", path.display())]
    Exists { path: PathBuf },
    #[error("{} is not replaced: {reason}", path.display())]
    NotReplaced { path: PathBuf, reason: String },
    #[error("cannot write the files of {}", path.display())]
    Rewrite { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    /// Adds to an I/O error what was done and where.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_path_buf(), source }
    }

    /// Adds the file to a JSON error.
    pub(super) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Error {
        move |source| Error::Json { path: path.to_path_buf(), source }
    }

    /// A field with a wrong value.
    pub(super) fn field(
        path: &Path,
        field: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Error {
        Error::Field {
            path: path.to_path_buf(),
            field: field.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}
