//! The arithmetic of attention: products of queries with keys, exponentials, weighted sums of values.
//!
//! `R` queries are taken at once and `V` vectors of positions or of elements: so many sums stay in registers.

use pulp::Simd;

use super::kv_cache::{BLOCK, LANES};

/// `scores[r, p] = scale * sum_d queries[r][d] * keys[d, p]` for the first `count` positions of a block and all that share a
/// tile with them. Keys are `[key_size, BLOCK]`, rows of scores lie `stride` apart.
#[inline(always)]
pub(super) fn products<S: Simd, const R: usize, const V: usize>(
    simd: S,
    queries: [&[f32]; R],
    keys: &[f32],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
    count: usize,
) {
    let tile = V * S::F32_LANES;
    for at in (0..count).step_by(tile) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (d, keys) in keys.chunks_exact(BLOCK).enumerate() {
            let (keys, _) = S::as_simd_f32s(&keys[at..at + tile]);
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = simd.splat_f32s(query[d]);
                for (sum, keys) in sums.iter_mut().zip(keys) {
                    *sum = simd.mul_add_e_f32s(query, *keys, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let (scores, _) = S::as_mut_simd_f32s(&mut scores[r * stride + at..][..tile]);
            for (score, sum) in scores.iter_mut().zip(sums) {
                *score = simd.mul_f32s(*sum, simd.splat_f32s(scale));
            }
        }
    }
}

/// `sums[r, d] += sum_p scores[r, p] * values[p, d]`, values `[positions, width]`, sums `[R, width]`; rows of scores lie
/// `stride` apart, `width` is a multiple of [`LANES`].
#[inline(always)]
pub(super) fn weighted_sums<S: Simd, const R: usize, const V: usize>(
    simd: S,
    scores: &[f32],
    stride: usize,
    values: &[f32],
    width: usize,
    sums: &mut [f32],
) {
    let mut at = 0;
    while at + V * S::F32_LANES <= width {
        tile::<S, R, V>(simd, scores, stride, values, width, at, sums);
        at += V * S::F32_LANES;
    }
    while at < width {
        tile::<S, R, 1>(simd, scores, stride, values, width, at, sums);
        at += S::F32_LANES;
    }
}

/// `V` vectors of columns of [`weighted_sums`], from `at` on.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    scores: &[f32],
    stride: usize,
    values: &[f32],
    width: usize,
    at: usize,
    sums: &mut [f32],
) {
    let tile = V * S::F32_LANES;
    let positions = values.len() / width;
    let rows: [&[f32]; R] = std::array::from_fn(|r| &scores[r * stride..][..positions]);
    let mut tiles = [[simd.splat_f32s(0.0); V]; R];
    for (p, values) in values.chunks_exact(width).enumerate() {
        let (values, _) = S::as_simd_f32s(&values[at..at + tile]);
        for (tiles, row) in tiles.iter_mut().zip(rows) {
            let score = simd.splat_f32s(row[p]);
            for (tile, value) in tiles.iter_mut().zip(values) {
                *tile = simd.mul_add_e_f32s(score, *value, *tile);
            }
        }
    }
    for (r, tiles) in tiles.iter().enumerate() {
        let (sums, _) = S::as_mut_simd_f32s(&mut sums[r * width + at..][..tile]);
        for (sum, tile) in sums.iter_mut().zip(tiles) {
            *sum = simd.add_f32s(*sum, *tile);
        }
    }
}

/// Every score becomes `exp(score - maximum)`; returns the sum of all.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(scores: &mut [f32]) -> f32 {
    match S::IS_SCALAR {
        true => exponentials_of::<false>(scores),
        false => exponentials_of::<true>(scores),
    }
}

/// `FUSED`: the machine multiplies and adds in one instruction.
#[inline(always)]
fn exponentials_of<const FUSED: bool>(scores: &mut [f32]) -> f32 {
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

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
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
