//! How the tasks of a job are shared out among threads.
//!
//! Every thread has a share of neighbouring tasks of its own. What two threads write at the same time lies far apart, so that
//! they do not take lines of the cache from each other; and the next job of the same kind finds in a thread's cache what
//! this one left there. A thread that has finished its share takes from the others'.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The tasks left in each thread's share.
#[derive(Debug)]
pub(super) struct Shares(Vec<Share>);

/// The first task and the one after the last, the high and the low half: alone in its lines of the cache.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Shares {
    /// The most tasks of a job.
    pub const MOST: usize = u32::MAX as usize;

    /// Empty shares for so many threads.
    pub fn new(threads: usize) -> Shares {
        Shares((0..threads).map(|_| Share::default()).collect())
    }

    /// Shares out `tasks`, at most [`Shares::MOST`]. Nobody takes any meanwhile.
    pub fn fill(&self, tasks: usize) {
        let count = self.0.len();
        for (index, share) in self.0.iter().enumerate() {
            let bound = |index: usize| index * (tasks / count) + index.min(tasks % count);
            share.0.store(pack(bound(index)..bound(index + 1)), Ordering::Relaxed);
        }
    }

    /// Half of what a thread's share still has, but at most `most` tasks and at least one; of its own from the front,
    /// else of another's from the back. `None` when all are taken.
    pub fn take(&self, thread: usize, most: usize) -> Option<Range<usize>> {
        let count = self.0.len();
        (0..count).find_map(|distance| self.0[(thread + distance) % count].take(most, distance == 0))
    }
}

impl Share {
    fn take(&self, most: usize, front: bool) -> Option<Range<usize>> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let Range { start, end } = unpack(seen);
            if start >= end {
                return None;
            }
            let taken = (end - start).div_ceil(2).min(most.max(1));
            let (found, left) = if front {
                (start..start + taken, start + taken..end)
            } else {
                (end - taken..end, start..end - taken)
            };
            match self.0.compare_exchange_weak(seen, pack(left), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(found),
                Err(now) => seen = now,
            }
        }
    }
}

fn pack(tasks: Range<usize>) -> u64 {
    (tasks.start as u64) << 32 | tasks.end as u64
}

fn unpack(share: u64) -> Range<usize> {
    (share >> 32) as usize..(share & u64::from(u32::MAX)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_taken_once() {
        for (threads, tasks, most) in [(1, 10, 3), (2, 11, 1), (3, 2, 5), (4, 1000, 64), (2, 0, 1)] {
            let shares = Shares::new(threads);
            shares.fill(tasks);
            let mut hits = vec![0; tasks];
            // The last thread works alone: it takes its own share from the front, then all others.
            while let Some(range) = shares.take(threads - 1, most) {
                assert!(!range.is_empty() && range.len() <= most);
                range.for_each(|task| hits[task] += 1);
            }
            assert!(hits.iter().all(|hit| *hit == 1));
        }
    }

    #[test]
    fn threads_work_far_apart() {
        let shares = Shares::new(2);
        shares.fill(20);
        assert_eq!(shares.take(0, 4), Some(0..4));
        assert_eq!(shares.take(1, 4), Some(10..14));
        assert_eq!(shares.take(0, 4), Some(4..7));
        assert_eq!(shares.take(0, 4), Some(7..9));
        assert_eq!(shares.take(0, 4), Some(9..10));
        assert_eq!(shares.take(0, 4), Some(17..20));
        assert_eq!(shares.take(1, 1), Some(14..15));
    }
}
