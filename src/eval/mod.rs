//! How good a model is: perplexity of texts, multiple-choice questions, classification; beside a float model.
//!
//! What measures does not know what computes: everything on language models goes through [`LanguageModel`], which any
//! closure from sequences to [`Logits`] is, and the tallies take rows of logits.

pub mod chart;
pub mod choice;
pub mod classify;
pub mod language_model;
pub mod perplexity;
pub mod report;
pub mod row;
pub mod samples;
pub mod session;
pub mod text;
pub mod windows;

pub use language_model::{LanguageModel, Logits, Models};
pub use perplexity::{Perplexity, Tally, perplexity};
pub use report::Report;
pub use row::Row;
pub use session::SessionModel;
pub use windows::{Window, Windows, evenly};
