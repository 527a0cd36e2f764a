//! From sums to outputs: zero points, scales, the epilogue, and where outputs lie.

use super::cells::QUAD;
use super::epilogue::Epilogue;
use super::streams::Streams;
use super::strip::{Level, STRIP};

/// How outputs lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// [tokens, rows], as MatMul has it.
    #[default]
    TokenMajor,
    /// [rows, tokens], as Conv has it; rows begin `stride` values apart.
    RowMajor {
        /// At least the number of tokens.
        stride: usize,
    },
}

/// Outputs of so many tokens ahead are fetched before they are written. Tokens lie far apart, often at one place of every
/// cache, so that each write would wait for memory.
const AHEAD: usize = 8;

/// What is the same for all strips of a product.
pub(super) struct Finish<'a> {
    pub level: Level<'a>,
    /// The rows that are asked for.
    pub rows: std::ops::Range<usize>,
    pub tokens: usize,
    pub layout: Layout,
    pub epilogue: Epilogue<'a>,
    /// The streams if sums are of integers and still lack scales.
    pub integers: Option<&'a Streams>,
    /// Sums of one token: 2 for int16.
    pub limbs: usize,
}

/// The output, written by several threads at places of their own.
pub(super) struct Out {
    base: *mut f32,
    len: usize,
}

// SAFETY: strips and token ranges do not overlap, so no place is written twice; nobody reads meanwhile.
#[expect(unsafe_code, reason = "threads write disjoint places")]
unsafe impl Sync for Out {}

impl Out {
    pub fn new(y: &mut [f32]) -> Out {
        Out { base: y.as_mut_ptr(), len: y.len() }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "threads write disjoint places")]
    fn write(&self, at: usize, value: f32) {
        assert!(at < self.len);
        // SAFETY: inside the output, which the caller of `MatMul::run` lends mutably.
        unsafe { self.base.add(at).write(value) };
    }

    /// Fetches the strip that will be written at `at`, which may lie beyond the output.
    #[inline(always)]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "an instruction that reads nothing"))]
    fn fetch(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        for at in [at, at + STRIP - 1] {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: this is a hint for any address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(self.base.wrapping_add(at).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at; // their kernels write as they did
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "threads write disjoint places")]
    fn write_all(&self, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.len);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at), values.len()) }.copy_from_slice(values);
    }
}

impl Layout {
    /// Values that an output spans.
    pub(super) fn len(self, rows: usize, tokens: usize) -> usize {
        match self {
            Layout::TokenMajor => tokens.saturating_mul(rows),
            Layout::RowMajor { .. } if rows == 0 || tokens == 0 => 0,
            Layout::RowMajor { stride } => (rows - 1).saturating_mul(stride).saturating_add(tokens),
        }
    }
}

impl Finish<'_> {
    /// Fetches what [`Finish::strip`] reads of the weight for the rows, while they are summed: one scale and zero a row come
    /// from far away, and a strip takes no longer than one of them.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "an instruction that reads nothing"))]
    pub fn fetch_maps(&self, rows: std::ops::Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        if self.integers.is_some() {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            for row in rows.step_by(STRIP) {
                for map in [self.level.scale, self.level.zero] {
                    // SAFETY: this is a hint for any address.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(map.as_ptr().wrapping_add(row).cast()) };
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = rows; // their kernels read as they did
    }

    /// Finishes the rows from `row` on, a multiple of 4, for the streams from `first` on whose `sums` are given.
    #[inline(always)]
    pub fn strip(&self, row: usize, sums: &[[f32; STRIP]], first: usize, out: &Out) {
        let kept = self.rows.start.max(row)..self.rows.end.min(row + STRIP);
        if kept.is_empty() {
            return;
        }
        let (mut scales, mut offsets) = ([0.0; STRIP], [0.0; STRIP]);
        if self.integers.is_some() {
            // One scale a row.
            let scale = strip_of(self.level.scale, row);
            let zero = strip_of(self.level.zero, row);
            for i in 0..STRIP {
                scales[i] = self.level.step * scale[i];
                offsets[i] = scale[i] * (self.level.centre - zero[i]);
            }
        }
        let bias = match (self.epilogue.bias, row.checked_sub(self.rows.start)) {
            (None, _) => [0.0; STRIP],
            (Some(values), Some(at)) => strip_of(values, at),
            (Some(values), None) => {
                let before = kept.start - row;
                std::array::from_fn(|i| i.checked_sub(before).and_then(|i| values.get(i)).map_or(0.0, |b| *b))
            }
        };
        let count = self.rows.len();
        let inside = kept.start - row..kept.end - row;
        for (index, limbs) in sums.chunks_exact(self.limbs).enumerate() {
            let stream = first + index * self.limbs;
            let token = stream / self.limbs;
            if self.layout == Layout::TokenMajor {
                out.fetch((token + AHEAD) * count + kept.start - self.rows.start);
            }
            let mut y = [0.0; STRIP];
            match self.integers {
                None => limbs.iter().for_each(|part| y.iter_mut().zip(part).for_each(|(y, s)| *y += s)),
                Some(streams) => {
                    for (limb, part) in limbs.iter().enumerate() {
                        let unit = streams.unit(stream + limb);
                        y.iter_mut().zip(part).for_each(|(y, s)| *y += unit * s);
                    }
                    let sum = streams.offset_sums(stream + self.limbs - 1).map_or(0.0, |sums| sums[0]);
                    for i in 0..STRIP {
                        y[i] = scales[i] * y[i] + offsets[i] * sum;
                    }
                }
            }
            for i in 0..STRIP {
                y[i] += bias[i];
            }
            self.epilogue.activation.apply(&mut y);
            let at = |i: usize| match self.layout {
                Layout::TokenMajor => token * count + row + i - self.rows.start,
                Layout::RowMajor { stride } => (row + i - self.rows.start) * stride + token,
            };
            // Of known length a strip is a register, and a copy of it a store, not a call.
            let whole = (self.layout == Layout::TokenMajor && inside == (0..STRIP)).then(|| at(0));
            if let Some(gate) = self.epilogue.gate {
                match whole.and_then(|at| gate[at..].first_chunk::<STRIP>()) {
                    Some(gate) => y.iter_mut().zip(gate).for_each(|(y, gate)| *y *= gate),
                    None => inside.clone().for_each(|i| y[i] *= gate[at(i)]),
                }
            }
            if let Some(residual) = self.epilogue.residual {
                match whole.and_then(|at| residual[at..].first_chunk::<STRIP>()) {
                    Some(residual) => y.iter_mut().zip(residual).for_each(|(y, part)| *y += part),
                    None => inside.clone().for_each(|i| y[i] += residual[at(i)]),
                }
            }
            match (whole, self.layout) {
                (Some(at), Layout::TokenMajor | Layout::RowMajor { .. }) => out.write_all(at, &y),
                (None, Layout::TokenMajor) => out.write_all(at(inside.start), &y[inside.clone()]),
                (None, Layout::RowMajor { .. }) => inside.clone().for_each(|i| out.write(at(i), y[i])),
            }
        }
    }
}

/// The values of a strip, 0 for rows that are not there. A whole strip is copied as one register: a register cannot be read
/// back from values written one by one until all reads from memory before them are done.
#[inline(always)]
fn strip_of(values: &[f32], row: usize) -> [f32; STRIP] {
    let values = values.get(row..).unwrap_or_default();
    match values.first_chunk() {
        Some(whole) => *whole,
        None => std::array::from_fn(|i| values.get(i).copied().unwrap_or(0.0)),
    }
}

/// Puts the sums of a quad's tile into those of its strip.
pub(super) fn place_quad(quads: &[[f32; QUAD]], quad: usize, sums: &mut [[f32; STRIP]]) {
    for (from, to) in quads.iter().zip(sums) {
        to[QUAD * quad..QUAD * (quad + 1)].copy_from_slice(from);
    }
}
