//! Every `tests/rules/*.mqir` is one test: its first line says how it is fused, what comes out is a snapshot in `snapshots/fuse/`
//! of the repository, and both graphs are run on random numbers and must agree.
//!
//! To accept changes: `INSTA_UPDATE=always cargo test -p mqc-fuse --test rules`, then read the difference.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use common::{Options, equal_on_random_numbers, parse};
use libtest_mimic::{Arguments, Failed, Trial};
use mqc_fuse::rules::RULES;
use mqc_fuse::{Report, fuse};
use mqc_ir::{infer, text, verify};

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.is_file())
        .collect();
    paths.sort();
    let names: BTreeSet<String> =
        paths.iter().map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../snapshots/fuse");
    let mut trials: Vec<Trial> = paths
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Trial::test(name.clone(), move || check(&name, &path))
        })
        .collect();
    let tested = names.clone();
    trials.push(Trial::test("every rule has a test", move || every_rule_has_a_test(&tested)));
    trials.push(Trial::test("every snapshot has an input", move || {
        every_snapshot_has_an_input(&snapshots, &names)
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// `gelu-erf.mqir` and `gelu-erf.order.mqir` are tests of the rule gelu-erf; `gelu-erf.not.mqir` is one where it does not
/// fire.
fn check(name: &str, path: &Path) -> Result<(), Failed> {
    let source = std::fs::read_to_string(path)?;
    let options = Options::of(source.lines().next().unwrap_or_default())?;
    let before = parse(&source)?;
    let mut after = before.clone();
    let report = fuse(&mut after, &options.fuse)?;
    let errors = verify::verify(&after);
    if !errors.is_empty() {
        return Err(format!("the result is not valid: {errors:?}").into());
    }
    infer::infer(&mut after).map_err(|errors| format!("the result has no types: {errors:?}"))?;
    let (rule, variant) = name.split_once('.').unwrap_or((name, ""));
    let fired = report.fired.iter().any(|fired| fired.rule == rule || fired.with.contains(&rule));
    let expected = !variant.starts_with("not");
    if RULES.iter().any(|r| r.name == rule) && fired != expected {
        return Err(format!("the rule fired: {fired}, expected {expected}\n{}", text::print(&after)).into());
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/fuse");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(source.lines().nth(1).unwrap_or_default().trim_start_matches("# "));
    settings.bind(|| insta::assert_snapshot!(name, format!("{}{}", text::print(&after), summary(&report))));
    equal_on_random_numbers(&before, &after, &options)?;
    Ok(())
}

fn summary(report: &Report) -> String {
    let mut text = String::new();
    for fired in &report.fired {
        let rules = [&[fired.rule], fired.with.as_slice()].concat();
        writeln!(text, "# {} at {}", rules.join(", "), fired.node).unwrap();
    }
    for (pattern, node) in &report.recognized {
        writeln!(text, "# found {pattern} at {node}").unwrap();
    }
    for epilogue in &report.epilogues {
        writeln!(text, "# epilogue of {}: {}", epilogue.node, epilogue.parts.join(", ")).unwrap();
    }
    text
}

fn every_rule_has_a_test(names: &BTreeSet<String>) -> Result<(), Failed> {
    let missing: Vec<_> = RULES.iter().map(|rule| rule.name).filter(|name| !names.contains(*name)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("rules without a test: {missing:?}").into()) }
}

fn every_snapshot_has_an_input(folder: &Path, names: &BTreeSet<String>) -> Result<(), Failed> {
    let snapshots = std::fs::read_dir(folder)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let stray: Vec<String> = snapshots
        .filter(|file| file.strip_suffix(".snap").is_none_or(|name| !names.contains(name)))
        .collect();
    if stray.is_empty() { Ok(()) } else { Err(format!("these have no input: {stray:?}").into()) }
}
