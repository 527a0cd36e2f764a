//! What a person sees: progress, summaries, tables.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use crate::train::{Losses, Step, Watch, WidthMetrics};
pub use crate::usage::UsageError;

/// Lines that a training of any length prints where there is no terminal.
const TRAINING_LINES: u64 = 20;

/// Where a command reports to: results to standard output, progress to standard error.
pub struct Ui {
    quiet: bool,
    terminal: bool,
}

impl Ui {
    /// Progress bars on a terminal, plain lines elsewhere, nothing when `quiet`.
    pub fn new(quiet: bool) -> Ui {
        Ui { quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Whether summaries are unwanted too.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line of progress or summary, to standard error.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            // Nobody reads a closed standard error.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }

    /// Starts a step of known length, counted in `units`.
    pub fn progress(&self, what: &str, units: u64) -> Progress {
        let bar = match (self.quiet, self.terminal) {
            (false, true) => {
                let bar = ProgressBar::new(units).with_message(what.to_owned());
                if let Ok(style) = ProgressStyle::with_template("{msg:<24} {bar:40} {percent:>3} % {eta}") {
                    bar.set_style(style);
                }
                bar
            }
            (false, false) => {
                self.say(format_args!("{what} ..."));
                ProgressBar::hidden()
            }
            (true, _) => ProgressBar::hidden(),
        };
        Progress(bar)
    }

    /// Shows a training: a bar with the losses on a terminal, else a line now and then.
    pub fn training(&self) -> TrainingProgress<'_> {
        TrainingProgress { ui: self, bar: ProgressBar::hidden(), steps: 0 }
    }

    /// Writes a result to standard output. A reader that went away is no error.
    pub fn print(&self, text: impl std::fmt::Display) -> Result<()> {
        match writeln!(std::io::stdout().lock(), "{text}") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    /// Writes a piece of a result to standard output now. Returns whether anybody reads on.
    pub fn stream(&self, text: &str) -> Result<bool> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Writes a table, or the value as JSON.
    pub fn table_or_json<T: serde::Serialize>(
        &self,
        json: bool,
        value: &T,
        table: impl FnOnce() -> Table,
    ) -> Result<()> {
        if json { self.print(serde_json::to_string_pretty(value)?) } else { self.print(table()) }
    }
}

/// A step under way; cleared when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// So many units more are done.
    pub fn advance(&self, units: u64) {
        self.0.inc(units);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A training under way; its bar is cleared when dropped.
pub struct TrainingProgress<'a> {
    ui: &'a Ui,
    bar: ProgressBar,
    steps: u64,
}

impl TrainingProgress<'_> {
    /// A line that stays.
    fn say(&self, line: &str) {
        self.bar.suspend(|| self.ui.say(line));
    }
}

impl Watch for TrainingProgress<'_> {
    fn start(&mut self, done: u64, steps: u64) {
        self.steps = steps;
        if self.ui.terminal && !self.ui.quiet {
            self.bar = ProgressBar::new(steps);
            if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {bar:30} {per_sec} {eta} {wide_msg}")
            {
                self.bar.set_style(style);
            }
            self.bar.set_position(done);
            self.bar.reset_eta();
        }
        if done > 0 {
            self.say(&format!("continues after step {done} of {steps}"));
        }
    }

    fn step(&mut self, step: &Step<'_>) {
        if self.ui.terminal {
            self.bar.set_message(losses(step.losses));
            self.bar.set_position(step.step);
        } else if step.step.is_multiple_of(self.steps.div_ceil(TRAINING_LINES).max(1)) {
            let Step { step, epoch, rate, losses: lost } = *step;
            let text = losses(lost);
            self.say(&format!("step {step} of {}, epoch {epoch:.2}, rate {rate:.2e}: {text}", self.steps));
        }
    }

    fn evaluated(&mut self, step: u64, metrics: &[WidthMetrics], is_best: bool) {
        let width = |m: &WidthMetrics| {
            let accuracy = m.accuracy().map_or_else(String::new, |a| format!(" ({:.2} % right)", a * 1e2));
            format!("{} {:.4}{accuracy}", m.name, m.loss())
        };
        let widths: Vec<String> = metrics.iter().map(width).collect();
        let best = if is_best { ", the best so far" } else { "" };
        self.say(&format!("validation after step {step}: {}{best}", widths.join(", ")));
    }
}

impl Drop for TrainingProgress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `loss 2.41 (int8 2.20, int2 2.62)`
fn losses(losses: &Losses) -> String {
    let widths: Vec<String> = losses.widths.iter().map(|(name, loss)| format!("{name} {loss:.4}")).collect();
    match widths.as_slice() {
        [] | [_] => format!("loss {:.4}", losses.total),
        _ => format!("loss {:.4} ({})", losses.total, widths.join(", ")),
    }
}

/// A table with a header; all columns but the first `left` are right-aligned.
pub fn table<S: Into<String>>(header: impl IntoIterator<Item = S>, left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.into_iter().map(Into::into).collect::<Vec<String>>());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Bytes with a decimal prefix: `38.0 kB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// A ratio in dB, or what stands for it where there is no noise or nothing was measured.
pub fn decibel(value: Option<f64>) -> String {
    value.map_or_else(|| "exact".to_owned(), |v| format!("{v:.1}"))
}
