//! Few tokens: planes go from memory through registers into the sums, and nowhere else.

use std::arch::x86_64::*;

use super::merge::{class, classes, codes, place_of_class};
use super::reduce::{reduce_floats, reduce_integers};
use crate::cpu::cells::QUAD;
use crate::cpu::streams::Streams;
use crate::cpu::strip::{Level, STRIP};

/// Sums of the rows of `quads` quads from `quad` on, for stream `first` and the `T - 1` after it, into `sums[t][row]`:
/// of `index * code` where [`Level::sums_in_integers`], else everything that the scales apply to.
///
/// # Safety
/// The CPU features. `P` planes are read and rounded if `ROUND`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
pub(super) unsafe fn decode<const P: usize, const ROUND: bool, const T: usize>(
    level: &Level,
    quad: usize,
    quads: usize,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; STRIP]],
) {
    let integers = level.sums_in_integers(streams);
    let zero = _mm512_setzero_si512();
    let mut lanes = [[zero; STRIP]; T];
    for i in 0..quads {
        let all = level.planes_from(quad + i);
        let rows: Quad<P, T> = Quad {
            planes: std::array::from_fn(|p| all[p].as_ptr()),
            cells: level.cells.count(),
            top: level.rounding.map_or(u8::MAX, |rounding| rounding.top),
            x: std::array::from_fn(|t| streams.codes(first + t).as_ptr()),
        };
        debug_assert!(all[..P].iter().all(|plane| plane.len() >= level.cells.quad_bytes()));
        // SAFETY: each plane holds a whole quad, each stream whole blocks.
        let sum = unsafe {
            if integers {
                rows.integers::<ROUND>()
            } else {
                rows.floats::<ROUND>(level, quad + i, streams, first)
            }
        };
        for t in 0..T {
            lanes[t][QUAD * i..QUAD * (i + 1)].copy_from_slice(&sum[t]);
        }
    }
    for (lanes, sums) in lanes.iter().zip(sums) {
        let total = if integers {
            _mm512_cvtepi32_ps(reduce_integers(lanes))
        } else {
            reduce_floats(&lanes.map(|lane| _mm512_castsi512_ps(lane)))
        };
        // SAFETY: `sums` has 16 values.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
    }
}

/// Four rows and the streams they are multiplied by.
struct Quad<const P: usize, const T: usize> {
    planes: [*const u8; P],
    cells: usize,
    top: u8,
    x: [*const i8; T],
}

/// Sums by stream, row and place of the index in its byte.
type Sums<const T: usize> = [[[__m512i; 8]; T]; QUAD];

impl<const P: usize, const T: usize> Quad<P, T> {
    /// Planes as `class` and `place` count them: rounded indices are always in place 0.
    const fn form(round: bool) -> usize {
        if round { 8 } else { P }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn integers<const ROUND: bool>(&self) -> [[__m512i; QUAD]; T] {
        let mut sums: Sums<T> = [[[_mm512_setzero_si512(); 8]; T]; QUAD];
        for block in 0..self.cells / 16 {
            unsafe { self.add_block::<ROUND>(block, 64, !0, &mut sums) };
        }
        let rest = self.cells % 16;
        if rest != 0 {
            unsafe { self.add_block::<ROUND>(self.cells / 16, 4 * rest, (1 << rest) - 1, &mut sums) };
        }
        std::array::from_fn(|t| std::array::from_fn(|r| Self::total::<ROUND>(&sums[r][t])))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn floats<const ROUND: bool>(
        &self,
        level: &Level,
        quad: usize,
        streams: &Streams,
        first: usize,
    ) -> [[__m512i; QUAD]; T] {
        let groups = level.cells.groups();
        let mut totals = [[_mm512_setzero_ps(); QUAD]; T];
        for (block, lane_groups) in level.lane_groups.iter().enumerate() {
            let mut sums: Sums<T> = [[[_mm512_setzero_si512(); 8]; T]; QUAD];
            let cells = (self.cells - 16 * block).min(16);
            let valid = if cells == 16 { !0 } else { (1 << cells) - 1 };
            unsafe { self.add_block::<ROUND>(block, 4 * cells, valid, &mut sums) };
            let first_group = 16 * block / level.cells.cells_per_group();
            let present = 1 + lane_groups[15];
            let present = if present >= 16 { !0 } else { (1 << present) - 1 };
            let spread = unsafe { _mm512_loadu_si512(lane_groups.as_ptr().cast()) };
            for r in 0..QUAD {
                let row = QUAD * quad + r;
                if row >= level.rows {
                    break;
                }
                let scales = level.scale[row * groups + first_group..].as_ptr();
                let scales = unsafe { _mm512_maskz_loadu_ps(present, scales) };
                let scales = _mm512_permutexvar_ps(spread, scales);
                for t in 0..T {
                    let unit = match streams.lanes(first + t) {
                        Some(lanes) => unsafe { _mm512_loadu_ps(lanes[16 * block..].as_ptr()) },
                        None => _mm512_set1_ps(streams.unit(first + t)),
                    };
                    let sum = _mm512_cvtepi32_ps(Self::total::<ROUND>(&sums[r][t]));
                    totals[t][r] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scales, unit), totals[t][r]);
                }
            }
        }
        let (step, centre) = (_mm512_set1_ps(level.step), _mm512_set1_ps(level.centre));
        for t in 0..T {
            for r in 0..QUAD {
                totals[t][r] = _mm512_mul_ps(totals[t][r], step);
                let row = QUAD * quad + r;
                if row >= level.rows {
                    break;
                }
                let Some(x) = streams.offset_sums(first + t) else { continue };
                let scale = &level.scale[row * groups..][..groups];
                let zero = &level.zero[row * groups..][..groups];
                for at in (0..groups).step_by(16) {
                    let left = groups - at;
                    let valid = if left >= 16 { !0 } else { (1 << left) - 1 };
                    unsafe {
                        let scale = _mm512_maskz_loadu_ps(valid, scale[at..].as_ptr());
                        let zero = _mm512_maskz_loadu_ps(valid, zero[at..].as_ptr());
                        let x = _mm512_maskz_loadu_ps(valid, x[at..].as_ptr());
                        let offset = _mm512_mul_ps(scale, _mm512_sub_ps(centre, zero));
                        totals[t][r] = _mm512_fmadd_ps(offset, x, totals[t][r]);
                    }
                }
            }
        }
        totals.map(|rows| rows.map(|total| _mm512_castps_si512(total)))
    }

    /// Index sums of all places.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn total<const ROUND: bool>(sums: &[__m512i; 8]) -> __m512i {
        let mut total = _mm512_setzero_si512();
        for c in 0..classes(Self::form(ROUND)) {
            let place = _mm_cvtsi32_si128(place_of_class(Self::form(ROUND), c) as i32);
            total = _mm512_add_epi32(total, _mm512_sra_epi32(sums[c], place));
        }
        total
    }

    /// Adds a block of four rows, whose parts are `stride` bytes apart and `valid` where there are cells.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn add_block<const ROUND: bool>(
        &self,
        block: usize,
        stride: usize,
        valid: __mmask16,
        sums: &mut Sums<T>,
    ) {
        let [a, b, c, d] = sums;
        // Two rows share the loads of the activations where registers suffice.
        unsafe {
            if T == 1 && (P < 5 || P == 8) && !ROUND {
                self.add_rows::<ROUND, 2>(block, 0, stride, valid, [a, b]);
                self.add_rows::<ROUND, 2>(block, 2, stride, valid, [c, d]);
            } else {
                self.add_rows::<ROUND, 1>(block, 0, stride, valid, [a]);
                self.add_rows::<ROUND, 1>(block, 1, stride, valid, [b]);
                self.add_rows::<ROUND, 1>(block, 2, stride, valid, [c]);
                self.add_rows::<ROUND, 1>(block, 3, stride, valid, [d]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn add_rows<const ROUND: bool, const S: usize>(
        &self,
        block: usize,
        row: usize,
        stride: usize,
        valid: __mmask16,
        sums: [&mut [[__m512i; 8]; T]; S],
    ) {
        let mut indices = [[_mm512_setzero_si512(); 8]; S];
        for (r, indices) in indices.iter_mut().enumerate() {
            let bytes = self.planes.map(|plane| unsafe {
                let at = plane.add(64 * QUAD * block + (row + r) * stride);
                if valid == !0 {
                    _mm512_loadu_si512(at.cast())
                } else {
                    _mm512_maskz_loadu_epi32(valid, at.cast())
                }
            });
            *indices = codes::<P, ROUND, false>(bytes, self.top);
        }
        for o in 0..8 {
            for t in 0..T {
                let x = unsafe { _mm512_loadu_si512(self.x[t].add(512 * block + 64 * o).cast()) };
                for r in 0..S {
                    let sum = &mut sums[r][t][class(Self::form(ROUND), o)];
                    *sum = _mm512_dpbusd_epi32(*sum, indices[r][o], x);
                }
            }
        }
    }
}
