//! Matrix products on strided operands.

use mqc_ir::op::Binary;

use super::task::{Arg, Factor, Func, Product, Source, Work};
use super::{Lower, Lowering};
use crate::graph::Step;
use crate::index::{Offsets, count, strides};
use crate::plain::products;
use crate::view::View;
use crate::{Kind, Real};

impl<T: Real> Lower<'_, T> {
    pub(super) fn matmul(&mut self, step: &Step) -> Lowering {
        let (a, b, spec) = (self.view(step, 0)?, self.view(step, 1)?, self.spec(step, 0)?);
        let s = products::shapes(&a.shape, &b.shape)?;
        let whole = |batch: &[usize], rows: usize, cols: usize| [batch, &[rows, cols]].concat();
        let fit = |view: View, own: Vec<usize>, to: Vec<usize>| {
            view.reshaped(&own).map(|v| v.broadcast(&to)).ok_or("the sizes do not fit")
        };
        let a = fit(a, whole(&s.a_batch, s.m, s.k), whole(&s.batch, s.m, s.k))?;
        let b = fit(b, whole(&s.b_batch, s.k, s.n), whole(&s.batch, s.k, s.n))?;
        let result = self.product(a, b, &spec.shape);
        self.set(step, 0, result);
        Ok(())
    }

    /// a [batch.., m, k] times b [batch.., k, n].
    fn product(&mut self, mut a: View, mut b: View, shape: &[usize]) -> View {
        let rank = a.shape.len();
        let batches = count(&a.shape[..rank - 2]);
        let (m, k, n) = (a.shape[rank - 2], a.shape[rank - 1], b.shape[rank - 1]);
        // One matrix on the right: the batch is more rows on the left.
        let shared = (0..rank - 2).all(|i| b.shape[i] == 1 || b.strides[i] == 0);
        if shared && let Some(joined) = a.reshaped(&[batches * m, k]) {
            a = joined;
            b = View { shape: vec![k, n], strides: b.strides[rank - 2..].to_vec(), ..b };
        }
        let rank = a.shape.len();
        let factor = |view: &View| match self.copied.get(&view.root).and_then(|of| through(view, of)) {
            Some(factor) => factor,
            None => Factor {
                view: view.clone(),
                offsets: Offsets::new(&view.shape[..rank - 2], &view.strides[..rank - 2], 0).collect(),
                row_stride: view.strides[rank - 2],
                col_stride: view.strides[rank - 1],
            },
        };
        let product = Product { m: a.shape[rank - 2], k, n, a: factor(&a), b: factor(&b) };
        let result = self.root(Kind::Real, shape, Source::Computed);
        self.push(Work::Product(product), vec![result.root]);
        result
    }

    pub(super) fn gemm(
        &mut self,
        step: &Step,
        alpha: f64,
        beta: f64,
        trans_a: bool,
        trans_b: bool,
    ) -> Lowering {
        let (a, b, spec) = (self.view(step, 0)?, self.view(step, 1)?, self.spec(step, 0)?);
        let turn = |view: View, swap: bool| if swap { view.permuted(&[1, 0]) } else { view };
        let mut result = self.product(turn(a, trans_a), turn(b, trans_b), &spec.shape);
        let scaled = |lower: &mut Self, x: Arg, factor: f64, shape: &[usize]| match factor {
            1.0 => x,
            _ => Arg::View(lower.map(Func::Binary(Binary::Mul), vec![x, Arg::Scalar(factor)], shape)),
        };
        if let Arg::View(view) = scaled(self, Arg::View(result.clone()), alpha, &spec.shape) {
            result = view;
        }
        if let Some(c) = self.optional(step, 2) {
            let shape = c.shape.clone();
            let c = self.as_arg(c);
            let c = scaled(self, c, beta, &shape);
            result = self.map(Func::Binary(Binary::Add), vec![Arg::View(result), c], &spec.shape);
        }
        self.set(step, 0, result);
        Ok(())
    }
}

/// Matrices seen through a dense copy of a view: what the copy would repeat, as keys of several heads, need not be copied.
/// `None` where the matrices have no strides there.
fn through(view: &View, of: &View) -> Option<Factor> {
    let rank = view.shape.len() - 2;
    let dense = strides(&of.shape);
    let index = |place: usize, axis: usize| place / dense[axis] as usize % of.shape[axis];
    // How far a step in the copy is in the view, as long as it stays on one axis.
    let along = |place: usize, step: isize, count: usize| {
        if count == 1 || step == 0 {
            return Some((None, 0));
        }
        let axis = (0..of.shape.len()).find(|axis| {
            let by = step / dense[*axis];
            let last = index(place, *axis) as isize + by * (count as isize - 1);
            of.shape[*axis] > 1 && step % dense[*axis] == 0 && (0..of.shape[*axis] as isize).contains(&last)
        })?;
        Some((Some(axis), step / dense[axis] * of.strides[axis]))
    };
    let mut offsets = vec![];
    let mut found = None;
    for offset in Offsets::new(&view.shape[..rank], &view.strides[..rank], view.start as isize) {
        let (rows, row_stride) = along(offset, view.strides[rank], view.shape[rank])?;
        let (cols, col_stride) = along(offset, view.strides[rank + 1], view.shape[rank + 1])?;
        if rows.is_some() && rows == cols
            || *found.get_or_insert((row_stride, col_stride)) != (row_stride, col_stride)
        {
            return None;
        }
        let place =
            (0..of.shape.len()).map(|axis| index(offset, axis) as isize * of.strides[axis]).sum::<isize>();
        offsets.push(usize::try_from(place).ok()?);
    }
    let (row_stride, col_stride) = found?;
    Some(Factor { view: View { start: of.start, ..of.clone() }, offsets, row_stride, col_stride })
}
