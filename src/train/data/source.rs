//! What batches are made of: samples or windows of tokens.

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::{Samples, Windows};
use crate::data::Tensors;

/// Training or validation data.
#[derive(Clone)]
pub enum Source {
    /// Arrays by input name.
    Samples(Samples),
    /// Windows of a stream of tokens.
    Windows(Windows),
}

impl Source {
    /// Divides the data into a part to train on and `share` of it to validate on: samples at random, tokens the last.
    pub fn split(self, share: f64, seed: u64) -> Result<(Source, Source)> {
        Ok(match self {
            Source::Samples(samples) => {
                let (train, validation) = samples.split(share, seed);
                (Source::Samples(train), Source::Samples(validation))
            }
            Source::Windows(windows) => {
                let (train, validation) = windows.split(share);
                (Source::Windows(train), Source::Windows(validation))
            }
        })
    }

    /// Rows that an epoch is made of.
    pub fn train_rows(&self) -> usize {
        match self {
            Source::Samples(samples) => samples.len(),
            Source::Windows(windows) => windows.len_at_any_offset(),
        }
    }

    /// Rows that a validation is made of.
    pub fn validation_rows(&self) -> usize {
        match self {
            Source::Samples(samples) => samples.len(),
            Source::Windows(windows) => windows.len(),
        }
    }

    /// Ways to lay the rows of an epoch: where the first window starts.
    pub fn offsets(&self) -> usize {
        match self {
            Source::Samples(_) => 1,
            Source::Windows(windows) => windows.sequence(),
        }
    }

    /// What a row is.
    pub fn unit(&self) -> &'static str {
        match self {
            Source::Samples(_) => "samples",
            Source::Windows(_) => "windows of tokens",
        }
    }

    /// How much there is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Source::Samples(samples) => format!("cannot train on {} samples", samples.len()),
            Source::Windows(windows) => format!(
                "cannot train on {} tokens in windows of {} that start anywhere",
                windows.stream().len(),
                windows.sequence() + 1
            ),
        }
    }

    /// A batch of rows below [`Source::train_rows`].
    pub fn train_batch(&self, rows: &[usize], offset: usize) -> Result<Tensors> {
        match self {
            Source::Samples(samples) => samples.gather(rows),
            Source::Windows(windows) => windows.gather(rows, offset),
        }
    }

    /// A batch of rows below [`Source::validation_rows`].
    pub fn validation_batch(&self, rows: &[usize]) -> Result<Tensors> {
        self.train_batch(rows, 0)
    }

    /// Sizes and a digest.
    pub fn identity(&self) -> serde_json::Value {
        match self {
            Source::Samples(samples) => samples.identity(),
            Source::Windows(windows) => serde_json::json!({
                "tokens": windows.stream().len(),
                "sequence": windows.sequence(),
                "sha256": windows.stream().digest(),
            }),
        }
    }
}

/// sha256 over the length and 64 samples of 64 KiB, all of it where it is shorter than that: files may be huge.
pub fn digest(bytes: &[u8]) -> String {
    const BLOCK: usize = 1 << 16;
    const BLOCKS: usize = 64;
    let mut hasher = Sha256::new_with_prefix((bytes.len() as u64).to_le_bytes());
    if bytes.len() <= BLOCK * BLOCKS {
        hasher.update(bytes);
    } else {
        for block in 0..BLOCKS {
            let start = (bytes.len() - BLOCK) * block / (BLOCKS - 1);
            hasher.update(&bytes[start..start + BLOCK]);
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
