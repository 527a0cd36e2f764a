//! `mqc train`: what it writes runs at every width as it was trained, survives kill -9, and is what onnxruntime computes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use mqc::data::{read_npz, write_npz};
use mqc_ir::Tensor;
use serde_json::Value;

mod common;

use common::python::python;
use common::{contents, fail, mqc, repository, run, scratch, succeed, write_model};

const SAMPLES: usize = 64;
const INPUTS: usize = 16;

const MODEL: &str = "graph @mlp(%x: f32[batch, 16]) -> (logits: f32[batch, 4]) {
  opset \"\" = 17
  %first.weight = weight : f32[16, 24] = random(1)
  %first.bias = weight : f32[24] = random(2)
  %second.weight = weight : f32[24, 4] = random(3)
  %0 = mat_mul %x, %first.weight : f32[batch, 24] @first
  %1 = add %0, %first.bias : f32[batch, 24] @bias
  %2 = relu %1 : f32[batch, 24] @relu
  %3 = mat_mul %2, %second.weight : f32[batch, 4] @second as logits
  return %3
}";

/// A folder with `m.onnx` and `d.npz`: four classes that depend on the inputs.
fn folder() -> tempfile::TempDir {
    let folder = scratch();
    write_model(&folder.path().join("m.onnx"), MODEL);
    let x: Vec<f32> = (0..SAMPLES * INPUTS).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.9).collect();
    let label = |row: &[f32]| i64::from(row[0] + row[3] > 0.0) + 2 * i64::from(row[1] > row[2]);
    let labels: Vec<i64> = x.chunks(INPUTS).map(label).collect();
    data(folder.path(), "d.npz", &x, &labels);
    folder
}

fn data(folder: &Path, name: &str, x: &[f32], labels: &[i64]) {
    let x = Tensor::from_f32(vec![x.len() / INPUTS, INPUTS], x).unwrap();
    let labels = Tensor::from_i64(vec![labels.len()], labels).unwrap();
    write_npz(&folder.join(name), &[("x".to_owned(), x), ("label".to_owned(), labels)]).unwrap();
}

const COMMON: &str =
    "--loss ce --data d.npz --labels label --batch 16 --warmup 5 --lr 0.01 --threads 1 --quiet";

/// The lines of metrics of a kind.
fn metrics(folder: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).collect()
}

/// The mean cross-entropy of an artifact at a width.
fn loss_of(folder: &Path, artifact: &str, bits: &str) -> f64 {
    let arguments =
        format!("run {artifact} --bits {bits} --activations f32 --input d.npz --output y.npz --quiet");
    succeed(folder, &arguments);
    let logits = read_npz(&folder.join("y.npz")).unwrap()["logits"].to_f32_vec().unwrap();
    let labels = read_npz(&folder.join("d.npz")).unwrap()["label"].to_i64_vec().unwrap();
    let each = logits.chunks(4).zip(&labels).map(|(row, label)| {
        let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
        sum.ln() - f64::from(row[*label as usize])
    });
    each.sum::<f64>() / labels.len() as f64
}

#[test]
fn in_turn_and_joint_artifacts_run_as_they_were_trained() {
    let folder = folder();
    let path = folder.path();
    for (schedule, first, last) in
        [("in-turn", "i.run/stage-1", "i.run/stage-3"), ("joint", "j.run", "j.run")]
    {
        let artifact = format!("{}.mqc", &schedule[..1]);
        succeed(
            path,
            &format!(
                "train m.onnx -o {artifact} --schedule {schedule} {COMMON} --validation-data d.npz --steps 150"
            ),
        );
        let last = path.join(last);
        let progress = std::fs::read(last.join("best/progress.json")).unwrap();
        let progress: Value = serde_json::from_slice(&progress).unwrap();
        let best = metrics(&last, "validation")
            .into_iter()
            .find(|l| l["step"] == progress["progress"]["best"]["step"])
            .unwrap();
        for bits in ["8", "6", "4", "3", "2"] {
            let trained = best["widths"][format!("int{bits}")]["loss"].as_f64().unwrap();
            let found = loss_of(path, &artifact, bits);
            assert!(
                (found - trained).abs() < 1e-3 * trained,
                "{schedule}, int{bits}: {found}, trained {trained}"
            );
        }
        let start = metrics(&path.join(first), "validation")[0]["widths"]["int4"]["loss"].as_f64().unwrap();
        assert!(loss_of(path, &artifact, "4") < 0.8 * start);
    }
}

#[test]
fn a_training_that_is_killed_again_and_again_ends_in_the_same_bytes() {
    let folder = folder();
    let path = folder.path();
    let arguments = format!(
        "train m.onnx {COMMON} --validation-share 0.25 --steps 3000 --save-every 7 --evaluate-every 500"
    );
    succeed(path, &format!("{arguments} -o whole.mqc"));
    let resumed = format!("{arguments} -o killed.mqc --resume");
    let mut killed = 0;
    for round in 0u64..50 {
        let mut child = mqc(path).args(resumed.split_whitespace()).stderr(Stdio::null()).spawn().unwrap();
        // Pseudo-random moments, from before the first step to some hundred steps later.
        std::thread::sleep(Duration::from_millis(20 + round * 7919 % 97));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        child.wait().unwrap();
        if path.join("killed.mqc").exists() {
            std::fs::remove_dir_all(path.join("killed.mqc")).unwrap();
        }
    }
    assert!(killed >= 25, "only {killed} of 50 trainings were still running when they were to be killed");
    succeed(path, &resumed);
    let (whole, killed) = (contents(&path.join("whole.mqc")), contents(&path.join("killed.mqc")));
    assert!(whole == killed, "the artifacts differ");
}

#[test]
fn onnxruntime_steps_the_same_losses() {
    for more in ["", "--lambda 1,1,0.5 --lambda-end 0.2,0.5,1 --balance norms --shift-rate 100"] {
        same_losses_in_onnxruntime(more);
    }
}

fn same_losses_in_onnxruntime(more: &str) {
    let folder = folder();
    let path = folder.path();
    let options = format!(
        "--loss ce --data d.npz --labels label --batch 64 --warmup 0 --lr-schedule constant --lr 0.001 --steps 100 \
         --schedule joint --quiet {more}"
    );
    succeed(path, &format!("train m.onnx -o a.mqc {options} --graphs graphs"));
    succeed(path, &format!("train m.onnx -o a.mqc {options}"));
    let script = repository("examples/train_step.py");
    let output = std::process::Command::new(python())
        .current_dir(path)
        .arg(script)
        .args("graphs d.npz --labels label --steps 100 --lr 0.001".split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<f64> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let ours: Vec<f64> =
        metrics(&path.join("a.run"), "train").iter().map(|l| l["loss"].as_f64().unwrap()).collect();
    assert_eq!((ours.len(), theirs.len()), (100, 100));
    for (step, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!((a - b).abs() <= 1e-4 * b.abs(), "{more} step {}: {a}, onnxruntime {b}", step + 1);
    }
}

#[test]
fn float_training_writes_the_model_with_new_weights() {
    let folder = folder();
    let path = folder.path();
    succeed(path, &format!("train m.onnx -o t.onnx --method float {COMMON} --steps 60"));
    succeed(path, &format!("train t.onnx -o u.onnx --method float {COMMON} --steps 60"));
    let first = |run: &str| metrics(&path.join(run), "train")[0]["loss"].as_f64().unwrap();
    assert!(first("u.run") < 0.7 * first("t.run"));
}

#[test]
fn frozen_codes_keep_their_planes() {
    let folder = folder();
    let path = folder.path();
    succeed(path, "compile m.onnx -o c.mqc --quiet");
    succeed(path, &format!("train m.onnx -o s.mqc --method scales {COMMON} --steps 40"));
    let planes = |artifact: &str| -> Vec<String> {
        let text = succeed(path, &format!("inspect {artifact} --json"));
        let json: Value = serde_json::from_str(&text).unwrap();
        json["tensors"]
            .as_object()
            .map(|t| t.iter().filter(|(n, _)| n.contains("plane")).map(|(_, v)| v.to_string()).collect())
            .unwrap_or_default()
    };
    assert_eq!(planes("c.mqc"), planes("s.mqc"));
}

#[test]
fn mistakes_are_named() {
    let folder = folder();
    let path = folder.path();
    let expect = |arguments: &str, code: i32, expected: &str| {
        let message = fail(path, &format!("train m.onnx -o e.mqc {arguments}"), code);
        assert!(message.contains(expected), "{arguments}: {message}");
        assert!(!path.join("e.mqc").exists());
    };
    let x = vec![0.5; 32 * INPUTS];
    data(path, "labels.npz", &x, &[9; 32]);
    data(path, "short.npz", &x[..3 * INPUTS], &[1; 3]);
    let mut bad = x.clone();
    bad[5] = f32::NAN;
    data(path, "nan.npz", &bad, &[1; 32]);
    expect("--loss ce --data labels.npz --labels label", 1, "9");
    expect("--loss ce --data short.npz --labels label", 1, "3 samples");
    expect("--loss ce --data nan.npz --labels label", 1, "x");
    expect("--loss ce --data d.npz --labels nothing", 1, "labels");
    expect("--loss ce --data d.npz --labels label --frozen *", 1, "nothing is left to train");
    expect("--loss ce --data gone.npz", 2, "gone.npz");
    expect("--loss ce", 2, "nothing to train on");
    expect("--data d.npz --stages 8;2", 2, "after 8 bits are frozen");
    expect("--data d.npz --codistill 8:2", 2, "needs a stage that trains both");
    expect("--data d.npz --balance norms", 2, "needs a stage that trains several widths");
    expect("--data d.npz --schedule joint --lambda-end 1,2", 2, "3 widths");
    expect("--data d.npz --schedule joint --lambda-end 0,0,0", 1, "not all 0");
    expect("--data d.npz --schedule joint --lambda-end 1,1,1 --lambda-until 2", 2, "--lambda-until");
    expect("--data d.npz --shift-rate=-1", 1, "from 0 on");
    expect("--data d.npz --loss-output logitz", 1, "logitz");
    expect("--data d.npz --lambda 1", 2, "--lambda");
    expect("--data d.npz --batch 16 --accumulate 3", 2, "--accumulate");
}

/// A gain in front of two weights that read the same value: what an equivalent transformation can change.
const RESIDUAL: &str = "graph @residual(%x: f32[batch, 16]) -> (y: f32[batch, 16]) {
  opset \"\" = 17
  %gain = weight : f32[16] = random(1)
  %shift = weight : f32[16] = random(2)
  %a.weight = weight : f32[16, 24] = random(3)
  %a.bias = weight : f32[24] = random(4)
  %b.weight = weight : f32[16, 24] = random(5)
  %b.bias = weight : f32[24] = random(6)
  %c.weight = weight : f32[24, 16] = random(7)
  %d.weight = weight : f32[16, 16] = random(8)
  %0 = mul %x, %gain : f32[batch, 16]
  %1 = add %0, %shift : f32[batch, 16]
  %2 = mat_mul %1, %a.weight : f32[batch, 24] @a
  %3 = add %2, %a.bias : f32[batch, 24]
  %4 = mat_mul %1, %b.weight : f32[batch, 24] @b
  %5 = add %4, %b.bias : f32[batch, 24]
  %6 = mul %3, %5 : f32[batch, 24]
  %7 = mat_mul %6, %c.weight : f32[batch, 16] @c
  %8 = add %x, %7 : f32[batch, 16]
  %9 = mat_mul %8, %d.weight : f32[batch, 16] @d as y
  return %9
}";

#[test]
fn blocks_are_calibrated_one_after_the_other() {
    let folder = folder();
    let path = folder.path();
    write_model(&path.join("m.onnx"), RESIDUAL);
    let arguments = "train m.onnx --method omniquant --data d.npz --samples 48 --batch 16 --steps 150 --lr 0.02 \
                     --activation-memory 0 --threads 1 --quiet";
    succeed(path, "compile m.onnx -o plain.mqc --quiet");
    succeed(path, &format!("{arguments} -o whole.mqc"));
    succeed(path, &format!("{arguments} -o stopped.mqc --stop-after 70"));
    assert!(!path.join("stopped.mqc").exists());
    succeed(path, &format!("{arguments} -o stopped.mqc --resume"));
    let (whole, stopped) = (contents(&path.join("whole.mqc")), contents(&path.join("stopped.mqc")));
    assert!(whole == stopped, "the artifacts differ");
    assert!(path.join("whole.run/block-002/last").exists() && !path.join("whole.run/block-003").exists());

    let output = |artifact: &str, bits: u8| {
        let arguments =
            format!("run {artifact} --bits {bits} --activations f32 --input d.npz --output y.npz --quiet");
        succeed(path, &arguments);
        read_npz(&path.join("y.npz")).unwrap()["y"].to_f32_vec().unwrap()
    };
    succeed(path, "run m.onnx --input d.npz --output y.npz --quiet");
    let float = read_npz(&path.join("y.npz")).unwrap()["y"].to_f32_vec().unwrap();
    let error = |artifact: &str, bits: u8| -> f32 {
        output(artifact, bits).iter().zip(&float).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    // Ranges that suit 2 bits cost 8 bits a little.
    let energy: f32 = float.iter().map(|v| v * v).sum();
    assert!(error("whole.mqc", 8) < 0.003 * energy);
    for (bits, share) in [(4, 0.7), (2, 0.7)] {
        let (plain, learned) = (error("plain.mqc", bits), error("whole.mqc", bits));
        assert!(learned < share * plain, "int{bits}: {learned}, not calibrated {plain}");
    }
    // The transformation moved into the gain: the norm of the model is no longer its own.
    let tensors = |artifact: &str| std::fs::read(path.join(artifact).join("graph.onnx")).unwrap();
    assert_ne!(tensors("plain.mqc"), tensors("whole.mqc"));
    let message = fail(path, "train m.onnx -o e.mqc --method omniquant --data d.npz --blocks nothing", 1);
    assert!(message.contains("no value where a block can end"), "{message}");
}

#[test]
fn accumulated_parts_are_the_whole_batch() {
    let folder = folder();
    let path = folder.path();
    let options = format!("--schedule joint --lambda-end 0.1,1,2 {COMMON} --steps 20");
    succeed(path, &format!("train m.onnx -o a.mqc {options}"));
    succeed(path, &format!("train m.onnx -o b.mqc {options} --accumulate 4"));
    let losses = |run: &str| -> Vec<f64> {
        metrics(&path.join(run), "train").iter().map(|l| l["loss"].as_f64().unwrap()).collect()
    };
    for (a, b) in losses("a.run").iter().zip(losses("b.run")) {
        assert!((a - b).abs() < 1e-3 * a.abs(), "{a} {b}");
    }
}

#[test]
fn the_run_says_how_to_continue() {
    let folder = folder();
    let path = folder.path();
    let arguments = format!("train m.onnx -o a.mqc {COMMON} --steps 20");
    succeed(path, &format!("{arguments} --stop-after 5"));
    assert!(!path.join("a.mqc").exists());
    assert!(fail(path, &arguments, 2).contains("--resume"));
    let changed = run(mqc(path).args(format!("{arguments} --resume --seed 3").split_whitespace()));
    assert!(changed.stderr.contains("seed"), "{}", changed.stderr);
    succeed(path, &format!("{arguments} --resume"));
    assert!(path.join("a.mqc").exists());
}
