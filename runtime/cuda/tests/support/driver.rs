//! A stand-in for the driver: `tests/driver/driver.cpp` as a library that the driver's users find first.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use mqc_cuda::Emitted;

use super::shim::build;

/// Says to a process that it is the inner one.
const INSIDE: &str = "MQC_TEST_INSIDE";

/// Runs `body` in a process of its own that finds the stand-in, with these settings. `test` is the path of the test function
/// that calls, which that process runs again.
pub fn with_driver(test: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .env("LD_LIBRARY_PATH", library())
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The folder with the library, which is made once.
fn library() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/driver.cpp");
    let (library, age) =
        (folder.join("libcuda.so"), |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok());
    if age(&library) < age(&source) {
        build(&source, &library, &["-shared", "-fPIC"]);
    }
    folder
}

/// What the stand-in loads as a kernel.
pub fn image(emitted: &Emitted) -> Vec<u8> {
    let mut source = format!("#include \"cuda.h\"\nnamespace k {{\n{}\n}}\n", emitted.text);
    for name in emitted.prepare.iter().chain([&emitted.name]) {
        let _ = writeln!(
            source,
            "extern \"C\" void launch_{name}(const void* a, unsigned x, unsigned y, unsigned threads, unsigned shared) {{\n\
             \x20   launch({{x, y, 1}}, threads, shared, false, [=] {{ k::{name}(*(const k::Arguments*)a); }});\n}}"
        );
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver");
    let (file, object) =
        (folder.join(format!("{}.cpp", emitted.name)), folder.join(format!("{}.so", emitted.name)));
    fs::write(&file, source).unwrap();
    build(&file, &object, &["-shared", "-fPIC"]);
    let mut path = object.into_os_string().into_encoded_bytes();
    path.push(0);
    path
}
