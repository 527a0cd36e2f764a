//! Float activations: indices of a panel become floats in registers.

use std::arch::x86_64::*;

use super::merge::codes;
use super::reduce::reduce_four_floats;
use crate::cpu::cells::{BLOCK_CODES, QUAD};
use crate::cpu::floats::Floats;
use crate::cpu::strip::{GROUP_LANES, Level, QuadMap};

/// Products of the four rows of a panel with `T` tokens from `first` on.
///
/// # Safety
/// The CPU features; the panel is as `unpack` made it, `map` that of its quad.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn dots<const T: usize>(
    panel: &[u8],
    map: &QuadMap,
    x: &Floats,
    first: usize,
    sums: &mut [[f32; QUAD]; T],
) {
    let row = panel.len() / QUAD;
    let (lanes_of_row, padded) = (map.scales.len() / QUAD, map.offsets.len() / QUAD);
    let values: [*const f32; T] = std::array::from_fn(|t| x.values(first + t).as_ptr());
    let lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    let mut totals = [[_mm512_setzero_ps(); QUAD]; T];
    for block in 0..row / BLOCK_CODES {
        for quarter in 0..4 {
            let mut parts = [[_mm512_setzero_ps(); QUAD]; T];
            // Unrolled, the compiler would run out of registers.
            for o in 0..std::hint::black_box(8) {
                let at = block * BLOCK_CODES + 64 * o + 16 * quarter;
                // SAFETY: inside the block, which rows of the panel and tokens have.
                unsafe {
                    let x: [__m512; T] = std::array::from_fn(|t| _mm512_loadu_ps(values[t].add(at)));
                    for r in 0..QUAD {
                        let indices = _mm_loadu_si128(panel.as_ptr().add(r * row + at).cast());
                        let indices = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(indices));
                        for t in 0..T {
                            parts[t][r] = _mm512_fmadd_ps(indices, x[t], parts[t][r]);
                        }
                    }
                }
            }
            let spread = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * quarter as i32));
            for r in 0..QUAD {
                // SAFETY: scales are padded to whole blocks.
                let scales = unsafe { _mm512_loadu_ps(map.scales[r * lanes_of_row + 16 * block..].as_ptr()) };
                let scales = _mm512_permutexvar_ps(spread, scales);
                for t in 0..T {
                    totals[t][r] = _mm512_fmadd_ps(parts[t][r], scales, totals[t][r]);
                }
            }
        }
    }
    for t in 0..T {
        for at in (0..padded).step_by(GROUP_LANES) {
            for r in 0..QUAD {
                // SAFETY: offsets and sums are padded to whole registers.
                unsafe {
                    let offset = _mm512_loadu_ps(map.offsets[r * padded + at..].as_ptr());
                    let sum = _mm512_loadu_ps(x.sums(first + t)[at..].as_ptr());
                    totals[t][r] = _mm512_fmadd_ps(offset, sum, totals[t][r]);
                }
            }
        }
        // SAFETY: four values.
        unsafe { _mm_storeu_ps(sums[t].as_mut_ptr(), reduce_four_floats(totals[t])) };
    }
}

/// A block of indices of each row.
#[repr(align(64))]
struct Buffer([u8; QUAD * BLOCK_CODES]);

/// Products of the four rows of a quad with one token: a block of indices goes through a buffer of two kilobytes, which
/// together with the token stays in the first-level cache.
///
/// # Safety
/// The CPU features; `P` planes are read and rounded if `ROUND`; `map` is that of the quad.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,gfni")]
pub(super) unsafe fn decode<const P: usize, const ROUND: bool>(
    level: &Level,
    quad: usize,
    map: &QuadMap,
    x: &Floats,
    token: usize,
    sums: &mut [f32; QUAD],
) {
    let planes = level.planes_from(quad);
    let top = level.rounding.map_or(u8::MAX, |rounding| rounding.top);
    let (lanes_of_row, padded) = (map.scales.len() / QUAD, map.offsets.len() / QUAD);
    let values = x.values(token);
    let lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    let mut totals = [_mm512_setzero_ps(); QUAD];
    let mut buffer = Buffer([0; QUAD * BLOCK_CODES]);
    let buffer = &mut buffer.0;
    for block in 0..level.cells.blocks() {
        let cells = (level.cells.count() - 16 * block).min(16);
        let valid = if cells == 16 { !0 } else { (1 << cells) - 1 };
        for (row, out) in buffer.chunks_exact_mut(BLOCK_CODES).enumerate() {
            let bytes: [__m512i; P] = std::array::from_fn(|p| {
                let at = 64 * QUAD * block + row * 4 * cells;
                // SAFETY: each plane holds a whole quad; the mask leaves out what is beyond a part block.
                unsafe { _mm512_maskz_loadu_epi32(valid, planes[p].as_ptr().add(at).cast()) }
            });
            for (out, indices) in out.chunks_exact_mut(64).zip(codes::<P, ROUND, true>(bytes, top)) {
                // SAFETY: 64 bytes.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), indices) };
            }
        }
        for quarter in 0..4 {
            let mut parts = [_mm512_setzero_ps(); QUAD];
            for o in 0..8 {
                let at = 64 * o + 16 * quarter;
                // SAFETY: inside the block, which the token and each row of the buffer have.
                unsafe {
                    let x = _mm512_loadu_ps(values.as_ptr().add(BLOCK_CODES * block + at));
                    for (row, part) in parts.iter_mut().enumerate() {
                        let indices = _mm_loadu_si128(buffer.as_ptr().add(BLOCK_CODES * row + at).cast());
                        *part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(indices)), x, *part);
                    }
                }
            }
            let spread = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * quarter as i32));
            for r in 0..QUAD {
                // SAFETY: scales are padded to whole blocks.
                let scales = unsafe { _mm512_loadu_ps(map.scales[r * lanes_of_row + 16 * block..].as_ptr()) };
                totals[r] = _mm512_fmadd_ps(parts[r], _mm512_permutexvar_ps(spread, scales), totals[r]);
            }
        }
    }
    for at in (0..padded).step_by(GROUP_LANES) {
        for r in 0..QUAD {
            // SAFETY: offsets and sums are padded to whole registers.
            unsafe {
                let offset = _mm512_loadu_ps(map.offsets[r * padded + at..].as_ptr());
                totals[r] = _mm512_fmadd_ps(offset, _mm512_loadu_ps(x.sums(token)[at..].as_ptr()), totals[r]);
            }
        }
    }
    // SAFETY: four values.
    unsafe { _mm_storeu_ps(sums.as_mut_ptr(), reduce_four_floats(totals)) };
}
