//! AVX-512 with VNNI and GFNI.
#![expect(unsafe_code, reason = "vector intrinsics")]
#![expect(clippy::needless_range_loop, reason = "row and stream numbers index several register arrays")]

mod bytes;
mod decode;
mod float;
mod merge;
mod reduce;
mod tile;

use super::by_planes::by_planes;
use super::cells::{Cells, QUAD};
use super::finish::{Finish, Out};
use super::floats::Floats;
use super::streams::{Streams, Token};
use super::strip::{Level, QuadMap, STRIP};

/// Streams that `tile_integers` takes at a time.
pub(super) const INTEGERS: usize = 6;
/// Streams that `tile_floats` takes at a time.
pub(super) const FLOATS: usize = 3;
/// Tokens that `dots` takes at a time.
pub(super) const DOTS: usize = 6;

/// Whether this processor has what the kernels use.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("gfni")
}

/// Puts few streams in the order in which [`decode`] reads them.
///
/// # Safety
/// [`available`].
pub(super) unsafe fn prepare(level: &Level, streams: &mut Streams) {
    if bytes::serves(level, streams) {
        (0..streams.count()).for_each(|stream| unsafe { bytes::reorder(streams.codes_mut(stream)) });
    }
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
            by_planes!(level, decode[1](level, quad, quads, streams, sums));
        } else {
            by_planes!(level, decode[2](level, quad, quads, streams, sums));
        }
    }
}

/// See [`tile::unpack`].
///
/// # Safety
/// [`available`].
pub(super) unsafe fn unpack(level: &Level, quad: usize, panel: &mut [u8]) {
    use tile::unpack;
    unsafe { by_planes!(level, unpack [] (level, quad, panel)) }
}

/// See [`tile::tile_integers`] and, with a map, [`tile::tile_floats`].
///
/// # Safety
/// [`available`].
pub(super) unsafe fn tile(
    panel: &[u8],
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]],
) {
    unsafe {
        let Some(map) = map else {
            let (sixes, rest) = sums.as_chunks_mut::<INTEGERS>();
            let tail = first + INTEGERS * sixes.len();
            for (i, sums) in sixes.iter_mut().enumerate() {
                tile::tile_integers(panel, streams, first + INTEGERS * i, sums);
            }
            match rest {
                [a, b, c, d, e] => {
                    tail_tile([a, b, c, d, e], |s| tile::tile_integers(panel, streams, tail, s))
                }
                [a, b, c, d] => tail_tile([a, b, c, d], |s| tile::tile_integers(panel, streams, tail, s)),
                [a, b, c] => tail_tile([a, b, c], |s| tile::tile_integers(panel, streams, tail, s)),
                [a, b] => tail_tile([a, b], |s| tile::tile_integers(panel, streams, tail, s)),
                [a] => tail_tile([a], |s| tile::tile_integers(panel, streams, tail, s)),
                _ => {}
            }
            return;
        };
        let (threes, rest) = sums.as_chunks_mut::<FLOATS>();
        let tail = first + FLOATS * threes.len();
        for (i, sums) in threes.iter_mut().enumerate() {
            tile::tile_floats(panel, map, streams, first + FLOATS * i, sums);
        }
        match rest {
            [a, b] => tail_tile([a, b], |s| tile::tile_floats(panel, map, streams, tail, s)),
            [a] => tail_tile([a], |s| tile::tile_floats(panel, map, streams, tail, s)),
            _ => {}
        }
    }
}

/// Runs a tile on what is left and puts its sums where they belong.
fn tail_tile<const T: usize>(out: [&mut [f32; QUAD]; T], tile: impl FnOnce(&mut [[f32; QUAD]; T])) {
    let mut sums = [[0.0; QUAD]; T];
    tile(&mut sums);
    for (out, sums) in out.into_iter().zip(sums) {
        *out = sums;
    }
}

/// See [`float::decode`].
///
/// # Safety
/// [`available`].
pub(super) unsafe fn decode_floats(
    level: &Level,
    quad: usize,
    map: &QuadMap,
    x: &Floats,
    token: usize,
    sums: &mut [f32; QUAD],
) {
    use float::decode;
    unsafe { by_planes!(level, decode [] (level, quad, map, x, token, sums)) }
}

/// See [`float::dots`].
///
/// # Safety
/// [`available`].
pub(super) unsafe fn dots(panel: &[u8], map: &QuadMap, x: &Floats, first: usize, sums: &mut [[f32; QUAD]]) {
    let (sixes, rest) = sums.as_chunks_mut::<DOTS>();
    let tail = first + DOTS * sixes.len();
    unsafe {
        for (i, sums) in sixes.iter_mut().enumerate() {
            float::dots(panel, map, x, first + DOTS * i, sums);
        }
        match rest {
            [a, b, c, d, e] => tail_tile([a, b, c, d, e], |s| float::dots(panel, map, x, tail, s)),
            [a, b, c, d] => tail_tile([a, b, c, d], |s| float::dots(panel, map, x, tail, s)),
            [a, b, c] => tail_tile([a, b, c], |s| float::dots(panel, map, x, tail, s)),
            [a, b] => tail_tile([a, b], |s| float::dots(panel, map, x, tail, s)),
            [a] => tail_tile([a], |s| float::dots(panel, map, x, tail, s)),
            _ => {}
        }
    }
}

/// See [`Token::quantize`].
///
/// # Safety
/// [`available`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn quantize(token: &mut Token, cells: &Cells) {
    token.quantize(cells);
}

/// See [`Finish::strip`].
///
/// # Safety
/// [`available`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn finish(finish: &Finish, row: usize, sums: &[[f32; STRIP]], first: usize, out: &Out) {
    finish.strip(row, sums, first, out);
}
