//! Strided views of dense values: what transposes, slices and expansions are, without moving an element.

use crate::index::{broadcast, count, strides};

/// Number of a value that has memory of its own, dense and row-major.
pub(crate) type Root = usize;

/// Elements of a root, seen under another shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct View {
    pub root: Root,
    pub start: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<isize>,
}

impl View {
    /// All elements of a root.
    pub fn dense(root: Root, shape: &[usize]) -> View {
        View { root, start: 0, shape: shape.to_vec(), strides: strides(shape) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        count(&self.shape)
    }

    /// Whether the elements lie one behind the other.
    pub fn is_dense(&self) -> bool {
        self.start == 0 && self.is_run()
    }

    /// Whether the elements are one run, wherever it starts.
    pub fn is_run(&self) -> bool {
        let (shape, strides) = self.collapsed();
        shape.iter().product::<usize>() == 0 || matches!((&shape[..], &strides[..]), ([], []) | ([_], [1]))
    }

    /// Sizes and strides with axes of size 1 left out and axes that continue each other joined.
    pub fn collapsed(&self) -> (Vec<usize>, Vec<isize>) {
        let (mut shape, mut strides): (Vec<usize>, Vec<isize>) = (vec![], vec![]);
        for (size, stride) in self.shape.iter().zip(&self.strides).filter(|(size, _)| **size != 1) {
            match (shape.last_mut(), strides.last_mut()) {
                (Some(last), Some(step)) if *step == stride * *size as isize => {
                    *last *= size;
                    *step = *stride;
                }
                _ => {
                    shape.push(*size);
                    strides.push(*stride);
                }
            }
        }
        (shape, strides)
    }

    /// The axes in another order.
    pub fn permuted(&self, order: &[usize]) -> View {
        View {
            shape: order.iter().map(|i| self.shape[*i]).collect(),
            strides: order.iter().map(|i| self.strides[*i]).collect(),
            ..self.clone()
        }
    }

    /// Repeated to a shape that it broadcasts to.
    pub fn broadcast(&self, to: &[usize]) -> View {
        let repeats = broadcast(&self.shape, to);
        let skip = to.len().saturating_sub(self.shape.len());
        let strides = (0..to.len())
            .map(|i| match i.checked_sub(skip) {
                Some(j) if self.shape[j] != 1 => self.strides[j],
                Some(_) | None => repeats[i],
            })
            .collect();
        View { shape: to.to_vec(), strides, ..self.clone() }
    }

    /// From a place on, by a step, so many elements of an axis.
    pub fn cut(&self, axis: usize, start: usize, step: i64, len: usize) -> View {
        let mut view = self.clone();
        if view.len() > 0 && len > 0 {
            view.start = (view.start as isize + start as isize * self.strides[axis]) as usize;
        }
        view.shape[axis] = len;
        view.strides[axis] *= step as isize;
        view
    }

    /// The same elements in the same order under another shape; `None` when strides cannot say it.
    pub fn reshaped(&self, to: &[usize]) -> Option<View> {
        if self.len() == 0 || count(to) == 0 {
            return Some(View { shape: to.to_vec(), strides: strides(to), ..self.clone() });
        }
        // Every joined axis is cut anew, from the last on.
        let (mut shape, own) = self.collapsed();
        let mut axis = shape.len();
        let mut inner = 1;
        let mut found = vec![0; to.len()];
        for i in (0..to.len()).rev() {
            if to[i] == 1 {
                continue;
            }
            while axis > 0 && shape[axis - 1] == 1 {
                axis -= 1;
                inner = 1;
            }
            let left = shape.get_mut(axis.checked_sub(1)?)?;
            if *left % to[i] != 0 {
                return None;
            }
            found[i] = own[axis - 1] * inner;
            inner *= to[i] as isize;
            *left /= to[i];
        }
        Some(View { shape: to.to_vec(), strides: found, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::index::Offsets;

    fn places(view: &View) -> Vec<usize> {
        Offsets::new(&view.shape, &view.strides, view.start as isize).collect()
    }

    proptest! {
        #[test]
        fn reshapes_keep_the_order(shape in prop::collection::vec(1usize..5, 0..4), swap: bool, repeat: bool, to in prop::collection::vec(1usize..7, 0..4)) {
            let mut view = View::dense(0, &shape);
            if swap {
                view = view.permuted(&(0..shape.len()).rev().collect::<Vec<_>>());
            }
            if repeat {
                view = view.broadcast(&[&[3], view.shape.as_slice()].concat());
            }
            let (joined, steps) = view.collapsed();
            prop_assert_eq!(Offsets::new(&joined, &steps, view.start as isize).collect::<Vec<_>>(), places(&view));
            if count(&to) == view.len() && let Some(reshaped) = view.reshaped(&to) {
                prop_assert_eq!(places(&reshaped), places(&view));
            }
            let mut with_ones: Vec<usize> = view.shape.iter().flat_map(|d| [1, *d]).collect();
            with_ones.push(1);
            prop_assert_eq!(places(&view.reshaped(&with_ones).unwrap()), places(&view));
            if !swap && !repeat {
                prop_assert!(view.reshaped(&[view.len()]).is_some() && view.is_dense());
            }
        }
    }
}
