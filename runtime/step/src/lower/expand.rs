//! Reductions, softmax and normalizations as pointwise functions and folds.

use mqc_ir::Op;
use mqc_ir::op::{Binary, Compare, GeluKind, Reduction, Unary};
use mqc_kernels::cpu::Activation;

use super::task::{Arg, Combine, Form, Func, Source, Work};
use super::{Lower, Lowering};
use crate::graph::Step;
use crate::index::{axis, count};
use crate::plain::reduce;
use crate::view::View;
use crate::{Kind, Real};

/// Rows longer than this are not held at once.
const LONGEST_ROW: usize = 1 << 16;

/// An only row longer than this is combined as a total, in parts.
const ONLY_ROW: usize = 1 << 13;

impl<T: Real> Lower<'_, T> {
    fn binary(&mut self, kind: Binary, a: &View, b: Arg) -> View {
        let shape = a.shape.clone();
        self.map(Func::Binary(kind), vec![Arg::View(a.clone()), b], &shape)
    }

    fn unary(&mut self, kind: Unary, x: &View) -> View {
        self.map(Func::Unary(kind), vec![Arg::View(x.clone())], &x.shape)
    }

    /// A new value of this shape: elements combined.
    fn combine(&mut self, combine: Combine, form: Form, arg: &View, shape: &[usize]) -> View {
        let result = self.root(Kind::Real, shape, Source::Computed);
        self.push(Work::Fold { combine, form, arg: arg.clone() }, vec![result.root]);
        result
    }

    /// Every row of a matrix, or of what is seen as one, combined: [rows, 1].
    fn rows(&mut self, combine: Combine, x: &View) -> View {
        self.combine(combine, Form::Rows(x.shape[1]), x, &[x.shape[0], 1])
    }

    pub(super) fn reduce(
        &mut self,
        step: &Step,
        kind: Reduction,
        attribute: &Option<Vec<i64>>,
        noop_with_empty_axes: bool,
    ) -> Lowering {
        let (x, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
        let listed = match attribute {
            Some(axes) => Some(axes.clone()),
            None if step.args.get(1).copied().flatten().is_none() => None,
            None => match self.integers(step, 1) {
                Some(axes) => Some(axes),
                None => return Err("the axes are not known before the run".to_owned()),
            },
        };
        let gone = reduce::reduced(x.shape.len(), listed.as_deref(), noop_with_empty_axes)?;
        if gone.iter().all(|g| !g) && noop_with_empty_axes {
            self.set(step, 0, x);
            return Ok(());
        }
        // Axes of size 1 are on whichever side is convenient.
        let wide: Vec<usize> = (0..x.shape.len()).filter(|i| x.shape[*i] != 1).collect();
        let over: usize = wide.iter().filter(|i| gone[**i]).map(|i| x.shape[*i]).product();
        let kept: usize = wide.iter().filter(|i| !gone[**i]).map(|i| x.shape[*i]).product();
        let leading = wide.is_sorted_by_key(|i| !gone[*i]);
        let trailing = wide.is_sorted_by_key(|i| gone[*i]);
        let needs_rows = kind == Reduction::LogSumExp;
        // The only row of a matrix, as in the norm of one token, is a row all the same: a pass can go on with its sum.
        let whole = gone.iter().all(|g| *g) || over == 1 || over > ONLY_ROW;
        let (x, form) = if kept == 1 && whole && !needs_rows {
            (x, Form::All)
        } else if leading && !trailing && !needs_rows {
            (x, Form::Columns(kept))
        } else {
            // The reduced axes last.
            let order = (0..gone.len()).filter(|i| !gone[*i]).chain((0..gone.len()).filter(|i| gone[*i]));
            (x.permuted(&order.collect::<Vec<_>>()), Form::Rows(over))
        };
        let longest = match form {
            Form::Rows(d) | Form::Columns(d) => d,
            Form::All => 1,
        };
        if longest > LONGEST_ROW {
            return self.plain(step);
        }
        let shape = &spec.shape;
        let result = match kind {
            Reduction::Sum => self.combine(Combine::Sum, form, &x, shape),
            Reduction::Prod => self.combine(Combine::Prod, form, &x, shape),
            Reduction::Max => self.combine(Combine::Max, form, &x, shape),
            Reduction::Min => self.combine(Combine::Min, form, &x, shape),
            Reduction::Mean => {
                let sum = self.combine(Combine::Sum, form, &x, shape);
                self.binary(Binary::Mul, &sum, Arg::Scalar(1.0 / over as f64))
            }
            Reduction::LogSum => {
                let sum = self.combine(Combine::Sum, form, &x, shape);
                self.unary(Unary::Log, &sum)
            }
            Reduction::L1 => {
                let sizes = self.unary(Unary::Abs, &x);
                self.combine(Combine::Sum, form, &sizes, shape)
            }
            Reduction::SumSquare | Reduction::L2 => {
                let squares = self.binary(Binary::Mul, &x, Arg::View(x.clone()));
                let sum = self.combine(Combine::Sum, form, &squares, shape);
                if kind == Reduction::L2 { self.unary(Unary::Sqrt, &sum) } else { sum }
            }
            Reduction::LogSumExp => {
                let x = self.matrix(x, kept, over);
                let (shift, _, sum) = self.exponentials(&x);
                let log = self.unary(Unary::Log, &sum);
                let sum = self.binary(Binary::Add, &log, Arg::View(shift));
                sum.reshaped(shape).ok_or("the sizes do not fit")?
            }
        };
        self.set(step, 0, result);
        Ok(())
    }

    /// The elements as a matrix, copied where strides cannot say it.
    fn matrix(&mut self, x: View, rows: usize, cols: usize) -> View {
        match x.reshaped(&[rows, cols]) {
            Some(view) => view,
            None => View::dense(self.dense(x).root, &[rows, cols]),
        }
    }

    /// Of every row the greatest element (0 when that is not finite), e to the power of what is less, and its sum.
    fn exponentials(&mut self, x: &View) -> (View, View, View) {
        let greatest = self.rows(Combine::Max, x);
        let size = self.unary(Unary::Abs, &greatest);
        let finite = self.map(
            Func::Compare(Compare::Less),
            vec![Arg::View(size), Arg::Scalar(f64::INFINITY)],
            &greatest.shape,
        );
        let args = vec![Arg::View(finite), Arg::View(greatest.clone()), Arg::Scalar(0.0)];
        let shift = self.map_to(Kind::Real, Func::Select, args, &greatest.shape);
        let less = self.binary(Binary::Sub, x, Arg::View(shift.clone()));
        let powers = self.unary(Unary::Exp, &less);
        let sum = self.rows(Combine::Sum, &powers);
        (shift, powers, sum)
    }

    /// activation(x + bias) * gate + residual, each part where there is an operand for it.
    pub(super) fn epilogue(&mut self, step: &Step, activation: Activation) -> Lowering {
        let (mut x, shape) = (self.view(step, 0)?, self.spec(step, 0)?.shape);
        let part = |lower: &Self, slot| lower.optional(step, slot).map(|view| lower.as_arg(view));
        if let Some(bias) = part(self, 1) {
            x = self.map(Func::Binary(Binary::Add), vec![Arg::View(x), bias], &shape);
        }
        x = match activation {
            Activation::Identity => x,
            Activation::Relu => self.unary(Unary::Relu, &x),
            Activation::Gelu | Activation::GeluTanh => {
                let erf = activation == Activation::Gelu;
                let approximate = if erf { GeluKind::Erf } else { GeluKind::Tanh };
                let func = Func::Map(Box::new(Op::Gelu { approximate }));
                self.map(func, vec![Arg::View(x)], &shape)
            }
            Activation::Silu => {
                let gate = self.unary(Unary::Sigmoid, &x);
                self.binary(Binary::Mul, &x, Arg::View(gate))
            }
        };
        for (slot, kind) in [(2, Binary::Mul), (3, Binary::Add)] {
            if let Some(other) = part(self, slot) {
                x = self.map(Func::Binary(kind), vec![Arg::View(x), other], &shape);
            }
        }
        self.set(step, 0, x);
        Ok(())
    }

    pub(super) fn softmax(&mut self, step: &Step, at: i64, flatten: bool, log: bool) -> Lowering {
        let (x, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
        let rank = x.shape.len();
        let at = if flatten && at == rank as i64 { rank } else { axis(at, rank)? };
        // The axis last, and the result in the old order.
        let order: Vec<usize> = match flatten {
            true => (0..rank).collect(),
            false => (0..rank).filter(|i| *i != at).chain([at]).collect(),
        };
        let moved = x.permuted(&order);
        let cols = if flatten { count(&x.shape[at..]) } else { x.shape[at] };
        if cols > LONGEST_ROW {
            return self.plain(step);
        }
        let shape = moved.shape.clone();
        let x = self.matrix(moved, count(&shape) / cols, cols);
        let (shift, powers, sum) = self.exponentials(&x);
        let result = if log {
            let logs = self.unary(Unary::Log, &sum);
            let less = self.binary(Binary::Sub, &x, Arg::View(shift));
            self.binary(Binary::Sub, &less, Arg::View(logs))
        } else {
            self.binary(Binary::Div, &powers, Arg::View(sum))
        };
        let result = View::dense(result.root, &shape);
        let mut back = vec![0; rank];
        order.iter().enumerate().for_each(|(to, from)| back[*from] = to);
        let result = result.permuted(&back);
        debug_assert_eq!(result.shape, spec.shape);
        self.set(step, 0, result);
        Ok(())
    }

    /// Layer normalization, or root mean square normalization when it is not centred.
    pub(super) fn normalize(&mut self, step: &Step, at: i64, epsilon: f64, centred: bool) -> Lowering {
        let (x, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
        let at = axis(at, x.shape.len())?;
        let (rows, cols) = (count(&x.shape[..at]), count(&x.shape[at..]));
        if cols > LONGEST_ROW {
            return self.plain(step);
        }
        let mut x = self.matrix(x, rows, cols);
        let scale = Arg::Scalar(1.0 / cols as f64);
        if centred {
            let sum = self.rows(Combine::Sum, &x);
            let mean = self.binary(Binary::Mul, &sum, scale.clone());
            x = self.binary(Binary::Sub, &x, Arg::View(mean.clone()));
            if let Ok(spec) = self.spec(step, 1) {
                self.set(step, 1, View::dense(mean.root, &spec.shape));
            }
        }
        let squares = self.binary(Binary::Mul, &x, Arg::View(x.clone()));
        let sum = self.rows(Combine::Sum, &squares);
        let variance = self.binary(Binary::Mul, &sum, scale);
        let variance = self.binary(Binary::Add, &variance, Arg::Scalar(epsilon));
        let deviation = self.unary(Unary::Sqrt, &variance);
        let inverse = self.unary(Unary::Reciprocal, &deviation);
        if let Ok(spec) = self.spec(step, 2) {
            self.set(step, 2, View::dense(inverse.root, &spec.shape));
        }
        let normal = self.binary(Binary::Mul, &x, Arg::View(inverse));
        let mut result = View::dense(normal.root, &spec.shape);
        for (slot, kind) in [(1, Binary::Mul), (2, Binary::Add)] {
            if step.args.get(slot).copied().flatten().is_some() {
                let parameter = self.arg(step, slot)?;
                result = self.binary(kind, &result, parameter);
            }
        }
        self.set(step, 0, result);
        Ok(())
    }
}
