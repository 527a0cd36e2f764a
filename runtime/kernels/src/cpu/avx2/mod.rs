//! AVX2 with FMA.
#![expect(unsafe_code, reason = "vector intrinsics")]
#![expect(clippy::needless_range_loop, reason = "row and stream numbers index several register arrays")]

mod decode;
mod float;
mod planes;
mod sums;
mod tile;

use super::cells::{Cells, QUAD};
use super::finish::{Finish, Out};
use super::floats::Floats;
use super::streams::{Streams, Token};
use super::strip::{Level, QuadMap, STRIP};

/// Streams that `decode` takes at a time.
pub(super) const DECODE: usize = 2;

/// Whether this processor has what the kernels use.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Calls `$f::<HIGH, LOW, ROUND, ...>` for the planes and rounding of `$level`.
macro_rules! by_planes {
    ($level:expr, $f:ident [$($rest:tt)*] $args:tt) => {
        match ($level.count, $level.rounding.is_some()) {
            (1, _) => $f::<1, 0, false, $($rest)*> $args,
            (2, false) => $f::<2, 0, false, $($rest)*> $args,
            (3, false) => $f::<3, 0, false, $($rest)*> $args,
            (4, false) => $f::<4, 0, false, $($rest)*> $args,
            (5, false) => $f::<4, 1, false, $($rest)*> $args,
            (6, false) => $f::<4, 2, false, $($rest)*> $args,
            (7, false) => $f::<4, 3, false, $($rest)*> $args,
            (2, true) => $f::<2, 0, true, $($rest)*> $args,
            (3, true) => $f::<3, 0, true, $($rest)*> $args,
            (4, true) => $f::<4, 0, true, $($rest)*> $args,
            (5, true) => $f::<4, 1, true, $($rest)*> $args,
            (6, true) => $f::<4, 2, true, $($rest)*> $args,
            (7, true) => $f::<4, 3, true, $($rest)*> $args,
            (_, true) => $f::<4, 4, true, $($rest)*> $args,
            (_, false) => $f::<4, 4, false, $($rest)*> $args,
        }
    };
}

/// See [`decode::decode`]; `sums` has one or two streams.
///
/// # Safety
/// [`available`].
pub(super) unsafe fn decode(
    level: &Level,
    quad: usize,
    quads: usize,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; STRIP]],
) {
    use decode::decode;
    unsafe {
        if sums.len() == 1 {
            by_planes!(level, decode[1](level, quad, quads, streams, first, sums));
        } else {
            by_planes!(level, decode[2](level, quad, quads, streams, first, sums));
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

/// See [`tile::tile`].
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
    let (pairs, rest) = sums.as_chunks_mut::<2>();
    let tail = first + 2 * pairs.len();
    unsafe {
        let bound = tile::bound(panel);
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
pub(super) unsafe fn quantize(token: Token, cells: &Cells) {
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
