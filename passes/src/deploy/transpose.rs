//! Transposing matrices.

/// `values` [rows, cols] as [cols, rows].
pub fn transposed<T: Copy + Default>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    // Some rows at a time, so that writes stay near each other.
    const ROWS: usize = 64;
    let mut out = vec![T::default(); values.len()];
    for first in (0..rows).step_by(ROWS) {
        let last = rows.min(first + ROWS);
        for col in 0..cols {
            for row in first..last {
                out[col * rows + row] = values[row * cols + col];
            }
        }
    }
    out
}
