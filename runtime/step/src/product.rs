//! Products of strided matrices.
#![expect(unsafe_code, reason = "the product of the gemm crate takes pointers")]

use std::marker::PhantomData;

use crate::Real;
use crate::lower::task::Product;
use crate::workers::Workers;

/// A strided matrix within a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub start: usize,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: isize,
    pub col_stride: isize,
}

impl Matrix {
    pub fn dense(start: usize, rows: usize, cols: usize) -> Matrix {
        Matrix { start, rows, cols, row_stride: cols as isize, col_stride: 1 }
    }

    pub fn transposed(self) -> Matrix {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Whether every element lies within `len`.
    fn fits(&self, len: usize) -> bool {
        if self.rows == 0 || self.cols == 0 {
            return true;
        }
        let reach = |size: usize, stride: isize| (size - 1) as isize * stride;
        let (rows, cols) = (reach(self.rows, self.row_stride), reach(self.cols, self.col_stride));
        let start = self.start as isize;
        start + rows.min(0) + cols.min(0) >= 0 && start + rows.max(0) + cols.max(0) < len as isize
    }
}

/// c = a b, or c += a b.
///
/// # Panics
/// When sizes differ or an element lies outside its slice.
pub(crate) fn product<T: Real>(
    a: &[T],
    a_matrix: Matrix,
    b: &[T],
    b_matrix: Matrix,
    c: &mut [T],
    c_matrix: Matrix,
    accumulate: bool,
) {
    let (m, n) = (c_matrix.rows, c_matrix.cols);
    assert!(a_matrix.rows == m && b_matrix.cols == n && b_matrix.rows == a_matrix.cols);
    assert!(a_matrix.fits(a.len()) && b_matrix.fits(b.len()) && c_matrix.fits(c.len()));
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: every element of the three matrices lies within its slice, and c is not shared.
    unsafe { multiply(a, a_matrix, b, b_matrix, c.as_mut_ptr(), c_matrix, accumulate) };
}

/// # Safety
/// The sizes fit, every element lies within its slice, and nothing else reads or writes those of c.
unsafe fn multiply<T: Real>(
    a: &[T],
    a_matrix: Matrix,
    b: &[T],
    b_matrix: Matrix,
    c: *mut T,
    c_matrix: Matrix,
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            c_matrix.rows,
            c_matrix.cols,
            a_matrix.cols,
            c.add(c_matrix.start),
            c_matrix.col_stride,
            c_matrix.row_stride,
            accumulate,
            a.as_ptr().wrapping_add(a_matrix.start),
            a_matrix.col_stride,
            a_matrix.row_stride,
            b.as_ptr().wrapping_add(b_matrix.start),
            b_matrix.col_stride,
            b_matrix.row_stride,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Multiplications that one thread does at least, and the least rows or columns of a tile. An element of a product is
/// summed in an order that depends on k alone while rows or columns are more than 64, so tiles do not change results.
const TILE: usize = 1 << 20;
const SIDE: usize = 128;

/// c [batch, m, n] = a [m, k] b [k, n] in every batch.
///
/// # Panics
/// When an element of a matrix lies outside its slice.
pub(crate) fn batched<T: Real>(plan: &Product, a: &[T], b: &[T], c: &mut [T], workers: &Workers) {
    let (m, k, n) = (plan.m, plan.k, plan.n);
    let batches = plan.a.offsets.len();
    let left = |i: usize| Matrix {
        start: plan.a.view.start + plan.a.offsets[i],
        rows: m,
        cols: k,
        row_stride: plan.a.row_stride,
        col_stride: plan.a.col_stride,
    };
    let right = |i: usize| Matrix {
        start: plan.b.view.start + plan.b.offsets[i],
        rows: k,
        cols: n,
        row_stride: plan.b.row_stride,
        col_stride: plan.b.col_stride,
    };
    let work = m * k * n;
    let tiles = workers.count().min(work / TILE).min(m.max(n) / SIDE);
    if batches > 1 || tiles < 2 {
        let together = (TILE / work.max(1)).max(1);
        workers.chunks(&mut c[..batches * m * n], together * m * n, |index, chunk| {
            for (i, c) in chunk.chunks_mut((m * n).max(1)).enumerate() {
                let batch = index * together + i;
                product(a, left(batch), b, right(batch), c, Matrix::dense(0, m, n), false);
            }
        });
        return;
    }
    let (left, right) = (left(0), right(0));
    if m >= n {
        let rows = m.div_ceil(tiles).next_multiple_of(16);
        workers.chunks(&mut c[..m * n], rows * n, |index, chunk| {
            let left = left.rows(index * rows, chunk.len() / n);
            product(a, left, b, right, chunk, Matrix::dense(0, left.rows, n), false);
        });
        return;
    }
    let cols = n.div_ceil(tiles).next_multiple_of(64);
    let columns = Columns::new(&mut c[..m * n], n);
    workers.run(n.div_ceil(cols), |index| {
        let first = index * cols;
        let right = right.transposed().rows(first, cols.min(n - first)).transposed();
        columns.product(a, left, b, right, first);
    });
}

impl Matrix {
    /// Some of its rows.
    fn rows(self, first: usize, rows: usize) -> Matrix {
        Matrix { start: (self.start as isize + first as isize * self.row_stride) as usize, rows, ..self }
    }
}

/// The columns of a dense matrix, which several threads write to.
struct Columns<'a, T> {
    data: *mut T,
    len: usize,
    n: usize,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: `product` writes only the columns that it is given; `batched` gives every column to one call.
unsafe impl<T: Real> Sync for Columns<'_, T> {}

impl<'a, T: Real> Columns<'a, T> {
    fn new(c: &'a mut [T], n: usize) -> Columns<'a, T> {
        Columns { data: c.as_mut_ptr(), len: c.len(), n, matrix: PhantomData }
    }

    /// Writes a b to the columns from `first` on.
    fn product(&self, a: &[T], left: Matrix, b: &[T], right: Matrix, first: usize) {
        let c = Matrix { start: first, cols: right.cols, ..Matrix::dense(0, left.rows, self.n) };
        assert!(left.cols == right.rows && first + right.cols <= self.n);
        assert!(left.fits(a.len()) && right.fits(b.len()) && c.fits(self.len));
        // SAFETY: the elements lie within their slices; no other call writes these columns.
        unsafe { multiply(a, left, b, right, self.data, c, false) };
    }
}
