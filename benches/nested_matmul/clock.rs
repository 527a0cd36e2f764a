//! How a turn is timed.

use std::time::Instant;

use anyhow::Result;
use cpu_time::ProcessTime;

/// Seconds that one turn takes at least.
const TURN: f64 = 0.05;

/// Times runs of one lane: CPU time of the process with one thread, else wall time.
pub struct Stopwatch {
    threads: usize,
    /// Runs in a turn; not known before the first.
    runs: Option<usize>,
}

impl Stopwatch {
    pub fn new(threads: usize) -> Stopwatch {
        Stopwatch { threads, runs: None }
    }

    /// Microseconds of one `run`, the mean of a turn. The first turn is for warming up: it finds how many runs fill
    /// those that follow.
    pub fn turn(&mut self, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        let runs = match self.runs {
            Some(runs) => runs,
            None => {
                run()?;
                let seconds = self.seconds(&mut run)?;
                *self.runs.insert((TURN / seconds.max(1e-6)).round().max(1.0) as usize)
            }
        };
        let seconds = self.seconds(|| (0..runs).try_for_each(|_| run()))?;
        Ok(seconds * 1e6 / runs as f64)
    }

    fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        if self.threads == 1 {
            let start = ProcessTime::try_now()?;
            work()?;
            Ok(start.try_elapsed()?.as_secs_f64())
        } else {
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64())
        }
    }
}
