//! Few tokens: planes go from memory through registers into the sums, and nowhere else.

use std::arch::asm;
use std::arch::x86_64::*;

use super::bytes;
use super::merge::{IN_PLACE, PLACES, codes, place_of, shift_of};
use super::reduce::{reduce_four_floats, reduce_four_integers};
use crate::cpu::cells::QUAD;
use crate::cpu::streams::Streams;
use crate::cpu::strip::{Level, STRIP, STRIP_QUADS};

/// The processor itself reads ahead in so many planes at once; in more it falls behind. The others are fetched.
const STREAMS: usize = 4;
/// How far ahead of a row the same row of the next block lies, in bytes of a plane. Further ahead a plane's lines come out of
/// order, and reading ahead stops altogether.
const NEXT: usize = 64 * QUAD;

/// Sums of the rows of `quads` quads from `quad` on, for all `T` streams, strip after strip, into `sums[T * strip + t][row]`:
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
    sums: &mut [[f32; STRIP]],
) {
    let integers = level.sums_in_integers(streams);
    let by_bytes = bytes::serves(level, streams);
    debug_assert!(
        level.planes_from(quad)[..P].iter().all(|plane| plane.len() >= quads * level.cells.quad_bytes())
    );
    let mut rows: Quad<P, T> = Quad::new(level, quad, std::array::from_fn(|t| streams.codes(t).as_ptr()));
    for i in 0..quads {
        // SAFETY: each plane holds a whole quad, each stream whole blocks.
        let sum = unsafe {
            if P >= bytes::FEWEST && !ROUND && by_bytes {
                rows.integers_by_bytes()
            } else if !integers {
                rows.floats::<ROUND>(level, quad + i, streams)
            } else if P == IN_PLACE && T == 1 && !ROUND {
                rows.integers_in_place()
            } else {
                rows.integers::<ROUND>()
            }
        };
        for t in 0..T {
            let total = if integers {
                _mm_cvtepi32_ps(reduce_four_integers(sum[t]))
            } else {
                reduce_four_floats(sum[t].map(|lane| _mm512_castsi512_ps(lane)))
            };
            let place = &mut sums[T * (i / STRIP_QUADS) + t][QUAD * (i % STRIP_QUADS)..][..QUAD];
            // SAFETY: four values.
            unsafe { _mm_storeu_ps(place.as_mut_ptr(), total) };
        }
        rows.planes = rows.planes.map(|plane| plane.wrapping_add(level.cells.quad_bytes()));
    }
}

/// Four rows and the streams they are multiplied by.
pub(super) struct Quad<const P: usize, const T: usize> {
    planes: [*const u8; P],
    pub(super) cells: usize,
    pub(super) top: u8,
    pub(super) x: [*const i8; T],
}

/// Sums of a row by stream and place of the index in its byte.
type Sums<const T: usize, const C: usize> = [[__m512i; C]; T];

/// The part of a block that a row has: where it begins in the quad's block, and which cells there are.
#[derive(Clone, Copy)]
pub(super) struct Part {
    stride: usize,
    valid: __mmask16,
}

impl Part {
    pub(super) const WHOLE: Part = Part { stride: 64, valid: !0 };

    pub(super) fn of(cells: usize) -> Part {
        if cells >= 16 { Part::WHOLE } else { Part { stride: 4 * cells, valid: (1 << cells) - 1 } }
    }
}

impl<const P: usize, const T: usize> Quad<P, T> {
    pub(super) fn new(level: &Level, quad: usize, x: [*const i8; T]) -> Quad<P, T> {
        let planes = level.planes_from(quad);
        Quad {
            planes: std::array::from_fn(|p| planes[p].as_ptr()),
            cells: level.cells.count(),
            top: level.rounding.map_or(u8::MAX, |rounding| rounding.top),
            x,
        }
    }

    /// Sums of `index * code` of the four rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn integers<const ROUND: bool>(&self) -> [[__m512i; QUAD]; T] {
        let (whole, rest) = (self.cells / 16, self.cells % 16);
        let mut out = [[_mm512_setzero_si512(); QUAD]; T];
        unsafe {
            for block in 0..whole {
                self.add_rows_one_by_one::<ROUND>(block, Part::WHOLE, &mut out);
            }
            if rest != 0 {
                self.add_rows_one_by_one::<ROUND>(whole, Part::of(rest), &mut out);
            }
        }
        out
    }

    /// The same from indices that are left in their places.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn integers_in_place(&self) -> [[__m512i; QUAD]; T] {
        let (whole, rest) = (self.cells / 16, self.cells % 16);
        let mut sums: [Sums<T, PLACES>; QUAD] = [[[_mm512_setzero_si512(); PLACES]; T]; QUAD];
        unsafe {
            for block in 0..whole {
                self.add_rows_in_pairs(block, Part::WHOLE, &mut sums);
            }
            if rest != 0 {
                self.add_rows_in_pairs(whole, Part::of(rest), &mut sums);
            }
        }
        let mut out = [[_mm512_setzero_si512(); QUAD]; T];
        for t in 0..T {
            for r in 0..QUAD {
                for (place, sum) in sums[r][t].into_iter().enumerate() {
                    let shift = _mm_cvtsi32_si128(shift_of(place) as i32);
                    out[t][r] = _mm512_add_epi32(out[t][r], _mm512_sra_epi32(sum, shift));
                }
            }
        }
        out
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn floats<const ROUND: bool>(
        &self,
        level: &Level,
        quad: usize,
        streams: &Streams,
    ) -> [[__m512i; QUAD]; T] {
        let groups = level.cells.groups();
        let rows = QUAD.min(level.rows - QUAD * quad);
        let mut totals = [[_mm512_setzero_ps(); QUAD]; T];
        for (block, (first_group, lane_groups)) in level.lane_groups.iter().enumerate() {
            let part = Part::of(self.cells - 16 * block);
            let present = 1 + lane_groups[15];
            let present = if present >= 16 { !0 } else { (1 << present) - 1 };
            let spread = unsafe { _mm512_loadu_si512(lane_groups.as_ptr().cast()) };
            let units: [__m512; T] = std::array::from_fn(|t| match streams.lanes(t) {
                Some(lanes) => unsafe { _mm512_loadu_ps(lanes[16 * block..].as_ptr()) },
                None => _mm512_set1_ps(streams.unit(t)),
            });
            for r in 0..std::hint::black_box(rows) {
                let mut sums: Sums<T, 1> = [[_mm512_setzero_si512()]; T];
                unsafe { self.add_rows::<ROUND, 1, 1>(block, r, part, [&mut sums]) };
                let scales = level.scale[(QUAD * quad + r) * groups + first_group..].as_ptr();
                let scales = unsafe { _mm512_maskz_loadu_ps(present, scales) };
                let scales = _mm512_permutexvar_ps(spread, scales);
                for t in 0..T {
                    let sum = _mm512_cvtepi32_ps(sums[t][0]);
                    totals[t][r] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scales, units[t]), totals[t][r]);
                }
            }
        }
        let (step, centre) = (_mm512_set1_ps(level.step), _mm512_set1_ps(level.centre));
        for t in 0..T {
            for r in 0..rows {
                totals[t][r] = _mm512_mul_ps(totals[t][r], step);
                let Some(x) = streams.offset_sums(t) else { continue };
                let scale = &level.scale[(QUAD * quad + r) * groups..][..groups];
                let zero = &level.zero[(QUAD * quad + r) * groups..][..groups];
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
        let mut out = [[_mm512_setzero_si512(); QUAD]; T];
        for t in 0..T {
            for r in 0..QUAD {
                out[t][r] = _mm512_castps_si512(totals[t][r]);
            }
        }
        out
    }

    /// Adds a block of four rows in a loop that must stay a loop: unrolled, the compiler mixes the rows and runs out of
    /// registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn add_rows_one_by_one<const ROUND: bool>(
        &self,
        block: usize,
        part: Part,
        out: &mut [[__m512i; QUAD]; T],
    ) {
        for r in 0..std::hint::black_box(QUAD) {
            let mut sums: Sums<T, 1> = std::array::from_fn(|t| [out[t][r]]);
            unsafe { self.add_rows::<ROUND, 1, 1>(block, r, part, [&mut sums]) };
            for t in 0..T {
                out[t][r] = sums[t][0];
            }
        }
    }

    /// Adds a block of four rows; two share the loads of the activations.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn add_rows_in_pairs(&self, block: usize, part: Part, sums: &mut [Sums<T, PLACES>; QUAD]) {
        let [a, b, c, d] = sums;
        unsafe {
            self.add_rows::<false, PLACES, 2>(block, 0, part, [a, b]);
            self.add_rows::<false, PLACES, 2>(block, 2, part, [c, d]);
        }
    }

    /// Adds a block of `S` rows from `row` on to sums of `C` places; one place has plain indices.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    unsafe fn add_rows<const ROUND: bool, const C: usize, const S: usize>(
        &self,
        block: usize,
        row: usize,
        part: Part,
        sums: [&mut Sums<T, C>; S],
    ) {
        let mut indices = [[_mm512_setzero_si512(); 8]; S];
        for (r, indices) in indices.iter_mut().enumerate() {
            let bytes = unsafe { self.load(block, row + r, part) };
            *indices = if C == 1 {
                codes::<P, ROUND, true>(bytes, self.top)
            } else {
                codes::<P, ROUND, false>(bytes, self.top)
            };
        }
        for o in 0..8 {
            for t in 0..T {
                let x = unsafe { _mm512_loadu_si512(self.x[t].add(512 * block + 64 * o).cast()) };
                for r in 0..S {
                    let sum = &mut sums[r][t][place_of(o) % C];
                    *sum = _mm512_dpbusd_epi32(*sum, indices[r][o], x);
                }
            }
        }
    }

    /// The planes of a row of a block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
    pub(super) unsafe fn load(&self, block: usize, row: usize, part: Part) -> [__m512i; P] {
        std::array::from_fn(|p| unsafe {
            let at = self.planes[p].add(64 * QUAD * block + row * part.stride);
            if p >= STREAMS {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(NEXT).cast());
            }
            if part.valid == !0 {
                _mm512_loadu_si512(at.cast())
            } else {
                _mm512_maskz_loadu_epi32(part.valid, at.cast())
            }
        })
    }
}

/// The compiler keeps loads and so everything that depends on them on their side of this: it would mix rows and run out of
/// registers.
#[inline(always)]
pub(super) fn keep_rows_apart() {
    // SAFETY: there are no instructions.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}
