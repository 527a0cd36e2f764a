//! What `mqc bench` found: the JSON that it writes, and what its tables and chart show.

use std::collections::BTreeMap;

use mqc_runtime::roofline::Limits;
use serde::Serialize;

use super::breakdown::Breakdown;
use super::stats::Spread;
use crate::artifact::manifest::CREATED_BY;

/// Everything of one call.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The artifact or model, as it was named.
    pub model: String,
    /// The program that measured, and its version.
    pub created_by: &'static str,
    /// Where.
    pub machine: Machine,
    /// Rounds that count.
    pub rounds: usize,
    /// Rounds before them that do not.
    pub warmup: usize,
    /// The version of onnxruntime that was measured; null if none was.
    pub onnxruntime: Option<String>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
    /// One for each number of threads, batch and width.
    pub cases: Vec<Case>,
}

/// The machine, and what it reached.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name, if the system tells.
    pub cpu: Option<String>,
    /// Processors that this process may use.
    pub cores: usize,
    /// Measured limits, by number of threads.
    pub limits: Vec<LimitRow>,
}

/// What so many threads reach together, in 10^9 a second.
#[derive(Clone, Debug, Serialize)]
pub struct LimitRow {
    /// Threads.
    pub threads: usize,
    /// Bytes read from memory.
    pub read_gb_per_s: f64,
    /// int8 multiplications and additions.
    pub int8_gop_per_s: f64,
    /// The instruction that made them.
    pub int8_instruction: &'static str,
    /// f32 multiplications and additions.
    pub f32_gop_per_s: f64,
}

/// One width, batch and number of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// The width as it was asked for, or `float`.
    pub bits: String,
    /// The first size of the inputs that leave it open.
    pub batch: Option<usize>,
    /// Threads.
    pub threads: usize,
    /// Element type and shape of every input.
    pub inputs: BTreeMap<String, String>,
    /// A whole run.
    pub micros: Spread,
    /// A run operator by operator.
    pub breakdown: Breakdown,
    /// onnxruntime on the same inputs.
    pub peers: Vec<PeerTime>,
}

/// onnxruntime on a model.
#[derive(Clone, Debug, Serialize)]
pub struct PeerTime {
    /// `float` or `matmulnbits`.
    pub model: &'static str,
    /// A whole run.
    pub micros: Spread,
    /// Our time over theirs: the median of the rounds' ratios.
    pub ratio: f64,
}

impl Machine {
    /// This machine.
    pub fn here(limits: &BTreeMap<usize, Limits>) -> Machine {
        let row = |l: &Limits| LimitRow {
            threads: l.threads,
            read_gb_per_s: l.read_bytes / 1e9,
            int8_gop_per_s: l.int8_ops / 1e9,
            int8_instruction: l.int8_instruction,
            f32_gop_per_s: l.f32_ops / 1e9,
        };
        Machine { cpu: cpu_name(), cores: cores(), limits: limits.values().map(row).collect() }
    }
}

impl Report {
    /// The cases that differ in width only, in the order of measurement.
    pub fn groups(&self) -> impl Iterator<Item = &[Case]> {
        self.cases.chunk_by(|a, b| (a.threads, &a.inputs) == (b.threads, &b.inputs))
    }

    /// Says who measured.
    pub const CREATED_BY: &'static str = CREATED_BY;
}

/// Processors that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}
