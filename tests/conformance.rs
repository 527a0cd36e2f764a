//! Every model of the `onnx` package's backend tests goes through import, verifier, printer, parser and export; then
//! onnx.checker reads each export, and onnxruntime, where it runs the original, gives the same bits for it.

use std::path::Path;

use mqc_ir::text::{WeightsOf, parse, print};
use rayon::prelude::*;
use serde_json::Value;

mod common;

use common::python::script;
use common::{run, scratch};

/// The models of onnx 1.23.2 but for four image classifiers of 100 MB and more.
const MODELS: usize = 2029;

/// Models of operator sets 1 and 6, before ONNX's broadcasting: refused with advice. All node tests are newer.
const TOO_OLD: usize = 115;

/// What onnxruntime 1.32 runs of the others.
const LEAST_RUN: usize = 1780;

/// Models whose export differs, with the reason: none may be without one.
const DIFFERENT: &[(&str, &str)] = &[];

#[test]
fn every_backend_test_model_goes_in_and_comes_out_the_same() {
    let folder = scratch();
    let work = folder.path();
    let list = run(script("conformance.py").arg("list").arg(work));
    assert_eq!(list.code, Some(0), "{}", list.stderr);
    let cases: Vec<(&str, &str)> = list.stdout.lines().map(|line| line.split_once('\t').unwrap()).collect();
    assert_eq!(cases.len(), MODELS);

    let failures: Vec<String> = cases
        .par_iter()
        .filter_map(|(name, path)| {
            let export = work.join(format!("{name}.onnx"));
            round_trip(Path::new(path), &export).err().map(|error| format!("{name}: {error}"))
        })
        .collect();
    let (old, failures): (Vec<_>, Vec<_>) =
        failures.into_iter().partition(|f| f.contains("expected 7 or newer"));
    assert!(failures.is_empty(), "{} of {MODELS} failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(old.len(), TOO_OLD, "{}", old.join("\n"));

    run(script("conformance.py").arg("check").arg(work));
    let report: Value = serde_json::from_slice(&std::fs::read(work.join("report.json")).unwrap()).unwrap();
    let excused = |name: &str| DIFFERENT.iter().any(|(known, _)| *known == name);
    let models = report["models"].as_object().unwrap();
    let wrong: Vec<String> = models
        .iter()
        .filter(|(name, model)| (model["checker"] == false || model["equal"] == false) && !excused(name))
        .map(|(name, model)| format!("{name}: {}", model["reason"]))
        .collect();
    assert!(wrong.is_empty(), "{} exports are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let count = |key: &str| report["summary"][key].as_u64().unwrap() as usize;
    assert_eq!(count("imported"), MODELS - TOO_OLD);
    assert!(count("ran") >= LEAST_RUN, "onnxruntime ran only {} models", count("ran"));
    assert_eq!(count("different"), DIFFERENT.len(), "an excuse without need");
    assert_eq!(count("equal") + count("different"), count("ran"));
}

fn round_trip(path: &Path, export: &Path) -> Result<(), String> {
    let model = mqc_onnx::import::import(path).map_err(|e| format!("import: {e}"))?;
    let graph = &model.graph;
    if let Some(error) = mqc_ir::verify::verify(graph).first() {
        return Err(format!("verify: {error}"));
    }
    let text = print(graph);
    let back = parse(&text, &WeightsOf::new(graph)).map_err(|e| format!("parse: {e}"))?;
    if back != *graph {
        return Err("what was printed parses to another graph".to_owned());
    }
    mqc_onnx::export::write(&model, export, &Default::default()).map_err(|e| format!("export: {e}"))
}
