//! `--target cuda:...` and `--device`: kernels in the artifact, and the reason where there is no device.

use std::fs;

mod common;

use common::{fail, mqc, names, run, scratch, succeed, write_model};

/// Two products of f32, one of them in groups that no fast kernel serves.
const MODEL: &str = r#"graph @small(%x: f32[batch, 48]) -> (y: ?) {
  opset "" = 17
  %w0 = weight : f32[48, 48] = random(1)
  %w1 = weight : f32[48, 16] = random(2)
  %a = mat_mul %x, %w0 @block.0
  %y = mat_mul %a, %w1 @block.1
  return %y
}
"#;

fn model() -> tempfile::TempDir {
    let folder = scratch();
    write_model(&folder.path().join("m.onnx"), MODEL);
    folder
}

#[test]
fn kernels_are_files_of_the_artifact() {
    let folder = model();
    let folder = folder.path();
    fs::write(folder.join("mqc.toml"), "[[layer]]\nname = \"block.1\"\ngroup-size = 24\n").unwrap();
    // Without a compiler the texts alone.
    let arguments = ["compile", "m.onnx", "--bits", "8,2", "--target", "cuda:sm_90a"];
    let ran = run(mqc(folder).args(arguments).env("MQC_NVRTC", "no such library"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("not compiled: NVRTC is not found"), "{}", ran.stdout);
    assert!(ran.stdout.contains("no fast CUDA kernel serves groups of 24"), "{}", ran.stdout);
    let mut expected = vec![];
    for bits in [2, 8] {
        for tokens in ["m16", "m4", "m8", "many_sm90a"] {
            expected.push(format!("nested_r{bits}_midpoint_channel_f32_{tokens}.cu"));
        }
        expected.push(format!("nested_r{bits}_midpoint_g24_f32_general.cu"));
    }
    let kernels = folder.join("m.mqc/kernels");
    assert_eq!(names(&kernels), expected);
    // They are part of what is checked.
    succeed(folder, "verify m.mqc");
    fs::write(kernels.join(&expected[0]), "something else").unwrap();
    let message = fail(folder, "verify m.mqc", 1);
    assert!(message.contains(&expected[0]), "{message}");
}

#[test]
fn targets_that_are_none() {
    let folder = model();
    for target in ["cuda", "sm_90a", "cuda:sm_70", "cuda:sm_90"] {
        let message = fail(folder.path(), &format!("compile m.onnx --target {target}"), 2);
        assert!(message.contains("sm_80") && message.contains("sm_90a"), "{message}");
    }
}

#[test]
fn without_a_device_the_reason_is_said_or_the_processors_run() {
    let folder = model();
    let folder = folder.path();
    succeed(folder, "compile m.onnx --quiet");
    for command in ["run m.mqc --bits 4", "bench m.mqc --bits 4 --rounds 1 --batch 1", "verify m.mqc"] {
        let ran = run(mqc(folder).args(command.split_whitespace()).args(["--device", "cuda"]));
        assert_ne!(ran.code, Some(0));
        let (line, rest) = ran.stderr.split_once('\n').unwrap();
        assert!(line.starts_with("error: ") && line.contains("CUDA") && rest.is_empty(), "{}", ran.stderr);
    }
    let ran = run(mqc(folder).args("run m.mqc --bits 4 --device auto".split_whitespace()));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("running on the CPU: ") && ran.stderr.contains("CUDA"), "{}", ran.stderr);
}
