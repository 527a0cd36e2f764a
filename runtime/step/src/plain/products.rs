//! Matrix products.

use super::Call;
use crate::Real;
use crate::array::{Data, Slice};
use crate::index::{Offsets, broadcast, count};
use crate::product::{Matrix, product};

type One<T> = Result<Data<T>, String>;

/// A matrix product as NumPy defines it, taken apart.
pub(crate) struct Shapes {
    pub batch: Vec<usize>,
    pub a_batch: Vec<usize>,
    pub b_batch: Vec<usize>,
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

pub(crate) fn shapes(a: &[usize], b: &[usize]) -> Result<Shapes, String> {
    let (a_batch, m, k) = match a {
        [] => return Err("the left operand is a scalar".to_owned()),
        [k] => (vec![], 1, *k),
        [batch @ .., m, k] => (batch.to_vec(), *m, *k),
    };
    let (b_batch, kb, n) = match b {
        [] => return Err("the right operand is a scalar".to_owned()),
        [k] => (vec![], *k, 1),
        [batch @ .., k, n] => (batch.to_vec(), *k, *n),
    };
    if k != kb {
        return Err(format!("the inner dimensions of {a:?} and {b:?} differ"));
    }
    let rank = a_batch.len().max(b_batch.len());
    let at = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |j| shape[j]);
    let batch = (0..rank)
        .map(|i| match (at(&a_batch, i), at(&b_batch, i)) {
            (1, d) | (d, 1) => Ok(d),
            (x, y) if x == y => Ok(x),
            _ => Err(format!("the batches of {a:?} and {b:?} do not broadcast")),
        })
        .collect::<Result<_, _>>()?;
    Ok(Shapes { batch, a_batch, b_batch, m, k, n })
}

pub(super) fn matmul<T: Real>(call: &Call<T>) -> One<T> {
    let (a, b) = (call.arg(0)?, call.arg(1)?);
    let s = shapes(a.shape, b.shape)?;
    let starts = |own: &[usize]| Offsets::new(&s.batch, &broadcast(own, &s.batch), 0);
    let pairs = starts(&s.a_batch).zip(starts(&s.b_batch)).map(|(x, y)| (x * s.m * s.k, y * s.k * s.n));
    match (a.data, b.data) {
        (Slice::Real(x), Slice::Real(y)) => {
            let mut out = vec![T::ZERO; count(&s.batch) * s.m * s.n];
            for (i, (xs, ys)) in pairs.enumerate() {
                let (xm, ym) = (Matrix::dense(xs, s.m, s.k), Matrix::dense(ys, s.k, s.n));
                product(x, xm, y, ym, &mut out, Matrix::dense(i * s.m * s.n, s.m, s.n), false);
            }
            Ok(Data::Real(out))
        }
        (Slice::Int(x), Slice::Int(y)) => {
            let mut out = Vec::with_capacity(count(&s.batch) * s.m * s.n);
            for (xs, ys) in pairs {
                for (row, col) in (0..s.m).flat_map(|row| (0..s.n).map(move |col| (row, col))) {
                    let term = |i: usize| x[xs + row * s.k + i].wrapping_mul(y[ys + i * s.n + col]);
                    out.push((0..s.k).map(term).fold(0, i64::wrapping_add));
                }
            }
            Ok(Data::Int(out))
        }
        _ => Err(format!("operands have types {} and {}, expected numbers of one type", a.dtype, b.dtype)),
    }
}

pub(super) fn gemm<T: Real>(call: &Call<T>, alpha: f32, beta: f32, trans_a: bool, trans_b: bool) -> One<T> {
    let ((a, a_shape), (b, b_shape)) = (call.real(0)?, call.real(1)?);
    let matrix = |shape: &[usize], swap: bool| match shape {
        [rows, cols] if swap => Ok(Matrix::dense(0, *rows, *cols).transposed()),
        [rows, cols] => Ok(Matrix::dense(0, *rows, *cols)),
        _ => Err(format!("an operand has shape {shape:?}, expected a matrix")),
    };
    let (am, bm) = (matrix(a_shape, trans_a)?, matrix(b_shape, trans_b)?);
    if am.cols != bm.rows {
        return Err(format!("the inner dimensions of {a_shape:?} and {b_shape:?} differ"));
    }
    let mut out = vec![T::ZERO; am.rows * bm.cols];
    product(a, am, b, bm, &mut out, Matrix::dense(0, am.rows, bm.cols), false);
    let (alpha, beta) = (T::of(f64::from(alpha)), T::of(f64::from(beta)));
    out.iter_mut().for_each(|v| *v = *v * alpha);
    if call.optional(2).is_some() {
        let (c, c_shape) = call.real(2)?;
        let to = [am.rows, bm.cols];
        for (v, at) in out.iter_mut().zip(Offsets::new(&to, &broadcast(c_shape, &to), 0)) {
            *v += beta * c[at];
        }
    }
    Ok(Data::Real(out))
}
