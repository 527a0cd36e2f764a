//! Products of floats that cuBLAS makes: those whose factors are row-major matrices, or transposed ones, at equal distances.

use mqc_cuda::device::{Gemm, Side};

use super::single::FLAT;
use crate::lower::task::{Factor, Product};
use crate::view::Root;

/// A product, and where the values of its factors begin.
#[derive(Clone, Debug)]
pub(super) struct Blas {
    pub gemm: Gemm,
    /// a, b: the value and the place of the first element in it.
    pub factors: [(Root, usize); 2],
    pub to: Root,
}

/// The call for a product; `None` where the library takes no such factors, or where a few rows read a matrix once, which
/// our own kernel does as well.
pub(super) fn call(product: &Product, to: Root) -> Option<Blas> {
    let Product { m, k, n, a, b } = product;
    if *m <= FLAT || [*k, *n].contains(&0) {
        return None;
    }
    let gemm =
        Gemm { batches: a.offsets.len(), m: *m, k: *k, n: *n, a: side(a, *m, *k)?, b: side(b, *k, *n)? };
    let start = |factor: &Factor| (factor.view.root, factor.view.start + factor.offsets[0]);
    Some(Blas { gemm, factors: [start(a), start(b)], to })
}

fn side(factor: &Factor, rows: usize, cols: usize) -> Option<Side> {
    let (first, second) = (*factor.offsets.first()?, factor.offsets.get(1).copied());
    let step = second.map_or(Some(0), |second| second.checked_sub(first))?;
    let regular = factor.offsets.iter().enumerate().all(|(batch, offset)| *offset == first + batch * step);
    // The stride along an axis of one element says nothing.
    let lines = |along: isize, across: isize, length: usize, count: usize| {
        let row = if count == 1 { length } else { usize::try_from(across).ok()? };
        ((along == 1 || length == 1) && row >= length).then_some(row)
    };
    let plain = lines(factor.col_stride, factor.row_stride, cols, rows);
    let turned = || lines(factor.row_stride, factor.col_stride, rows, cols);
    let (transposed, row) = match plain {
        Some(row) => (false, row),
        None => (true, turned()?),
    };
    regular.then_some(Side { transposed, row, step })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::View;

    fn factor(shape: [usize; 2], strides: [isize; 2], offsets: &[usize]) -> Factor {
        let view = View { start: 3, ..View::dense(7, &shape) };
        Factor { view, offsets: offsets.to_vec(), row_stride: strides[0], col_stride: strides[1] }
    }

    #[test]
    fn what_the_library_takes() {
        let side = |strides, offsets: &[usize]| side(&factor([9, 5], strides, offsets), 9, 5);
        let some = |transposed, row, step| Some(Side { transposed, row, step });
        assert_eq!(side([5, 1], &[0]), some(false, 5, 0));
        assert_eq!(side([8, 1], &[40, 140, 240]), some(false, 8, 100));
        assert_eq!(side([1, 9], &[0, 0]), some(true, 9, 0));
        assert_eq!(side([4, 1], &[0]), None, "rows that overlap");
        assert_eq!(side([10, 2], &[0]), None, "columns apart");
        assert_eq!(side([0, 1], &[0]), None, "one row repeated");
        assert_eq!(side([5, 1], &[0, 0, 45]), None, "heads that share a matrix in twos");
        assert_eq!(side([5, 1], &[45, 0]), None, "from the end");
        assert_eq!(super::side(&factor([1, 5], [0, 1], &[0]), 1, 5), some(false, 5, 0));
        assert_eq!(super::side(&factor([9, 1], [2, 0], &[0]), 9, 1), some(false, 2, 0));
    }

    #[test]
    fn a_few_rows_are_left() {
        let product = |m: usize| Product {
            m,
            k: 5,
            n: 4,
            a: factor([m, 5], [5, 1], &[10]),
            b: factor([5, 4], [1, 5], &[0]),
        };
        assert!(call(&product(FLAT), 1).is_none());
        let call = call(&product(FLAT + 1), 1).unwrap();
        assert_eq!((call.factors, call.to), ([(7, 13), (7, 3)], 1));
    }
}
