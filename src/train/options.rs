//! How to train, and what of it must be the same to continue.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::data::Data;
use super::model::WidthMetrics;
use super::schedule::Schedule;
use crate::usage::UsageError;

/// How to train.
#[derive(Clone, Debug)]
pub struct Options {
    /// Learning rates and number of steps.
    pub schedule: Schedule,
    /// Steps between validations.
    pub evaluate_every: u64,
    /// Validation batches to use, from the first; all if not given.
    pub validation_batches: Option<usize>,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Ends this run after so many steps, to be continued.
    pub stop_after: Option<u64>,
    /// Ends the training after so many validations without a better one.
    pub patience: Option<u64>,
    /// Which validation loss says what is best.
    pub best_by: BestBy,
    /// Whether losses are cross-entropies of tokens, whose exponential is a perplexity.
    pub is_language_model: bool,
    /// What else must be the same to continue: the options of the method, by name.
    pub fixed: Map<String, Value>,
}

/// Which validation losses say what is best: the mean of these widths, by name; of all when there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BestBy(pub Vec<String>);

impl Options {
    /// Whether the numbers make sense for the data.
    pub(super) fn check(&self, data: &Data) -> Result<()> {
        self.schedule.check()?;
        let everies = [
            ("validations", self.evaluate_every),
            ("checkpoints", self.save_every),
            ("lines", self.log_every),
        ];
        if let Some((what, _)) = everies.iter().find(|(_, every)| *every == 0) {
            bail!(UsageError(format!("there are 0 steps between {what}; expected at least 1")));
        }
        if self.validation_batches == Some(0) {
            bail!(UsageError("0 validation batches are to be used; expected at least 1".to_owned()));
        }
        let needs_validation = self.patience.is_some() || !self.best_by.0.is_empty();
        if needs_validation && data.validation_batches() == 0 {
            bail!(UsageError("to stop early or to choose the best there must be validation data".to_owned()));
        }
        Ok(())
    }

    /// What must be the same to continue bit by bit. How often to save and to log may change.
    pub(super) fn to_compare(&self, data: &Data) -> Result<Map<String, Value>> {
        let mut map = self.fixed.clone();
        let own = [
            ("schedule", serde_json::to_value(self.schedule)?),
            ("evaluate every", self.evaluate_every.into()),
            ("validation batches", self.validation_batches.into()),
            ("patience", self.patience.into()),
            ("best by", serde_json::to_value(&self.best_by)?),
            ("seed", data.seed().into()),
            ("data", data.identity()),
        ];
        map.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Ok(map)
    }
}

impl BestBy {
    /// The loss of a validation.
    pub(super) fn loss(&self, metrics: &[WidthMetrics]) -> Result<f64> {
        let named = |name: &String| match metrics.iter().find(|m| m.name == *name) {
            Some(metrics) => Ok(metrics.loss()),
            None => {
                let names: Vec<&str> = metrics.iter().map(|m| m.name.as_str()).collect();
                bail!(UsageError(format!("{name:?} is not evaluated; these are: {}", names.join(", "))))
            }
        };
        let losses = match self.0.is_empty() {
            true => metrics.iter().map(WidthMetrics::loss).collect(),
            false => self.0.iter().map(named).collect::<Result<Vec<f64>>>()?,
        };
        Ok(losses.iter().sum::<f64>() / losses.len() as f64)
    }
}
