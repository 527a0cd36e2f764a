//! Bit planes to indices in registers of 32 bytes: half a row of a block.
//!
//! At most four planes are put together at a time, so that an index fits four bits; more planes make two such parts.

use std::arch::x86_64::*;

use crate::cpu::cells::{BLOCK, CELL_BYTES, QUAD};
use crate::cpu::strip::Level;

/// Cells of a register.
pub(super) const HALF: usize = BLOCK / 2;
/// Registers of a plane in a block of a quad: two for each row.
pub(super) const PARTS: usize = 2 * QUAD;

/// The planes of a quad of rows.
pub(super) struct Quad {
    planes: [*const u8; 8],
    whole_blocks: usize,
    /// The last block if it is not whole, as if it were: cells that are not there are 0.
    last: [[__m256i; PARTS]; 8],
    top: __m256i,
}

/// A block of a quad.
pub(super) struct Block {
    planes: [*const __m256i; 8],
    top: __m256i,
}

impl Quad {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn new(level: &Level, quad: usize) -> Quad {
        let planes = level.planes_from(quad);
        let (whole_blocks, cells) = (level.cells.count() / BLOCK, level.cells.count() % BLOCK);
        let mut last = [[_mm256_setzero_si256(); PARTS]; 8];
        if cells > 0 {
            for (last, plane) in last.iter_mut().zip(&planes[..level.count]) {
                let bytes = &plane[BLOCK * CELL_BYTES * QUAD * whole_blocks..][..CELL_BYTES * QUAD * cells];
                for (part, last) in last.iter_mut().enumerate() {
                    let (row, first) = (part / 2, part % 2 * HALF);
                    let there = cells.saturating_sub(first).min(HALF);
                    *last = load_cells(&bytes[CELL_BYTES * (row * cells + first.min(cells))..], there);
                }
            }
        }
        assert!(planes[..level.count].iter().all(|plane| plane.len() >= level.cells.quad_bytes()));
        let top = _mm256_set1_epi8(level.rounding.map_or(u8::MAX, |rounding| rounding.top) as i8);
        Quad { planes: planes.map(<[u8]>::as_ptr), whole_blocks, last, top }
    }

    /// The block `block` of the row, which there must be.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn block(&self, block: usize) -> Block {
        let mut planes = [std::ptr::null(); 8];
        for p in 0..8 {
            planes[p] = match block < self.whole_blocks {
                true => self.planes[p].wrapping_add(BLOCK * CELL_BYTES * QUAD * block).cast(),
                false => self.last[p].as_ptr(),
            };
        }
        Block { planes, top: self.top }
    }
}

/// The first `count` of at most eight cells, then zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn load_cells(bytes: &[u8], count: usize) -> __m256i {
    let bytes = &bytes[..CELL_BYTES * count];
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes);
    // SAFETY: the mask leaves out what is beyond the slice.
    unsafe { _mm256_maskload_epi32(bytes.as_ptr().cast(), mask) }
}

impl Block {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load<const P: usize>(&self, first: usize, part: usize) -> [__m256i; P] {
        let mut bytes = [_mm256_setzero_si256(); P];
        for p in 0..P {
            // SAFETY: as the caller says, and each plane holds a whole block.
            bytes[p] = unsafe { _mm256_loadu_si256(self.planes[first + p].add(part)) };
        }
        bytes
    }

    /// Indices of the leading `HIGH` planes, and those of the `LOW` planes after them.
    ///
    /// # Safety
    /// As many planes are read; `part` is below [`PARTS`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn parts<const HIGH: usize, const LOW: usize>(
        &self,
        part: usize,
    ) -> ([__m256i; 8], [__m256i; 8]) {
        // SAFETY: as the caller says.
        let (high, low) = unsafe { (self.load::<HIGH>(0, part), self.load::<LOW>(HIGH, part)) };
        let low = fields(low);
        // Plane 4 has its bits where plane 0 has those four outputs further on.
        (fields(high), [low[4], low[5], low[6], low[7], low[0], low[1], low[2], low[3]])
    }

    /// The indices of all planes read, rounded if `ROUND`.
    ///
    /// # Safety
    /// As above.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn indices<const HIGH: usize, const LOW: usize, const ROUND: bool>(
        &self,
        part: usize,
    ) -> [__m256i; 8] {
        // SAFETY: as the caller says.
        let (mut indices, low) = unsafe { self.parts::<HIGH, LOW>(part) };
        for o in 0..8 {
            if LOW > 0 {
                // At most 15 * 2^4: nothing passes from one byte to the next.
                let high = _mm256_sll_epi16(indices[o], _mm_cvtsi32_si128(LOW as i32));
                indices[o] = _mm256_or_si256(high, low[o]);
            }
            if ROUND {
                indices[o] = _mm256_min_epu8(_mm256_avg_epu8(indices[o], _mm256_setzero_si256()), self.top);
            }
        }
        indices
    }
}

/// The index of each o from `P` planes, at most four: plane p has its bit at `(7 - p + o) mod 8`.
#[inline]
#[target_feature(enable = "avx2")]
fn fields<const P: usize>(planes: [__m256i; P]) -> [__m256i; 8] {
    // Register v has the bits of outputs v and v + 4 in one run, which may go round the end of the byte.
    let rotated = match *planes.as_slice() {
        [a] => [a; 4],
        [a, b] => {
            let [even, odd] = exchange(0xaa, a, b);
            [even, odd, even, odd]
        }
        [a, b, c] => four(exchange(0xaa, a, b), [c; 2]),
        [a, b, c, d] => four(exchange(0xaa, a, b), exchange(0xaa, c, d)),
        _ => [_mm256_setzero_si256(); 4],
    };
    let mut fields = [_mm256_setzero_si256(); 8];
    for o in 0..8 {
        fields[o] = field::<P>(rotated[o % 4], (8 - P + o) % 8);
    }
    fields
}

/// Rotations by 0 to 3 of the bits of four planes from those by 0 and 1 of two each.
#[inline]
#[target_feature(enable = "avx2")]
fn four(high: [__m256i; 2], low: [__m256i; 2]) -> [__m256i; 4] {
    let ([v0, v2], [v1, v3]) = (exchange(0xcc, high[0], low[0]), exchange(0x99, high[1], low[1]));
    [v0, v1, v2, v3]
}

/// The bits of `a` under the mask with the others of `b`, and the reverse.
#[inline]
#[target_feature(enable = "avx2")]
fn exchange(mask: u8, a: __m256i, b: __m256i) -> [__m256i; 2] {
    let differ = _mm256_and_si256(_mm256_xor_si256(a, b), _mm256_set1_epi8(mask as i8));
    [_mm256_xor_si256(b, differ), _mm256_xor_si256(a, differ)]
}

/// The `P` bits of each byte from `start` on, round the end of the byte.
#[inline]
#[target_feature(enable = "avx2")]
fn field<const P: usize>(bytes: __m256i, start: usize) -> __m256i {
    let keep = |bytes, mask: usize| _mm256_and_si256(bytes, _mm256_set1_epi8(mask as i8));
    let (all, low) = ((1 << P) - 1, (1 << (8 - start)) - 1);
    let down = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(start as i32));
    if start + P <= 8 {
        return keep(down, all);
    }
    if start == 7 {
        // The sign and, shifted by one, the rest.
        let sign = _mm256_cmpgt_epi8(_mm256_setzero_si256(), bytes);
        return _mm256_sub_epi8(keep(_mm256_add_epi8(bytes, bytes), all & !1), sign);
    }
    let up = _mm256_sll_epi16(bytes, _mm_cvtsi32_si128(8 - start as i32));
    _mm256_or_si256(keep(down, low), keep(up, all & !low))
}
