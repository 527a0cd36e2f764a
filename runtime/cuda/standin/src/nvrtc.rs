//! NVIDIA's own compiler and disassembler, from PyPI, in an environment that is made once: for what the stand-ins cannot tell.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The interpreter of an environment with the packages of `requirements.txt`, beside the folder for temporary files. Other
/// processes wait until it is made.
///
/// # Panics
/// When the environment cannot be made.
pub fn python(temporary: &Path) -> PathBuf {
    let requirements = super::own("requirements.txt");
    let digest = Sha256::digest(fs::read(&requirements).expect("the list of packages is there"));
    let id: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    let place = temporary.parent().unwrap_or(temporary).join(format!("test-nvrtc-{id}"));
    let lock = File::create(place.with_extension("lock")).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.expect("a file can be locked");
    let (python, stamp) = (place.join("bin/python"), place.join("complete"));
    if !stamp.exists() {
        let _ = fs::remove_dir_all(&place);
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&place));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        succeed(Command::new(&python).args(pip).arg(&requirements));
        File::create(stamp).expect("the environment can be written");
    }
    python
}

/// The compiler's library in that environment.
///
/// # Panics
/// As [`python`].
pub fn library(temporary: &Path) -> PathBuf {
    let find = "import nvidia.cu13 as n; print(n.__path__[0] + '/lib/libnvrtc.so.13')";
    PathBuf::from(succeed(Command::new(python(temporary)).args(["-c", find])).trim())
}

/// Runs a command and returns its standard output.
///
/// # Panics
/// When it fails.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("a command runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("a command writes UTF-8")
}
