//! Four registers to one that holds their sums.

use std::arch::x86_64::*;

/// The sums of four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn reduce_four_integers(rows: [__m512i; 4]) -> __m128i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (a, b) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
    _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// The sums of four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn reduce_four_floats(rows: [__m512; 4]) -> __m128 {
    let pair = |a, b| _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    let (a, b) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
    let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
    let all = _mm512_castps_pd(_mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high)));
    let half = _mm256_add_ps(
        _mm256_castpd_ps(_mm512_castpd512_pd256(all)),
        _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(all)),
    );
    _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
}
