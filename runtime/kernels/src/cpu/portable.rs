//! Kernels in plain Rust, for every processor.

use super::cells::{BLOCK_CODES, CELL_BYTES, QUAD};
use super::floats::Floats;
use super::streams::Streams;
use super::strip::{GROUP_LANES, Level, QuadMap};

/// Writes the indices of a quad, [4, blocks * 512], in the order of the streams.
pub(super) fn unpack(level: &Level, quad: usize, panel: &mut [u8]) {
    let blocks = level.cells.blocks();
    let planes = level.planes_from(quad);
    let unread = 8 - level.count as u32;
    for block in 0..blocks {
        let cells = (level.cells.count() - 16 * block).min(16);
        for row in 0..QUAD {
            let out = &mut panel[(row * blocks + block) * BLOCK_CODES..][..BLOCK_CODES];
            out.fill(0);
            for lane in 0..CELL_BYTES * cells {
                let at = 16 * CELL_BYTES * QUAD * block + row * CELL_BYTES * cells + lane;
                let mut bytes = [0; 8];
                bytes.iter_mut().zip(planes).take(level.count).for_each(|(byte, plane)| *byte = plane[at]);
                for o in 0..8 {
                    // Plane p has the bit at (7 - p + o) mod 8: rotated right by o, at 7 - p.
                    let code = (0..level.count)
                        .fold(0, |code, p| code | bytes[p].rotate_right(o as u32) & (0x80 >> p));
                    let index = code >> unread;
                    out[64 * o + lane] = match level.rounding {
                        None => index,
                        Some(rounding) => index.div_ceil(2).min(rounding.top),
                    };
                }
            }
        }
    }
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
    for (block, (indices, codes)) in indices.chunks(BLOCK_CODES).zip(codes.chunks(BLOCK_CODES)).enumerate() {
        for cell in 0..16 {
            let mut sum = 0;
            for o in 0..8 {
                let at = 64 * o + 4 * cell;
                sum += (at..at + 4).map(|i| i32::from(indices[i]) * i32::from(codes[i])).sum::<i32>();
            }
            let lane = 16 * block + cell;
            let unit = streams.lanes(stream).map_or(streams.unit(stream), |lanes| lanes[lane]);
            total += sum as f32 * (scales[lane] * unit);
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
                indices.chunks(BLOCK_CODES).zip(values.chunks(BLOCK_CODES)).enumerate()
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
