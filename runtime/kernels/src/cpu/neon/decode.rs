//! Few tokens: planes go from memory through registers into the sums, and nowhere else.

use std::arch::aarch64::*;

use super::dot::{Dot, Dotprod};
use super::planes::{QUARTER, Quad};
use super::tile::{codes_of, minus_128};
use crate::cpu::cells::{BLOCK, QUAD};
use crate::cpu::streams::Streams;
use crate::cpu::strip::{Level, STRIP, STRIP_QUADS};

/// Sums of the rows of `quads` quads from `quad` on, for all `T` streams, strip after strip, into `sums[T * strip + t][row]`:
/// of `index * code` where [`Level::sums_in_integers`], else everything that the scales apply to.
///
/// # Safety
/// The processor has the dot product instructions. `P` planes are read and rounded if `ROUND`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn decode<const P: usize, const ROUND: bool, const T: usize>(
    level: &Level,
    quad: usize,
    quads: usize,
    streams: &Streams,
    sums: &mut [[f32; STRIP]],
) {
    let integers = level.sums_in_integers(streams);
    for i in 0..quads {
        let quad = quad + i;
        let planes = Quad::new(level, quad);
        let mut whole = [[vdupq_n_s32(0); QUAD]; T];
        let mut totals = [[vdupq_n_f32(0.0); QUAD]; T];
        for block in 0..level.cells.blocks() {
            let planes = planes.block(block, P);
            for quarter in 0..BLOCK / QUARTER {
                let mut x = [[vdupq_n_s8(0); 8]; T];
                let mut bases = [vdupq_n_s32(0); T];
                for t in 0..T {
                    x[t] = codes_of(streams, t, block, quarter);
                    // Eight bits are more than a signed byte holds: 128 is taken off each index and added here.
                    if P == 8 {
                        // SAFETY: as the caller says.
                        bases[t] = unsafe { minus_128::<Dotprod>(&x[t]) };
                    }
                }
                for r in 0..QUAD {
                    let indices = planes.indices::<P, ROUND>(r, quarter);
                    for t in 0..T {
                        let mut cells = vdupq_n_s32(0);
                        for o in 0..8 {
                            let index =
                                if P == 8 { veorq_u8(indices[o], vdupq_n_u8(128)) } else { indices[o] };
                            // SAFETY: as the caller says.
                            cells = unsafe { Dotprod::dot(cells, vreinterpretq_s8_u8(index), x[t][o]) };
                        }
                        cells = vsubq_s32(cells, bases[t]);
                        if integers {
                            whole[t][r] = vaddq_s32(whole[t][r], cells);
                        } else {
                            let scales = scales(level, QUAD * quad + r, block, quarter);
                            let scales = vmulq_f32(scales, units(streams, t, block, quarter));
                            totals[t][r] = vfmaq_f32(totals[t][r], vcvtq_f32_s32(cells), scales);
                        }
                    }
                }
            }
        }
        for t in 0..T {
            for r in 0..QUAD {
                sums[T * (i / STRIP_QUADS) + t][QUAD * (i % STRIP_QUADS) + r] = if integers {
                    vaddvq_s32(whole[t][r]) as f32
                } else {
                    let offsets = offsets(level, QUAD * quad + r, streams.offset_sums(t));
                    level.step * vaddvq_f32(totals[t][r]) + offsets
                };
            }
        }
    }
}

/// The scales of the cells of a quarter of a block; 0 for rows that pad the last quad.
#[inline]
#[target_feature(enable = "neon")]
fn scales(level: &Level, row: usize, block: usize, quarter: usize) -> float32x4_t {
    if row >= level.rows {
        return vdupq_n_f32(0.0);
    }
    let (first, lanes) = &level.lane_groups[block];
    let row = &level.scale[row * level.cells.groups() + first..];
    let mut scales = [0.0; QUARTER];
    for (scale, group) in scales.iter_mut().zip(&lanes[QUARTER * quarter..]) {
        *scale = row[*group as usize];
    }
    // SAFETY: four values.
    unsafe { vld1q_f32(scales.as_ptr()) }
}

/// What the codes of a quarter of a block are worth.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn units(streams: &Streams, stream: usize, block: usize, quarter: usize) -> float32x4_t {
    match streams.lanes(stream) {
        None => vdupq_n_f32(streams.unit(stream)),
        Some(lanes) => {
            let lanes = &lanes[BLOCK * block + QUARTER * quarter..][..QUARTER];
            // SAFETY: four values.
            unsafe { vld1q_f32(lanes.as_ptr()) }
        }
    }
}

/// What the offsets of a row add.
fn offsets(level: &Level, row: usize, x: Option<&[f32]>) -> f32 {
    let Some(x) = x else { return 0.0 };
    if row >= level.rows {
        return 0.0;
    }
    let groups = level.cells.groups();
    let (scale, zero) = (&level.scale[row * groups..][..groups], &level.zero[row * groups..][..groups]);
    let mut parts = [0.0; 8];
    for (i, ((scale, zero), x)) in scale.iter().zip(zero).zip(x).enumerate() {
        parts[i % 8] += scale * (level.centre - zero) * x;
    }
    parts.iter().sum()
}
