//! Few tokens and many planes: planes are interleaved byte by byte, then each eight bytes, a matrix of eight by eight bits,
//! are transposed at once.
//!
//! A bit select (`merge`) reads a mask and two results from the register file, which has as many reads in a cycle for one
//! such instruction as for two of two operands. Interleaving takes as many instructions, of two operands.

use std::arch::x86_64::*;

use super::decode::{Part, Quad, keep_rows_apart};
use super::merge::rotate_right;
use crate::cpu::cells::{BLOCK_CODES, QUAD};
use crate::cpu::streams::Streams;
use crate::cpu::strip::Level;

/// The fewest planes that are faster this way.
pub(super) const FEWEST: usize = 7;
/// Byte o has bit o alone.
const UNITS: i64 = i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]);

/// Whether products of this level with these streams are summed here: streams are then in the order of [`reorder`].
pub(super) fn serves(level: &Level, streams: &Streams) -> bool {
    level.count >= FEWEST && level.rounding.is_none() && level.sums_in_integers(streams)
}

/// Puts codes, `[block][o][cell][l]`, in the order in which the bytes of planes come out of [`interleave`]: as each byte of
/// a plane has all o, the codes of all o lie together.
///
/// # Safety
/// The CPU features.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn reorder(codes: &mut [i8]) {
    for block in codes.chunks_exact_mut(BLOCK_CODES) {
        let block: *mut i8 = block.as_mut_ptr();
        // SAFETY: 512 bytes.
        unsafe {
            let rows = std::array::from_fn(|o| _mm512_loadu_si512(block.add(64 * o).cast()));
            for (n, codes) in interleave(rows).into_iter().enumerate() {
                _mm512_storeu_si512(block.add(64 * n).cast(), codes);
            }
        }
    }
}

/// Bytes of eight registers in turn: eight bytes of register n of the result are byte `16 i + 2 n + h` of each, for
/// i = 0..4, h = 0, 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave([a, b, c, d, e, f, g, h]: [__m512i; 8]) -> [__m512i; 8] {
    let [ae0, ae1, bf0, bf1, cg0, cg1, dh0, dh1] = step([a, b, c, d], [e, f, g, h]);
    let [aceg0, aceg1, aceg2, aceg3, bdfh0, bdfh1, bdfh2, bdfh3] =
        step([ae0, ae1, bf0, bf1], [cg0, cg1, dh0, dh1]);
    step([aceg0, aceg1, aceg2, aceg3], [bdfh0, bdfh1, bdfh2, bdfh3])
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn step(a: [__m512i; 4], b: [__m512i; 4]) -> [__m512i; 8] {
    let low = |i: usize| _mm512_unpacklo_epi8(a[i], b[i]);
    let high = |i: usize| _mm512_unpackhi_epi8(a[i], b[i]);
    [low(0), high(0), low(1), high(1), low(2), high(2), low(3), high(3)]
}

impl<const P: usize, const T: usize> Quad<P, T> {
    /// Sums of `index * code` of the four rows for streams that [`reorder`] was applied to.
    ///
    /// # Safety
    /// The CPU features; planes and streams are as long as said.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    pub(super) unsafe fn integers_by_bytes(&self) -> [[__m512i; QUAD]; T] {
        let (whole, rest) = (self.cells / 16, self.cells % 16);
        let mut out = [[_mm512_setzero_si512(); QUAD]; T];
        unsafe {
            for block in 0..whole {
                self.add_bytes(block, Part::WHOLE, &mut out);
            }
            if rest != 0 {
                self.add_bytes(whole, Part::of(rest), &mut out);
            }
        }
        out
    }

    /// Adds a block of four rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn add_bytes(&self, block: usize, part: Part, out: &mut [[__m512i; QUAD]; T]) {
        // Not a loop: sums would lie in memory.
        unsafe {
            self.add_row(block, part, 0, out);
            self.add_row(block, part, 1, out);
            self.add_row(block, part, 2, out);
            self.add_row(block, part, 3, out);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn add_row(&self, block: usize, part: Part, r: usize, out: &mut [[__m512i; QUAD]; T]) {
        let planes = unsafe { self.load(block, r, part) };
        // A plane has the bit of o at `(7 - p + o) % 8`: all get it where the last one has it. Byte 7 of a matrix is row 0.
        let mut rows = [_mm512_setzero_si512(); 8];
        for p in 0..P {
            rows[8 - P + p] = rotate_right(planes[p], P - 1 - p);
        }
        let units = _mm512_set1_epi64(UNITS.rotate_left(8 * P as u32));
        for (n, matrices) in interleave(rows).into_iter().enumerate() {
            let indices = _mm512_gf2p8affine_epi64_epi8::<0>(units, matrices);
            for t in 0..T {
                let x = unsafe { _mm512_loadu_si512(self.x[t].add(512 * block + 64 * n).cast()) };
                out[t][r] = _mm512_dpbusd_epi32(out[t][r], indices, x);
            }
        }
        keep_rows_apart();
    }
}
