//! Activations that stay floats, in the order of the cells.

use aligned_vec::avec;
use rayon::prelude::*;

use super::cells::{BLOCK, BLOCK_CODES, CELL, Cells, Lines};
use super::strip::GROUP_LANES;

/// Float activations.
#[derive(Debug)]
pub(super) struct Floats {
    /// [tokens, stride]
    values: Lines<f32>,
    stride: usize,
    /// [tokens, groups padded to 16]
    sums: Lines<f32>,
    padded_groups: usize,
}

impl Floats {
    /// Reorders `x`, [tokens, cols].
    pub fn new(cells: &Cells, x: &[f32], tokens: usize) -> Floats {
        let stride = cells.stride();
        let padded_groups = cells.groups().next_multiple_of(GROUP_LANES);
        let mut floats = Floats {
            values: avec![[64]| 0.0; tokens * stride],
            stride,
            sums: avec![[64]| 0.0; tokens * padded_groups],
            padded_groups,
        };
        if stride == 0 {
            return floats;
        }
        let rows = floats.values.par_chunks_mut(stride).zip(floats.sums.par_chunks_mut(padded_groups));
        rows.zip(x.par_chunks(cells.cols())).with_min_len(8).for_each(|((out, sums), x)| {
            for cell in 0..cells.count() {
                let columns = cells.columns(cell);
                let mut values = [0.0; CELL];
                values[..columns.len()].copy_from_slice(&x[columns]);
                let first = cell / BLOCK * BLOCK_CODES + cell % BLOCK * 4;
                for (o, four) in values.as_chunks::<4>().0.iter().enumerate() {
                    out[first + 4 * BLOCK * o..][..4].copy_from_slice(four);
                }
            }
            for (group, sum) in sums.iter_mut().enumerate().take(cells.groups()) {
                *sum = x[cells.columns_of(group)].iter().map(|x| f64::from(*x)).sum::<f64>() as f32;
            }
        });
        floats
    }

    /// The activations of a token.
    pub fn values(&self, token: usize) -> &[f32] {
        &self.values[token * self.stride..][..self.stride]
    }

    /// Their sums over each group, padded with zeros to a multiple of 16.
    pub fn sums(&self, token: usize) -> &[f32] {
        &self.sums[token * self.padded_groups..][..self.padded_groups]
    }
}
