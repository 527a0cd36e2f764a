//! Panels of weight rows times a matrix: the one place that multiplies.

use gemm::Parallelism;
use rayon::prelude::*;

use super::Resident;
use crate::nested::NestedError;

/// Weights per panel at most: a dequantized panel stays in the second-level cache.
const PANEL_WEIGHTS: usize = 128 * 1024;

/// The right operand of a product: element (k, j) is at `k * row_stride + j * column_stride`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right<'a> {
    pub data: &'a [f32],
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

/// Rows of a weight of `cols` columns that are dequantized together; never a function of the thread count.
pub(super) fn panel_rows(cols: usize) -> usize {
    (PANEL_WEIGHTS / cols.max(1)).clamp(64, 128)
}

/// `out[n, j] = sum_k w[n, k] * right[k, j]` for every row of the weight at its current width, where
/// `out` is `[rows, right.columns]` row-major. Panels run in parallel; the sum over k never splits.
pub(super) fn weight_times(resident: &Resident, right: Right, out: &mut [f32]) -> Result<(), NestedError> {
    let (weight, width) = (resident.weight(), resident.width());
    let (rows, cols) = (weight.rows(), weight.cols());
    if right.columns == 0 {
        return Ok(());
    }
    let panel = panel_rows(cols);
    out.par_chunks_mut(panel * right.columns).enumerate().try_for_each_init(
        Vec::new,
        |scratch, (index, out)| {
            let range = index * panel..rows.min((index + 1) * panel);
            scratch.resize(range.len() * cols, 0.0);
            weight.dequantize_rows(width, range, scratch)?;
            multiply(scratch, cols, right, out, right.columns);
            Ok(())
        },
    )
}

/// The whole weight at its current width, `[rows, cols]` row-major.
pub(super) fn dequantized(resident: &Resident) -> Result<Vec<f32>, NestedError> {
    let weight = resident.weight();
    let mut out = vec![0.0; weight.rows() * weight.cols()];
    weight.dequantize_rows(resident.width(), 0..weight.rows(), &mut out)?;
    Ok(out)
}

/// `out[n, j] = sum_k left[n, k] * right[k, j]` on one thread: `left` is `[rows, cols]` row-major and row n
/// of `out` starts at `n * out_stride`.
pub(super) fn multiply(left: &[f32], cols: usize, right: Right, out: &mut [f32], out_stride: usize) {
    let rows = left.len().checked_div(cols).unwrap_or(0);
    if rows == 0 || right.columns == 0 {
        return;
    }
    let right_end = (cols - 1) * right.row_stride + (right.columns - 1) * right.column_stride;
    let out_end = (rows - 1) * out_stride + right.columns - 1;
    assert!(right_end < right.data.len() && out_end < out.len() && right.columns <= out_stride);
    // SAFETY: `left` holds rows * cols elements, the largest offsets read from `right` and written to `out`
    // are the ends asserted above, all strides are non-negative, and `out` is borrowed mutably, hence aliases
    // nothing.
    #[allow(unsafe_code, reason = "gemm takes raw pointers")]
    unsafe {
        gemm::gemm(
            rows,
            right.columns,
            cols,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            left.as_ptr(),
            1,
            cols as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
