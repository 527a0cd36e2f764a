//! Matrix products on strided operands.

use mqc_ir::op::Binary;

use super::task::{Arg, Factor, Func, Product, Source, Work};
use super::{Lower, Lowering};
use crate::graph::Step;
use crate::index::{Offsets, count};
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
        let factor = |view: &View| Factor {
            view: view.clone(),
            offsets: Offsets::new(&view.shape[..rank - 2], &view.strides[..rank - 2], 0).collect(),
            row_stride: view.strides[rank - 2],
            col_stride: view.strides[rank - 1],
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
