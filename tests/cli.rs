//! What a person meets at the command line: options, files that are there already, full disks, kills, damaged artifacts.
//! Whatever goes wrong, the message names the thing, the exit code tells whose fault it is, and nothing is lost.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mqc::artifact::Store;

mod common;

use common::{contents, fail, mqc, names, run, scratch, succeed, write_model};

/// Two products of 16 by 16, named `block.0` and `block.1`.
const SMALL: &str = r#"graph @small(%x: f32[batch, 16]) -> (y: ?) {
  opset "" = 17
  %w0 = weight : f32[16, 16] = random(1)
  %w1 = weight : f32[16, 16] = random(2)
  %a = mat_mul %x, %w0 @block.0
  %y = mat_mul %a, %w1 @block.1
  return %y
}
"#;

/// A folder with `small.onnx`.
fn small() -> tempfile::TempDir {
    let folder = scratch();
    write_model(&folder.path().join("small.onnx"), SMALL);
    folder
}

/// A folder with `small.onnx` and `small.mqc`.
fn compiled(options: &str) -> tempfile::TempDir {
    let folder = small();
    succeed(folder.path(), &format!("compile small.onnx --quiet {options}"));
    folder
}

/// The command line is refused with this code, the message has all these words, and the folder is as it was.
fn refused(folder: &Path, arguments: &str, code: i32, words: &[&str]) {
    let before = contents(folder);
    let message = fail(folder, arguments, code);
    for word in words {
        assert!(message.contains(word), "mqc {arguments}: {word:?} is not in\n{message}");
    }
    assert!(contents(folder) == before, "mqc {arguments} changed the folder: {:?}", names(folder));
}

#[test]
fn widths_that_are_none() {
    let folder = compiled("");
    for bits in ["9", "0", "4,9", "x", "-1", "4,4"] {
        refused(folder.path(), &format!("compile small.onnx -o new.mqc --bits={bits}"), 2, &["--bits"]);
    }
    for bits in ["9", "0", "x"] {
        for command in ["run small.mqc", "export small.mqc --format float -o y.onnx"] {
            refused(folder.path(), &format!("{command} --bits={bits}"), 2, &["--bits", "1 to 8"]);
        }
    }
    refused(folder.path(), "export small.mqc --bits 3 --format qdq -o y.onnx", 1, &["w0", "8, 4 and 2", "3"]);
    refused(folder.path(), "compile small.onnx -o new.mqc --group-size 12", 2, &["--group-size", "12"]);
    refused(
        folder.path(),
        "compile small.onnx -o new.mqc --bits 8,4 --lambda 1",
        2,
        &["--lambda", "2 widths"],
    );
}

#[test]
fn unknown_layers_and_options() {
    let folder = compiled("");
    let folder = folder.path();
    refused(folder, "compile small.onnx -o n.mqc --exclude blok.1", 2, &["--exclude", "blok.1", "block."]);
    refused(folder, "compile small.onnx -o n.mqc --include blok*", 2, &["--include", "blok*"]);
    refused(folder, "compile small.onnx -o n.mqc --include [", 2, &["--include", "glob"]);
    std::fs::write(folder.join("map.toml"), "default = 4\n[layers]\n\"blok.*\" = 8\n").unwrap();
    refused(folder, "run small.mqc --bits map.toml", 2, &["blok.*", "w0"]);
    std::fs::write(folder.join("map.toml"), "default = 4\n[layers]\n\"w*\" = 8\n\"*1\" = 2\n").unwrap();
    refused(folder, "run small.mqc --bits map.toml", 2, &["w1", "w*", "*1"]);
    std::fs::write(folder.join("map.toml"), "default = 12\n").unwrap();
    refused(folder, "run small.mqc --bits map.toml", 2, &["map.toml", "1 to 8"]);
    std::fs::write(folder.join("mqc.toml"), "group_size = 32\n").unwrap();
    refused(folder, "compile small.onnx -o n.mqc", 2, &["mqc.toml", "group_size", "group-size"]);
    std::fs::write(folder.join("mqc.toml"), "[[layer]]\nname = \"nothing*\"\nskip = true\n").unwrap();
    refused(folder, "compile small.onnx -o n.mqc", 2, &["nothing*"]);
    refused(folder, "run none.mqc", 2, &["none.mqc"]);
    refused(folder, "ir small.onnx --pass matquand", 2, &["matquand"]);
}

#[test]
fn the_configuration_file_holds_the_options() {
    let folder = small();
    let text = "bits = [8, 3]\nslice = \"round\"\noutput = \"set.mqc\"\nlambda = [1.0, 0.5]\ninclude = [\"block*\"]\n\
                [[layer]]\nname = \"block.1\"\ngroup-size = 8\nscheme = \"symmetric\"\n";
    std::fs::write(folder.path().join("mqc.toml"), text).unwrap();
    succeed(folder.path(), "compile small.onnx --slice extra --quiet");
    let manifest = mqc::artifact::Manifest::read(&folder.path().join("set.mqc")).unwrap();
    assert_eq!(manifest.bits.to_string(), "8,3");
    let layers: Vec<_> =
        manifest.layers.iter().map(|l| format!("{} {} {:?}", l.mode, l.scheme, l.group_size)).collect();
    assert_eq!(
        layers,
        ["extra asymmetric PerChannel", "extra symmetric Group(8)"],
        "the command line goes first"
    );
}

#[test]
fn an_artifact_that_is_there_is_kept_unless_forced() {
    let folder = compiled("");
    let folder = folder.path();
    let before = contents(&folder.join("small.mqc"));
    refused(folder, "compile small.onnx --bits 8", 2, &["small.mqc", "exists", "--force"]);
    succeed(folder, "compile small.onnx --bits 8 --force --quiet");
    assert!(contents(&folder.join("small.mqc")) != before);
    succeed(folder, "export small.mqc --format float -o y.onnx --quiet");
    refused(
        folder,
        "export small.mqc --format float -o y.onnx --bits 2",
        2,
        &["y.onnx", "exists", "--force"],
    );
    succeed(folder, "export small.mqc --format float -o y.onnx --bits 2 --force --quiet");
    refused(folder, "slice small.mqc --bits 4 -o small.mqc", 2, &["small.mqc", "exists"]);
    // Not even --force removes what mqc did not write.
    std::fs::write(folder.join("small.mqc/notes.txt"), "mine").unwrap();
    refused(folder, "compile small.onnx --force", 2, &["small.mqc", "notes.txt"]);
    std::fs::create_dir(folder.join("photos")).unwrap();
    std::fs::write(folder.join("photos/cat.png"), "mine").unwrap();
    refused(folder, "compile small.onnx -o photos --force", 2, &["photos", "manifest.json"]);
    refused(folder, "compile small.onnx -o none/small.mqc", 2, &["none"]);
}

#[test]
fn exports_that_a_mode_or_format_does_not_have() {
    let folder = compiled("--slice extra");
    let folder = folder.path();
    let shared = "export small.mqc --bits 8,4,2 --format matmulnbits --shared -o y.onnx";
    refused(folder, shared, 1, &["w0", "midpoint", "extra"]);
    refused(folder, "export small.mqc --bits 4 --format qdq -o y.onnx", 1, &["w0", "extra", "levels"]);
    refused(folder, "export small.mqc --bits 8 --format qdq --shared -o y.onnx", 2, &["--shared"]);
    succeed(folder, "export small.mqc --bits 4 --format float -o y.onnx --quiet");
    succeed(folder, "slice small.mqc --bits 4 -o four.mqc --quiet");
    refused(folder, "run four.mqc --bits 8", 1, &["8", "4"]);
    refused(folder, "slice four.mqc --bits 6 -o six.mqc", 1, &["6", "4"]);
}

#[test]
fn verify_fails_on_a_limit() {
    let folder = compiled("");
    let folder = folder.path();
    succeed(folder, "verify small.mqc --model small.onnx --layers");
    let ran =
        run(mqc(folder).args("verify small.mqc --model small.onnx --bits 2 --max-error 0.001".split(' ')));
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("FAILED output y at 2 bits: relative error"), "{}", ran.stdout);
}

/// Flips a bit of a file.
fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let folder = compiled("");
    let folder = folder.path();
    let store = folder.join("small.mqc/weights.safetensors");
    let (plane, _) = Store::open(&store).unwrap().offset_of("w1.plane3").unwrap();
    flip(&store, plane + 5);
    let words = ["weights.safetensors", "w1.plane3", "sha256"];
    refused(folder, "run small.mqc --bits 8", 1, &words);
    refused(folder, "verify small.mqc", 1, &words);
    succeed(folder, "run small.mqc --bits 2"); // does not read plane 3
    flip(&store, plane + 5);
    succeed(folder, "verify small.mqc");
    let (scale, _) = Store::open(&store).unwrap().offset_of("w0.scale").unwrap();
    flip(&store, scale + 3);
    refused(folder, "run small.mqc --bits 2", 1, &["w0.scale", "sha256"]);
    flip(&store, scale + 3);
    for file in ["manifest.json", "graph.onnx", "weights.safetensors"] {
        let path = folder.join("small.mqc").join(file);
        for at in (0..200).step_by(13) {
            flip(&path, at);
            refused(folder, "run small.mqc --bits 4", 1, &[file]);
            flip(&path, at);
        }
    }
    succeed(folder, "verify small.mqc");
}

#[test]
fn a_store_that_was_cut_serves_the_widths_that_are_left() {
    let folder = compiled("");
    let folder = folder.path();
    let store = folder.join("small.mqc/weights.safetensors");
    let whole = std::fs::read(&store).unwrap();
    let opened = Store::open(&store).unwrap();
    let (plane, _) = opened.offset_of("w0.plane4").unwrap();
    let (scale, _) = opened.offset_of("w0.scale").unwrap();
    drop(opened);
    succeed(folder, "run small.mqc --bits 4 --seed 3 -o whole.npz");
    for length in [plane, plane + 40] {
        std::fs::write(&store, &whole[..length as usize]).unwrap();
        succeed(folder, "run small.mqc --bits 4 --seed 3 -o cut.npz");
        let read = |name| mqc::data::read_npz(&folder.join(name)).unwrap();
        assert_eq!(read("cut.npz"), read("whole.npz"));
        refused(folder, "run small.mqc --bits 8", 1, &["8", "4"]);
        succeed(folder, "export small.mqc --bits 4 --format functions --force -o y.onnx --quiet");
    }
    std::fs::write(&store, &whole[..scale as usize + 2]).unwrap();
    refused(folder, "run small.mqc --bits 1", 1, &["weights.safetensors", "was cut", ".zero"]);
    std::fs::write(&store, b"").unwrap();
    refused(folder, "run small.mqc --bits 1", 1, &["weights.safetensors"]);
    std::fs::remove_file(&store).unwrap();
    refused(folder, "run small.mqc --bits 1", 2, &["weights.safetensors"]);
}

/// A model of eight products of 512 by 512: 8 MB.
fn write_large(path: &Path) {
    let mut text = "graph @large(%x: f32[1, 512]) -> (y: ?) {\n  opset \"\" = 17\n".to_owned();
    for layer in 0..8 {
        text += &format!("  %w{layer} = weight : f32[512, 512] = random({layer})\n");
        let input = if layer == 0 { "x".to_owned() } else { format!("y{}", layer - 1) };
        text += &format!("  %y{layer} = mat_mul %{input}, %w{layer}\n");
    }
    write_model(path, &(text + "  return %y7\n}\n"));
}

/// Starts a compilation that takes long and kills it when it has begun to write.
fn kill_in_the_middle(folder: &Path, options: &str) {
    let mut command = mqc(folder);
    command
        .args(["compile", "large.onnx", "--range", "mse", "--group-size", "32"])
        .args(options.split_whitespace());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !names(folder).iter().any(|name| name.starts_with(".large.mqc.partial-")) {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was written: {:?}", names(folder));
        assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(50));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it ended before it was killed");
}

#[test]
fn a_killed_compilation_leaves_no_half_artifact() {
    let folder = scratch();
    let folder = folder.path();
    write_large(&folder.join("large.onnx"));
    kill_in_the_middle(folder, "");
    assert_eq!(names(folder).len(), 2, "the model and what was being written: {:?}", names(folder));
    assert!(!folder.join("large.mqc").exists());
    succeed(folder, "compile large.onnx --quiet");
    assert_eq!(names(folder), ["large.mqc", "large.onnx"], "the next one cleans up");
    let before = contents(&folder.join("large.mqc"));
    kill_in_the_middle(folder, "--force");
    assert!(contents(&folder.join("large.mqc")) == before, "the artifact that was there is whole");
    succeed(folder, "compile large.onnx --quiet --force");
    assert_eq!(names(folder), ["large.mqc", "large.onnx"]);
    succeed(folder, "verify large.mqc");
}

/// Runs `mqc` where no file may grow over 64 kB: what a full disk is to a program.
fn on_a_full_disk(folder: &Path, arguments: &str, words: &[&str]) {
    let before = contents(folder);
    let limited = format!("trap '' XFSZ; ulimit -f 128; exec \"$0\" {arguments}");
    let ran = run(Command::new("sh").current_dir(folder).args(["-c", &limited, env!("CARGO_BIN_EXE_mqc")]));
    assert_eq!(ran.code, Some(2), "{arguments}\n{}{}", ran.stdout, ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "{arguments}: {word:?} is not in\n{}", ran.stderr);
    }
    assert!(contents(folder) == before, "{arguments} left something: {:?}", names(folder));
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let folder = scratch();
    let folder = folder.path();
    write_large(&folder.join("large.onnx"));
    on_a_full_disk(folder, "compile large.onnx", &["File too large"]);
    succeed(folder, "compile large.onnx --quiet");
    on_a_full_disk(folder, "compile large.onnx --force", &["File too large"]);
    on_a_full_disk(folder, "slice large.mqc --bits 4 -o small.mqc", &["File too large"]);
    for format in ["float", "qdq", "matmulnbits", "functions"] {
        on_a_full_disk(
            folder,
            &format!("export large.mqc --format {format} -o y.onnx"),
            &["y.onnx", "File too large"],
        );
    }
    let shared = "export large.mqc --bits 8,4,2 --format matmulnbits --shared -o y.onnx";
    on_a_full_disk(folder, shared, &["y.onnx", "File too large"]);
}
