//! Batches: a pure function of the seed and the step, so that a training that is continued sees the same ones.

pub mod arrays;
mod column;
mod map;
mod npy;
mod sampler;
mod samples;
mod source;
mod stream;
#[cfg(test)]
mod tests;
mod windows;

use anyhow::{Context, Result, bail};

use crate::data::Tensors;
use crate::usage::UsageError;

pub use map::map;
pub use sampler::Sampler;
pub use samples::{Classes, Input, Samples};
pub use source::Source;
pub use stream::{Stream, TextTokens};
pub use windows::{Content, WindowInput, Windows};

/// Where validation data comes from.
pub enum Validation {
    /// Nowhere.
    None,
    /// A share of the training data, which is then not trained on.
    Share {
        /// Between 0 and 1.
        share: f64,
        /// Which samples: equal seeds hold out equal ones, whatever the order of training is.
        seed: u64,
    },
    /// Data of its own.
    Own(Source),
}

/// Batches to train on and batches to validate on.
pub struct Data {
    train: Source,
    validation: Option<Source>,
    validation_batch: usize,
    sampler: Sampler,
}

impl Data {
    /// Batches of `batch` rows (samples, or windows of tokens); validation batches have `validation_batch` rows.
    ///
    /// # Errors
    /// Less training data than a batch; a share that leaves nothing on one side.
    pub fn new(
        source: Source,
        validation: Validation,
        batch: usize,
        validation_batch: usize,
        seed: u64,
    ) -> Result<Data> {
        let (train, validation) = match validation {
            Validation::None => (source, None),
            Validation::Share { share, seed } => {
                if !(share > 0.0 && share < 1.0) {
                    let message =
                        format!("the share of validation data is {share}; expected between 0 and 1");
                    bail!(UsageError(message));
                }
                let (train, validation) = source.split(share, seed)?;
                (train, Some(validation))
            }
            Validation::Own(own) => (source, Some(own)),
        };
        if validation.as_ref().is_some_and(|v| v.validation_rows() == 0) {
            bail!("the validation data has no {}: give more data or a larger share", train.unit());
        }
        if validation_batch == 0 {
            bail!(UsageError("the validation batch has 0 rows; expected at least 1".to_owned()));
        }
        let sampler = Sampler::new(train.train_rows(), batch, seed).context(train.describe())?;
        Ok(Data { train, validation, validation_batch, sampler })
    }

    /// The batch of a step; steps count from 1.
    pub fn batch(&mut self, step: u64) -> Result<Tensors> {
        let (epoch, rows) = self.sampler.batch(step);
        self.train.train_batch(&rows, self.sampler.offset(epoch, self.train.offsets()))
    }

    /// The seed of the order.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// Steps until all data was seen once, up to a rest that is smaller than a batch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.sampler.steps_per_epoch()
    }

    /// Number of validation batches; 0 without validation data.
    pub fn validation_batches(&self) -> usize {
        self.validation.as_ref().map_or(0, |v| v.validation_rows().div_ceil(self.validation_batch))
    }

    /// A validation batch, and how many of its rows count: the last batch is filled up with repeats of the last row.
    ///
    /// # Errors
    /// There is no such batch.
    pub fn validation_batch(&self, index: usize) -> Result<(Tensors, usize)> {
        let source = self.validation.as_ref().context("there is no validation data")?;
        let (all, first) = (source.validation_rows(), index * self.validation_batch);
        if first >= all {
            bail!("there is no validation batch {index}");
        }
        let rows: Vec<usize> = (first..first + self.validation_batch).map(|row| row.min(all - 1)).collect();
        Ok((source.validation_batch(&rows)?, self.validation_batch.min(all - first)))
    }

    /// What tells this data from other data, cheaply: sizes, and a sha256 of samples of the bytes.
    pub fn identity(&self) -> serde_json::Value {
        serde_json::json!({
            "train": self.train.identity(),
            "validation": self.validation.as_ref().map(Source::identity),
            "batch": self.sampler.batch_rows(),
            "validation batch": self.validation_batch,
        })
    }
}
