//! Many tokens: indices in a panel, four rows by up to three streams at a time in registers.

use std::arch::aarch64::*;

use super::decode::units;
use super::dot::Dot;
use super::planes::{QUARTER, Quad};
use crate::cpu::cells::{BLOCK, BLOCK_CODES, QUAD};
use crate::cpu::streams::Streams;
use crate::cpu::strip::{Level, QuadMap};

/// Writes the indices of a quad, [4, stride], in the order of the streams. `P` planes are read and rounded if `ROUND`.
#[target_feature(enable = "neon")]
pub(super) fn unpack<const P: usize, const ROUND: bool>(level: &Level, quad: usize, panel: &mut [u8]) {
    let stride = panel.len() / QUAD;
    let planes = Quad::new(level, quad);
    for block in 0..level.cells.blocks() {
        let planes = planes.block(block, P);
        for row in 0..QUAD {
            let out = &mut panel[row * stride + block * BLOCK_CODES..][..BLOCK_CODES];
            for quarter in 0..BLOCK / QUARTER {
                let indices = planes.indices::<P, ROUND>(row, quarter);
                for o in 0..8 {
                    let out = &mut out[64 * o + 16 * quarter..][..16];
                    // SAFETY: 16 bytes.
                    unsafe { vst1q_u8(out.as_mut_ptr(), indices[o]) };
                }
            }
        }
    }
}

/// The codes of a quarter of a block of a stream.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn codes_of(streams: &Streams, stream: usize, block: usize, quarter: usize) -> [int8x16_t; 8] {
    let codes = &streams.codes(stream)[BLOCK_CODES * block..][..BLOCK_CODES];
    let mut x = [vdupq_n_s8(0); 8];
    for o in 0..8 {
        let codes = &codes[64 * o + 16 * quarter..][..16];
        // SAFETY: 16 codes.
        x[o] = unsafe { vld1q_s8(codes.as_ptr()) };
    }
    x
}

/// `-128 *` the sums of the codes of each cell.
///
/// # Safety
/// The processor has what `D` says.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn minus_128<D: Dot>(x: &[int8x16_t; 8]) -> int32x4_t {
    let mut sum = vdupq_n_s32(0);
    for o in 0..8 {
        // SAFETY: as the caller says.
        sum = unsafe { D::dot(sum, vdupq_n_s8(-128), x[o]) };
    }
    sum
}

/// Sums of the four rows of a panel for `T` streams from `first` on: of `index * code`, or with the map of the quad
/// everything that depends on the weight and the units of the streams.
///
/// # Safety
/// The processor has what `D` says.
#[target_feature(enable = "neon")]
pub(super) unsafe fn tile<D: Dot, const T: usize>(
    panel: &[u8],
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]; T],
) {
    let row = panel.len() / QUAD;
    let mut whole = [[vdupq_n_s32(0); QUAD]; T];
    let mut totals = [[vdupq_n_f32(0.0); QUAD]; T];
    for part in 0..row / BLOCK_CODES * (BLOCK / QUARTER) {
        let (block, quarter) = (part / (BLOCK / QUARTER), part % (BLOCK / QUARTER));
        let mut x = [[vdupq_n_s8(0); 8]; T];
        for t in 0..T {
            x[t] = codes_of(streams, first + t, block, quarter);
        }
        let mut cells = [[vdupq_n_s32(0); QUAD]; T];
        let mut bases = [vdupq_n_s32(0); T];
        for o in 0..8 {
            let mut indices = [vdupq_n_s8(0); QUAD];
            for r in 0..QUAD {
                let bytes = &panel[r * row + BLOCK_CODES * block + 64 * o + 16 * quarter..][..16];
                // SAFETY: 16 bytes.
                let bytes = unsafe { vld1q_u8(bytes.as_ptr()) };
                // Indices fill eight bits: 128 is taken off each and added below.
                indices[r] = vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
            }
            for t in 0..T {
                // SAFETY: as the caller says.
                unsafe {
                    bases[t] = D::dot(bases[t], vdupq_n_s8(-128), x[t][o]);
                    for r in 0..QUAD {
                        cells[t][r] = D::dot(cells[t][r], indices[r], x[t][o]);
                    }
                }
            }
        }
        for t in 0..T {
            for r in 0..QUAD {
                let cells = vsubq_s32(cells[t][r], bases[t]);
                match map {
                    None => whole[t][r] = vaddq_s32(whole[t][r], cells),
                    Some(map) => {
                        let lanes = map.scales.len() / QUAD;
                        let scales = load(&map.scales[r * lanes + BLOCK * block + QUARTER * quarter..]);
                        let scales = vmulq_f32(scales, units(streams, first + t, block, quarter));
                        totals[t][r] = vfmaq_f32(totals[t][r], vcvtq_f32_s32(cells), scales);
                    }
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..QUAD {
            sums[t][r] = match (map, streams.offset_sums(first + t)) {
                (None, _) => vaddvq_s32(whole[t][r]) as f32,
                (Some(_), None) => vaddvq_f32(totals[t][r]),
                (Some(map), Some(x)) => vaddvq_f32(with_offsets(totals[t][r], map, r, x)),
            };
        }
    }
}

/// Adds `offset * x` of row `r`, summed over groups.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn with_offsets(mut total: float32x4_t, map: &QuadMap, r: usize, x: &[f32]) -> float32x4_t {
    let padded = map.offsets.len() / QUAD;
    for at in (0..padded).step_by(4) {
        total = vfmaq_f32(total, load(&map.offsets[r * padded + at..]), load(&x[at..]));
    }
    total
}

/// Four values.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(values: &[f32]) -> float32x4_t {
    // SAFETY: the slice has four values.
    unsafe { vld1q_f32(values[..4].as_ptr()) }
}
