//! The order of rows: a permutation per epoch from the seed. Nothing is carried from step to step.

use anyhow::{Result, bail};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What random numbers are for; each use has numbers of its own.
#[derive(Clone, Copy)]
enum Purpose {
    Split,
    Order,
    Offset,
}

fn random(seed: u64, purpose: Purpose, epoch: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch.wrapping_mul(4).wrapping_add(purpose as u64));
    random
}

/// Which rows the batch of a step has.
pub struct Sampler {
    rows: usize,
    batch: usize,
    seed: u64,
    /// The order of the epoch that was asked for last.
    order: Option<(u64, Vec<usize>)>,
}

impl Sampler {
    /// Over `rows` rows in batches of `batch`.
    ///
    /// # Errors
    /// Fewer rows than a batch has, or a batch of none.
    pub fn new(rows: usize, batch: usize, seed: u64) -> Result<Sampler> {
        match (rows, batch) {
            (_, 0) => bail!("the batch has 0 rows; expected at least 1"),
            (0, _) => bail!("there is no training data"),
            _ if rows < batch => bail!(
                "{rows} rows to train on are less than a batch of {batch}: give more data or a smaller batch"
            ),
            _ => Ok(Sampler { rows, batch, seed, order: None }),
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Rows of a batch.
    pub fn batch_rows(&self) -> usize {
        self.batch
    }

    /// Batches of an epoch. The rows that are left over differ from epoch to epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.rows / self.batch) as u64
    }

    /// The epoch, counted from 0, and the rows of a step, counted from 1.
    pub fn batch(&mut self, step: u64) -> (u64, Vec<usize>) {
        let index = step.saturating_sub(1);
        let (epoch, place) = (index / self.steps_per_epoch(), index % self.steps_per_epoch());
        let known = self.order.take().filter(|(e, _)| *e == epoch);
        let (_, order) =
            self.order.insert(known.unwrap_or_else(|| (epoch, order(self.rows, self.seed, epoch))));
        (epoch, order[place as usize * self.batch..][..self.batch].to_vec())
    }

    /// Where the windows of an epoch start: a number below `offsets`.
    pub fn offset(&self, epoch: u64, offsets: usize) -> usize {
        random(self.seed, Purpose::Offset, epoch).random_range(0..offsets.max(1))
    }
}

fn order(rows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut random(seed, Purpose::Order, epoch));
    order
}

/// Divides rows at random into those to train on and those to validate on, `share` of them.
pub fn split(rows: usize, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut random(seed, Purpose::Split, 0));
    let train = order.split_off((rows as f64 * share).round() as usize);
    (train, order)
}
