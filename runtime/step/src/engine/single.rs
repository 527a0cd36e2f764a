//! Work that is not fused: products, gathers, concatenations, plain kernels.

use super::Engine;
use crate::array::{Data, Slice};
use crate::lower::elements;
use crate::lower::task::{Arg, Task, Work};
use crate::plain::gather;
use crate::view::View;
use crate::{Error, Real, product};

/// Elements that one thread moves at least.
const CHUNK: usize = 16 << 10;

impl<T: Real> Engine<T> {
    fn reals(&self, view: &View) -> &[T] {
        match self.value(view.root) {
            Slice::Real(v) => v,
            Slice::Int(_) | Slice::Bool(_) => &[],
        }
    }

    fn places(&self, view: &View, rows: usize) -> Result<Vec<usize>, String> {
        match self.value(view.root) {
            Slice::Int(v) => v.iter().map(|i| gather::place(*i, rows)).collect(),
            Slice::Real(_) | Slice::Bool(_) => Err("the indices are no integers".to_owned()),
        }
    }

    pub(super) fn single(&self, task: &Task, written: &mut [Data<T>]) -> Result<(), Error> {
        let done = match (&task.work, written) {
            (Work::Product(plan), [Data::Real(c)]) => {
                product::batched(plan, self.reals(&plan.a.view), self.reals(&plan.b.view), c, &self.workers);
                Ok(())
            }
            (Work::Gather { table, rows, inner, indices }, [Data::Real(to)]) => {
                self.gather(self.reals(table), *inner, self.places(indices, *rows), to)
            }
            (Work::AddRows { table, rows, inner, indices, updates }, [Data::Real(to)]) => {
                let table = match table {
                    Arg::Scalar(value) => Err(T::of(*value)),
                    Arg::View(view) | Arg::Window { view, .. } => Ok(self.reals(view)),
                };
                let to = &mut to[..rows * inner];
                self.add_rows(table, *inner, self.places(indices, *rows), self.reals(updates), to)
            }
            (Work::Concat { outer, parts }, [Data::Real(to)]) => {
                self.concat(*outer, parts, to);
                Ok(())
            }
            (Work::Copy(view), [to]) => {
                let owned = self.value(view.root).owned();
                replace(to, elements(&owned, view));
                Ok(())
            }
            (Work::Nested { .. }, _) => Err("only programs of a device have nested weights".to_owned()),
            (Work::Plain(args), written) => self.plain(task, args, written),
            (
                Work::Map { .. }
                | Work::Fold { .. }
                | Work::Product(_)
                | Work::Gather { .. }
                | Work::AddRows { .. }
                | Work::Concat { .. }
                | Work::Copy(_),
                _,
            ) => Err("the results have unexpected types".to_owned()),
        };
        done.map_err(|message| self.task_error(task, message))
    }

    fn gather(
        &self,
        table: &[T],
        inner: usize,
        places: Result<Vec<usize>, String>,
        to: &mut [T],
    ) -> Result<(), String> {
        let places = places?;
        let rows = (CHUNK / inner).max(1);
        self.workers.chunks(&mut to[..places.len() * inner], rows * inner, |index, chunk| {
            for (to, place) in chunk.chunks_mut(inner).zip(&places[index * rows..]) {
                to.copy_from_slice(&table[place * inner..(place + 1) * inner]);
            }
        });
        Ok(())
    }

    /// `table` is one value for all elements, or all elements.
    fn add_rows(
        &self,
        table: Result<&[T], T>,
        inner: usize,
        places: Result<Vec<usize>, String>,
        updates: &[T],
        to: &mut [T],
    ) -> Result<(), String> {
        let places = places?;
        match table {
            Ok(table) => to.copy_from_slice(table),
            Err(value) => to.fill(value),
        }
        for (place, update) in places.iter().zip(updates.chunks(inner)) {
            to[place * inner..(place + 1) * inner].iter_mut().zip(update).for_each(|(t, v)| *t += *v);
        }
        Ok(())
    }

    fn concat(&self, outer: usize, parts: &[(View, usize)], to: &mut [T]) {
        let parts: Vec<(&[T], usize)> = parts.iter().map(|(view, len)| (self.reals(view), *len)).collect();
        let row: usize = parts.iter().map(|(_, len)| len).sum();
        let rows = (CHUNK / row).max(1);
        self.workers.chunks(&mut to[..outer * row], rows * row, |index, chunk| {
            for (i, mut to) in chunk.chunks_mut(row).enumerate() {
                let at = index * rows + i;
                for (from, len) in &parts {
                    let (part, rest) = to.split_at_mut(*len);
                    part.copy_from_slice(&from[at * len..(at + 1) * len]);
                    to = rest;
                }
            }
        });
    }

    fn plain(&self, task: &Task, args: &[Option<View>], written: &mut [Data<T>]) -> Result<(), String> {
        let args = args.iter().map(|view| view.as_ref().map(|view| self.value(view.root)));
        let results = self.net.plain(task.step, args)?;
        written.iter_mut().zip(results).for_each(|(to, data)| replace(to, data));
        Ok(())
    }
}

/// Puts elements at the beginning of a buffer.
fn replace<T: Real>(to: &mut Data<T>, data: Data<T>) {
    match (to, data) {
        (Data::Real(to), Data::Real(v)) => put(to, v),
        (Data::Int(to), Data::Int(v)) => put(to, v),
        (Data::Bool(to), Data::Bool(v)) => put(to, v),
        (Data::Real(_) | Data::Int(_) | Data::Bool(_), _) => {}
    }
}

fn put<E: Copy>(to: &mut Vec<E>, values: Vec<E>) {
    if to.len() == values.len() {
        *to = values;
    } else if let Some(to) = to.get_mut(..values.len()) {
        to.copy_from_slice(&values);
    }
}
