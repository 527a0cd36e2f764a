//! Products with nested weights beside those of onnxruntime, ggml and tract: same shapes, same run, turns interleaved.
//!
//!     cargo bench --bench nested_matmul -- --python python3 --ggml GGML/build/src --tract --json out.json
//!
//! A case is a shape K x N, weights in cache or not, and a number of threads; in a round everyone has one turn, of at
//! least 50 ms: each of our widths and each format of the peers. What counts are medians, and ratios within a round.
//! With one thread a turn is measured in CPU time of the process, which other work on the machine hardly disturbs, with
//! more in wall time. Without `--python` there are no peers of Python, and the table says less.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its results and its progress"
)]

mod bars;
mod clock;
mod measure;
mod ours;
mod peer;
mod row;
mod table;
mod tract;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Parser;
use mqc_ir::Activations;
use mqc_ir::quant::{Grouping, Width};
use mqc_kernels::cpu::Isa;
use mqc_kernels::roofline::{self, Limits};
use serde::Serialize;

use ours::Weights;
use peer::Peer;

/// Measures products of nested weights.
#[derive(Parser)]
struct Options {
    /// Columns x rows of the weights
    #[arg(long, value_delimiter = ',', default_value = "4096x4096,4096x14336,2048x8192")]
    shape: Vec<Shape>,
    /// Tokens
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,128")]
    m: Vec<usize>,
    /// Widths
    #[arg(long, value_delimiter = ',', default_value = "8,7,6,5,4,3,2,1")]
    bits: Vec<Width>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Where weights are before they are read
    #[arg(long, value_delimiter = ',', default_value = "memory,cache")]
    weights: Vec<Place>,
    /// How our activations are rounded; peers that do the same are compared
    #[arg(long, value_delimiter = ',', default_value = "int8")]
    activations: Vec<Activations>,
    /// Columns that share a scale in our weights; all of a row if not given
    #[arg(long)]
    group: Option<u32>,
    /// Our kernels: all that this processor runs are `--isa all`
    #[arg(long)]
    isa: Option<String>,
    /// Rounds that count; one more comes first
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// The first shape; 1, 16 and 128 tokens, widths 8, 4 and 2, three rounds of what is asked for
    #[arg(long)]
    quick: bool,
    /// A Python that has onnx, onnxruntime and numpy
    #[arg(long)]
    python: Option<PathBuf>,
    /// A folder with ggml's shared libraries; needs --python
    #[arg(long, requires = "python")]
    ggml: Option<PathBuf>,
    /// Measure tract's 4-bit product too, one thread, f32 activations
    #[arg(long)]
    tract: bool,
    /// Where to write the rows as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Columns and rows of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Shape {
    k: usize,
    n: usize,
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Shape> {
        let (k, n) = text.split_once('x').context("expected KxN, such as 4096x4096")?;
        Ok(Shape { k: k.parse()?, n: n.parse()? })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.k, self.n)
    }
}

/// Where weights are before they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Place {
    Memory,
    Cache,
}

/// One case: everything that is loaded at once.
#[derive(Debug, Clone, Copy, Serialize)]
struct Case {
    #[serde(flatten)]
    shape: Shape,
    weights: Place,
    threads: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.weights {
            Place::Memory => "memory",
            Place::Cache => "cache",
        };
        write!(f, "{}, weights in {place}, threads {}", self.shape, self.threads)
    }
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    if options.quick {
        options.shape.truncate(1);
        options.m.retain(|tokens| [1, 16, 128].contains(tokens));
        options.bits.retain(|bits| [8, 4, 2].contains(&bits.bits()));
        options.rounds = options.rounds.min(3);
    }
    options.bits.sort_by(|a, b| b.cmp(a));
    let mut peers = peers(&options)?;
    let names: Vec<&str> = peers.iter().map(Peer::name).collect();
    match names.as_slice() {
        [] => println!("ours alone: give --python to compare with onnxruntime"),
        names => println!("beside {}", names.join(", ")),
    }
    let isas = isas(&options)?;
    let limits = options.threads.iter().map(|&threads| limits(threads)).collect::<Result<Vec<Limits>>>()?;
    let mut all = vec![];
    for &shape in &options.shape {
        let grouping = options.group.map_or(Grouping::PerChannel, Grouping::Group);
        let mut weights = Weights::new(shape, grouping);
        for &place in &options.weights {
            for limits in &limits {
                let case = Case { shape, weights: place, threads: limits.threads };
                let rows = measure::run(case, &options, &isas, &mut weights, &mut peers)?;
                table::print(case, limits, &rows);
                all.extend(rows);
            }
        }
    }
    table::print_bars(&all);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The machine's limits with so many threads: the best of three measurements.
fn limits(threads: usize) -> Result<Limits> {
    let mut best = roofline::measure(threads).context("no memory to measure the bandwidth with")?;
    for _ in 0..2 {
        let again = roofline::measure(threads)?;
        best.read_bytes = best.read_bytes.max(again.read_bytes);
    }
    Ok(best)
}

fn peers(options: &Options) -> Result<Vec<Peer>> {
    let mut peers = vec![];
    if let Some(python) = &options.python {
        peers.push(Peer::start(python, "ort_peer.py", None)?);
        if let Some(folder) = &options.ggml {
            peers.push(Peer::start(python, "ggml_peer.py", Some(folder))?);
        }
    }
    Ok(peers)
}

fn isas(options: &Options) -> Result<Vec<Isa>> {
    let available = Isa::available();
    match options.isa.as_deref() {
        None => Ok(vec![Isa::detect()]),
        Some("all") => Ok(available),
        Some(name) => match available.iter().find(|isa| isa.to_string() == name) {
            Some(isa) => Ok(vec![*isa]),
            None => bail!("--isa {name}: this processor runs {available:?}"),
        },
    }
}
