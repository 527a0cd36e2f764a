//! The order in which a plane lies in memory when the kernels read it.
//!
//! A row is a sequence of *cells* of 32 columns; a group of columns that shares a scale begins a new cell, so that no cell
//! spans two groups. A cell takes four bytes of each plane. Column `4o + l` of a cell (o = 0..8, l = 0..4) is bit
//! `(7 - p + o) mod 8` of byte l in plane p:
//!
//! * the bits of one column are at neighbouring places, high plane first, in all planes of one byte: bit selects put the
//!   planes together and no byte is ever shifted to meet another plane;
//! * of 16 neighbouring cells, a *block*, one 64-byte register holds a plane; each o gives 64 codes, one register again,
//!   whose i-th group of four bytes belongs to cell i.
//!
//! Activations are laid out to match: `[block][o][cell][l]`. Four rows lie together, block by block.

use std::ops::Range;

use aligned_vec::{AVec, ConstAlign};
use mqc_ir::quant::Grouping;

use crate::nested::row_bytes;

/// Columns of a cell.
pub const CELL: usize = 32;
/// Cells of a block.
pub const BLOCK: usize = 16;
/// Codes of a block.
pub const BLOCK_CODES: usize = CELL * BLOCK;
/// Rows that lie together.
pub const QUAD: usize = 4;
/// Bytes that a cell takes in a plane.
pub const CELL_BYTES: usize = 4;

/// Values at an address that is a multiple of a cache line: a register is then loaded from one line, not from two.
pub type Lines<T> = AVec<T, ConstAlign<64>>;

/// How the columns of a row are cut into groups and cells. All is computed once: kernels ask for it row by row, and an
/// integer division takes as long as a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells {
    cols: usize,
    group: usize,
    groups: usize,
    cells_per_group: usize,
    count: usize,
}

impl Cells {
    /// Rows of `cols` columns that share scales as `grouping` says.
    pub fn new(cols: usize, grouping: Grouping) -> Cells {
        let group = grouping.size(cols).max(1);
        let groups = cols.div_ceil(group).max(1);
        let cells_per_group = group.div_ceil(CELL);
        let last = cols - (groups - 1) * group;
        let count = (groups - 1) * cells_per_group + last.div_ceil(CELL);
        Cells { cols, group, groups, cells_per_group, count }
    }

    /// Columns of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Cells of each group but the last, which may have fewer.
    pub fn cells_per_group(&self) -> usize {
        self.cells_per_group
    }

    /// Cells of a row.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Blocks of a row; the last may be partly filled.
    pub fn blocks(&self) -> usize {
        self.count().div_ceil(BLOCK)
    }

    /// Places that a row of indices, or a stream, takes: its blocks, and a line more, because rows a multiple of 4096 bytes
    /// apart would compete for the same few lines of the first-level cache.
    pub fn stride(&self) -> usize {
        if self.blocks() == 0 { 0 } else { self.blocks() * BLOCK_CODES + 64 }
    }

    /// Bytes of a row in a plane.
    pub fn row_bytes(&self) -> usize {
        CELL_BYTES * self.count()
    }

    /// The columns of a group.
    pub fn columns_of(&self, group: usize) -> Range<usize> {
        group * self.group..self.cols.min((group + 1) * self.group)
    }

    /// The columns of a cell, fewer than 32 at the end of a group.
    pub fn columns(&self, cell: usize) -> Range<usize> {
        let group = self.columns_of(cell / self.cells_per_group);
        let start = group.start + cell % self.cells_per_group * CELL;
        start..group.end.min(start + CELL)
    }

    /// The group and the columns of every cell, in order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let cells = *self;
        (0..cells.groups()).flat_map(move |group| {
            let Range { start, end } = cells.columns_of(group);
            (start..end).step_by(CELL).map(move |first| (group, first..end.min(first + CELL)))
        })
    }

    /// Bytes of [`QUAD`] rows in a plane.
    pub fn quad_bytes(&self) -> usize {
        QUAD * self.row_bytes()
    }

    /// Writes up to [`QUAD`] rows of plane `p`, `logical` as `nested::pack` makes them, block by block: the first block
    /// of each row, then the second of each, so that a kernel reads memory in order. Rows that are not there are 0.
    pub fn permute_quad(&self, p: usize, logical: &[u8], out: &mut [u8]) {
        let mut row = vec![0; self.row_bytes()];
        for (index, logical) in logical.chunks(row_bytes(self.cols).max(1)).enumerate() {
            self.permute_row(p, logical, &mut row);
            for (block, bytes) in row.chunks(CELL_BYTES * BLOCK).enumerate() {
                let at = QUAD * CELL_BYTES * BLOCK * block + index * bytes.len();
                out[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// Writes one row of plane `p` in this order. `logical` is the row as `nested::pack` makes it, `out` has
    /// [`Cells::row_bytes`].
    fn permute_row(&self, p: usize, logical: &[u8], out: &mut [u8]) {
        let (cells, _) = out.as_chunks_mut::<CELL_BYTES>();
        if self.group >= self.cols || self.group.is_multiple_of(CELL) {
            let (whole, rest) = logical.as_chunks::<CELL_BYTES>();
            for (cell, bits) in cells.iter_mut().zip(whole) {
                *cell = permute_cell(p, u32::from_le_bytes(*bits)).to_le_bytes();
            }
            if let (Some(cell), false) = (cells.get_mut(whole.len()), rest.is_empty()) {
                *cell = permute_cell(p, read_le(rest)).to_le_bytes();
            }
            return;
        }
        for (index, cell) in cells.iter_mut().enumerate() {
            let columns = self.columns(index);
            let bits = read_le(&logical[columns.start / 8..columns.end.div_ceil(8)]);
            *cell = permute_cell(p, bits).to_le_bytes();
        }
    }
}

/// Writes the values of a cell where a stream has them.
#[inline(always)]
pub fn put_cell<T: Copy>(cell: usize, values: &[T; CELL], stream: &mut [T]) {
    let first = cell / BLOCK * BLOCK_CODES + cell % BLOCK * CELL_BYTES;
    // One check for all eight.
    let out = &mut stream[first..][..7 * BLOCK * CELL_BYTES + CELL_BYTES];
    for (o, four) in values.as_chunks::<CELL_BYTES>().0.iter().enumerate() {
        out[BLOCK * CELL_BYTES * o..][..CELL_BYTES].copy_from_slice(four);
    }
}

/// The values of a cell, then zeros.
#[inline(always)]
pub fn take_cell(columns: Range<usize>, row: &[f32]) -> [f32; CELL] {
    let values = &row[columns];
    match values.first_chunk() {
        Some(whole) => *whole,
        None => {
            let mut padded = [0.0; CELL];
            padded[..values.len()].copy_from_slice(values);
            padded
        }
    }
}

/// At most four bytes, the first lowest.
fn read_le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte))
}

/// Bit `4o + l` of `bits` to bit `(7 - p + o) mod 8` of byte l.
#[inline(always)]
fn permute_cell(p: usize, bits: u32) -> u32 {
    // The place of a bit, in binary, is o2 o1 o0 l1 l0 and becomes l1 l0 o2 o1 o0: four exchanges of two digits.
    let bits = exchange(bits, 1, 0x2222_2222);
    let bits = exchange(bits, 3, 0x0a0a_0a0a);
    let bits = exchange(bits, 6, 0x00cc_00cc);
    let bits = exchange(bits, 12, 0x0000_f0f0);
    rotate_bytes(bits, 7 - p as u32)
}

/// Exchanges the bits under `mask` with those `distance` above.
#[inline(always)]
fn exchange(bits: u32, distance: u32, mask: u32) -> u32 {
    let differ = (bits ^ (bits >> distance)) & mask;
    bits ^ differ ^ (differ << distance)
}

#[inline(always)]
fn rotate_bytes(bits: u32, left: u32) -> u32 {
    let low = 0x0101_0101 * ((1 << left) - 1);
    (bits << left & !low) | (bits >> (8 - left) & low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nested::pack;

    proptest! {
        #[test]
        fn every_bit_lies_where_the_text_says(
            cols in 1usize..700, group in prop::sample::select(vec![0usize, 8, 16, 32, 40, 64, 96, 128, 512]), seed: u64,
        ) {
            let grouping = match group {
                0 => Grouping::PerChannel,
                size => Grouping::group(size as u32).unwrap(),
            };
            let cells = Cells::new(cols, grouping);
            let codes: Vec<u8> =
                (0..cols as u64).map(|k| (k.wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
            let planes = pack(&codes, 1, cols).unwrap();
            let mut seen = 0;
            for (p, plane) in planes.iter().enumerate() {
                prop_assert_eq!(plane.len(), row_bytes(cols));
                let mut row = vec![0; cells.row_bytes()];
                cells.permute_row(p, plane, &mut row);
                for cell in 0..cells.count() {
                    let columns = cells.columns(cell);
                    prop_assert!(!columns.is_empty() && columns.len() <= CELL);
                    for i in 0..CELL {
                        let (o, l) = (i / 4, i % 4);
                        let bit = row[4 * cell + l] >> ((7 - p + o) % 8) & 1;
                        let k = columns.start + i;
                        let expected = if k < columns.end { codes[k] >> (7 - p) & 1 } else { 0 };
                        prop_assert_eq!(bit, expected, "plane {} column {}", p, k);
                        seen += usize::from(k < columns.end);
                    }
                }
            }
            prop_assert_eq!(seen, 8 * cols);
        }
    }
}
