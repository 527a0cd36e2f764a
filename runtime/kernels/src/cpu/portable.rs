//! Kernels in plain Rust, for every processor.

use super::cells::{BLOCK, BLOCK_CODES, CELL_BYTES, QUAD};
use super::floats::Floats;
use super::streams::Streams;
use super::strip::{GROUP_LANES, Level, QuadMap};

/// Bytes of a row of a block in a plane.
const LINE: usize = BLOCK * CELL_BYTES;

/// The bytes of a line, as words that the compiler keeps in vector registers.
type Line = [u64; LINE / 8];

/// Writes the indices of a quad, [4, stride], in the order of the streams.
pub(super) fn unpack(level: &Level, quad: usize, panel: &mut [u8]) {
    let stride = panel.len() / QUAD;
    let planes = level.planes_from(quad);
    for block in 0..level.cells.blocks() {
        let bytes = CELL_BYTES * (level.cells.count() - BLOCK * block).min(BLOCK);
        for row in 0..QUAD {
            let at = LINE * QUAD * block + row * bytes;
            let mut lines = [[0; LINE / 8]; 8];
            for (line, plane) in lines.iter_mut().zip(&planes[..level.count]) {
                *line = read_line(&plane[at..at + bytes]);
            }
            let codes = merge(lines);
            let out = &mut panel[row * stride + block * BLOCK_CODES..][..BLOCK_CODES];
            for (o, (out, code)) in out.chunks_exact_mut(LINE).zip(codes).enumerate() {
                write_indices(level, rotate_right(code, o), out);
            }
        }
    }
}

/// At most 64 bytes, then zeros.
fn read_line(bytes: &[u8]) -> Line {
    let mut padded = [0; LINE];
    padded[..bytes.len()].copy_from_slice(bytes);
    let mut line = [0; LINE / 8];
    for (word, bytes) in line.iter_mut().zip(padded.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    line
}

/// Codes, of which the leading bits were read, to indices.
fn write_indices(level: &Level, codes: Line, out: &mut [u8]) {
    let unread = 8 - level.count as u32;
    for (out, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(codes) {
        *out = ((word >> unread) & spread(u8::MAX >> unread)).to_ne_bytes();
    }
    if let Some(rounding) = level.rounding {
        for index in out {
            *index = index.div_ceil(2).min(rounding.top);
        }
    }
}

/// For each o the codes rotated left by o: plane p has its bit at `(7 - p + o) mod 8`.
///
/// Planes come in pairs, pairs in quads, quads in eights: at each step a bit select takes from either side the bits of
/// its planes.
fn merge([a, b, c, d, e, f, g, h]: [Line; 8]) -> [Line; 8] {
    let pair = |high, low| join::<1, 2>(0xaa, [high], [low]);
    let high = join::<2, 4>(0xcc, pair(a, b), pair(c, d));
    let low = join::<2, 4>(0xcc, pair(e, f), pair(g, h));
    join::<4, 8>(0xf0, high, low)
}

/// Twice as many planes from those that go to the bits under `mask` and those that go to the others.
fn join<const N: usize, const TWICE: usize>(mask: u8, high: [Line; N], low: [Line; N]) -> [Line; TWICE] {
    let mut all = [[0; LINE / 8]; TWICE];
    for v in 0..N {
        let mask = spread(mask.rotate_left(v as u32));
        for (i, (high, low)) in high[v].iter().zip(&low[v]).enumerate() {
            let differ = (high ^ low) & mask;
            all[v][i] = low ^ differ;
            all[v + N][i] = high ^ differ;
        }
    }
    all
}

/// Rotates each byte.
fn rotate_right(mut line: Line, by: usize) -> Line {
    let stay = spread(u8::MAX >> by);
    for word in &mut line {
        *word = (*word >> by & stay) | (*word << (8 - by) & !stay);
    }
    line
}

/// A byte in each place of a word.
fn spread(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Sums of the four rows of a panel for the streams from `first` on: of `index * code`, or with a map everything that
/// scales apply to.
pub(super) fn tile(
    panel: &[u8],
    map: Option<&QuadMap>,
    streams: &Streams,
    first: usize,
    sums: &mut [[f32; QUAD]],
) {
    let row = panel.len() / QUAD;
    for (stream, sums) in (first..).zip(sums) {
        let codes = streams.codes(stream);
        for (r, sum) in sums.iter_mut().enumerate() {
            let indices = &panel[r * row..][..row];
            *sum = match map {
                None => {
                    indices.iter().zip(codes).map(|(i, c)| i32::from(*i) * i32::from(*c)).sum::<i32>() as f32
                }
                Some(map) => scaled_dot(indices, codes, map, r, streams, stream),
            };
        }
    }
}

fn scaled_dot(
    indices: &[u8],
    codes: &[i8],
    map: &QuadMap,
    r: usize,
    streams: &Streams,
    stream: usize,
) -> f32 {
    let scales = row_of(&map.scales, r);
    let mut total = 0.0;
    let blocks = indices.chunks_exact(BLOCK_CODES).zip(codes.chunks_exact(BLOCK_CODES));
    for (block, (indices, codes)) in blocks.enumerate() {
        let mut parts = [0; LINE];
        for (indices, codes) in indices.chunks_exact(LINE).zip(codes.chunks_exact(LINE)) {
            for ((part, index), code) in parts.iter_mut().zip(indices).zip(codes) {
                *part += i32::from(*index) * i32::from(*code);
            }
        }
        for (cell, parts) in parts.as_chunks::<CELL_BYTES>().0.iter().enumerate() {
            let lane = BLOCK * block + cell;
            let unit = streams.lanes(stream).map_or(streams.unit(stream), |lanes| lanes[lane]);
            total += parts.iter().sum::<i32>() as f32 * (scales[lane] * unit);
        }
    }
    total + streams.offset_sums(stream).map_or(0.0, |x| dot(row_of(&map.offsets, r), x))
}

/// Products of the four rows of a panel with the tokens from `first` on.
pub(super) fn dots(panel: &[u8], map: &QuadMap, x: &Floats, first: usize, sums: &mut [[f32; QUAD]]) {
    let row = panel.len() / QUAD;
    for (token, sums) in (first..).zip(sums) {
        let values = x.values(token);
        for (r, sum) in sums.iter_mut().enumerate() {
            let (scales, indices) = (row_of(&map.scales, r), &panel[r * row..][..row]);
            *sum = dot(row_of(&map.offsets, r), x.sums(token));
            for (block, (indices, values)) in
                indices.chunks_exact(BLOCK_CODES).zip(values.chunks_exact(BLOCK_CODES)).enumerate()
            {
                let mut parts = [0.0; 64];
                for (indices, values) in indices.chunks(64).zip(values.chunks(64)) {
                    for ((part, index), value) in parts.iter_mut().zip(indices).zip(values) {
                        *part += f32::from(*index) * value;
                    }
                }
                *sum += (0..16)
                    .map(|c| scales[16 * block + c] * parts[4 * c..4 * c + 4].iter().sum::<f32>())
                    .sum::<f32>();
            }
        }
    }
}

/// The r-th of four rows.
fn row_of(values: &[f32], r: usize) -> &[f32] {
    let len = values.len() / QUAD;
    &values[r * len..][..len]
}

/// The product of two rows whose length is a multiple of 16.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; GROUP_LANES];
    for (a, b) in a.chunks_exact(GROUP_LANES).zip(b.chunks_exact(GROUP_LANES)) {
        for i in 0..GROUP_LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum()
}
