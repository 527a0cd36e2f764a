//! AVX2 with FMA.
#![expect(unsafe_code, reason = "vector intrinsics")]
#![expect(clippy::needless_range_loop, reason = "row and stream numbers index several register arrays")]

mod decode;
mod float;
mod planes;
mod sums;
mod tile;

use super::by_planes::by_planes;
use super::cells::{Cells, QUAD};
use super::finish::{Finish, Out};
use super::floats::Floats;
use super::streams::{Streams, Token};
use super::strip::{Level, QuadMap, STRIP};
use sums::Bound;

/// Whether this processor has what the kernels use.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// See [`decode::decode`]; there are one or two streams.
///
/// # Safety
/// [`available`].
pub(super) unsafe fn decode(
    level: &Level,
    quad: usize,
    quads: usize,
    streams: &Streams,
    sums: &mut [[f32; STRIP]],
) {
    use decode::decode;
    unsafe {
        if streams.count() == 1 {
            by_planes!(parts: level, decode[1](level, quad, quads, streams, sums));
        } else {
            by_planes!(parts: level, decode[2](level, quad, quads, streams, sums));
        }
    }
}

/// See [`tile::unpack`].
///
/// # Safety
/// [`available`].
pub(super) unsafe fn unpack(level: &Level, quad: usize, panel: &mut [u8]) {
    use tile::unpack;
    unsafe { by_planes!(parts: level, unpack [] (level, quad, panel)) }
}

/// See [`tile::tile`].
///
/// # Safety
/// [`available`].
pub(super) unsafe fn tile(
    level: &Level,
    panel: &[u8],
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]],
) {
    let (pairs, rest) = sums.as_chunks_mut::<2>();
    let tail = first + 2 * pairs.len();
    unsafe {
        let bound = Bound::of(level.largest_index());
        for (i, sums) in pairs.iter_mut().enumerate() {
            tile::tile(panel, bound, map, streams, first + 2 * i, sums);
        }
        for sums in rest.as_chunks_mut::<1>().0 {
            tile::tile(panel, bound, map, streams, tail, sums);
        }
    }
}

/// See [`float::dots`].
///
/// # Safety
/// [`available`].
pub(super) unsafe fn dots(panel: &[u8], map: &QuadMap, x: &Floats, first: usize, sums: &mut [[f32; QUAD]]) {
    let (pairs, rest) = sums.as_chunks_mut::<2>();
    let tail = first + 2 * pairs.len();
    unsafe {
        for (i, sums) in pairs.iter_mut().enumerate() {
            float::dots(panel, map, x, first + 2 * i, sums);
        }
        for sums in rest.as_chunks_mut::<1>().0 {
            float::dots(panel, map, x, tail, sums);
        }
    }
}

/// See [`Token::quantize`].
///
/// # Safety
/// [`available`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn quantize(token: &mut Token, cells: &Cells) {
    token.quantize(cells);
}

/// See [`Finish::strip`].
///
/// # Safety
/// [`available`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn finish(finish: &Finish, row: usize, sums: &[[f32; STRIP]], first: usize, out: &Out) {
    finish.strip(row, sums, first, out);
}
