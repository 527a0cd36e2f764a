//! Imports a model, verifies its graph and exports it again: `roundtrip IN OUT`. Both are ONNX files.

use std::path::Path;

use mqc_ir::verify::verify;
use mqc_onnx::{export, import};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [from, to] = paths.as_slice() else { return Err("usage: roundtrip IN OUT".into()) };
    let model = import::import(Path::new(from))?;
    let errors: Vec<_> = verify(&model.graph).iter().map(ToString::to_string).collect();
    if !errors.is_empty() {
        return Err(errors.join("\n").into());
    }
    export::write(&model, Path::new(to), &export::ExportOptions::default())?;
    Ok(())
}
