//! What a kernel is given: a strip of rows of one weight at one width, and the streams to multiply it by.

use aligned_vec::avec;
use mqc_ir::quant::{SliceMode, Width};

use super::KernelError;
use super::cells::{Cells, Lines, QUAD};
use super::packed::Packed;
use super::streams::Streams;
use crate::nested::{centre, step};

/// Rows that a kernel finishes together.
pub(super) const STRIP: usize = 16;
/// Quads of a strip.
pub(super) const STRIP_QUADS: usize = STRIP / QUAD;
/// Groups are padded to a multiple of this in the sums of the activations.
pub(super) const GROUP_LANES: usize = 16;

/// Rounding of the slice modes `round` and `extra`: one bit more is read, half is added and the result bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rounding {
    /// The largest index.
    pub top: u8,
}

/// A weight at a width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level<'a> {
    pub cells: &'a Cells,
    /// The planes read, in the order of the kernels; the others are empty.
    pub planes: [&'a [u8]; 8],
    /// How many are read.
    pub count: usize,
    pub rounding: Option<Rounding>,
    /// [rows, groups]
    pub scale: &'a [f32],
    /// [rows, groups]
    pub zero: &'a [f32],
    /// Rows of the weight.
    pub rows: usize,
    /// Distance of two indices in codes.
    pub step: f32,
    /// Where in its bucket an index lies, in codes.
    pub centre: f32,
    /// See [`Packed`].
    pub lane_groups: &'a [(usize, [u32; 16])],
}

impl<'a> Level<'a> {
    pub fn new(packed: &'a Packed, width: Width) -> Result<Level<'a>, KernelError> {
        let weight = packed.weight();
        let mode = weight.mode();
        let rounding = match mode {
            SliceMode::Midpoint => None,
            SliceMode::Round | SliceMode::Extra if width == Width::MAX => None,
            SliceMode::Round => Some(Rounding { top: u8::MAX >> (8 - width.bits()) }),
            SliceMode::Extra => Some(Rounding { top: u8::MAX }),
        };
        let count = mode.planes_read(width);
        let map = weight.map(width);
        Ok(Level {
            cells: packed.cells(),
            planes: packed.planes(count)?,
            count,
            rounding,
            scale: map.scale.as_slice(),
            zero: map.zero.as_slice(),
            rows: weight.rows(),
            step: f32::from(step(width)),
            centre: centre(width, mode),
            lane_groups: &packed.lane_groups,
        })
    }

    /// No index is larger.
    pub fn largest_index(&self) -> u8 {
        match self.rounding {
            None => u8::MAX >> (8 - self.count),
            Some(rounding) => rounding.top.min(1 << (self.count - 1)),
        }
    }

    /// The planes from a quad on.
    pub fn planes_from(&self, quad: usize) -> [&'a [u8]; 8] {
        let at = quad * self.cells.quad_bytes();
        self.planes.map(|plane| plane.get(at..).unwrap_or_default())
    }

    /// Whether one scale a row and one unit a token let whole rows be summed in 32 bits.
    pub fn sums_in_integers(&self, streams: &Streams) -> bool {
        const LONGEST: usize = 1 << 16; // 255 * 127 * 2^16 < 2^31
        self.cells.groups() == 1 && streams.lanes(0).is_none() && self.cells.cols() <= LONGEST
    }

    /// Scale of a row and group; 0 for the rows that pad the last quad.
    pub fn scale_of(&self, row: usize, group: usize) -> f32 {
        self.scale.get(row * self.cells.groups() + group).copied().unwrap_or(0.0)
    }

    /// What a row adds for each unit of the activations' sum over a group: `scale * (centre - zero)`.
    pub fn offset_of(&self, row: usize, group: usize) -> f32 {
        let zero = self.zero.get(row * self.cells.groups() + group).copied().unwrap_or(0.0);
        self.scale_of(row, group) * (self.centre - zero)
    }
}

/// Scales and offsets of a quad of rows, spread for the lanes of a register.
#[derive(Debug)]
pub(super) struct QuadMap {
    /// [4, blocks * 16]: `step * scale` of each cell.
    pub scales: Lines<f32>,
    /// [4, groups padded to 16]
    pub offsets: Lines<f32>,
}

impl Default for QuadMap {
    fn default() -> QuadMap {
        QuadMap { scales: avec![[64]|], offsets: avec![[64]|] }
    }
}

impl QuadMap {
    pub fn fill(&mut self, level: &Level, quad: usize) {
        let (lanes, groups) = (16 * level.cells.blocks(), level.cells.groups());
        let padded = groups.next_multiple_of(GROUP_LANES);
        self.scales.resize(QUAD * lanes, 0.0);
        self.offsets.resize(QUAD * padded, 0.0);
        for r in 0..QUAD {
            let row = QUAD * quad + r;
            // Lanes and groups that pad a row are 0: what another weight left there need not be a number.
            let (scales, rest) = self.scales[r * lanes..][..lanes].split_at_mut(level.cells.count());
            rest.fill(0.0);
            for (group, scales) in scales.chunks_mut(level.cells.cells_per_group().max(1)).enumerate() {
                scales.fill(level.step * level.scale_of(row, group));
            }
            let (offsets, rest) = self.offsets[r * padded..][..padded].split_at_mut(groups);
            rest.fill(0.0);
            for (group, offset) in offsets.iter_mut().enumerate() {
                *offset = level.offset_of(row, group);
            }
        }
    }
}
