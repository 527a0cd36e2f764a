//! What the optimizer does with a model, and how long it takes:
//!
//!     cargo run --release -p mqc-fuse --example fuse -- model.onnx [DEVICE] [SYMBOL=SIZE]..
//!     cargo run --release -p mqc-fuse --example fuse            # decoders of 1 to 60 layers: time against layers
//!
//! The second also says how much of the time each layer takes: it is linear when that does not grow.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use mqc_fuse::{Devices, FuseOptions, Report, fuse};
use mqc_ir::{Graph, infer, text};

#[path = "../tests/common/decoder.rs"]
mod decoder;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((path, rest)) = args.split_first() else {
        for layers in [1, 2, 4, 8, 16, 30, 60] {
            let graph = text::parse(&decoder::decoder(layers), &text::NoWeights)?;
            let (report, seconds) = timed(&graph, &options("cpu")?)?;
            let (before, after) = report.nodes;
            writeln!(
                out,
                "{layers:>3} layers {:>8.1} ms {:>6.2} ms a layer  {before} -> {after} nodes  {} regions, {} different",
                1e3 * seconds,
                1e3 * seconds / layers as f64,
                report.regions.0,
                report.regions.1
            )?;
        }
        return Ok(());
    };
    let (sizes, device): (Vec<&String>, Vec<&String>) = rest.iter().partition(|arg| arg.contains('='));
    let mut options = options(device.first().map_or("cpu", |device| device.as_str()))?;
    options.session = options.device == *Devices::builtin()?.get("cpu")?;
    for (symbol, size) in sizes.iter().filter_map(|pair| pair.split_once('=')) {
        options.symbols.insert(symbol.to_owned(), size.parse()?);
    }
    let model = mqc_onnx::import::import(std::path::Path::new(path))?;
    let (report, seconds) = timed(&model.graph, &options)?;
    write!(out, "{report}")?;
    writeln!(out, "\ntook {:.1} ms", 1e3 * seconds)?;
    Ok(())
}

fn options(device: &str) -> Result<FuseOptions, Box<dyn Error>> {
    Ok(FuseOptions::new(Devices::builtin()?.get(device)?.clone()))
}

/// Seconds of the pass alone.
fn timed(graph: &Graph, options: &FuseOptions) -> Result<(Report, f64), Box<dyn Error>> {
    let mut graph = graph.clone();
    graph.fix_weights();
    infer::infer(&mut graph).map_err(|errors| format!("{errors:?}"))?;
    let start = Instant::now();
    let report = fuse(&mut graph, options)?;
    Ok((report, start.elapsed().as_secs_f64()))
}
