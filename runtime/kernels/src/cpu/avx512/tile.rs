//! Many tokens: indices in a panel, four rows by up to six streams at a time in registers.

use std::arch::x86_64::*;

use super::decode::{Part, Quad, keep_rows_apart};
use super::merge::codes;
use super::reduce::{reduce_four_floats, reduce_four_integers};
use crate::cpu::cells::{BLOCK_CODES, QUAD};
use crate::cpu::streams::Streams;
use crate::cpu::strip::{GROUP_LANES, Level, QuadMap};

/// Writes the indices of a quad, [4, stride], in the order of the streams.
///
/// # Safety
/// The CPU features. `P` planes are read and rounded if `ROUND`; `panel` is as long as said.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
pub(super) unsafe fn unpack<const P: usize, const ROUND: bool>(level: &Level, quad: usize, panel: &mut [u8]) {
    let (count, blocks) = (level.cells.count(), level.cells.blocks());
    assert!(panel.len() >= QUAD * blocks * BLOCK_CODES);
    let stride = panel.len() / QUAD;
    let rows: Quad<P, 0> = Quad::new(level, quad, []);
    for block in 0..blocks {
        let part = Part::of(count - 16 * block);
        for row in 0..QUAD {
            // SAFETY: each plane holds a whole quad.
            let bytes = unsafe { rows.load(block, row, part) };
            let out = panel[row * stride + block * BLOCK_CODES..][..BLOCK_CODES].as_mut_ptr();
            for (o, codes) in codes::<P, ROUND, true>(bytes, rows.top).into_iter().enumerate() {
                // SAFETY: 512 bytes from `out` on, checked by the slice.
                unsafe { _mm512_storeu_si512(out.add(64 * o).cast(), codes) };
            }
            keep_rows_apart();
        }
    }
}

/// Sums of the four rows of a panel for `T` streams from `first` on: of `index * code`.
///
/// # Safety
/// The CPU features; the panel is as `unpack` made it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
pub(super) unsafe fn tile_integers<const T: usize>(
    panel: &[u8],
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]; T],
) {
    let row = panel.len() / QUAD;
    let x: [*const i8; T] = std::array::from_fn(|t| streams.codes(first + t).as_ptr());
    let panel = panel.as_ptr();
    let mut lanes = [[_mm512_setzero_si512(); QUAD]; T];
    // Without the line that only keeps rows apart.
    let places = row / BLOCK_CODES * BLOCK_CODES;
    for at in (0..places).step_by(64) {
        // SAFETY: `at + 64 <= row`; streams are as long as rows of the panel.
        unsafe {
            let w: [__m512i; QUAD] =
                std::array::from_fn(|r| _mm512_loadu_si512(panel.add(r * row + at).cast()));
            for t in 0..T {
                let x = _mm512_loadu_si512(x[t].add(at).cast());
                for r in 0..QUAD {
                    lanes[t][r] = _mm512_dpbusd_epi32(lanes[t][r], w[r], x);
                }
            }
        }
    }
    for t in 0..T {
        let total = _mm_cvtepi32_ps(reduce_four_integers(lanes[t]));
        // SAFETY: four values.
        unsafe { _mm_storeu_ps(sums[t].as_mut_ptr(), total) };
    }
}

/// The same with scales: all that depends on the weight and the units of the streams.
///
/// # Safety
/// As above; `map` is that of the quad.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")]
pub(super) unsafe fn tile_floats<const T: usize>(
    panel: &[u8],
    map: &QuadMap,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]; T],
) {
    let row = panel.len() / QUAD;
    let (lanes_of_row, padded) = (map.scales.len() / QUAD, map.offsets.len() / QUAD);
    let x: [*const i8; T] = std::array::from_fn(|t| streams.codes(first + t).as_ptr());
    let mut totals = [[_mm512_setzero_ps(); QUAD]; T];
    for block in 0..row / BLOCK_CODES {
        let mut lanes = [[_mm512_setzero_si512(); QUAD]; T];
        // Unrolled, the compiler would run out of registers.
        for o in 0..std::hint::black_box(8) {
            let at = block * BLOCK_CODES + 64 * o;
            // SAFETY: inside the block.
            unsafe {
                let w: [__m512i; QUAD] =
                    std::array::from_fn(|r| _mm512_loadu_si512(panel.as_ptr().add(r * row + at).cast()));
                for t in 0..T {
                    let x = _mm512_loadu_si512(x[t].add(at).cast());
                    for r in 0..QUAD {
                        lanes[t][r] = _mm512_dpbusd_epi32(lanes[t][r], w[r], x);
                    }
                }
            }
        }
        for t in 0..T {
            let unit = match streams.lanes(first + t) {
                // SAFETY: lanes are padded to whole blocks.
                Some(lanes) => unsafe { _mm512_loadu_ps(lanes[16 * block..].as_ptr()) },
                None => _mm512_set1_ps(streams.unit(first + t)),
            };
            for r in 0..QUAD {
                // SAFETY: so are the scales.
                let scale = unsafe { _mm512_loadu_ps(map.scales[r * lanes_of_row + 16 * block..].as_ptr()) };
                let sum = _mm512_cvtepi32_ps(lanes[t][r]);
                totals[t][r] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scale, unit), totals[t][r]);
            }
        }
    }
    for t in 0..T {
        if let Some(x) = streams.offset_sums(first + t) {
            for at in (0..padded).step_by(GROUP_LANES) {
                for r in 0..QUAD {
                    // SAFETY: offsets and sums are padded to whole registers.
                    unsafe {
                        let offset = _mm512_loadu_ps(map.offsets[r * padded + at..].as_ptr());
                        totals[t][r] =
                            _mm512_fmadd_ps(offset, _mm512_loadu_ps(x[at..].as_ptr()), totals[t][r]);
                    }
                }
            }
        }
        // SAFETY: four values.
        unsafe { _mm_storeu_ps(sums[t].as_mut_ptr(), reduce_four_floats(totals[t])) };
    }
}
