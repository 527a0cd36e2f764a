//! What a person sees: progress, summaries, tables.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

pub use crate::usage::UsageError;

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
