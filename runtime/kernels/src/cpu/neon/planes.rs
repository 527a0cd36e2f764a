//! Bit planes to indices in registers of 16 bytes: a quarter of a row of a block.
//!
//! Planes come in pairs, pairs in quads, quads in eights: at each step a bit select takes from either side the bits of
//! its planes. A register for residue o then holds the code of o rotated left by o.

use std::arch::aarch64::*;

use crate::cpu::cells::{BLOCK, CELL_BYTES, QUAD};
use crate::cpu::strip::Level;

/// Cells of a register.
pub(super) const QUARTER: usize = 4;
/// Bytes of a plane in a block of a row and of a quad.
const ROW_BYTES: usize = BLOCK * CELL_BYTES;
const QUAD_BYTES: usize = QUAD * ROW_BYTES;

/// The planes of a quad of rows.
pub(super) struct Quad<'a> {
    planes: [&'a [u8]; 8],
    /// The last block if it is not whole, as if it were: cells that are not there are 0.
    last: [[u8; QUAD_BYTES]; 8],
    whole_blocks: usize,
    top: u8,
}

/// A block of a quad.
pub(super) struct Block<'a> {
    planes: [&'a [u8]; 8],
    top: u8,
}

impl<'a> Quad<'a> {
    pub fn new(level: &Level<'a>, quad: usize) -> Quad<'a> {
        let planes = level.planes_from(quad);
        let (whole_blocks, bytes) = (level.cells.count() / BLOCK, CELL_BYTES * (level.cells.count() % BLOCK));
        let mut last = [[0; QUAD_BYTES]; 8];
        if bytes > 0 {
            for (last, plane) in last.iter_mut().zip(&planes[..level.count]) {
                let rows = plane[QUAD_BYTES * whole_blocks..].chunks_exact(bytes);
                for (last, row) in last.chunks_exact_mut(ROW_BYTES).zip(rows) {
                    last[..bytes].copy_from_slice(row);
                }
            }
        }
        Quad { planes, last, whole_blocks, top: level.rounding.map_or(u8::MAX, |rounding| rounding.top) }
    }

    /// The leading `count` planes of a block.
    #[inline]
    pub fn block(&self, block: usize, count: usize) -> Block<'_> {
        let mut planes: [&[u8]; 8] = [&[]; 8];
        for p in 0..count {
            planes[p] = match block < self.whole_blocks {
                true => &self.planes[p][QUAD_BYTES * block..][..QUAD_BYTES],
                false => &self.last[p],
            };
        }
        Block { planes, top: self.top }
    }
}

impl Block<'_> {
    /// The indices of each o in a quarter of a row from `P` planes, rounded if `ROUND`.
    #[inline(always)]
    pub fn indices<const P: usize, const ROUND: bool>(&self, row: usize, quarter: usize) -> [uint8x16_t; 8] {
        let at = ROW_BYTES * row + QUARTER * CELL_BYTES * quarter;
        // SAFETY: every processor of this architecture has NEON; loads are of slices of 16 bytes.
        unsafe {
            let mut planes = [vdupq_n_u8(0); P];
            for p in 0..P {
                planes[p] = vld1q_u8(self.planes[p][at..][..16].as_ptr());
            }
            let mut indices = merge(planes);
            for o in 0..8 {
                indices[o] = leading::<P>(indices[o], o);
                if ROUND {
                    indices[o] = vminq_u8(vrhaddq_u8(indices[o], vdupq_n_u8(0)), vdupq_n_u8(self.top));
                }
            }
            indices
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn select(mask: u8, ones: uint8x16_t, zeros: uint8x16_t) -> uint8x16_t {
    vbslq_u8(vdupq_n_u8(mask), ones, zeros)
}

#[inline]
#[target_feature(enable = "neon")]
fn pair(high: uint8x16_t, low: uint8x16_t) -> [uint8x16_t; 2] {
    [select(0xaa, high, low), select(0xaa, low, high)]
}

#[inline]
#[target_feature(enable = "neon")]
fn quad(high: [uint8x16_t; 2], low: [uint8x16_t; 2]) -> [uint8x16_t; 4] {
    [
        select(0xcc, high[0], low[0]),
        select(0x99, high[1], low[1]),
        select(0xcc, low[0], high[0]),
        select(0x99, low[1], high[1]),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn eight(high: [uint8x16_t; 4], low: [uint8x16_t; 4]) -> [uint8x16_t; 8] {
    let mut all = [vdupq_n_u8(0); 8];
    for v in 0..4 {
        let mask = 0xf0_u8.rotate_left(v as u32);
        all[v] = select(mask, high[v], low[v]);
        all[v + 4] = select(mask, low[v], high[v]);
    }
    all
}

/// For each o the register with the code's leading `P` bits rotated left by o: plane p at bit `(7 - p + o) mod 8`.
#[inline]
#[target_feature(enable = "neon")]
fn merge<const P: usize>(planes: [uint8x16_t; P]) -> [uint8x16_t; 8] {
    let two = |[a, b]: [uint8x16_t; 2]| [a, b, a, b, a, b, a, b];
    let four = |[a, b, c, d]: [uint8x16_t; 4]| [a, b, c, d, a, b, c, d];
    match *planes.as_slice() {
        [a] => [a; 8],
        [a, b] => two(pair(a, b)),
        [a, b, c] => four(quad(pair(a, b), [c; 2])),
        [a, b, c, d] => four(quad(pair(a, b), pair(c, d))),
        [a, b, c, d, e] => eight(quad(pair(a, b), pair(c, d)), [e; 4]),
        [a, b, c, d, e, f] => {
            let [g, h] = pair(e, f);
            eight(quad(pair(a, b), pair(c, d)), [g, h, g, h])
        }
        [a, b, c, d, e, f, g] => eight(quad(pair(a, b), pair(c, d)), quad(pair(e, f), [g; 2])),
        [a, b, c, d, e, f, g, h] => eight(quad(pair(a, b), pair(c, d)), quad(pair(e, f), pair(g, h))),
        _ => [vdupq_n_u8(0); 8],
    }
}

/// The leading `P` bits of a code that is rotated left by `o`, shifted down.
#[inline]
#[target_feature(enable = "neon")]
fn leading<const P: usize>(code: uint8x16_t, o: usize) -> uint8x16_t {
    let down = P as i8 - 8;
    let code = match (8 - P + o) % 8 {
        start if start + P <= 8 => vshlq_u8(code, vdupq_n_s8((8 - P - start) as i8)),
        _ => rotate_right(code, o),
    };
    vshlq_u8(code, vdupq_n_s8(down))
}

#[inline]
#[target_feature(enable = "neon")]
fn rotate_right(bytes: uint8x16_t, by: usize) -> uint8x16_t {
    match by % 8 {
        0 => bytes,
        1 => vsriq_n_u8::<1>(vshlq_n_u8::<7>(bytes), bytes),
        2 => vsriq_n_u8::<2>(vshlq_n_u8::<6>(bytes), bytes),
        3 => vsriq_n_u8::<3>(vshlq_n_u8::<5>(bytes), bytes),
        4 => vsriq_n_u8::<4>(vshlq_n_u8::<4>(bytes), bytes),
        5 => vsriq_n_u8::<5>(vshlq_n_u8::<3>(bytes), bytes),
        6 => vsriq_n_u8::<6>(vshlq_n_u8::<2>(bytes), bytes),
        _ => vsriq_n_u8::<7>(vshlq_n_u8::<1>(bytes), bytes),
    }
}
