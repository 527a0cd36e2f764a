//! Training graphs: losses over several widths, gradients as graph transformations, optimizers.
//!
//! Knows the IR only; what it makes is ordinary IR that any runtime of static shapes can run.

pub mod autodiff;
pub mod blocks;
pub mod builder;
pub mod equivalent;
pub mod error;
pub mod expand;
pub mod graphs;
pub mod loss;
pub mod nested_layer;
pub mod optimizer;
pub mod options;
pub mod source;
pub mod static_shapes;
pub mod training;

pub use builder::Builder;
pub use error::Error;
pub use graphs::StepGraph;
pub use options::Options;
pub use training::Training;
