//! `y = x . W^T + bias` with a nested weight.

use rayon::prelude::*;

use super::Resident;
use super::product::{Right, weight_times};
use crate::nested::NestedError;

/// Output rows transposed together, one cache line of the transposed product.
const LINE: usize = 16;

/// `y[m, n] = sum_k x[m, k] * w[n, k] + bias[n]`, with `x` `[m, K]`, the weight `[N, K]` at its resident's
/// current width, `bias` `[N]` and `y` `[m, N]`, all row-major. The result does not depend on the number of
/// threads.
///
/// # Errors
/// If the weight cannot be read at that width.
pub fn nested_matmul(resident: &Resident, x: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>, NestedError> {
    let (n, k) = (resident.weight().rows(), resident.weight().cols());
    let m = x.len().checked_div(k).unwrap_or(0);
    let right = Right { data: x, columns: m, row_stride: 1, column_stride: k };
    let mut transposed = vec![0.0; n * m];
    weight_times(resident, right, &mut transposed)?;
    let mut y = if m == 1 { transposed } else { transpose(&transposed, n, m) };
    if let Some(bias) = bias {
        y.chunks_mut(n.max(1)).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
    Ok(y)
}

/// `[n, m]` to `[m, n]`, row-major.
fn transpose(from: &[f32], n: usize, m: usize) -> Vec<f32> {
    let mut to = vec![0.0; n * m];
    to.par_chunks_mut((LINE * n).max(1)).enumerate().for_each(|(block, to)| {
        let (first, lines) = (block * LINE, to.len() / n);
        for (column, source) in from.chunks_exact(m).enumerate() {
            for (line, value) in source[first..first + lines].iter().enumerate() {
                to[line * n + column] = *value;
            }
        }
    });
    to
}
