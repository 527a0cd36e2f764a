//! Training: data, the loop, checkpoints, metrics. What a step computes is a [`Model`]'s business, not this module's.

pub mod checkpoint;
pub mod data;
pub mod events;
pub mod interrupt;
pub mod metrics;
pub mod model;
pub mod options;
pub mod report;
pub mod run_loop;
pub mod schedule;
pub mod watch;

pub use checkpoint::{Best, Kind, Loaded, Progress, Store};
pub use data::{Data, Source, Validation};
pub use interrupt::Interrupt;
pub use model::{Losses, Model, WidthMetrics};
pub use options::{BestBy, Options};
pub use run_loop::{Ended, Summary, train};
pub use schedule::{Decay, Schedule};
pub use watch::{Step, Watch};
