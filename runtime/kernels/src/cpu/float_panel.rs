//! Many float tokens: a panel of float weights and a blocked product.

use gemm::Parallelism;

use super::cells::{BLOCK_CODES, QUAD};
use super::finish::{Finish, Out};
use super::matmul::{MatMul, with_scratch};
use super::strip::{Level, STRIP};

/// Weights of a panel at most: it stays in the second-level cache. A panel has whole strips.
const PANEL_WEIGHTS: usize = 128 << 10;

/// Multiplies `x`, [tokens, columns], panel by panel.
pub(super) fn multiply(matmul: &MatMul, finish: &Finish, x: &[f32], out: &Out) {
    let (isa, level, cols) = (matmul.isa, &finish.level, finish.level.cells.cols());
    let (strips, strip_of) = (matmul.strip_count(), matmul.strips());
    let panel_strips = (PANEL_WEIGHTS / (STRIP * cols).max(1)).clamp(4, 8);
    let indices_len = QUAD * level.cells.stride();
    matmul.threads.run(strips.div_ceil(panel_strips), |task| {
        let strips = task * panel_strips..strips.min((task + 1) * panel_strips);
        let rows = STRIP * strips.len();
        let mut indices = vec![0; indices_len];
        with_scratch(|scratch| {
            scratch.floats.clear();
            scratch.floats.resize(rows * cols + rows * finish.tokens, 0.0);
            let (weights, products) = scratch.floats.split_at_mut(rows * cols);
            for (strip, weights) in strips.clone().zip(weights.chunks_mut((STRIP * cols).max(1))) {
                let (quad, quads) = strip_of(strip);
                for (quad, weights) in (quad..quad + quads).zip(weights.chunks_mut(QUAD * cols)) {
                    isa.unpack(level, quad, &mut indices);
                    dequantize(level, quad, &indices, weights);
                }
            }
            product(weights, cols, x, finish.tokens, products);
            let mut sums = vec![[0.0; STRIP]; finish.tokens];
            for (i, strip) in strips.enumerate() {
                for (token, sums) in sums.iter_mut().enumerate() {
                    sums.copy_from_slice(&products[token * rows + STRIP * i..][..STRIP]);
                }
                isa.finish(finish, QUAD * strip_of(strip).0, &sums, 0, out);
            }
        });
    });
}

/// The weights of a quad, [4, columns], from their indices in the order of the streams.
fn dequantize(level: &Level, quad: usize, indices: &[u8], weights: &mut [f32]) {
    let (cells, row_len) = (level.cells, indices.len() / QUAD);
    for (r, weights) in weights.chunks_mut(cells.cols()).enumerate() {
        let indices = &indices[r * row_len..][..row_len];
        for cell in 0..cells.count() {
            let group = cell / cells.cells_per_group();
            let row = QUAD * quad + r;
            let (scale, offset) = (level.step * level.scale_of(row, group), level.offset_of(row, group));
            let first = cell / 16 * BLOCK_CODES + cell % 16 * 4;
            let columns = cells.columns(cell);
            for (o, weights) in weights[columns].chunks_mut(4).enumerate() {
                let indices = &indices[first + 64 * o..][..4];
                weights
                    .iter_mut()
                    .zip(indices)
                    .for_each(|(w, index)| *w = scale * f32::from(*index) + offset);
            }
        }
    }
}

/// `products[token, row] = sum over k of weights[row, k] * x[token, k]`, on this thread.
fn product(weights: &[f32], cols: usize, x: &[f32], tokens: usize, products: &mut [f32]) {
    if cols == 0 || tokens == 0 {
        return;
    }
    let rows = weights.len() / cols;
    assert!(weights.len() == rows * cols && x.len() == tokens * cols && products.len() == rows * tokens);
    // SAFETY: the three matrices are as long as asserted, row-major with these strides, and `products` is borrowed mutably.
    #[expect(unsafe_code, reason = "gemm takes raw pointers")]
    unsafe {
        gemm::gemm(
            tokens,
            rows,
            cols,
            products.as_mut_ptr(),
            1,
            rows as isize,
            false,
            x.as_ptr(),
            1,
            cols as isize,
            weights.as_ptr(),
            cols as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
