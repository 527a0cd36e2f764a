//! The threads of a program: none besides the caller's when one is asked for.

use std::sync::{Mutex, PoisonError};

use mqc_kernels::cpu::Threads;

#[derive(Debug)]
pub(crate) struct Workers(Option<Threads>);

impl Workers {
    /// So many threads in all; 0 takes as many as the machine has for this process.
    pub fn new(threads: usize) -> Workers {
        Workers(match threads {
            0 => Some(Threads::available()),
            1 => None,
            n => Some(Threads::new(n)),
        })
    }

    /// Threads in all.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, Threads::count)
    }

    /// Calls `work(task)` for every task below `tasks`, in any order.
    pub fn run(&self, tasks: usize, work: impl Fn(usize) + Sync) {
        match &self.0 {
            Some(threads) if tasks > 1 => threads.run(tasks, work),
            Some(_) | None => (0..tasks).for_each(work),
        }
    }

    /// Calls `work(index, chunk)` for every chunk of `len` values, the last may be shorter.
    pub fn chunks<T: Send>(&self, values: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        match &self.0 {
            Some(threads) if values.len() > len => threads.chunks(values, len, work),
            Some(_) | None => {
                values.chunks_mut(len.max(1)).enumerate().for_each(|(index, chunk)| work(index, chunk));
            }
        }
    }

    /// Calls `work` with every item once, in any order.
    pub fn each<I: Send>(&self, items: Vec<I>, work: impl Fn(I) + Sync) {
        if self.0.is_none() || items.len() < 2 {
            items.into_iter().for_each(work);
            return;
        }
        let items: Vec<Mutex<Option<I>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.run(items.len(), |index| {
            let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(item) = item {
                work(item);
            }
        });
    }
}
