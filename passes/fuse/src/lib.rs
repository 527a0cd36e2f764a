//! The e-graph optimizer: egg over the IR's own operations.
//!
//! A graph is cut into regions; regions of equal structure are optimized once. A region becomes an e-graph
//! ([`node::Node`]), the [`rules`] add what is equal, a roofline [`cost`] chooses, and the choice is written back.
//! Nodes that the compiler need not understand, and nodes with bodies, stay as they are.
//!
//! Knows the IR; evaluates nothing: what rules compute from constants is left as constant expressions to fold.

pub mod cost;
mod error;
mod expr;
mod extract;
mod facts;
mod fuse;
pub mod node;
mod options;
pub mod recognize;
mod region;
pub mod report;
mod rewrite;
pub mod rules;
mod saturate;
mod stored;
mod view;

pub use cost::{Device, Devices};
pub use error::Error;
pub use expr::Expr;
pub use facts::Facts;
pub use fuse::fuse;
pub use options::{FuseOptions, Limits};
pub use report::Report;
pub use stored::StoredPlanes;
pub use view::View;
