//! Models that are none, models that contradict themselves, models with hostile sizes: each gets an error that names the
//! thing, and nothing is written.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use mqc_onnx::export::{ExportOptions, Inline, to_proto, write};
use mqc_onnx::file::write_atomic;
use mqc_onnx::proto::{GraphProto, ModelProto, NodeProto};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod common;

use common::{Ran, fail, names, run, scratch, succeed, write_model};

const MODEL: &str = r#"graph @m(%x: f32[2, 16]) -> (y: f32[2, 8]) {
  opset "" = 17
  %fc.weight = weight : f32[16, 8] = random(1)
  %fc.bias = weight : f32[8] = random(2)
  %product = mat_mul %x, %fc.weight @fc
  %y = add %product, %fc.bias @sum
  return %y
}
"#;

fn model() -> mqc_onnx::Model {
    mqc_onnx::Model::from_graph(mqc_ir::text::parse(MODEL, &mqc_ir::text::NoWeights).unwrap())
}

/// Compiling `m.onnx` is refused with this code and these words, by a process with 3 GB of address space, and nothing
/// is left behind.
fn refused(folder: &Path, code: i32, words: &[&str]) -> String {
    let before = names(folder);
    let limited = "ulimit -v 3000000; exec \"$0\" compile m.onnx";
    let command = &mut Command::new("sh");
    let Ran { code: found, stdout, stderr } =
        run(command.current_dir(folder).args(["-c", limited, env!("CARGO_BIN_EXE_mqc")]));
    assert_eq!(found, Some(code), "{words:?}\n{stdout}{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in\n{stderr}");
    }
    assert_eq!(names(folder), before, "something is left");
    stderr
}

fn refused_bytes(bytes: &[u8], words: &[&str]) -> String {
    let folder = scratch();
    std::fs::write(folder.path().join("m.onnx"), bytes).unwrap();
    refused(folder.path(), 1, words)
}

fn refused_text(text: &str, words: &[&str]) {
    let folder = scratch();
    write_model(&folder.path().join("m.onnx"), text);
    refused(folder.path(), 1, words);
}

/// The model with a change that the IR would not let through.
fn refused_proto(change: impl FnOnce(&mut ModelProto, &mut GraphProto), words: &[&str]) {
    let folder = scratch();
    let mut proto = to_proto(&model(), &mut Inline).unwrap();
    let mut graph = proto.graph.take().unwrap();
    change(&mut proto, &mut graph);
    proto.graph = Some(graph);
    write_atomic(&folder.path().join("m.onnx"), &proto).unwrap();
    refused(folder.path(), 1, words);
}

fn model_bytes() -> Vec<u8> {
    let folder = scratch();
    let path = folder.path().join("m.onnx");
    write(&model(), &path, &ExportOptions::default()).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn files_that_are_no_models() {
    refused_bytes(b"", &["m.onnx", "empty"]);
    refused_bytes(b"import torch\n", &["m.onnx", "not an ONNX model"]);
    refused_bytes(b"\x89PNG\r\n\x1a\n0000000000", &["m.onnx", "not an ONNX model"]);
    refused_bytes(b"PK\x03\x04aaaaaaaaaaaaaaaa", &["m.onnx", "not an ONNX model"]);
    refused_bytes(&[0; 4096], &["m.onnx"]);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for length in [1, 7, 100, 5000] {
        for _ in 0..5 {
            let bytes: Vec<u8> = (0..length).map(|_| random.random_range(0..=255u8)).collect();
            refused_bytes(&bytes, &["m.onnx"]);
        }
    }
    let folder = scratch();
    assert!(fail(folder.path(), "compile m.onnx", 2).contains("m.onnx"), "there is none");
    std::fs::create_dir(folder.path().join("m.onnx")).unwrap();
    refused(folder.path(), 1, &["m.onnx", "folder"]);
}

#[test]
fn truncated_models() {
    let bytes = model_bytes();
    for length in [bytes.len() - 1, bytes.len() / 2, 40] {
        refused_bytes(&bytes[..length], &["m.onnx", "truncated"]);
    }
}

#[test]
fn models_that_claim_gigabytes() {
    // Field 7, the graph, of 4 GB.
    refused_bytes(&[0x08, 0x08, 0x3a, 0x80, 0x80, 0x80, 0x80, 0x10, 0, 0], &["m.onnx", "truncated"]);
    let huge =
        |dims: Vec<i64>| move |_: &mut ModelProto, graph: &mut GraphProto| graph.initializer[0].dims = dims;
    refused_proto(huge(vec![1 << 20, 1 << 20]), &["fc.weight"]);
    refused_proto(huge(vec![1 << 62, 1 << 62]), &["fc.weight"]);
    refused_proto(huge(vec![-1, 8]), &["fc.weight", "-1"]);
    refused_text(
        "graph @m(%x: f32[2, 16]) -> (y: ?) {\n  opset \"\" = 17\n  %shape = constant : i64[2] = [1000000, 1000000]\n  \
         %w = constant_of_shape %shape @fill\n  %y = mat_mul %x, %w @fc\n  return %y\n}\n",
        &["fc"],
    );
}

#[test]
fn graphs_that_are_none() {
    let node = |name: &str, inputs: &[&str], output: &str| NodeProto {
        name: Some(name.to_owned()),
        op_type: Some("Add".to_owned()),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    refused_proto(
        |_, graph| {
            graph.node.push(node("hen", &["egg_value", "x"], "hen_value"));
            graph.node.push(node("egg", &["hen_value", "x"], "egg_value"));
        },
        &["cycle", "hen"],
    );
    refused_proto(|_, graph| graph.node.push(node("again", &["x", "x"], "y")), &["y", "already defined"]);
    refused_proto(|_, graph| graph.node.push(node("lost", &["x", "nowhere"], "z")), &["lost", "nowhere"]);
    refused_proto(|_, graph| graph.output[0].name = Some("nowhere".to_owned()), &["nowhere", "output"]);
    refused_proto(|_, graph| graph.input[0].name = None, &["no name"]);
    refused_proto(|_, graph| graph.initializer[0].name = None, &["no name"]);
    refused_proto(
        |_, graph| graph.initializer.push(graph.initializer[0].clone()),
        &["fc.weight", "already defined"],
    );
    refused_proto(|proto, _| proto.opset_import[0].version = Some(6), &["opset", "6", "7"]);
    refused_proto(|_, graph| graph.initializer[0].data_type = Some(99), &["fc.weight", "99"]);
    refused_proto(
        |_, graph| graph.initializer[0].raw_data = Some(Bytes::from_static(&[0; 12])),
        &["fc.weight", "12"],
    );
}

#[test]
fn types_and_shapes_that_do_not_fit() {
    refused_text(&MODEL.replace("f32[2, 16]", "f64[2, 16]"), &["fc", "f64", "f32"]);
    refused_text(&MODEL.replace("f32[2, 16]", "f32[2, 15]"), &["fc", "15", "16"]);
    refused_text(
        &MODEL.replace("%fc.bias = weight : f32[8]", "%fc.bias = weight : f32[7]"),
        &["sum", "7", "8"],
    );
}

#[test]
fn external_data_that_is_missing_short_or_outside() {
    let folder = scratch();
    let folder = folder.path();
    let path = folder.join("m.onnx");
    let options = ExportOptions { inline_limit: 0, external_from: 100, ..ExportOptions::default() };
    write(&model(), &path, &options).unwrap();
    let data = folder.join("m.onnx.data");
    let whole = std::fs::read(&data).unwrap();
    std::fs::write(&data, &whole[..whole.len() - 8]).unwrap();
    refused(folder, 1, &["fc.weight", "m.onnx.data", "too short"]);
    std::fs::remove_file(&data).unwrap();
    refused(folder, 2, &["fc.weight", "m.onnx.data"]);
    std::fs::create_dir(folder.join("inside")).unwrap();
    std::fs::rename(&path, folder.join("inside/m.onnx")).unwrap();
    let mut loaded = mqc_onnx::file::read(&folder.join("inside/m.onnx")).unwrap().model;
    std::fs::write(&data, &whole).unwrap();
    for (index, location) in
        ["../m.onnx.data", data.to_str().unwrap(), "inside/../../m.onnx.data"].into_iter().enumerate()
    {
        let graph = loaded.graph.as_mut().unwrap();
        let entries = graph.initializer.iter_mut().flat_map(|t| &mut t.external_data);
        for entry in entries.filter(|e| e.key.as_deref() == Some("location")) {
            entry.value = Some(location.to_owned());
        }
        write_atomic(&folder.join(format!("inside/{index}.onnx")), &loaded).unwrap();
        std::fs::rename(folder.join(format!("inside/{index}.onnx")), folder.join("inside/m.onnx")).unwrap();
        refused(&folder.join("inside"), 1, &["fc.weight", location, "leaves the model's folder"]);
    }
    std::os::unix::fs::symlink(&data, folder.join("inside/m.onnx.data")).unwrap();
    write(&model(), &folder.join("inside/good.onnx"), &options).unwrap();
    std::fs::remove_file(folder.join("inside/good.onnx.data")).unwrap();
    std::os::unix::fs::symlink(&data, folder.join("inside/good.onnx.data")).unwrap();
    std::fs::rename(folder.join("inside/good.onnx"), folder.join("inside/m.onnx")).unwrap();
    refused(&folder.join("inside"), 1, &["fc.weight", "leaves the model's folder"]);
}

#[test]
fn weights_that_are_not_finite() {
    for value in ["NaN", "inf", "-inf"] {
        let folder = scratch();
        let folder = folder.path();
        let text = format!(
            "graph @m(%x: f32[2, 3]) -> (y: ?) {{\n  opset \"\" = 17\n  %bad.weight = weight : f32[3, 2] = \
             [0.5, {value}, 1.0, 2.0, 3.0, 4.0]\n  %y = mat_mul %x, %bad.weight @fc\n  return %y\n}}\n"
        );
        write_model(&folder.join("m.onnx"), &text);
        refused(folder, 1, &["bad.weight", "--allow-nonfinite"]);
        succeed(folder, "compile m.onnx --allow-nonfinite --quiet");
        succeed(folder, "run m.mqc --bits 8 --bits 2");
    }
}

#[test]
fn channels_of_one_value_are_exact_at_every_width() {
    let folder = scratch();
    let folder = folder.path();
    let rows = "0.3, -7.5, 0.0, 1e-30, ".repeat(8);
    let text = format!(
        "graph @m(%x: f32[2, 8]) -> (y: ?) {{\n  opset \"\" = 17\n  %w = constant : f32[8, 4] = [{}]\n  \
         %y = mat_mul %x, %w @fc\n  return %y\n}}\n",
        rows.trim_end_matches(", ")
    );
    write_model(&folder.join("m.onnx"), &text);
    for slice in ["midpoint", "round", "extra"] {
        succeed(folder, &format!("compile m.onnx --force --quiet --slice {slice}"));
        succeed(folder, "verify m.mqc --model m.onnx --bits 8,3,2,1 --max-error 1e-6 --activations f32");
    }
}

#[test]
fn models_with_nothing_to_quantize() {
    let head = "graph @m(%x: f32[2, 3]) -> (y: ?) {\n  opset \"\" = 17\n";
    refused_text(&format!("{head}  %y = relu %x\n  return %y\n}}\n"), &["nothing to quantize", "MatMul"]);
    let left = "  %w = weight : f32[4, 2] = random(1)\n  %y = mat_mul %w, %x @fc\n";
    refused_text(&format!("{head}{left}  return %y\n}}\n"), &["nothing to quantize", "left operand"]);
}
