//! Every `tests/ir/**/*.mqir` is one test: its first line is the command line that it goes through, and what `mqc` prints
//! (the result, or the error and the exit code) is a snapshot in `snapshots/`.
//!
//! To accept changes: `INSTA_UPDATE=always cargo test --test ir_files`, then read the difference.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

mod common;

use common::{mqc, names, paths, repository, run};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let inputs: Vec<(String, PathBuf)> = paths(&inputs_folder()).into_iter().map(|p| (name(&p), p)).collect();
    let expected: BTreeSet<String> = inputs.iter().map(|(name, _)| format!("{name}.snap")).collect();
    let mut trials: Vec<Trial> = inputs
        .into_iter()
        .map(|(name, path)| Trial::test(name.clone(), move || check(&name, &path)))
        .collect();
    trials.push(Trial::test("every snapshot has an input", move || every_snapshot_has_an_input(&expected)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn inputs_folder() -> PathBuf {
    repository("tests/ir")
}

/// `ir-matquant-conv` for `tests/ir/matquant/conv.mqir`.
fn name(path: &Path) -> String {
    let inside = path.strip_prefix(inputs_folder()).unwrap().with_extension("");
    format!("ir-{}", inside.to_str().unwrap().replace(['/', '\\'], "-"))
}

fn check(name: &str, path: &Path) -> Result<(), Failed> {
    let source = std::fs::read_to_string(path)?;
    let line = source.lines().next().unwrap_or_default();
    let Some(arguments) = line.strip_prefix("# mqc ir") else {
        return Err(format!("{}: the first line is {line:?}, expected `# mqc ir ...`", path.display()).into());
    };
    let folder = path.parent().unwrap();
    let ran = run(mqc(folder).arg("ir").arg(path.file_name().unwrap()).args(arguments.split_whitespace()));
    let text = match ran.code {
        Some(0) => ran.stdout,
        code => format!("exit code {}\n{}", code.unwrap_or(-1), ran.stderr),
    };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(line.trim_start_matches("# "));
    settings.bind(|| insta::assert_snapshot!(name, text));
    Ok(())
}

fn every_snapshot_has_an_input(expected: &BTreeSet<String>) -> Result<(), Failed> {
    let snapshots = names(&repository("snapshots"));
    let stray: Vec<_> =
        snapshots.iter().filter(|name| name.ends_with(".snap") && !expected.contains(*name)).collect();
    if stray.is_empty() { Ok(()) } else { Err(format!("these snapshots have no input: {stray:?}").into()) }
}
