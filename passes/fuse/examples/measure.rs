//! Fuses a model and says what was done: `measure MODEL [DEVICE] [OPSET]`. MODEL is an ONNX file.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use mqc_fuse::{Devices, FuseOptions, fuse};
use mqc_ir::{Graph, infer, text, verify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let Some(path) = arguments.first() else { return Err("usage: measure MODEL [DEVICE] [OPSET]".into()) };
    let device = arguments.get(1).map_or("cpu", String::as_str);
    let mut options = FuseOptions::new(Devices::builtin()?.get(device)?.clone());
    options.opset = arguments.get(2).map(|opset| opset.parse()).transpose()?;
    let mut graph = mqc_onnx::import::import(Path::new(path))?.graph;
    infer::infer(&mut graph).map_err(|errors| format!("{errors:?}"))?;
    let mut again = graph.clone();
    let before = operations(&graph)?;
    let start = Instant::now();
    let report = fuse(&mut graph, &options)?;
    let seconds = start.elapsed().as_secs_f64();
    let errors = verify::verify(&graph);
    infer::infer(&mut graph).map_err(|errors| format!("{errors:?}"))?;
    fuse(&mut again, &options)?;
    infer::infer(&mut again).map_err(|errors| format!("{errors:?}"))?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", report.explain())?;
    writeln!(out, "\nbefore {before:?}\nafter  {:?}", operations(&graph)?)?;
    writeln!(
        out,
        "{:.3} s; same output twice: {}; errors: {errors:?}",
        seconds,
        text::print(&graph) == text::print(&again)
    )?;
    if let Some(path) = std::env::var_os("FUSED") {
        std::fs::write(path, text::print(&graph))?;
    }
    Ok(())
}

fn operations(graph: &Graph) -> Result<BTreeMap<String, usize>, mqc_ir::Error> {
    let mut operations = BTreeMap::new();
    for id in graph.order()? {
        if let Some(node) = graph.node(id).filter(|n| n.op.as_constant().is_none()) {
            *operations.entry(text::mnemonic(&node.op)).or_default() += 1;
        }
    }
    Ok(operations)
}
