//! Values that are put together of parts: concatenations, halves in the other order, zeros around.

use mqc_ir::op::{Binary, Unary};

use super::task::{Arg, Func, Source, Work};
use super::{Lower, Lowering};
use crate::array::Data;
use crate::graph::Step;
use crate::index::{around, axis};
use crate::view::View;
use crate::{Kind, Real};

impl<T: Real> Lower<'_, T> {
    /// Zeros around one axis.
    pub(super) fn pad(&mut self, step: &Step) -> Lowering {
        let (x, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
        let value = self.optional(step, 2).map(|view| self.as_arg(view));
        let zero = value.is_none_or(|value| matches!(value, Arg::Scalar(v) if v == 0.0));
        let grown: Vec<usize> = (0..x.shape.len()).filter(|i| x.shape[*i] != spec.shape[*i]).collect();
        let (Some(pads), [at], true) = (self.integers(step, 1), grown.as_slice(), zero) else {
            return self.plain(step);
        };
        let listed = self.integers(step, 3);
        if listed.is_none() && self.optional(step, 3).is_some() || self.places[x.root].kind != Kind::Real {
            return self.plain(step);
        }
        let slot = match listed {
            None => Some(*at),
            Some(axes) => axes.iter().position(|a| axis(*a, x.shape.len()) == Ok(*at)),
        };
        let before = slot.and_then(|slot| pads.get(slot).copied()).and_then(|b| usize::try_from(b).ok());
        let others = pads.iter().filter(|p| **p < 0).count() == 0;
        let (Some(before), true) = (before, others) else { return self.plain(step) };
        let (_, size, inner) = around(&x.shape, *at);
        let view = self.dense(x);
        let (width, low) = (spec.shape[*at] * inner, before * inner);
        let window = Arg::Window { view, width, low, high: low + size * inner };
        let result = self.map_to(Kind::Real, Func::Copy, vec![window], &spec.shape);
        self.set(step, 0, result);
        Ok(())
    }

    /// The second half of an axis negated, before the first, as rotary embeddings have it: one pointwise value of the halves
    /// seen in the other order.
    fn rotated_half(&mut self, step: &Step, at: usize) -> Lowering<Option<View>> {
        if step.args.len() != 2 {
            return Ok(None);
        }
        let (negated, first) = (self.view(step, 0)?, self.view(step, 1)?);
        let task = self.tasks.iter().rev().find(|task| task.outputs.first() == Some(&negated.root));
        let Some(Work::Map { func: Func::Unary(Unary::Neg), args, .. }) = task.map(|task| &task.work) else {
            return Ok(None);
        };
        let [Arg::View(second)] = args.as_slice() else { return Ok(None) };
        let (size, stride) = (first.shape[at], first.strides[at]);
        let apart = View { start: second.start, ..first.clone() };
        let behind = first.start as isize + size as isize * stride == second.start as isize;
        if !negated.is_dense()
            || negated.shape != second.shape
            || apart != *second
            || !behind
            || first.len() == 0
        {
            return Ok(None);
        }
        let mut halves = second.clone();
        halves.shape.insert(at, 2);
        halves.strides.insert(at, -(size as isize) * stride);
        let mut shape = vec![1; halves.shape.len()];
        shape[at] = 2;
        let signs = self.constant(Data::Real(vec![-T::ONE, T::ONE]), &shape);
        let shape = halves.shape.clone();
        Ok(Some(self.map(Func::Binary(Binary::Mul), vec![Arg::View(halves), Arg::View(signs)], &shape)))
    }

    pub(super) fn concat(&mut self, step: &Step, at: i64) -> Lowering {
        let spec = self.spec(step, 0)?;
        let at = axis(at, spec.shape.len())?;
        if let Some(swapped) = self.rotated_half(step, at)? {
            self.set(step, 0, View::dense(swapped.root, &spec.shape));
            return Ok(());
        }
        let (outer, _, _) = around(&spec.shape, at);
        let mut parts = vec![];
        for slot in 0..step.args.len() {
            let part = self.view(step, slot)?;
            let part = self.dense(part);
            let (_, size, inner) = around(&part.shape, at);
            parts.push((part, size * inner));
        }
        let result = self.root(Kind::Real, &spec.shape, Source::Computed);
        self.push(Work::Concat { outer, parts }, vec![result.root]);
        self.set(step, 0, result);
        Ok(())
    }
}
