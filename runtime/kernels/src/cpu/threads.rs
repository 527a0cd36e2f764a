//! A pool whose threads wait awake for a moment: a product takes microseconds, waking a sleeping thread takes as long.
#![expect(unsafe_code, reason = "lends a closure to threads that outlive the call")]

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::shares::Shares;

/// Rounds of spinning before a thread sleeps: some tens of microseconds.
const SPINS: usize = 20_000;

/// Threads that share out the tasks of one job at a time. Dropping it ends them.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Jobs of one pool run one after the other.
    turn: Mutex<()>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({})", self.count())
    }
}

/// A job: `run` for ranges of tasks, of at most so many.
#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(Range<usize>) + Sync),
    most: usize,
}

// SAFETY: the pointer is only followed while `Threads::ranges` keeps the closure, which is `Sync`, alive.
unsafe impl Send for Job {}

struct Shared {
    /// Number of the current job; a worker that sees a new one joins in.
    number: AtomicUsize,
    /// The number of the job that may be joined, or 0.
    open: AtomicUsize,
    /// Workers that look for tasks or work at some.
    busy: AtomicUsize,
    job: Mutex<Option<Job>>,
    shares: Shares,
    failed: AtomicBool,
    stop: AtomicBool,
    asleep: Mutex<usize>,
    wake: Condvar,
}

impl Threads {
    /// `count` threads in all, the caller's included; 0 counts as 1.
    pub fn new(count: usize) -> Threads {
        let shared = Arc::new(Shared {
            number: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            job: Mutex::new(None),
            shares: Shares::new(count.max(1)),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers = (1..count)
            .map_while(|index| {
                let shared = shared.clone();
                let work = move || shared.work(index);
                std::thread::Builder::new().name(format!("mqc-{index}")).spawn(work).ok()
            })
            .collect();
        Threads { shared, workers, turn: Mutex::new(()) }
    }

    /// As many threads as the machine has processors for this process.
    pub fn available() -> Threads {
        Threads::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Threads in all.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `run(task)` once for every task below `tasks`, in any order, and returns when all are done.
    ///
    /// # Panics
    /// If a task did.
    pub fn run(&self, tasks: usize, run: impl Fn(usize) + Sync) {
        self.ranges(tasks, 1, |range| range.for_each(&run));
    }

    /// Calls `run` for ranges of at most `most` tasks, which together are all below `tasks`; they become shorter towards
    /// the end, so that all threads finish at the same time.
    ///
    /// # Panics
    /// If a task did.
    pub fn ranges(&self, tasks: usize, most: usize, run: impl Fn(Range<usize>) + Sync) {
        let most = most.max(1);
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).step_by(most).for_each(|start| run(start..tasks.min(start + most)));
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for start in (0..tasks).step_by(Shares::MOST) {
            self.job(Shares::MOST.min(tasks - start), most, &|range| {
                run(range.start + start..range.end + start)
            });
        }
    }

    /// One job; the caller has the turn.
    fn job(&self, tasks: usize, most: usize, run: &(dyn Fn(Range<usize>) + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. `Finish` waits, also when unwinding, until no worker follows the pointer.
        let run: *const (dyn Fn(Range<usize>) + Sync) = unsafe { std::mem::transmute(run) };
        let job = Job { run, most };
        *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        shared.shares.fill(tasks);
        shared.failed.store(false, Ordering::Relaxed);
        let number = shared.number.load(Ordering::Relaxed) + 1;
        shared.open.store(number, Ordering::SeqCst);
        shared.number.store(number, Ordering::SeqCst);
        if *shared.asleep.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            shared.wake.notify_all();
        }
        let finish = Finish(shared);
        shared.tasks_of(job, 0);
        drop(finish);
        assert!(!shared.failed.load(Ordering::Relaxed), "a task of the pool panicked");
    }

    /// Calls `work(index, chunk)` for every chunk of `len` values, the last may be shorter; chunks run in parallel.
    ///
    /// # Panics
    /// If a task did.
    pub fn chunks<T: Send>(&self, values: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        struct Base<T>(*mut T);
        // SAFETY: every task makes one slice of it, of values that no other task has.
        unsafe impl<T: Send> Sync for Base<T> {}
        let (len, total) = (len.max(1), values.len());
        let base = &Base(values.as_mut_ptr());
        self.run(total.div_ceil(len), |index| {
            let start = index * len;
            // SAFETY: the chunks lie inside `values`, do not overlap, and each is visited once while `values` is borrowed.
            let chunk = unsafe { std::slice::from_raw_parts_mut(base.0.add(start), len.min(total - start)) };
            work(index, chunk);
        });
    }
}

/// Closes the job and waits for the workers that joined it. Those that still sleep are not waited for.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        // A worker counts as busy before it looks whether the job is open: either it sees that it is not, or it is seen here.
        self.0.open.store(0, Ordering::SeqCst);
        let mut spins = 0;
        while self.0.busy.load(Ordering::SeqCst) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            self.wait_for_other_than(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            seen = self.number.load(Ordering::SeqCst);
            self.busy.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) == seen {
                let job = *self.job.lock().unwrap_or_else(PoisonError::into_inner);
                let work = std::panic::AssertUnwindSafe(|| job.map(|job| self.tasks_of(job, thread)));
                if std::panic::catch_unwind(work).is_err() {
                    self.failed.store(true, Ordering::Relaxed);
                }
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn tasks_of(&self, job: Job, thread: usize) {
        while let Some(tasks) = self.shares.take(thread, job.most) {
            // SAFETY: `Threads::job` is still waiting for this thread, so the closure lives.
            unsafe { (*job.run)(tasks) };
        }
    }

    fn wait_for_other_than(&self, seen: usize) {
        for _ in 0..SPINS {
            if self.number.load(Ordering::Acquire) != seen {
                return;
            }
            std::hint::spin_loop();
        }
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        *asleep += 1;
        while self.number.load(Ordering::SeqCst) == seen {
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
        *asleep -= 1;
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.number.fetch_add(1, Ordering::SeqCst);
        drop(self.shared.asleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker catches the panics of its tasks
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 5] {
            let threads = Threads::new(count);
            for tasks in [0, 1, 2, 3, 100] {
                let hits: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                threads.run(tasks, |task| {
                    hits[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn chunks_cover_the_values() {
        for (total, len) in [(0, 4), (1, 4), (10, 3), (12, 4), (5, 0), (3, 100)] {
            let mut values = vec![0; total];
            Threads::new(3).chunks(&mut values, len, |index, chunk| {
                chunk.iter_mut().enumerate().for_each(|(i, value)| *value += 1 + index * len.max(1) + i);
            });
            assert_eq!(values, (1..=total).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sleeping_threads_wake() {
        let threads = Threads::new(2);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(20));
            // Both tasks must be under way at the same time.
            let met = AtomicU32::new(0);
            threads.run(2, |_| {
                met.fetch_add(1, Ordering::SeqCst);
                while met.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn callers_take_turns() {
        let threads = Threads::new(2);
        let sum = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..200).for_each(|_| {
                        threads.run(3, |task| {
                            sum.fetch_add(task as u32, Ordering::Relaxed);
                        })
                    })
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 4 * 200 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let threads = Threads::new(2);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            threads.run(10, |task| assert!(task != 3));
        }));
        assert!(result.is_err());
        let sum = AtomicU32::new(0);
        threads.run(10, |task| {
            sum.fetch_add(task as u32, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 45);
    }
}
