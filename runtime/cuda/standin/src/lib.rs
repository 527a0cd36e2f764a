//! For tests: a CUDA device that is not there. Kernels are compiled by the C++ compiler against `shim`, `driver.cpp` stands in
//! for libcuda, `nvrtc.cpp` for the run-time compiler and `blas.cpp` for cuBLAS, which is off unless a test sets `MQC_CUBLAS`.

pub mod nvrtc;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says to a process that it is the inner one.
const INSIDE: &str = "MQC_TEST_INSIDE";

/// Runs `body` in a process of its own that finds the stand-ins, with these settings. `test` is the path of the test function
/// that calls, which that process runs again; `folder` is one for temporary files.
///
/// # Panics
/// When the process fails, or no C++ compiler is there.
pub fn with_device(folder: &Path, test: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("a test has a program");
    let output = Command::new(program)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .envs(environment(folder))
        .envs(settings.iter().copied())
        .output()
        .expect("the program of a test runs");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The variables with which a program finds the stand-ins, which are made in `folder` once.
///
/// # Panics
/// When they do not compile.
pub fn environment(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let folder = folder.join("standin");
    fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    let lock = File::create(folder.join("lock")).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.expect("a file can be locked");
    let libraries =
        [("driver.cpp", "libcuda.so"), ("nvrtc.cpp", "libnvrtc.so.13"), ("blas.cpp", "libcublas.so")];
    let [_, compiler, _] = libraries.map(|(from, to)| {
        let (from, to) = (own(from), folder.join(to));
        let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        if sources().iter().any(|source| age(&to) < age(source)) {
            // Not in its place before it is whole: programs that run have it open.
            let beside = to.with_extension("new");
            build(&from, &beside, &["-shared", "-fPIC"]);
            fs::rename(&beside, &to).expect("a file can be renamed");
        }
        to
    });
    vec![
        ("LD_LIBRARY_PATH", folder.clone()),
        ("MQC_NVRTC", compiler),
        ("MQC_CUBLAS", "off".into()),
        ("STANDIN_SHIM", own("shim")),
        ("STANDIN_FOLDER", folder.clone()),
        ("XDG_CACHE_HOME", folder.join("cache")),
    ]
}

/// Compiles a C++ file that includes the shim.
///
/// # Panics
/// When it does not compile.
pub fn build(file: &Path, to: &Path, options: &[&str]) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let common = ["-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-sign-compare"];
    let quiet =
        ["-Wno-maybe-uninitialized", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-uninitialized"];
    let mut command = Command::new(compiler);
    command.args(common).args(quiet).args(options).arg("-I").arg(own("shim")).arg(file).arg("-o").arg(to);
    let status = command.status().expect("a C++ compiler (CXX, else g++) is there");
    assert!(status.success(), "{} does not compile", file.display());
}

fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn sources() -> [PathBuf; 6] {
    ["driver.cpp", "nvrtc.cpp", "blas.cpp", "shim/cuda.h", "shim/fibers.h", "shim/runner.h"].map(own)
}
