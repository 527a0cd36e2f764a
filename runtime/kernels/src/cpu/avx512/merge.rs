//! Bit planes to codes in registers.
//!
//! Planes come in pairs, pairs in quads, quads in eights: at each step a bit select takes from either side the bits of
//! its planes, for 2, 4 and 8 residues of o. A register for residue o then holds the code of o rotated left by o.

use std::arch::x86_64::*;

/// Two planes can leave their indices in place, [`PLACES`] of them: that saves a bit move for each output and takes a sum for
/// each place. With more planes the sums need more registers than there are.
pub(super) const IN_PLACE: usize = 2;
/// Places of the indices of [`IN_PLACE`] planes.
pub(super) const PLACES: usize = 4;

/// The number of the place where output `o` has its indices.
pub(super) const fn place_of(o: usize) -> usize {
    o / 2
}

/// How far left of the index the bits of a place are.
pub(super) const fn shift_of(place: usize) -> u32 {
    (6 + 2 * place as u32) % 8
}

#[inline]
#[target_feature(enable = "avx512f")]
fn select(mask: u8, ones: __m512i, zeros: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0xca>(_mm512_set1_epi64(i64::from_ne_bytes([mask; 8])), ones, zeros)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pair(high: __m512i, low: __m512i) -> [__m512i; 2] {
    [select(0xaa, high, low), select(0xaa, low, high)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn quad(high: [__m512i; 2], low: [__m512i; 2]) -> [__m512i; 4] {
    [
        select(0xcc, high[0], low[0]),
        select(0x99, high[1], low[1]),
        select(0xcc, low[0], high[0]),
        select(0x99, low[1], high[1]),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn eight(high: [__m512i; 4], low: [__m512i; 4]) -> [__m512i; 8] {
    let left = |v: usize| select(0xf0_u8.rotate_left(v as u32), high[v], low[v]);
    let right = |v: usize| select(0xf0_u8.rotate_left(v as u32), low[v], high[v]);
    [left(0), left(1), left(2), left(3), right(0), right(1), right(2), right(3)]
}

/// For each o the register with the code's leading `P` bits rotated left by o: plane p at bit `(7 - p + o) mod 8`.
#[inline]
#[target_feature(enable = "avx512f")]
fn merge<const P: usize>(planes: [__m512i; P]) -> [__m512i; 8] {
    let two = |v: [__m512i; 2]| std::array::from_fn(|o| v[o % 2]);
    let four = |v: [__m512i; 4]| std::array::from_fn(|o| v[o % 4]);
    match *planes.as_slice() {
        [a] => [a; 8],
        [a, b] => two(pair(a, b)),
        [a, b, c] => four(quad(pair(a, b), [c; 2])),
        [a, b, c, d] => four(quad(pair(a, b), pair(c, d))),
        [a, b, c, d, e] => eight(quad(pair(a, b), pair(c, d)), [e; 4]),
        [a, b, c, d, e, f] => {
            let [g, h] = pair(e, f);
            eight(quad(pair(a, b), pair(c, d)), [g, h, g, h])
        }
        [a, b, c, d, e, f, g] => eight(quad(pair(a, b), pair(c, d)), quad(pair(e, f), [g; 2])),
        [a, b, c, d, e, f, g, h] => eight(quad(pair(a, b), pair(c, d)), quad(pair(e, f), pair(g, h))),
        _ => [_mm512_setzero_si512(); 8],
    }
}

/// The 64 indices of each output o from the planes read. Of [`IN_PLACE`] planes and unless `ROUND` or `PLAIN` they are left
/// in their places, `index << shift_of(place_of(o))`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
pub(super) fn codes<const P: usize, const ROUND: bool, const PLAIN: bool>(
    planes: [__m512i; P],
    top: u8,
) -> [__m512i; 8] {
    let merged = merge(planes);
    if P == 8 && !ROUND {
        let rotate = |o: usize| rotate_right(merged[o], o);
        return [merged[0], rotate(1), rotate(2), rotate(3), rotate(4), rotate(5), rotate(6), rotate(7)];
    }
    if P == 1 {
        let one = _mm512_set1_epi8(1);
        let bit = |o: u32| _mm512_and_si512(merged[0], _mm512_set1_epi8(0x80_u8.rotate_left(o) as i8));
        return std::array::from_fn(|o| _mm512_min_epu8(bit(o as u32), one));
    }
    if ROUND || PLAIN || P != IN_PLACE {
        let plain = std::array::from_fn(|o| move_bits(merged[o], const { to_index(P) }[o]));
        return if ROUND { round(plain, top) } else { plain };
    }
    let aligned = [merged[0], rotate_right(merged[1], 1)];
    std::array::from_fn(|o| {
        let field = 3_u8 << shift_of(place_of(o));
        _mm512_and_si512(aligned[o % 2], _mm512_set1_epi8(field as i8))
    })
}

/// Half of each value, rounded up, at most `top`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round(values: [__m512i; 8], top: u8) -> [__m512i; 8] {
    let (zero, top) = (_mm512_setzero_si512(), _mm512_set1_epi8(top as i8));
    values.map(|value| _mm512_min_epu8(_mm512_avg_epu8(value, zero), top))
}

/// Bit i of each byte becomes bit `source` of it, as the matrix says.
#[inline]
#[target_feature(enable = "avx512f,gfni")]
fn move_bits(bytes: __m512i, matrix: u64) -> __m512i {
    _mm512_gf2p8affine_epi64_epi8::<0>(bytes, _mm512_set1_epi64(matrix as i64))
}

/// Bytes rotated right.
#[inline]
#[target_feature(enable = "avx512f,gfni")]
pub(super) fn rotate_right(bytes: __m512i, by: usize) -> __m512i {
    if by == 0 { bytes } else { move_bits(bytes, const { rotations_right() }[by]) }
}

/// The matrix that takes bit i of the result from bit `sources[i]`, or 0 where that is not below 8.
const fn matrix(sources: [usize; 8]) -> u64 {
    let mut rows = 0;
    let mut i = 0;
    while i < 8 {
        if sources[i] < 8 {
            rows |= 1 << (8 * (7 - i) + sources[i]);
        }
        i += 1;
    }
    rows
}

/// Matrix v rotates bytes right by v.
const fn rotations_right() -> [u64; 8] {
    let mut all = [0; 8];
    let mut v = 0;
    while v < 8 {
        let mut sources = [0; 8];
        let mut i = 0;
        while i < 8 {
            sources[i] = (i + v) % 8;
            i += 1;
        }
        all[v] = matrix(sources);
        v += 1;
    }
    all
}

/// Matrix o takes the leading `planes` bits out of a register that is rotated left by o.
const fn to_index(planes: usize) -> [u64; 8] {
    let mut all = [0; 8];
    let mut o = 0;
    while o < 8 {
        let mut sources = [8; 8];
        let mut i = 0;
        while i < planes {
            sources[i] = (8 - planes + i + o) % 8;
            i += 1;
        }
        all[o] = matrix(sources);
        o += 1;
    }
    all
}
