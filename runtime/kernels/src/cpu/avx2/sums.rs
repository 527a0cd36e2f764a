//! Exact products of indices with codes: `maddubs` adds two products in 16 bits and saturates, so how far sums go in
//! 16 bits depends on the largest index. Codes are -128..=127.

use std::arch::x86_64::*;

/// What an index may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// 16: eight pairs of products fit 16 bits, `8 * 2 * 16 * 128 = 2^15`, which only sums below 0 reach.
    Small,
    /// 128: one pair of products fits.
    Medium,
    /// 255.
    Wide,
}

impl Bound {
    /// The bound of indices of which none is above `largest`.
    pub fn of(largest: u8) -> Bound {
        match largest {
            0..=16 => Bound::Small,
            17..=128 => Bound::Medium,
            129.. => Bound::Wide,
        }
    }
}

/// Sums in 16 bits of `indices`, at most 16, with the eight registers of codes from `x` on.
///
/// # Safety
/// The CPU features; `x` is inside a stream, 32 bytes for each o.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn small(indices: &[__m256i; 8], x: *const i8) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for o in 0..8 {
        // SAFETY: as the caller says.
        let codes = unsafe { _mm256_loadu_si256(x.add(64 * o).cast()) };
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(indices[o], codes));
    }
    sum
}

/// Sums of `indices`, at most 128, one for each cell.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn medium(indices: &[__m256i; 8], x: *const i8) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for o in 0..8 {
        // SAFETY: as the caller says.
        let codes = unsafe { _mm256_loadu_si256(x.add(64 * o).cast()) };
        sum = _mm256_add_epi32(sum, widen(_mm256_maddubs_epi16(indices[o], codes), 1));
    }
    sum
}

/// Sums of pairs times `factor`: one for each cell.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn widen(pairs: __m256i, factor: i16) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(factor))
}

/// Lane i of the result is the sum of the lanes of `rows[i]`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn reduce_integers(rows: [__m256i; 4]) -> __m128i {
    let pair = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (a, b) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
    let all = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all))
}

/// Lane i of the result is the sum of the lanes of `rows[i]`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn reduce_floats(rows: [__m256; 4]) -> __m128 {
    let pair = |a, b| _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
    let (a, b) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
    let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
    let all = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
    _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all))
}
