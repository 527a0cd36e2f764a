//! What NVIDIA's compiler makes of kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mqc_cuda::Target;
use mqc_cuda_standin::nvrtc;

/// What the compiler made of a kernel.
#[derive(Debug)]
pub struct Compiled {
    pub name: String,
    pub target: String,
    pub registers: u32,
    /// Bytes.
    pub spills: u32,
    /// Tensor core instructions in the main loop; 0 where there is none.
    pub tensor: u32,
    /// All instructions of the main loop.
    pub instructions: u32,
}

/// Compiles kernels, names and texts, for targets, in a folder of this name. Whatever fails fails the test.
pub fn compile(folder: &str, kernels: &[(&str, &str)], targets: &[Target]) -> Vec<Compiled> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in kernels {
        fs::write(folder.join(name).with_extension("cu"), text).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvrtc/compile.py");
    let targets: Vec<String> = targets.iter().map(Target::to_string).collect();
    let python = nvrtc::python(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let lines = nvrtc::succeed(Command::new(python).arg(script).arg(&folder).args(&targets));
    let compiled: Vec<Compiled> = lines.lines().map(read).collect();
    for (name, _) in kernels {
        assert!(compiled.iter().any(|c| c.name == *name), "{name} was not compiled");
    }
    compiled
}

fn read(line: &str) -> Compiled {
    let fields: Vec<&str> = line.split('\t').collect();
    let number = |i: usize| fields[i].parse().unwrap();
    let [name, target] = [0, 1].map(|i| fields[i].to_owned());
    Compiled {
        name,
        target,
        registers: number(2),
        spills: number(3),
        tensor: number(4),
        instructions: number(5),
    }
}

/// The compiler's library in the environment of the tests.
pub fn library() -> PathBuf {
    nvrtc::library(Path::new(env!("CARGO_TARGET_TMPDIR")))
}
