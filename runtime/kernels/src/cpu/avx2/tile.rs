//! Many tokens: indices in a panel, four rows by two streams at a time in registers.

use std::arch::x86_64::*;

use super::planes::{HALF, PARTS, Quad};
use super::sums::{Bound, reduce_floats, reduce_integers, widen};
use crate::cpu::cells::{BLOCK, BLOCK_CODES, QUAD};
use crate::cpu::streams::Streams;
use crate::cpu::strip::{GROUP_LANES, Level, QuadMap};

/// Writes the indices of a quad, [4, stride], in the order of the streams.
///
/// # Safety
/// The CPU features. `HIGH + LOW` planes are read and rounded if `ROUND`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn unpack<const HIGH: usize, const LOW: usize, const ROUND: bool>(
    level: &Level,
    quad: usize,
    panel: &mut [u8],
) {
    let blocks = level.cells.blocks();
    let planes = Quad::new(level, quad);
    let stride = panel.len() / QUAD;
    for block in 0..blocks {
        let planes = planes.block(block);
        for part in 0..PARTS {
            let first = part / 2 * stride + block * BLOCK_CODES + part % 2 * 4 * HALF;
            // SAFETY: the level has these planes and blocks.
            let indices = unsafe { planes.indices::<HIGH, LOW, ROUND>(part) };
            for o in 0..8 {
                let out = &mut panel[first + 64 * o..][..4 * HALF];
                // SAFETY: 32 bytes.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), indices[o]) };
            }
        }
    }
}

/// Sums of the four rows of a panel for `T` streams from `first` on: of `index * code`, or with the map of the quad
/// everything that depends on the weight and the units of the streams.
///
/// # Safety
/// The CPU features; the panel is as `unpack` made it and within `bound`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile<const T: usize>(
    panel: &[u8],
    bound: Bound,
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]; T],
) {
    let row = panel.len() / QUAD;
    let x: [&[i8]; T] = std::array::from_fn(|t| &streams.codes(first + t)[..row]);
    let mut whole = [[_mm256_setzero_si256(); QUAD]; T];
    let mut totals = [[_mm256_setzero_ps(); QUAD]; T];
    for half in 0..row / BLOCK_CODES * 2 {
        let at = half / 2 * BLOCK_CODES + half % 2 * 4 * HALF;
        let mut rows = [std::ptr::null(); QUAD];
        for r in 0..QUAD {
            rows[r] = panel[r * row + at..].as_ptr();
        }
        let mut codes = [std::ptr::null(); T];
        for t in 0..T {
            codes[t] = x[t][at..].as_ptr();
        }
        // SAFETY: half a block is left in each.
        let cells = unsafe {
            match bound {
                Bound::Small => small(rows, codes),
                Bound::Medium => medium(rows, codes),
                Bound::Wide => wide(rows, codes),
            }
        };
        match map {
            None => {
                for t in 0..T {
                    for r in 0..QUAD {
                        whole[t][r] = _mm256_add_epi32(whole[t][r], cells[t][r]);
                    }
                }
            }
            Some(map) => {
                let lanes = map.scales.len() / QUAD;
                for t in 0..T {
                    let unit = match streams.lanes(first + t) {
                        Some(lanes) => load(&lanes[HALF * half..]),
                        None => _mm256_set1_ps(streams.unit(first + t)),
                    };
                    for r in 0..QUAD {
                        let scale = _mm256_mul_ps(load(&map.scales[r * lanes + HALF * half..]), unit);
                        totals[t][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(cells[t][r]), scale, totals[t][r]);
                    }
                }
            }
        }
    }
    for t in 0..T {
        let total = match map {
            None => _mm_cvtepi32_ps(reduce_integers(whole[t])),
            Some(map) => {
                let offset_sums = streams.offset_sums(first + t);
                reduce_floats(offset_sums.map_or(totals[t], |x| with_offsets(totals[t], map, x)))
            }
        };
        // SAFETY: four values.
        unsafe { _mm_storeu_ps(sums[t].as_mut_ptr(), total) };
    }
}

/// Adds `offset * x`, summed over groups.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn with_offsets(mut totals: [__m256; QUAD], map: &QuadMap, x: &[f32]) -> [__m256; QUAD] {
    let padded = map.offsets.len() / QUAD;
    const { assert!(GROUP_LANES.is_multiple_of(8)) };
    for at in (0..padded).step_by(8) {
        for r in 0..QUAD {
            totals[r] = _mm256_fmadd_ps(load(&map.offsets[r * padded + at..]), load(&x[at..]), totals[r]);
        }
    }
    totals
}

/// Sums of half a block of four rows with `T` streams, one for each cell.
type Cells<const T: usize> = [[__m256i; QUAD]; T];

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn small<const T: usize>(rows: [*const u8; QUAD], x: [*const i8; T]) -> Cells<T> {
    let mut sums = [[_mm256_setzero_si256(); QUAD]; T];
    for o in 0..8 {
        for r in 0..QUAD {
            // SAFETY: as the caller says.
            let row = unsafe { _mm256_loadu_si256(rows[r].add(64 * o).cast()) };
            for t in 0..T {
                let x = unsafe { _mm256_loadu_si256(x[t].add(64 * o).cast()) };
                sums[t][r] = _mm256_add_epi16(sums[t][r], _mm256_maddubs_epi16(row, x));
            }
        }
    }
    for t in 0..T {
        for r in 0..QUAD {
            sums[t][r] = widen(sums[t][r], 1);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn medium<const T: usize>(rows: [*const u8; QUAD], x: [*const i8; T]) -> Cells<T> {
    let mut sums = [[_mm256_setzero_si256(); QUAD]; T];
    for o in 0..8 {
        for r in 0..QUAD {
            // SAFETY: as the caller says.
            let row = unsafe { _mm256_loadu_si256(rows[r].add(64 * o).cast()) };
            for t in 0..T {
                let x = unsafe { _mm256_loadu_si256(x[t].add(64 * o).cast()) };
                sums[t][r] = _mm256_add_epi32(sums[t][r], widen(_mm256_maddubs_epi16(row, x), 1));
            }
        }
    }
    sums
}

/// Even and odd places apart, both widened to 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn wide<const T: usize>(rows: [*const u8; QUAD], x: [*const i8; T]) -> Cells<T> {
    let mut sums = [[_mm256_setzero_si256(); QUAD]; T];
    for o in 0..8 {
        let mut codes = [[_mm256_setzero_si256(); 2]; T];
        for t in 0..T {
            // SAFETY: as the caller says.
            let x = unsafe { _mm256_loadu_si256(x[t].add(64 * o).cast()) };
            codes[t] = [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x)];
        }
        for r in 0..QUAD {
            let row = unsafe { _mm256_loadu_si256(rows[r].add(64 * o).cast()) };
            let (even, odd) = (_mm256_and_si256(row, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(row));
            for t in 0..T {
                let (even, odd) = (_mm256_madd_epi16(even, codes[t][0]), _mm256_madd_epi16(odd, codes[t][1]));
                sums[t][r] = _mm256_add_epi32(sums[t][r], _mm256_add_epi32(even, odd));
            }
        }
    }
    sums
}

/// Eight values.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(values: &[f32]) -> __m256 {
    const { assert!(BLOCK.is_multiple_of(8)) };
    // SAFETY: the slice has eight values.
    unsafe { _mm256_loadu_ps(values[..8].as_ptr()) }
}
