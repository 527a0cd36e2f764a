//! `--device cuda` on stand-ins for the driver and the compiler (`mqc-cuda-standin`): what the device computes is what the
//! processors compute with float activations.

use std::path::Path;

use mqc::data::read_npz;
use mqc_ir::{DType, Op, Tensor, TensorType, Type};

mod common;

use common::decoder::{FORM, Form, Positions, text, write_tokenizer};
use common::{Ran, mqc, paths, repository, run, scratch, succeed, write_model};

/// Runs a command line on the device.
fn on_device(folder: &Path, arguments: &str) -> Ran {
    let environment = mqc_cuda_standin::environment(Path::new(env!("CARGO_TARGET_TMPDIR")));
    run(mqc(folder).args(arguments.split_whitespace()).args(["--device", "cuda"]).envs(environment))
}

/// The same, which must succeed. Returns its standard output.
fn good(folder: &Path, arguments: &str) -> String {
    let ran = on_device(folder, arguments);
    assert_eq!(ran.code, Some(0), "mqc {arguments}\n{}{}", ran.stdout, ran.stderr);
    ran.stdout
}

fn close(found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!((found.shape(), found.dtype()), (expected.shape(), expected.dtype()));
    let (found, expected) = (found.to_f32_vec().unwrap(), expected.to_f32_vec().unwrap());
    let scale = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for (i, (x, y)) in found.iter().zip(&expected).enumerate() {
        assert!((x - y).abs() <= tolerance * scale, "element {i}: found {x}, expected {y}");
    }
}

/// Convolutions, pooling, products: the outputs of `mqc run` at three widths, and what `verify` and `bench` say.
#[test]
fn a_classifier_is_the_same_on_the_device() {
    let folder = scratch();
    let folder = folder.path();
    let model = repository("examples/digits/digits.onnx");
    let model = model.display();
    succeed(folder, &format!("compile {model} --bits 8,4,2 -o m.mqc -q"));
    let line = "run m.mqc --bits 8 --bits 4 --bits 2 --size batch=3 -q";
    good(folder, &format!("{line} -o device.{{bits}}.npz"));
    succeed(folder, &format!("{line} --activations f32 -o cpu.{{bits}}.npz"));
    for bits in [8, 4, 2] {
        let [found, expected] =
            ["device", "cpu"].map(|name| read_npz(&folder.join(format!("{name}.{bits}.npz"))).unwrap());
        assert!(!expected.is_empty());
        expected.iter().for_each(|(name, tensor)| close(&found[name], tensor, 1e-5));
    }
    let said = good(folder, &format!("verify m.mqc --model {model} --size batch=3 -q"));
    let same = succeed(folder, &format!("verify m.mqc --model {model} --size batch=3 --activations f32 -q"));
    let cosines = |said: &str| {
        said.lines()
            .skip(2)
            .map(|line| line.split_whitespace().nth(4).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(cosines(&said), cosines(&same), "{said}{same}");
    let said = good(folder, "bench m.mqc --bits 4 --rounds 1 --warmup 1 --batch 1 --json bench.json -q");
    assert!(said.contains("kernels"), "{said}");
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("bench.json")).unwrap()).unwrap();
    assert!(cases[0]["kernels"].as_u64().unwrap() > 0 && cases[0]["resident_bytes"].as_u64().unwrap() > 0);
    let ran = on_device(folder, "bench m.mqc --rounds 1 --svg chart.svg");
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

/// Writes the model of a text with half precision for f32.
fn write_half_model(path: &Path, text: &str) {
    let half = |ty: &Type| match ty {
        Type::Tensor(TensorType { dtype: Some(DType::F32), shape }) => {
            Type::Tensor(TensorType { dtype: Some(DType::F16), shape: shape.clone() })
        }
        other => other.clone(),
    };
    let narrow = |tensor: &Tensor| match tensor.dtype() {
        DType::F32 => {
            let values = tensor.to_f32_vec().unwrap();
            let bytes = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
            Tensor::new(DType::F16, tensor.shape().to_vec(), bytes).unwrap()
        }
        _ => tensor.clone(),
    };
    let mut graph = mqc_ir::text::parse(text, &mqc_ir::text::NoWeights).unwrap();
    for id in graph.ids() {
        let node = graph.node_mut(id).unwrap();
        node.outputs.iter_mut().for_each(|output| output.ty = half(&output.ty));
        if let Op::Weight(tensor) = &node.op {
            node.op = Op::Weight(narrow(tensor));
        }
    }
    let mut outputs = graph.outputs().to_vec();
    outputs.iter_mut().for_each(|output| output.declared = half(&output.declared));
    graph.set_outputs(outputs);
    mqc_onnx::export::write(&mqc_onnx::Model::from_graph(graph), path, &Default::default()).unwrap();
}

/// Half precision is f32 on the device; outputs are of the model's type.
#[test]
fn half_precision_is_widened() {
    let folder = scratch();
    let folder = folder.path();
    let model = "graph @half(%x: f32[n, 24]) -> (y: f32[n, 10]) {
  opset \"\" = 17
  %first = weight : f32[24, 40] = random(1)
  %bias = weight : f32[40] = random(2)
  %second = weight : f32[40, 10] = random(3)
  %least = weight : f32[] = 0.125
  %a = mat_mul %x, %first
  %b = add %a, %bias
  %c = max %b, %least
  %d = cast %c {to = f32}
  %e = tanh %d
  %f = cast %e {to = f16}
  %y = mat_mul %f, %second
  return %y
}";
    write_half_model(&folder.join("half.onnx"), model);
    succeed(folder, "compile half.onnx --bits 8,4,2 -o m.mqc -q");
    let line = "run m.mqc --bits 8 --bits 2 --size n=5 -q";
    good(folder, &format!("{line} -o device.{{bits}}.npz"));
    succeed(folder, &format!("{line} --activations f32 -o cpu.{{bits}}.npz"));
    for bits in [8, 2] {
        let [found, expected] =
            ["device", "cpu"].map(|name| read_npz(&folder.join(format!("{name}.{bits}.npz"))).unwrap());
        assert_eq!(found["y"].dtype(), DType::F16);
        close(&found["y"], &expected["y"], 4e-3);
    }
    write_tokenizer(&folder.join("tokenizer.json"), common::decoder::VOCABULARY);
    write_half_model(&folder.join("decoder.onnx"), &text(&Form { positions: Positions::Masked, ..FORM }));
    let line = "generate decoder.onnx --tokenizer tokenizer.json --json --eos none -n 8 -q --prompt t1";
    let (tokens, memory) = generated(&good(folder, line));
    assert_eq!(tokens.as_array().unwrap().len(), 8);
    assert_eq!((&tokens, memory), (&generated(&succeed(folder, line)).0, "resident".into()));
}

/// What `mqc generate --json` says of a model.
fn generated(said: &str) -> (serde_json::Value, serde_json::Value) {
    let report: serde_json::Value = serde_json::from_str(said).unwrap();
    (report["tokens"].clone(), report["memory"].clone())
}

/// Keys and values stay on the device: past its first room, with a run of the prompt, at changing widths.
#[test]
fn a_decoder_generates_the_same_on_the_device() {
    let folder = scratch();
    let folder = folder.path();
    write_tokenizer(&folder.join("tokenizer.json"), common::decoder::VOCABULARY);
    let prompt: Vec<String> = (0..40).map(|i| format!("t{}", i * 7 % 37)).collect();
    let prompt = prompt.join(" ");
    let forms = [
        ("masked", Form { positions: Positions::Masked, ..FORM }, "resident"),
        ("counted", Form { positions: Positions::Counted, ..FORM }, "resident"),
        ("plain", Form { past: false, ..FORM }, "none"),
    ];
    for (name, form, memory) in forms {
        write_model(&folder.join(format!("{name}.onnx")), &text(&form));
        succeed(folder, &format!("compile {name}.onnx --bits 8,4,2 -o {name}.mqc -q"));
        let most = if name == "counted" { 92 } else { 12 };
        let line = format!(
            "generate {name}.mqc --tokenizer tokenizer.json --json --eos none -n {most} -q --bits 4 --switch 5:8 --switch 9:2 \
             --activations f32"
        );
        let mut answers = vec![];
        for device in ["cuda", "cpu"] {
            let environment = mqc_cuda_standin::environment(Path::new(env!("CARGO_TARGET_TMPDIR")));
            let mut command = mqc(folder);
            command
                .args(line.split_whitespace())
                .args(["--prompt", &prompt, "--device", device])
                .envs(environment);
            let ran = run(&mut command);
            assert_eq!(ran.code, Some(0), "{name} on {device}: {}", ran.stderr);
            answers.push(generated(&ran.stdout));
        }
        assert_eq!(answers[0].0, answers[1].0, "{name}");
        assert_eq!(answers[0].1, memory, "{name}");
        assert_eq!(answers[0].0.as_array().unwrap().len(), most);
    }
    // Positions that are the lengths of inputs would be those of the room.
    write_model(&folder.join("lengths.onnx"), &text(&FORM));
    let ran = on_device(folder, "generate lengths.onnx --tokenizer tokenizer.json --prompt t1");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("position_ids") && ran.stderr.contains("--device cpu"), "{}", ran.stderr);
}

/// The loss of every step, of one stage after the other.
fn losses(folder: &Path) -> Vec<f64> {
    let mut files: Vec<_> =
        paths(folder).into_iter().filter(|path| path.ends_with("metrics.jsonl")).collect();
    files.sort();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "train").map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// Predicts a token from the one before.
const LANGUAGE: &str = r#"graph @language(%input_ids: i64[batch, seq]) -> (logits: f32[batch, seq, 40]) {
  opset "" = 20
  %table = weight : f32[40, 16] = random(1)
  %first = weight : f32[16, 32] = random(2)
  %gain = weight : f32[32] = random(3)
  %second = weight : f32[32, 40] = random(4)
  %x = gather %table, %input_ids {axis = 0}
  %a = mat_mul %x, %first @block.0
  %b = layer_normalization %a, %gain {axis = -1, epsilon = 0.00001, stash_type = 1}
  %c = gelu %b {approximate = tanh}
  %logits = mat_mul %c, %second @block.1
  return %logits
}
"#;

/// A model trained in float, and in two stages: the losses of both. Codes are rounded: what differs in the last place before
/// differs by a step of the code after, as it does between two runs on the processors whose weights differ in the last place.
#[test]
fn a_training_is_the_same_on_the_device() {
    let folder = scratch();
    let folder = folder.path();
    write_model(&folder.join("m.onnx"), LANGUAGE);
    let tokens: Vec<u8> = (0..2000u32).flat_map(|i| ((i * i / 7 % 40) as u16).to_le_bytes()).collect();
    std::fs::write(folder.join("tokens.u16"), tokens).unwrap();
    let common = "--loss ce --text tokens.u16 --sequence 12 --batch 4 --steps 8 --lr 0.01 --warmup 2 -q";
    for (name, method, later) in
        [("float", "--method float", 1e-5), ("nested", "--bits 8,4,2 --stages 2;8,4", 2e-2)]
    {
        let line = format!("train m.onnx {method} {common}");
        let ending = if name == "float" { "onnx" } else { "mqc" };
        good(folder, &format!("{line} -o {name}.device.{ending} --run {name}.device"));
        succeed(folder, &format!("{line} -o {name}.cpu.{ending} --run {name}.cpu"));
        let [found, expected] =
            ["device", "cpu"].map(|place| losses(&folder.join(format!("{name}.{place}"))));
        assert!(expected.len() >= 8 && found.len() == expected.len(), "{name}: {} steps", found.len());
        for (step, (x, y)) in found.iter().zip(&expected).enumerate() {
            let tolerance = if step == 0 { 1e-6 } else { later };
            assert!((x - y).abs() <= tolerance * y.abs(), "{name}, step {step}: found {x}, expected {y}");
        }
    }
}
