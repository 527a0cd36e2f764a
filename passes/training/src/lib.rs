//! Training graphs: losses over several widths, gradients as graph transformations, optimizers.
//!
//! Knows the IR only; what it makes is ordinary IR that any runtime of static shapes can run.

pub mod builder;
pub mod error;

pub use builder::Builder;
pub use error::Error;
