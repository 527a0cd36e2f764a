//! Steps that move no element: they become views, or constants.

use mqc_ir::Op;

use super::task::Source;
use super::{Lower, Lowering};
use crate::array::Data;
use crate::graph::Step;
use crate::index::axis;
use crate::plain::{layout, slice};
use crate::{Array, Kind, Real};

impl<T: Real> Lower<'_, T> {
    /// Whether the step was one of these.
    pub(super) fn shape_only(&mut self, step: &Step) -> Lowering<bool> {
        match &step.op {
            Op::Identity
            | Op::Reshape { .. }
            | Op::Squeeze { .. }
            | Op::Unsqueeze { .. }
            | Op::Flatten { .. } => {
                let (view, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
                let view = match view.reshaped(&spec.shape) {
                    Some(view) => view,
                    None => {
                        let dense = self.dense(view);
                        dense.reshaped(&spec.shape).ok_or("the sizes do not fit")?
                    }
                };
                self.set(step, 0, view);
            }
            Op::Dropout { .. } => {
                let view = self.view(step, 0)?;
                if step.outputs.len() > 1 {
                    let mask = self.constant(Data::Bool(vec![true]), &[]).broadcast(&view.shape);
                    self.set(step, 1, mask);
                }
                self.set(step, 0, view);
            }
            Op::Transpose { perm } => {
                let view = self.view(step, 0)?;
                let order = layout::permutation(perm, view.shape.len())?;
                self.set(step, 0, view.permuted(&order));
            }
            Op::Expand => {
                let (view, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
                self.set(step, 0, view.broadcast(&spec.shape));
            }
            Op::Tile => {
                let (view, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
                let Some(repeats) = self.integers(step, 1).filter(|_| view.len() > 0) else {
                    return Ok(false);
                };
                // Every axis behind one of its repetitions, which have no stride.
                let (mut alone, mut wide) = (vec![], vec![]);
                for (size, repeat) in view.shape.iter().zip(&repeats) {
                    alone.extend([1, *size]);
                    wide.extend([usize::try_from(*repeat).map_err(|_| "a repetition is negative")?, *size]);
                }
                if wide.len() != 2 * view.shape.len() || wide.contains(&0) {
                    return Ok(false);
                }
                let tiled = view.reshaped(&alone).ok_or("the sizes do not fit")?.broadcast(&wide);
                let view = match tiled.reshaped(&spec.shape) {
                    Some(view) => view,
                    None => self.dense(tiled).reshaped(&spec.shape).ok_or("the sizes do not fit")?,
                };
                self.set(step, 0, view);
            }
            Op::ConstantOfShape { value } => {
                let spec = self.spec(step, 0)?;
                let data = match value {
                    None => Data::Real(vec![T::ZERO]),
                    Some(value) => Array::from_tensor(value).map_err(|e| e.to_string())?.into_data(),
                };
                let filled = self.constant(data, &[]).broadcast(&spec.shape);
                self.set(step, 0, filled);
            }
            Op::Slice => {
                let (mut view, spec) = (self.view(step, 0)?, self.spec(step, 0)?);
                let (Some(starts), axes, steps) =
                    (self.integers(step, 1), self.integers(step, 3), self.integers(step, 4))
                else {
                    return Ok(false);
                };
                let given = |slot: usize| step.args.get(slot).copied().flatten().is_some();
                if given(3) && axes.is_none() || given(4) && steps.is_none() || view.len() == 0 {
                    return Ok(false);
                }
                let plan = slice::plan(&view.shape, &starts, axes.as_deref(), steps.as_deref())?;
                slice::check(&plan, &view.shape, &spec.shape)?;
                for (i, (start, by)) in plan.iter().enumerate() {
                    view = view.cut(i, *start, *by, spec.shape[i]);
                }
                self.set(step, 0, view);
            }
            Op::Split { axis: at, sizes: _, num_outputs: _ } => {
                let view = self.view(step, 0)?;
                let at = axis(*at, view.shape.len())?;
                let mut start = 0;
                for slot in 0..step.outputs.len() {
                    let size = self.spec(step, slot)?.shape.get(at).copied().unwrap_or(0);
                    if start + size > view.shape[at] {
                        return Err("the parts are larger than the data".to_owned());
                    }
                    self.set(step, slot, view.cut(at, start, 1, size));
                    start += size;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The elements of an operand, when they are integers that are known.
    pub(super) fn integers(&self, step: &Step, slot: usize) -> Option<Vec<i64>> {
        let id = step.args.get(slot).copied().flatten()?;
        if let Some(known) = &self.net.values[id].known {
            return Some(known.clone());
        }
        let view = self.views[id].as_ref()?;
        match &self.places[view.root].source {
            Source::Constant(data) if data.kind() == Kind::Int => match super::elements(data, view) {
                Data::Int(v) => Some(v),
                Data::Real(_) | Data::Bool(_) => None,
            },
            Source::Constant(_) | Source::Input | Source::Computed => None,
        }
    }
}
