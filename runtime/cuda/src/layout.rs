//! The order of planes and maps in device memory.
//!
//! A plane is cut into tiles of 16 rows x 256 columns, padded with 0, tile by tile along the columns, then along the rows. A
//! tile is 32 lanes x 4 words; the bits of a word are 32 weights that its lane needs in one go. Weight `base` of word `j` of
//! a lane, with `b = base % 16`, `h = base / 16`, `step = b % 4` and `register = b / 4`, is
//!
//! ```text
//! row    = lane / 4 + 8 * (register % 2)
//! column = 64 j + 32 (step / 2) + 8 (lane % 4) + 4 (step % 2) + 2 (register / 2) + h
//! ```
//!
//! which is the A operand of `mma.m16n8k16` for a permutation of columns that gives each lane runs of eight activations.
//! In plane p its bit is number `(base - p) mod 32`: the bits of one code lie next to each other when planes are merged.

use mqc_ir::quant::Grouping;
use rayon::prelude::*;

use crate::CudaError;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a tile.
pub const TILE_COLS: usize = 256;
/// Words of a tile: 32 lanes of 4.
const TILE_WORDS: usize = 128;
/// Columns that one byte of a plane holds.
const BYTE_COLS: usize = 8;

/// Tiles along the rows and along the columns.
pub const fn tiles(rows: usize, cols: usize) -> (usize, usize) {
    (rows.div_ceil(TILE_ROWS), cols.div_ceil(TILE_COLS))
}

/// Words of a plane of [rows, cols] in device order.
pub const fn plane_words(rows: usize, cols: usize) -> usize {
    let (down, across) = tiles(rows, cols);
    down * across * TILE_WORDS
}

/// `stored` plane number `plane` of a weight, [rows, ceil(cols / 8)] bytes as `mqc_kernels::nested` has it, in device order.
///
/// # Errors
/// A plane of another length, or a number above 7.
pub fn permute(stored: &[u8], plane: usize, rows: usize, cols: usize) -> Result<Vec<u32>, CudaError> {
    check(plane, "plane", "bytes", rows * cols.div_ceil(BYTE_COLS), stored.len())?;
    let across = tiles(rows, cols).1;
    let mut words = vec![0; plane_words(rows, cols)];
    words.par_chunks_mut(TILE_WORDS).enumerate().for_each(|(tile, words)| {
        each_byte(tile / across, tile % across, rows, cols, |byte, word, bits| {
            for (column, bit) in bits.iter().enumerate() {
                words[word] |= u32::from(stored[byte] >> column & 1) << ((bit + 32 - plane) % 32);
            }
        });
    });
    Ok(words)
}

/// The inverse of [`permute`].
///
/// # Errors
/// As `permute`.
pub fn restore(words: &[u32], plane: usize, rows: usize, cols: usize) -> Result<Vec<u8>, CudaError> {
    check(plane, "plane in device order", "words", plane_words(rows, cols), words.len())?;
    let (down, across) = tiles(rows, cols);
    let mut stored = vec![0; rows * cols.div_ceil(BYTE_COLS)];
    for (tile, words) in words.chunks(TILE_WORDS).enumerate().take(down * across) {
        each_byte(tile / across, tile % across, rows, cols, |byte, word, bits| {
            for (column, bit) in bits.iter().enumerate() {
                stored[byte] |= ((words[word] >> ((bit + 32 - plane) % 32) & 1) as u8) << column;
            }
        });
    }
    Ok(stored)
}

/// Calls `with` for every byte of a stored plane that lies in a tile: its number, the word of the tile that has its eight
/// weights, and the base of each of them. Eight columns are one run of one lane.
fn each_byte(
    tile_row: usize,
    tile_col: usize,
    rows: usize,
    cols: usize,
    mut with: impl FnMut(usize, usize, &[usize; 8]),
) {
    let row_bytes = cols.div_ceil(BYTE_COLS);
    for row in 0..TILE_ROWS.min(rows - tile_row * TILE_ROWS) {
        let first = tile_col * (TILE_COLS / BYTE_COLS);
        for run in 0..(TILE_COLS / BYTE_COLS).min(row_bytes - first) {
            let (j, half, lane_col) = (run / 8, run / 4 % 2, run % 4);
            let lane = 4 * (row % 8) + lane_col;
            let bases = std::array::from_fn(|k| {
                let step = 2 * half + k / 4;
                let register = row / 8 + 2 * (k / 2 % 2);
                4 * register + step + 16 * (k % 2)
            });
            with((tile_row * TILE_ROWS + row) * row_bytes + first + run, 4 * lane + j, &bases);
        }
    }
}

/// Groups of a row in device order: as many as its padded columns have.
pub fn groups(grouping: Grouping, cols: usize) -> usize {
    grouping.groups(cols.div_ceil(TILE_COLS) * TILE_COLS)
}

/// Scales or zeros, [rows, groups] as `mqc_kernels::nested` has them, as [tiles, groups, 16]: of each group the rows
/// 0, 8, 1, 9, ... of the tile, so that a lane finds its two rows side by side. What has no row or no group is 0.
///
/// # Errors
/// A map of another length.
pub fn permute_map(
    stored: &[f32],
    grouping: Grouping,
    rows: usize,
    cols: usize,
) -> Result<Vec<f32>, CudaError> {
    let stored_groups = grouping.groups(cols);
    check(0, "scales or zeros", "values", rows * stored_groups, stored.len())?;
    let groups = groups(grouping, cols);
    let mut out = vec![0.0; tiles(rows, cols).0 * groups * TILE_ROWS];
    for (i, out) in out.iter_mut().enumerate() {
        let (tile, at, slot) = (i / TILE_ROWS / groups, i / TILE_ROWS % groups, i % TILE_ROWS);
        let row = tile * TILE_ROWS + slot / 2 + 8 * (slot % 2);
        if row < rows && at < stored_groups {
            *out = stored[row * stored_groups + at];
        }
    }
    Ok(out)
}

fn check(
    plane: usize,
    what: &'static str,
    unit: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), CudaError> {
    if plane > 7 {
        return Err(CudaError::Plane { plane });
    }
    if expected == found { Ok(()) } else { Err(CudaError::Length { what, unit, expected, found }) }
}

#[cfg(test)]
mod tests {
    use mqc_kernels::nested;
    use proptest::prelude::*;

    use super::*;

    /// The definition in the module's text: row and column of weight `base` of word `j` of `lane`.
    fn place(lane: usize, j: usize, base: usize) -> (usize, usize) {
        let (b, h) = (base % 16, base / 16);
        let (step, register) = (b % 4, b / 4);
        let row = lane / 4 + 8 * (register % 2);
        (row, 64 * j + 32 * (step / 2) + 8 * (lane % 4) + 4 * (step % 2) + 2 * (register / 2) + h)
    }

    #[test]
    fn a_tile_holds_every_weight_once() {
        let mut seen = vec![false; TILE_ROWS * TILE_COLS];
        for i in 0..seen.len() {
            let (row, column) = place(i / 128, i / 32 % 4, i % 32);
            assert!(!std::mem::replace(&mut seen[row * TILE_COLS + column], true), "{row} {column}");
        }
    }

    proptest! {
        #[test]
        fn planes_are_the_documented_bits(rows in 0usize..40, cols in 0usize..600, seed: u8) {
            let codes: Vec<u8> =
                (0..rows * cols).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect();
            let planes = nested::pack(&codes, rows, cols).unwrap();
            let (down, across) = tiles(rows, cols);
            for (p, plane) in planes.iter().enumerate() {
                let words = permute(plane, p, rows, cols).unwrap();
                prop_assert_eq!(words.len(), down * across * 128);
                for (i, word) in words.iter().enumerate() {
                    for base in 0..32 {
                        let (row, column) = place(i % 128 / 4, i % 4, base);
                        let (row, column) = (row + i / 128 / across * 16, column + i / 128 % across * 256);
                        let inside = row < rows && column < cols;
                        let code = if inside { codes[row * cols + column] } else { 0 };
                        let bit = word >> ((base + 32 - p) % 32) & 1;
                        prop_assert_eq!(bit, u32::from(code >> (7 - p) & 1), "plane {} {} {}", p, row, column);
                    }
                }
                prop_assert_eq!(&restore(&words, p, rows, cols).unwrap(), plane);
            }
        }

        #[test]
        fn maps_are_the_documented_order(rows in 1usize..40, cols in 1usize..600, eighths in 0u32..20) {
            let grouping = Grouping::group(8 * eighths).unwrap();
            let stored_groups = grouping.groups(cols);
            let stored: Vec<f32> = (1..=rows * stored_groups).map(|i| i as f32).collect();
            let map = permute_map(&stored, grouping, rows, cols).unwrap();
            let groups = groups(grouping, cols);
            prop_assert_eq!(map.len(), rows.div_ceil(16) * groups * 16);
            prop_assert_eq!(map.iter().filter(|v| **v != 0.0).count(), stored.len());
            for row in 0..rows {
                for group in 0..stored_groups {
                    let slot = 2 * (row % 8) + row / 8 % 2;
                    prop_assert_eq!(map[(row / 16 * groups + group) * 16 + slot], stored[row * stored_groups + group]);
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(matches!(permute(&[0; 5], 0, 3, 9), Err(CudaError::Length { expected: 6, found: 5, .. })));
        assert!(matches!(permute(&[0; 6], 8, 3, 9), Err(CudaError::Plane { plane: 8 })));
        assert!(matches!(restore(&[0; 127], 0, 3, 9), Err(CudaError::Length { expected: 128, .. })));
        assert!(permute_map(&[0.0; 4], Grouping::PerChannel, 3, 9).is_err());
    }
}
