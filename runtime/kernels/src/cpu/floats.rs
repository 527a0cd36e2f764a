//! Activations that stay floats, in the order of the cells.

use aligned_vec::avec;

use super::Threads;
use super::cells::{Cells, Lines, put_cell, take_cell};
use super::streams::TASK;
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
    pub fn new(threads: &Threads, cells: &Cells, x: &[f32], tokens: usize) -> Floats {
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
        let rows = floats.values.chunks_mut(stride).zip(floats.sums.chunks_mut(padded_groups));
        let mut jobs: Vec<_> = rows.zip(x.chunks(cells.cols())).collect();
        let run = (TASK / cells.cols()).max(1);
        threads.chunks(&mut jobs, run, |_, jobs| {
            for ((out, sums), x) in jobs {
                for (cell, (_, columns)) in cells.iter().enumerate() {
                    put_cell(cell, &take_cell(columns, x), out);
                }
                for (group, sum) in sums.iter_mut().enumerate().take(cells.groups()) {
                    *sum = x[cells.columns_of(group)].iter().map(|x| f64::from(*x)).sum::<f64>() as f32;
                }
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
