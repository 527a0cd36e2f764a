//! Few tokens: planes go from memory through registers into the sums, and nowhere else.

use std::arch::x86_64::*;

use super::planes::{Block, HALF, PARTS, Quad};
use super::sums::{medium, reduce_floats, reduce_integers, small, widen};
use super::tile::load;
use crate::cpu::cells::{BLOCK, BLOCK_CODES, QUAD};
use crate::cpu::streams::Streams;
use crate::cpu::strip::{Level, STRIP, STRIP_QUADS};

/// Sums of the rows of `quads` quads from `quad` on, for all `T` streams, strip after strip, into `sums[T * strip + t][row]`:
/// of `index * code` where [`Level::sums_in_integers`], else everything that the scales apply to.
///
/// # Safety
/// The CPU features. `HIGH + LOW` planes are read and rounded if `ROUND`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn decode<const HIGH: usize, const LOW: usize, const ROUND: bool, const T: usize>(
    level: &Level,
    quad: usize,
    quads: usize,
    streams: &Streams,
    sums: &mut [[f32; STRIP]],
) {
    let integers = level.sums_in_integers(streams);
    let groups = level.cells.groups();
    let codes: [&[i8]; T] = std::array::from_fn(|t| streams.codes(t));
    assert!(codes.iter().all(|codes| codes.len() >= BLOCK_CODES * level.cells.blocks()));
    for i in 0..quads {
        let quad = quad + i;
        let planes = Quad::new(level, quad);
        let mut whole = [[_mm256_setzero_si256(); QUAD]; T];
        let mut totals = [[_mm256_setzero_ps(); QUAD]; T];
        for block in 0..level.cells.blocks() {
            let planes = planes.block(block);
            let first_group = level.lane_groups[block].0;
            let spread = match integers {
                true => None,
                false => Some([Spread::new(level, block, 0), Spread::new(level, block, 1)]),
            };
            for part in 0..PARTS {
                let (r, half) = (part / 2, part % 2);
                let mut x = [std::ptr::null(); T];
                for t in 0..T {
                    x[t] = codes[t][BLOCK_CODES * block + 4 * HALF * half..].as_ptr();
                }
                // SAFETY: the level has these planes and blocks; streams have whole blocks.
                let cells = unsafe { products::<HIGH, LOW, ROUND, T>(&planes, part, x) };
                let Some(spread) = &spread else {
                    for t in 0..T {
                        whole[t][r] = _mm256_add_epi32(whole[t][r], cells[t]);
                    }
                    continue;
                };
                let row = (QUAD * quad + r) * groups + first_group;
                let scales = spread[half].apply(level.scale, row);
                for t in 0..T {
                    let unit = match streams.lanes(t) {
                        Some(lanes) => load(&lanes[BLOCK * block + HALF * half..]),
                        None => _mm256_set1_ps(streams.unit(t)),
                    };
                    let sum = _mm256_cvtepi32_ps(cells[t]);
                    totals[t][r] = _mm256_fmadd_ps(sum, _mm256_mul_ps(scales, unit), totals[t][r]);
                }
            }
        }
        for t in 0..T {
            let total = if integers {
                _mm_cvtepi32_ps(reduce_integers(whole[t]))
            } else {
                reduce_floats(with_offsets(totals[t], level, quad, streams.offset_sums(t)))
            };
            let place = &mut sums[T * (i / STRIP_QUADS) + t][QUAD * (i % STRIP_QUADS)..][..QUAD];
            // SAFETY: four values.
            unsafe { _mm_storeu_ps(place.as_mut_ptr(), total) };
        }
    }
}

/// Sums of the cells of a half block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn products<const HIGH: usize, const LOW: usize, const ROUND: bool, const T: usize>(
    planes: &Block,
    part: usize,
    x: [*const i8; T],
) -> [__m256i; T] {
    let mut sums = [_mm256_setzero_si256(); T];
    // SAFETY: as the caller says.
    unsafe {
        if ROUND {
            let indices = planes.indices::<HIGH, LOW, true>(part);
            for t in 0..T {
                sums[t] =
                    if HIGH + LOW <= 5 { widen(small(&indices, x[t]), 1) } else { medium(&indices, x[t]) };
            }
        } else {
            let (high, low) = planes.parts::<HIGH, LOW>(part);
            for t in 0..T {
                sums[t] = widen(small(&high, x[t]), 1 << LOW);
                if LOW > 0 {
                    sums[t] = _mm256_add_epi32(sums[t], widen(small(&low, x[t]), 1));
                }
            }
        }
    }
    sums
}

/// Which scales the cells of a half block have.
struct Spread {
    /// Counted from the first group of the block.
    groups: std::ops::Range<usize>,
    /// Lanes that `groups` has.
    present: __m256i,
    /// For each cell its place in `groups`.
    places: __m256i,
}

impl Spread {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(level: &Level, block: usize, half: usize) -> Spread {
        let lanes = &level.lane_groups[block].1[HALF * half..][..HALF];
        let groups = lanes[0] as usize..lanes[HALF - 1] as usize + 1;
        // SAFETY: eight lanes.
        let places = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
        let places = _mm256_sub_epi32(places, _mm256_set1_epi32(lanes[0] as i32));
        Spread { present: first_lanes(groups.len()), places, groups }
    }

    /// The scales of a row whose scales for the block begin at `at`; 0 for rows that pad the last quad.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn apply(&self, scales: &[f32], at: usize) -> __m256 {
        match scales.get(at + self.groups.start..at + self.groups.end) {
            None => _mm256_setzero_ps(),
            // SAFETY: lanes beyond the slice are not read.
            Some(scales) => unsafe {
                _mm256_permutevar8x32_ps(_mm256_maskload_ps(scales.as_ptr(), self.present), self.places)
            },
        }
    }
}

/// Totals times the step of indices, and what the offsets of the rows add.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn with_offsets(totals: [__m256; QUAD], level: &Level, quad: usize, x: Option<&[f32]>) -> [__m256; QUAD] {
    let (step, centre) = (_mm256_set1_ps(level.step), _mm256_set1_ps(level.centre));
    let groups = level.cells.groups();
    std::array::from_fn(|r| {
        let mut total = _mm256_mul_ps(totals[r], step);
        let row = QUAD * quad + r;
        if let (Some(x), true) = (x, row < level.rows) {
            for at in (0..groups).step_by(8) {
                let count = (groups - at).min(8);
                let scale = load_first(&level.scale[row * groups + at..], count);
                let zero = load_first(&level.zero[row * groups + at..], count);
                let offset = _mm256_mul_ps(scale, _mm256_sub_ps(centre, zero));
                total = _mm256_fmadd_ps(offset, load_first(&x[at..], count), total);
            }
        }
        total
    })
}

/// The first `count` of at most eight values, then zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn load_first(values: &[f32], count: usize) -> __m256 {
    let values = &values[..count];
    // SAFETY: the mask leaves out what is beyond the slice.
    unsafe { _mm256_maskload_ps(values.as_ptr(), first_lanes(count)) }
}

/// A mask of the first `count` of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn first_lanes(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
