//! Attention over a cache: scores, softmax and the weighted sum of one query at a time, in whole vectors.
//!
//! Every row of the result is computed on one thread in one order: it does not depend on the number of threads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::kv_cache::{BLOCK, Blocks, CacheShape, LANES, padded};

/// Below so many multiplications threads cost more than they save.
const PARALLEL: usize = 1 << 21;

/// Rows per task.
const TASK_ROWS: usize = 8;

/// The queries of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queries<'a> {
    /// `[heads, rows, key_size]`.
    pub data: &'a [f32],
    pub heads: usize,
    pub rows: usize,
    /// Factor of every score.
    pub scale: f32,
}

/// What is added to the scores, `[heads or 1, rows or 1, positions or 1]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask<'a> {
    pub data: &'a [f32],
    pub shape: [usize; 3],
}

impl Mask<'_> {
    /// Whether it broadcasts to the scores of `queries` over `positions`.
    pub(super) fn check(&self, queries: &Queries, positions: usize) -> Result<(), String> {
        let scores = [queries.heads, queries.rows, positions];
        let fits = self.shape.iter().zip(&scores).all(|(mask, score)| mask == score || *mask == 1);
        if fits && self.data.len() == self.shape.iter().product::<usize>() {
            return Ok(());
        }
        Err(format!("the mask is {:?}, which does not broadcast to the scores {scores:?}", self.shape))
    }

    fn add_to(&self, scores: &mut [f32], head: usize, row: usize) {
        let [heads, rows, positions] = self.shape;
        let head = if heads == 1 { 0 } else { head };
        let row = if rows == 1 { 0 } else { row };
        let mask = &self.data[(head * rows + row) * positions..][..positions];
        if let [mask] = mask {
            scores.iter_mut().for_each(|score| *score += mask);
        } else {
            scores.iter_mut().zip(mask).for_each(|(score, mask)| *score += mask);
        }
    }
}

/// `softmax(scale * queries . keys + mask) . values`, `[heads, rows, value_size]`; query heads share the key and
/// value heads in consecutive groups. A row whose mask excludes everything (all -inf) is NaN, as in ONNX.
pub(super) fn attend(blocks: &Blocks, shape: &CacheShape, queries: &Queries, mask: Option<Mask>) -> Vec<f32> {
    let rows = queries.heads * queries.rows;
    let mut out = vec![0.0; rows * shape.value_size];
    if out.is_empty() || blocks.positions == 0 {
        return out;
    }
    let arch = Arch::new();
    let task = |scratch: &mut Scratch, (index, out): (usize, &mut [f32])| {
        for (row, out) in out.chunks_mut(shape.value_size).enumerate() {
            let row = Row { blocks, shape, queries, mask, index: index * TASK_ROWS + row };
            match arch {
                Arch::Scalar => row.attend::<false>(scratch, out),
                _ => arch.dispatch(Vectorized { row, scratch, out }),
            }
        }
    };
    let tasks = out.chunks_mut(TASK_ROWS * shape.value_size).enumerate();
    if rows * blocks.positions * (shape.key_size + shape.value_size) < PARALLEL {
        let mut scratch = Scratch::default();
        tasks.for_each(|item| task(&mut scratch, item));
    } else {
        out.par_chunks_mut(TASK_ROWS * shape.value_size).enumerate().for_each_init(Scratch::default, task);
    }
    out
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    sums: Vec<f32>,
}

/// One query of one head.
#[derive(Clone, Copy)]
struct Row<'a> {
    blocks: &'a Blocks,
    shape: &'a CacheShape,
    queries: &'a Queries<'a>,
    mask: Option<Mask<'a>>,
    /// Head times rows plus row.
    index: usize,
}

impl Row<'_> {
    /// `FUSED`: the machine multiplies and adds in one instruction.
    #[inline(always)]
    fn attend<const FUSED: bool>(self, scratch: &mut Scratch, out: &mut [f32]) {
        let CacheShape { heads, key_size, value_size } = *self.shape;
        let positions = self.blocks.positions;
        let head = self.index / self.queries.rows;
        let shared = head / (self.queries.heads / heads);
        let query = &self.queries.data[self.index * key_size..][..key_size];

        let scores = &mut scratch.scores;
        scores.resize(positions.next_multiple_of(BLOCK), 0.0);
        for (keys, scores) in self.blocks.keys.iter().zip(scores.chunks_exact_mut(BLOCK)) {
            products::<FUSED>(query, &keys[shared * key_size * BLOCK..], self.queries.scale, scores);
        }
        let scores = &mut scores[..positions];
        if let Some(mask) = &self.mask {
            mask.add_to(scores, head, self.index % self.queries.rows);
        }
        let total = exponentials::<FUSED>(scores);

        let width = padded(value_size);
        scratch.sums.clear();
        scratch.sums.resize(width, 0.0);
        for (values, scores) in self.blocks.values.iter().zip(scores.chunks(BLOCK)) {
            let values = &values[shared * BLOCK * width..][..scores.len() * width];
            weighted_sums::<FUSED>(scores, values, width, &mut scratch.sums);
        }
        out.iter_mut().zip(&scratch.sums).for_each(|(out, sum)| *out = sum / total);
    }
}

/// A row for the widest vectors of the machine. Not a closure: the work must be inlined where they are enabled.
struct Vectorized<'a> {
    row: Row<'a>,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl WithSimd for Vectorized<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.row.attend::<true>(self.scratch, self.out);
    }
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `scores[p] = scale * sum_d query[d] * keys[d, p]`, keys `[key_size, BLOCK]`.
#[inline(always)]
fn products<const FUSED: bool>(query: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) {
    const TILE: usize = 4 * LANES;
    for (tile, scores) in scores.chunks_exact_mut(TILE).enumerate() {
        let mut sums = [0.0f32; TILE];
        for (q, keys) in query.iter().zip(keys.chunks_exact(BLOCK)) {
            let keys = &keys[tile * TILE..][..TILE];
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum = multiply_add::<FUSED>(*q, *key, *sum);
            }
        }
        scores.iter_mut().zip(&sums).for_each(|(score, sum)| *score = scale * sum);
    }
}

/// `sums[d] += sum_p scores[p] * values[p, d]`, values `[positions, width]`.
#[inline(always)]
fn weighted_sums<const FUSED: bool>(scores: &[f32], values: &[f32], width: usize, sums: &mut [f32]) {
    let mut at = 0;
    while at + 4 * LANES <= width {
        tile::<FUSED, { 4 * LANES }>(scores, values, width, at, sums);
        at += 4 * LANES;
    }
    while at < width {
        tile::<FUSED, LANES>(scores, values, width, at, sums);
        at += LANES;
    }
}

/// The columns `at..at + TILE` of [`weighted_sums`].
#[inline(always)]
fn tile<const FUSED: bool, const TILE: usize>(
    scores: &[f32],
    values: &[f32],
    width: usize,
    at: usize,
    sums: &mut [f32],
) {
    let mut tile = [0.0f32; TILE];
    for (score, values) in scores.iter().zip(values.chunks_exact(width)) {
        for (sum, value) in tile.iter_mut().zip(&values[at..][..TILE]) {
            *sum = multiply_add::<FUSED>(*score, *value, *sum);
        }
    }
    sums[at..][..TILE].iter_mut().zip(&tile).for_each(|(sum, tile)| *sum += tile);
}

/// Every score becomes `exp(score - maximum)`; returns the sum of all.
#[inline(always)]
fn exponentials<const FUSED: bool>(scores: &mut [f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        most.iter_mut()
            .zip(chunk)
            .for_each(|(most, score)| *most = if *score > *most { *score } else { *most });
    }
    let most = most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exponential::<FUSED>(*score - most);
            *sum += *score;
        }
    }
    let mut total: f32 = sums.iter().sum();
    for score in rest {
        *score = exponential::<FUSED>(*score - most);
        total += *score;
    }
    total
}

/// e^x for x <= 0 to 2 units in the last place, 0 below -87; NaN stays. Branch-free, so that it runs in vectors.
#[inline(always)]
fn exponential<const FUSED: bool>(x: f32) -> f32 {
    // Adding it leaves the nearest integer in the low bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = multiply_add::<FUSED>(power, -LN2_HIGH, x);
    let rest = multiply_add::<FUSED>(power, -LN2_LOW, rest);
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = multiply_add::<FUSED>(sum, rest, coefficient);
    }
    let sum = multiply_add::<FUSED>(sum, rest * rest, rest) + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { sum * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        for step in 0..=87_000 {
            let x = -(step as f32) / 1000.0;
            let expected = f64::from(x).exp();
            for found in [exponential::<true>(x), exponential::<false>(x)] {
                assert!((f64::from(found) - expected).abs() <= 3e-7 * expected, "{x}: {found}");
            }
        }
        assert_eq!(exponential::<true>(0.0), 1.0);
        assert_eq!(exponential::<true>(-87.5), 0.0);
        assert_eq!(exponential::<true>(-1e9), 0.0);
        assert_eq!(exponential::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exponential::<true>(f32::NAN).is_nan());
    }
}
