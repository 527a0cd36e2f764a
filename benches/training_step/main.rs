//! A training step beside those of JAX and PyTorch: same models, same run, turns interleaved.
//!
//!     cargo bench --bench training_step -- --python python3 --json out.json
//!
//! A case is a model and a number of threads; in a round everyone has one turn of at least 100 ms: our float step, our
//! step at three widths, and each peer. What counts are medians, and ratios within a round. With one thread a turn is
//! measured in CPU time of the process, which other work on the machine hardly disturbs, with more in wall time.
//! Without `--python` there are no peers. A peer whose package the Python has not is left out.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its results and its progress"
)]

mod models;
mod ours;
mod peer;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use cpu_time::ProcessTime;
use mqc_ir::quant::{Width, Widths};

use models::Model;
use ours::Ours;
use peer::Peer;
use table::{Lane, Row};

/// Seconds that one turn takes at least.
const TURN: f64 = 0.1;

/// Measures training steps.
#[derive(Parser)]
struct Options {
    /// The models
    #[arg(long, value_enum, value_delimiter = ',', default_value = "mlp,decoder")]
    model: Vec<Model>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Rounds that count; one more comes first
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// A Python that has jax or torch
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where to write the rows as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut rows = vec![];
    for &model in &options.model {
        for &threads in &options.threads {
            let row = measure(model, threads, &options)
                .with_context(|| format!("{} with {threads} threads", model.name()))?;
            table::print(&row);
            rows.push(row);
        }
    }
    table::print_bars(&rows);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn measure(model: Model, threads: usize, options: &Options) -> Result<Row> {
    let mut float = Ours::new(model, &[], threads)?;
    let widths: Vec<Width> = Widths::default().iter().collect();
    let mut nested = Ours::new(model, &widths, threads)?;
    let mut one = Ours::new(model, &widths[..1], threads)?;
    let peak_bytes = [float.peak_bytes(), one.peak_bytes(), nested.peak_bytes()];
    // Only its memory is compared.
    one.step()?;
    drop(one);
    let mut peers: Vec<Peer> = vec![];
    for script in ["jax_peer.py", "torch_peer.py"] {
        if let Some(python) = &options.python {
            match Peer::start(python, script, model, threads) {
                Ok(peer) => peers.push(peer),
                Err(error) => eprintln!("without {script}: {error:#}"),
            }
        }
    }
    let mut lanes = vec![Lane::new("mqc"), Lane::new("mqc, widths 8, 4 and 2")];
    lanes.extend(peers.iter().map(|peer| Lane::new(peer.name())));
    for round in 0..=options.rounds {
        let mut times = vec![turn(&mut float, threads)?, turn(&mut nested, threads)?];
        for peer in &mut peers {
            times.push(peer.turn()?);
        }
        // The first round is for warming up.
        if round > 0 {
            lanes.iter_mut().zip(times).for_each(|(lane, time)| lane.millis.push(time * 1e3));
        }
    }
    Ok(Row { model, threads, lanes, peak_bytes })
}

/// Seconds of one step, the mean of a turn.
fn turn(ours: &mut Ours, threads: usize) -> Result<f64> {
    let (cpu, wall) = (ProcessTime::try_now()?, Instant::now());
    let mut steps = 0;
    while wall.elapsed().as_secs_f64() < TURN || steps == 0 {
        ours.step()?;
        steps += 1;
    }
    let seconds = if threads == 1 { cpu.try_elapsed()?.as_secs_f64() } else { wall.elapsed().as_secs_f64() };
    Ok(seconds / f64::from(steps))
}
