//! What can go wrong in a product.

use crate::nested::NestedError;

/// An error of the kernels. The caller adds the name of the layer.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A buffer of another length than the shapes ask for.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// What the shapes ask for.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// Rows beyond the weight.
    #[error("rows {start}..{end} are asked for, the weight has {rows}")]
    Rows {
        /// First row.
        start: usize,
        /// Row after the last.
        end: usize,
        /// Rows of the weight.
        rows: usize,
    },
    /// Planes that nobody loaded.
    #[error("the planes of this width are not resident: load the width first")]
    NotResident,
    /// No memory for a plane.
    #[error("no memory for a bit plane of {bytes} bytes: {source}")]
    Memory {
        /// Its size.
        bytes: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A kernel for another processor.
    #[error("this processor has no {0}")]
    Unsupported(super::Isa),
    /// What the definition finds wrong.
    #[error(transparent)]
    Weight(#[from] NestedError),
}
