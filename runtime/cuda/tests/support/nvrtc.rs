//! NVIDIA's compiler and disassembler, from PyPI, in an environment that is made once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use mqc_cuda::{Emitted, Target};
use sha2::{Digest, Sha256};

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

/// Compiles kernels for targets, in a folder of this name. Whatever fails fails the test.
pub fn compile(folder: &str, kernels: &[Emitted], targets: &[Target]) -> Vec<Compiled> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for kernel in kernels {
        fs::write(folder.join(&kernel.name).with_extension("cu"), &kernel.text).unwrap();
    }
    let script = here().join("compile.py");
    let targets: Vec<String> = targets.iter().map(Target::to_string).collect();
    let lines = succeed(Command::new(python()).arg(script).arg(&folder).args(&targets));
    let compiled: Vec<Compiled> = lines.lines().map(read).collect();
    for kernel in kernels {
        assert!(compiled.iter().any(|c| c.name == kernel.name), "{} was not compiled", kernel.name);
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

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvrtc")
}

/// The interpreter of an environment with the packages of `requirements.txt`. Other processes wait until it is made.
fn python() -> PathBuf {
    let requirements = here().join("requirements.txt");
    let digest = Sha256::digest(fs::read(&requirements).unwrap());
    let id: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(format!("test-nvrtc-{id}"));
    let lock = File::create(place.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let (python, stamp) = (place.join("bin/python"), place.join("complete"));
    if !stamp.exists() {
        let _ = fs::remove_dir_all(&place);
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&place));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        succeed(Command::new(&python).args(pip).arg(&requirements));
        File::create(stamp).unwrap();
    }
    python
}

/// The compiler's library in that environment.
pub fn library() -> PathBuf {
    let find = "import nvidia.cu13 as n; print(n.__path__[0] + '/lib/libnvrtc.so.13')";
    PathBuf::from(succeed(Command::new(python()).args(["-c", find])).trim())
}

/// Runs a command that must succeed. Returns its standard output.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
