//! Float activations: indices of a panel become floats in registers.

use std::arch::x86_64::*;

use super::sums::reduce_floats;
use super::tile::{load, with_offsets};
use crate::cpu::cells::{BLOCK, BLOCK_CODES, QUAD};
use crate::cpu::floats::Floats;
use crate::cpu::strip::QuadMap;

/// Products of the four rows of a panel with `T` tokens from `first` on.
///
/// # Safety
/// The CPU features; the panel is as `unpack` made it, `map` that of its quad.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dots<const T: usize>(
    panel: &[u8],
    map: &QuadMap,
    x: &Floats,
    first: usize,
    sums: &mut [[f32; QUAD]; T],
) {
    let (row, lanes) = (panel.len() / QUAD, map.scales.len() / QUAD);
    let values: [&[f32]; T] = std::array::from_fn(|t| &x.values(first + t)[..row]);
    let two_cells = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    let mut totals = [[_mm256_setzero_ps(); QUAD]; T];
    for block in 0..row / BLOCK_CODES {
        for pair in 0..BLOCK / 2 {
            let mut parts = [[_mm256_setzero_ps(); QUAD]; T];
            for o in 0..8 {
                let at = BLOCK_CODES * block + 64 * o + 8 * pair;
                let mut x = [_mm256_setzero_ps(); T];
                for t in 0..T {
                    x[t] = load(&values[t][at..]);
                }
                for r in 0..QUAD {
                    let indices = &panel[r * row + at..][..8];
                    // SAFETY: eight bytes.
                    let indices = unsafe { _mm_loadl_epi64(indices.as_ptr().cast()) };
                    let indices = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(indices));
                    for t in 0..T {
                        parts[t][r] = _mm256_fmadd_ps(indices, x[t], parts[t][r]);
                    }
                }
            }
            let spread = _mm256_add_epi32(two_cells, _mm256_set1_epi32((2 * pair % 8) as i32));
            for r in 0..QUAD {
                let scales = load(&map.scales[r * lanes + BLOCK * block + pair / 4 * 8..]);
                let scales = _mm256_permutevar8x32_ps(scales, spread);
                for t in 0..T {
                    totals[t][r] = _mm256_fmadd_ps(parts[t][r], scales, totals[t][r]);
                }
            }
        }
    }
    for t in 0..T {
        let total = reduce_floats(with_offsets(totals[t], map, x.sums(first + t)));
        // SAFETY: four values.
        unsafe { _mm_storeu_ps(sums[t].as_mut_ptr(), total) };
    }
}
