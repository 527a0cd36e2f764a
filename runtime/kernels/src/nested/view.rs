//! A float weight as rows and columns, however it lies in memory.

use std::ops::Range;

use super::error::NestedError;

/// Edge of the square tiles in which a strided view is copied.
const TILE: usize = 16;

/// A matrix of weights [rows, cols] over borrowed data, with strides in elements.
#[derive(Debug, Clone, Copy)]
pub struct WeightView<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> WeightView<'a> {
    /// A view whose element (i, j) is `data[i * row_stride + j * col_stride]`.
    ///
    /// # Errors
    /// An element lies outside `data`.
    pub fn new(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<WeightView<'a>, NestedError> {
        let last = |count: usize, stride: usize| (count - 1).checked_mul(stride);
        let fits = rows == 0
            || cols == 0
            || last(rows, row_stride)
                .zip(last(cols, col_stride))
                .and_then(|(row, col)| row.checked_add(col))
                .is_some_and(|last| last < data.len());
        if fits && rows.checked_mul(cols).is_some() {
            Ok(WeightView { data, rows, cols, row_stride, col_stride })
        } else {
            Err(NestedError::View { rows, cols, row_stride, col_stride, len: data.len() })
        }
    }

    /// A view of `data` [rows, cols] in row-major order.
    ///
    /// # Errors
    /// `data` is too short.
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Result<WeightView<'a>, NestedError> {
        WeightView::new(data, rows, cols, cols, 1)
    }

    /// A view [n, k] of a MatMul weight that lies as [k, n] in row-major order.
    ///
    /// # Errors
    /// `data` is too short.
    pub fn transposed(data: &'a [f32], k: usize, n: usize) -> Result<WeightView<'a>, NestedError> {
        WeightView::new(data, n, k, 1, n)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How many rows to treat at a time: about 64 K weights, and a tile's worth when columns are not adjacent.
    pub(super) fn block_rows(&self) -> usize {
        let least = if self.col_stride == 1 { 1 } else { 2 * TILE };
        (65_536 / self.cols.max(1)).max(least)
    }

    /// The weights of `rows` in row-major order: borrowed where they lie so, otherwise copied into `scratch`.
    /// `rows` lies within the view.
    pub(super) fn block<'b>(&self, rows: Range<usize>, scratch: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let count = rows.len() * self.cols;
        if count == 0 {
            return &[];
        }
        if self.col_stride == 1 && self.row_stride == self.cols {
            return &self.data[rows.start * self.cols..][..count];
        }
        scratch.resize(count, 0.0);
        let mut tile = [[0.0; TILE]; TILE];
        for row in (0..rows.len()).step_by(TILE) {
            let tile_rows = TILE.min(rows.len() - row);
            for col in (0..self.cols).step_by(TILE) {
                let tile_cols = TILE.min(self.cols - col);
                let origin = (rows.start + row) * self.row_stride + col * self.col_stride;
                self.load_tile(origin, tile_rows, tile_cols, &mut tile);
                for (i, values) in tile.iter().enumerate().take(tile_rows) {
                    let target = (row + i) * self.cols + col;
                    scratch[target..target + tile_cols].copy_from_slice(&values[..tile_cols]);
                }
            }
        }
        scratch
    }

    /// Reads a tile along the axis that is nearer in memory, so that each cache line is read once.
    fn load_tile(&self, origin: usize, rows: usize, cols: usize, tile: &mut [[f32; TILE]; TILE]) {
        if self.row_stride == 1 {
            for col in 0..cols {
                let source = &self.data[origin + col * self.col_stride..][..rows];
                for (values, &value) in tile.iter_mut().zip(source) {
                    values[col] = value;
                }
            }
        } else {
            for (row, values) in tile.iter_mut().enumerate().take(rows) {
                for (col, value) in values.iter_mut().enumerate().take(cols) {
                    *value = self.data[origin + row * self.row_stride + col * self.col_stride];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_holds_the_elements_of_its_rows(
            rows in 1usize..40, cols in 1usize..40, layout in 0usize..3, from in 0usize..40, count in 0usize..40,
        ) {
            let (row_stride, col_stride) = [(cols, 1), (1, rows), (3 * cols + 1, 3)][layout];
            let data: Vec<f32> = (0..rows * (3 * cols + 1)).map(|i| i as f32).collect();
            let view = WeightView::new(&data, rows, cols, row_stride, col_stride).unwrap();
            let from = from.min(rows);
            let to = (from + count).min(rows);
            let mut scratch = vec![-1.0; 7];
            let block = view.block(from..to, &mut scratch);
            let expected: Vec<f32> = (from..to)
                .flat_map(|i| (0..cols).map(move |j| (i * row_stride + j * col_stride) as f32))
                .collect();
            prop_assert_eq!(block, expected);
        }
    }

    #[test]
    fn a_view_stays_inside_its_data() {
        let data = [0.0; 6];
        assert!(WeightView::row_major(&data, 2, 3).is_ok());
        assert!(WeightView::transposed(&data, 3, 2).is_ok());
        assert!(WeightView::row_major(&data, 0, 9).is_ok());
        assert!(matches!(WeightView::row_major(&data, 3, 3), Err(NestedError::View { len: 6, .. })));
        assert!(WeightView::new(&data, 2, 2, usize::MAX, 1).is_err());
        assert!(WeightView::new(&data, 2, 2, usize::MAX - 1, 3).is_err());
        assert!(WeightView::new(&data, usize::MAX, 2, 0, 0).is_err());
    }
}
