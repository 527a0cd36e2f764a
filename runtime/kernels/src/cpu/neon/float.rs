//! Float activations: indices of a panel become floats in registers.

use std::arch::aarch64::*;

use super::planes::QUARTER;
use super::tile::{load, with_offsets};
use crate::cpu::cells::{BLOCK, BLOCK_CODES, QUAD};
use crate::cpu::floats::Floats;
use crate::cpu::strip::QuadMap;

/// Products of the four rows of a panel with `T` tokens from `first` on.
#[target_feature(enable = "neon")]
pub(super) fn dots<const T: usize>(
    panel: &[u8],
    map: &QuadMap,
    x: &Floats,
    first: usize,
    sums: &mut [[f32; QUAD]; T],
) {
    let (row, lanes) = (panel.len() / QUAD, map.scales.len() / QUAD);
    let mut totals = [[vdupq_n_f32(0.0); QUAD]; T];
    for part in 0..row / BLOCK_CODES * (BLOCK / QUARTER) {
        let (block, quarter) = (part / (BLOCK / QUARTER), part % (BLOCK / QUARTER));
        for r in 0..QUAD {
            let mut cells = [[vdupq_n_f32(0.0); QUARTER]; T];
            for o in 0..8 {
                let at = BLOCK_CODES * block + 64 * o + 16 * quarter;
                let indices = floats(&panel[r * row + at..]);
                for t in 0..T {
                    let values = &x.values(first + t)[at..][..16];
                    for c in 0..QUARTER {
                        cells[t][c] = vfmaq_f32(cells[t][c], indices[c], load(&values[4 * c..]));
                    }
                }
            }
            let scales = &map.scales[r * lanes + BLOCK * block + QUARTER * quarter..][..QUARTER];
            for t in 0..T {
                for c in 0..QUARTER {
                    totals[t][r] = vfmaq_n_f32(totals[t][r], cells[t][c], scales[c]);
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..QUAD {
            sums[t][r] = vaddvq_f32(with_offsets(totals[t][r], map, r, x.sums(first + t)));
        }
    }
}

/// Sixteen indices as floats.
#[inline]
#[target_feature(enable = "neon")]
fn floats(indices: &[u8]) -> [float32x4_t; QUARTER] {
    // SAFETY: the slice has 16 bytes.
    let bytes = unsafe { vld1q_u8(indices[..16].as_ptr()) };
    let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
    [
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
        vcvtq_f32_u32(vmovl_high_u16(low)),
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
        vcvtq_f32_u32(vmovl_high_u16(high)),
    ]
}
