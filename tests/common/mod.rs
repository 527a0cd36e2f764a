//! What the integration tests share: the command, temporary folders, models made from text, the Python environment.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub mod decoder;
pub mod python;
pub mod trained;

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Cargo's target folder: what tests keep between runs lies there.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

/// A folder that is removed at the end of the test.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The command in a folder; its environment has nothing that changes what it says.
pub fn mqc(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqc"));
    command.current_dir(folder).env_remove("RUST_LOG").env("COLUMNS", "110");
    command
}

/// How a run of the command ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command line. A panic of the command fails the test, whatever was expected.
pub fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!ran.stderr.contains("panicked"), "{command:?} panicked:\n{}", ran.stderr);
    assert!(ran.code.is_some(), "{command:?} ended by {status}:\n{}", ran.stderr);
    ran
}

/// Runs `mqc` with arguments separated by white space, which must succeed. Returns its standard output.
pub fn succeed(folder: &Path, arguments: &str) -> String {
    let ran = run(mqc(folder).args(arguments.split_whitespace()));
    assert_eq!(ran.code, Some(0), "mqc {arguments}\n{}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// Runs `mqc` with arguments separated by white space, which must fail with this code. Returns its standard error.
pub fn fail(folder: &Path, arguments: &str, code: i32) -> String {
    let ran = run(mqc(folder).args(arguments.split_whitespace()));
    assert_eq!(ran.code, Some(code), "mqc {arguments}\n{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("error: "), "mqc {arguments} says no error:\n{}", ran.stderr);
    ran.stderr
}

/// Writes an ONNX model that is given as textual IR.
pub fn write_model(path: &Path, text: &str) {
    let graph = mqc_ir::text::parse(text, &mqc_ir::text::NoWeights).unwrap_or_else(|e| panic!("{e}\n{text}"));
    mqc_onnx::export::write(&mqc_onnx::Model::from_graph(graph), path, &Default::default()).unwrap();
}

/// All files below a folder, sorted.
pub fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = std::fs::read_dir(&next).unwrap().map(|e| e.unwrap().path());
        let (below, here): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        folders.extend(below);
        found.extend(here);
    }
    found.sort();
    found
}

/// All files below a folder by their path in it, with their bytes.
pub fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let name = |path: &Path| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
    paths(folder).into_iter().map(|path| (name(&path), std::fs::read(&path).unwrap())).collect()
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}
