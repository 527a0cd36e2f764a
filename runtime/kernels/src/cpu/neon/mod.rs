//! NEON, with the dot product instructions or without.
#![expect(unsafe_code, reason = "vector intrinsics")]
#![expect(clippy::needless_range_loop, reason = "row and stream numbers index several register arrays")]

mod decode;
mod dot;
mod float;
mod planes;
mod tile;

use std::arch::is_aarch64_feature_detected;

use dot::{Baseline, Dot, Dotprod};

use super::by_planes::by_planes;
use super::cells::QUAD;
use super::floats::Floats;
use super::streams::Streams;
use super::strip::{Level, QuadMap, STRIP};

/// Whether this processor has the dot product instructions.
pub(super) fn has_dotprod() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

/// See [`decode::decode`]; there are one or two streams.
///
/// # Safety
/// [`has_dotprod`].
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
            by_planes!(level, decode[1](level, quad, quads, streams, sums));
        } else {
            by_planes!(level, decode[2](level, quad, quads, streams, sums));
        }
    }
}

/// See [`tile::unpack`].
pub(super) fn unpack(level: &Level, quad: usize, panel: &mut [u8]) {
    use tile::unpack;
    // SAFETY: every processor of this architecture has NEON.
    unsafe { by_planes!(level, unpack [] (level, quad, panel)) }
}

/// See [`tile::tile`].
pub(super) fn tile(
    panel: &[u8],
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]],
) {
    // SAFETY: every processor of this architecture has NEON.
    unsafe { tiles::<Baseline>(panel, map, streams, first, sums) }
}

/// The same with the dot product instructions.
///
/// # Safety
/// [`has_dotprod`].
pub(super) unsafe fn tile_dotprod(
    panel: &[u8],
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]],
) {
    unsafe { tiles::<Dotprod>(panel, map, streams, first, sums) }
}

unsafe fn tiles<D: Dot>(
    panel: &[u8],
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]],
) {
    let (threes, rest) = sums.as_chunks_mut::<3>();
    let tail = first + 3 * threes.len();
    unsafe {
        for (i, sums) in threes.iter_mut().enumerate() {
            tile::tile::<D, 3>(panel, map, streams, first + 3 * i, sums);
        }
        for (i, sums) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            tile::tile::<D, 1>(panel, map, streams, tail + i, sums);
        }
    }
}

/// See [`float::dots`].
pub(super) fn dots(panel: &[u8], map: &QuadMap, x: &Floats, first: usize, sums: &mut [[f32; QUAD]]) {
    let (pairs, rest) = sums.as_chunks_mut::<2>();
    let tail = first + 2 * pairs.len();
    // SAFETY: every processor of this architecture has NEON.
    unsafe {
        for (i, sums) in pairs.iter_mut().enumerate() {
            float::dots(panel, map, x, first + 2 * i, sums);
        }
        for sums in rest.as_chunks_mut::<1>().0 {
            float::dots(panel, map, x, tail, sums);
        }
    }
}
