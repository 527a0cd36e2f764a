//! Graph passes: every one is a `Graph -> Graph` function in a table, verified afterwards and dumpable.
//!
//! Knows the IR and how to evaluate constants; knows nothing of artifacts, files and the command line.

pub mod decoder;
pub mod deploy;
pub mod error;
pub mod fold_constants;
pub mod fuse;
pub mod gemm_to_matmul;
pub mod inline_if;
pub mod lower_nested;
pub mod matquant;
pub mod merge_duplicates;
pub mod options;
pub mod pass;
pub mod pipeline;
pub mod select;
pub mod simplify;
pub mod walk;
pub mod widen_floats;

pub use error::Error;
pub use fuse::FuseSettings;
pub use matquant::{Kind, Layer, Report, Skipped};
/// The optimizer behind the pass `fuse`.
pub use mqc_fuse;
pub use options::{LayerOverride, Options, QuantizeOptions};
pub use pass::{Context, Pass};
pub use pipeline::{Debug, PASSES, Pipeline};
