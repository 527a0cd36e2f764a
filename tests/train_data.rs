//! The driver of training, with a model that is plain Rust: whatever happens to a training, it continues to the same
//! weights, and what it is given wrong is said.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use common::{contents, names, scratch};
use mqc::data::Tensors;
use mqc::train::checkpoint::{Kind, Loaded, load};
use mqc::train::data::{Data, Input, Samples, Source, Stream, TextTokens, Validation, arrays};
use mqc::train::events::{self, What};
use mqc::train::metrics::{self, Record};
use mqc::train::{
    Best, BestBy, Decay, Ended, Interrupt, Losses, Model, Options, Schedule, Step, Summary, Watch,
    WidthMetrics, train,
};
use mqc_ir::{DType, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STEPS: u64 = 24;

/// What goes wrong in a model.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The weight becomes NaN in a step; the loss of that step is still fine.
    Weight(u64),
    /// The loss of a step is NaN.
    Loss(u64),
    /// It does not learn.
    Stuck,
    /// A step takes a minute.
    Slow(u64),
}

/// Linear regression by gradient descent with momentum.
struct Linear {
    weight: Vec<f32>,
    momentum: Vec<f32>,
    fault: Fault,
    /// Says each step to standard output.
    speaks: bool,
}

impl Linear {
    fn new(inputs: usize, fault: Fault) -> Linear {
        Linear { weight: vec![0.0; inputs], momentum: vec![0.0; inputs], fault, speaks: false }
    }

    /// Rows with their errors.
    fn errors(&self, batch: &Tensors) -> Vec<(Vec<f32>, f32)> {
        let (x, y) = (batch["x"].to_f32_vec().unwrap(), batch["y"].to_f32_vec().unwrap());
        let rows = x.chunks(self.weight.len()).zip(y);
        let error = |row: &[f32], y: f32| row.iter().zip(&self.weight).map(|(x, w)| x * w).sum::<f32>() - y;
        rows.map(|(row, y)| (row.to_vec(), error(row, y))).collect()
    }
}

impl Model for Linear {
    fn step(&mut self, batch: &Tensors, step: u64, rate: f32) -> Result<Losses> {
        if self.speaks {
            writeln!(std::io::stdout(), "step {step}")?;
        }
        if self.fault == Fault::Slow(step) {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        let errors = self.errors(batch);
        let mut loss = errors.iter().map(|(_, e)| e * e).sum::<f32>() / errors.len() as f32;
        for (index, (weight, momentum)) in self.weight.iter_mut().zip(&mut self.momentum).enumerate() {
            let gradient = errors.iter().map(|(row, e)| row[index] * e).sum::<f32>() / errors.len() as f32;
            *momentum = 0.9 * *momentum + gradient;
            *weight -= if self.fault == Fault::Stuck { 0.0 } else { rate * *momentum };
        }
        if self.fault == Fault::Weight(step) {
            self.weight[0] = f32::NAN;
        }
        if self.fault == Fault::Loss(step) {
            loss = f32::NAN;
        }
        Ok(Losses { total: loss, widths: vec![("float".to_owned(), loss)] })
    }

    fn evaluate(&mut self, batch: &Tensors, valid: usize) -> Result<Vec<WidthMetrics>> {
        let errors = self.errors(batch);
        let sum = |factor: f64| errors[..valid].iter().map(|(_, e)| factor * f64::from(e * e)).sum();
        let width = |name: &str, factor| WidthMetrics {
            name: name.to_owned(),
            loss_sum: sum(factor),
            count: valid as u64,
            correct: None,
        };
        Ok(vec![width("float", 1.0), width("double", 2.0)])
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let tensor = |values: &[f32]| Tensor::from_f32(vec![values.len()], values).unwrap();
        Ok(vec![("weight".to_owned(), tensor(&self.weight)), ("momentum".to_owned(), tensor(&self.momentum))])
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.weight = state["weight"].to_f32_vec().unwrap();
        self.momentum = state["momentum"].to_f32_vec().unwrap();
        Ok(())
    }

    fn first_bad(&self) -> Option<String> {
        let bad = |values: &[f32]| values.iter().any(|v| !v.is_finite());
        [("weight", &self.weight), ("momentum", &self.momentum)]
            .into_iter()
            .find_map(|(name, values)| bad(values).then(|| name.to_owned()))
    }

    fn fingerprint(&self) -> String {
        format!("linear {}", self.weight.len())
    }
}

/// A noisy line through `inputs` dimensions; a quarter of the samples is for validation.
fn data(samples: usize, inputs: usize, seed: u64) -> Data {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (x, noise) = (random(samples * inputs), random(samples));
    let y = x.chunks(inputs).zip(noise).map(|(row, noise)| row[0] - 2.0 * row[inputs - 1] + 0.1 * noise);
    let y: Vec<f32> = y.collect();
    let arrays = [
        ("x".to_owned(), Tensor::from_f32(vec![samples, inputs], &x).unwrap()),
        ("y".to_owned(), Tensor::from_f32(vec![samples], &y).unwrap()),
    ];
    let input = |name: &str, shape: &[usize]| Input {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        classes: None,
    };
    let inputs = [input("x", &[inputs]), input("y", &[])];
    let source = Source::Samples(Samples::new(&arrays.into(), &inputs).unwrap());
    Data::new(source, Validation::Share { share: 0.25, seed }, 4, 3, seed).unwrap()
}

fn options() -> Options {
    let schedule = Schedule { rate: 0.1, warmup: 3, decay: Decay::Cosine, floor: 0.1, steps: STEPS };
    Options {
        schedule,
        evaluate_every: 5,
        validation_batches: None,
        save_every: 7,
        log_every: 1,
        stop_after: None,
        patience: None,
        best_by: BestBy::default(),
        is_language_model: false,
        fixed: Default::default(),
    }
}

fn go(folder: &Path, options: &Options, fault: Fault, resume: bool) -> Result<Summary> {
    let (mut model, mut data) = (Linear::new(3, fault), data(30, 3, 1));
    train(&mut model, &mut data, options, folder, resume, &Interrupt::default(), &mut ())
}

fn message<T>(result: Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

fn checkpoint(folder: &Path, kind: Kind) -> Loaded {
    load(&folder.join(kind.name())).unwrap()
}

/// What a training leaves, except for the times in TensorBoard's files.
fn outcome(folder: &Path) -> Vec<(String, Vec<u8>)> {
    contents(folder).into_iter().filter(|(name, _)| !name.contains("tfevents")).collect()
}

#[test]
fn a_training_learns_and_leaves_its_files() {
    let folder = scratch();
    let options = Options { schedule: Schedule { steps: 300, ..options().schedule }, ..options() };
    let summary = go(folder.path(), &options, Fault::None, false).unwrap();
    assert_eq!((summary.ended, summary.step, summary.steps), (Ended::Finished, 300, 300));
    let weight = checkpoint(folder.path(), Kind::Last).state["weight"].to_f32_vec().unwrap();
    let expected = [1.0, 0.0, -2.0];
    assert!(weight.iter().zip(expected).all(|(w, e)| (w - e).abs() < 0.05), "{weight:?}");
    let names = names(folder.path());
    assert_eq!(names[0], "best");
    assert!(names[1].starts_with("events.out.tfevents."));
    assert_eq!(names[2..], ["last", "metrics.jsonl", "report.html"]);
    let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert_eq!(html.matches("<svg").count(), 3);
    assert!(html.contains("Validation after 300 steps"));
    // The noise is uniform in -0.1 to 0.1: a mean square of 1/300.
    assert!((0.002..0.006).contains(&summary.validation[0].loss()), "{:?}", summary.validation);
    assert_eq!(summary.validation[0].count, 8);

    let records = metrics::read(folder.path()).unwrap();
    let validations: Vec<(u64, f64)> = records
        .iter()
        .filter_map(|record| match record {
            Record::Validation { step, widths } => {
                Some((*step, (widths["float"].loss + widths["double"].loss) / 2.0))
            }
            Record::Train { .. } => None,
        })
        .collect();
    let best = validations.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!(summary.best, Some(Best { step: best.0, loss: best.1 as f32 }));
    assert_eq!(checkpoint(folder.path(), Kind::Best).progress.step, best.0);
    assert_eq!(
        validations.iter().map(|v| v.0).collect::<Vec<_>>(),
        (0..=60).map(|i| 5 * i).collect::<Vec<_>>()
    );
}

#[test]
fn a_training_that_stops_anywhere_continues_to_the_same_bits() {
    let whole = scratch();
    go(whole.path(), &options(), Fault::None, false).unwrap();
    let expected = outcome(whole.path());
    assert_eq!(expected.len(), 8);
    for stop in 0..STEPS {
        let folder = scratch();
        let first = Options { stop_after: Some(stop), ..options() };
        let summary = go(folder.path(), &first, Fault::None, false).unwrap();
        assert_eq!((summary.ended, summary.step), (Ended::StopAfter, stop));
        assert_eq!(checkpoint(folder.path(), Kind::Last).progress.step, stop);
        // How often to save may change.
        let second = Options { save_every: 1 + stop % 3, ..options() };
        let summary = go(folder.path(), &second, Fault::None, true).unwrap();
        assert_eq!((summary.ended, summary.steps), (Ended::Finished, STEPS - stop));
        assert!(outcome(folder.path()) == expected, "stopped after {stop}");
        // Nothing is left to do.
        let summary = go(folder.path(), &options(), Fault::None, true).unwrap();
        assert_eq!((summary.ended, summary.step, summary.steps), (Ended::Finished, STEPS, 0));
        assert!(outcome(folder.path()) == expected, "stopped after {stop}, continued at the end");
    }
}

#[test]
fn an_interrupt_finishes_the_step_and_saves() {
    struct Interrupter(Interrupt, u64);
    impl Watch for Interrupter {
        fn start(&mut self, _: u64, _: u64) {}
        fn step(&mut self, step: &Step<'_>) {
            if step.step == self.1 {
                self.0.request();
            }
        }
        fn evaluated(&mut self, _: u64, _: &[WidthMetrics], _: bool) {}
    }
    let (folder, whole) = (scratch(), scratch());
    let interrupt = Interrupt::default();
    let mut watch = Interrupter(interrupt.clone(), 10);
    let (mut model, mut data) = (Linear::new(3, Fault::None), data(30, 3, 1));
    let summary =
        train(&mut model, &mut data, &options(), folder.path(), false, &interrupt, &mut watch).unwrap();
    assert_eq!((summary.ended, summary.step), (Ended::Interrupted, 10));
    assert_eq!(checkpoint(folder.path(), Kind::Last).progress.step, 10);
    go(folder.path(), &options(), Fault::None, true).unwrap();
    go(whole.path(), &options(), Fault::None, false).unwrap();
    assert!(outcome(folder.path()) == outcome(whole.path()));
}

#[test]
fn nan_stops_the_training_and_the_last_good_state_stays() {
    let good = scratch();
    go(good.path(), &Options { stop_after: Some(7), ..options() }, Fault::None, false).unwrap();
    let expected = checkpoint(good.path(), Kind::Last).state;
    let cases = [
        (Fault::Weight(8), "step 9: the loss of float is NaN; the first bad tensor is weight"),
        (Fault::Weight(10), "step 10: the validation loss of float is NaN; the first bad tensor is weight"),
        (Fault::Weight(14), "step 14: the state is not finite; the first bad tensor is weight"),
        (Fault::Loss(9), "step 9: the loss of float is NaN; all tensors of the state are finite"),
    ];
    for (fault, expected_message) in cases {
        let folder = scratch();
        let message = message(go(folder.path(), &options(), fault, false));
        assert!(message.contains(expected_message), "{message}\nexpected: {expected_message}");
        assert!(message.contains("the last good checkpoint is of step 7"), "{message}");
        assert_eq!(checkpoint(folder.path(), Kind::Last).state, expected);
        assert!(folder.path().join("report.html").exists());
        // Without the fault it goes on from there.
        go(folder.path(), &options(), Fault::None, true).unwrap();
    }
    let bad = message(go(scratch().path(), &options(), Fault::Weight(1), false));
    assert!(bad.contains("the last good checkpoint is of step 0"), "{bad}");
}

#[test]
fn a_training_that_gets_no_better_stops_early() {
    let folder = scratch();
    let patient = Options { patience: Some(2), best_by: BestBy(vec!["double".to_owned()]), ..options() };
    let summary = go(folder.path(), &patient, Fault::Stuck, false).unwrap();
    assert_eq!((summary.ended, summary.step), (Ended::EarlyStop, 10));
    assert_eq!(summary.best.unwrap().step, 0);
    let summary = go(folder.path(), &patient, Fault::Stuck, true).unwrap();
    assert_eq!((summary.ended, summary.step, summary.steps), (Ended::EarlyStop, 10, 0));
    // The count goes on where a run was stopped.
    let folder = scratch();
    go(folder.path(), &Options { stop_after: Some(6), ..patient.clone() }, Fault::Stuck, false).unwrap();
    assert_eq!(go(folder.path(), &patient, Fault::Stuck, true).unwrap().step, 10);
    let unknown = Options { best_by: BestBy(vec!["int2".to_owned()]), ..options() };
    let message = message(go(scratch().path(), &unknown, Fault::None, false));
    assert!(message.contains("\"int2\" is not evaluated; these are: float, double"), "{message}");
}

#[test]
fn another_training_is_not_continued() {
    let folder = scratch();
    let half = Options { stop_after: Some(9), ..options() };
    go(folder.path(), &half, Fault::None, false).unwrap();
    let before = outcome(folder.path());
    let refused = |model: &mut Linear, data: &mut Data, options: &Options, resume, expected: &str| {
        let interrupt = Interrupt::default();
        let message = message(train(model, data, options, folder.path(), resume, &interrupt, &mut ()));
        assert!(message.contains(expected), "{message}\nexpected: {expected}");
    };
    let model = || Linear::new(3, Fault::None);
    refused(
        &mut model(),
        &mut data(30, 3, 1),
        &options(),
        false,
        "holds a training of 9 steps: continue it with",
    );
    refused(
        &mut Linear::new(2, Fault::None),
        &mut data(30, 3, 1),
        &options(),
        true,
        "its fingerprint is linear 3",
    );
    refused(&mut model(), &mut data(30, 3, 2), &options(), true, "seed was 1 and is 2");
    refused(&mut model(), &mut data(31, 3, 1), &options(), true, "data.train.arrays.x was \"f32 [30, 3]");
    let other = Options { schedule: Schedule { warmup: 4, ..options().schedule }, ..options() };
    refused(&mut model(), &mut data(30, 3, 1), &other, true, "schedule.warmup was 3 and is 4");
    let method = [("method".to_owned(), "qat".into())].into_iter().collect();
    let other = Options { fixed: method, ..options() };
    refused(&mut model(), &mut data(30, 3, 1), &other, true, "method was null and is \"qat\"");
    assert!(outcome(folder.path()) == before);

    /// The same model in the eyes of its fingerprint.
    struct Renamed(Linear);
    impl Model for Renamed {
        fn step(&mut self, batch: &Tensors, step: u64, rate: f32) -> Result<Losses> {
            self.0.step(batch, step, rate)
        }
        fn evaluate(&mut self, batch: &Tensors, valid: usize) -> Result<Vec<WidthMetrics>> {
            self.0.evaluate(batch, valid)
        }
        fn state(&self) -> Result<Vec<(String, Tensor)>> {
            Ok(self.0.state()?.into_iter().take(1).collect())
        }
        fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
            self.0.restore(state)
        }
        fn first_bad(&self) -> Option<String> {
            None
        }
        fn fingerprint(&self) -> String {
            self.0.fingerprint()
        }
    }
    let (mut model, mut data) = (Renamed(model()), data(30, 3, 1));
    let result =
        train(&mut model, &mut data, &options(), folder.path(), true, &Interrupt::default(), &mut ());
    assert!(message(result).contains("the checkpoint has a tensor momentum that the model lacks"));
}

#[test]
fn damaged_checkpoints_are_refused_and_left_alone() {
    let folder = scratch();
    go(folder.path(), &Options { stop_after: Some(9), ..options() }, Fault::None, false).unwrap();
    for name in ["state.safetensors", "progress.json", "SHA256SUMS"] {
        let path = folder.path().join("last").join(name);
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        altered[whole.len() / 2] ^= 1;
        for damaged in [&whole[..whole.len() / 2], &[], &altered] {
            fs::write(&path, damaged).unwrap();
            let before = outcome(folder.path());
            let message = message(go(folder.path(), &options(), Fault::None, true));
            assert!(message.contains("cannot use the checkpoint"), "{message}");
            assert!(message.contains("SHA256SUMS"), "{message}");
            assert!(outcome(folder.path()) == before);
        }
        fs::write(&path, whole).unwrap();
    }
    go(folder.path(), &options(), Fault::None, true).unwrap();
}

#[test]
fn bad_options_are_said_before_anything_is_written() {
    let folder = scratch();
    let place = folder.path().join("run");
    let cases = [
        (Options { evaluate_every: 0, ..options() }, "0 steps between validations"),
        (Options { save_every: 0, ..options() }, "0 steps between checkpoints"),
        (Options { validation_batches: Some(0), ..options() }, "0 validation batches"),
        (Options { schedule: Schedule { rate: f32::NAN, ..options().schedule }, ..options() }, "rate is NaN"),
    ];
    for (options, expected) in cases {
        let message = message(go(&place, &options, Fault::None, false));
        assert!(message.contains(expected), "{message}\nexpected: {expected}");
        assert!(!place.exists());
    }
}

#[test]
fn tensorboard_hears_of_every_step_and_of_a_new_start() {
    let folder = scratch();
    go(folder.path(), &Options { stop_after: Some(9), ..options() }, Fault::None, false).unwrap();
    go(folder.path(), &options(), Fault::None, true).unwrap();
    let mut files: Vec<_> =
        contents(folder.path()).into_iter().filter(|(name, _)| name.contains("tfevents")).collect();
    files.sort_by_key(|(name, _)| name.ends_with(".9"));
    assert_eq!(files.len(), 2);
    let mut losses = vec![];
    for ((_, file), start) in files.iter().zip([0, 10]) {
        let events = events::parse(file).unwrap();
        assert!(matches!(&events[0].what, Some(What::FileVersion(version)) if version == "brain.Event:2"));
        assert!(matches!(&events[1].what, Some(What::SessionLog(log)) if log.status == 1));
        assert_eq!(events[1].step, start);
        for event in &events[2..] {
            let Some(What::Summary(summary)) = &event.what else { panic!("{event:?}") };
            let loss = summary.value.iter().find(|v| v.tag == "train/loss/float");
            losses.extend(loss.map(|v| (event.step as u64, v.simple_value)));
        }
    }
    let expected: Vec<(u64, f32)> = metrics::read(folder.path())
        .unwrap()
        .iter()
        .filter_map(|record| match record {
            Record::Train { step, losses, .. } => Some((*step, losses["float"])),
            Record::Validation { .. } => None,
        })
        .collect();
    assert_eq!(losses.len(), STEPS as usize);
    assert_eq!(losses, expected);
}

const CHILD_FOLDER: &str = "MQC_TEST_TRAIN_FOLDER";
const CHILD_INPUTS: &str = "MQC_TEST_TRAIN_INPUTS";

fn child_options() -> Options {
    Options { save_every: 1, evaluate_every: 3, ..options() }
}

/// A training in a process of its own, or in this one.
fn train_child(folder: &Path, inputs: usize, speaks: bool) -> Result<Summary> {
    let mut model = Linear { speaks, ..Linear::new(inputs, Fault::None) };
    let mut data = data(24, inputs, 1);
    train(&mut model, &mut data, &child_options(), folder, true, &Interrupt::default(), &mut ())
}

#[test]
#[ignore = "a process that other tests start"]
fn child() {
    let folder = PathBuf::from(std::env::var_os(CHILD_FOLDER).unwrap());
    let inputs = std::env::var(CHILD_INPUTS).unwrap().parse().unwrap();
    train_child(&folder, inputs, true).unwrap();
}

/// A training that listens for Ctrl-C, and whose step 5 is slow.
#[test]
#[ignore = "a process that other tests start"]
fn listening_child() {
    let folder = PathBuf::from(std::env::var_os(CHILD_FOLDER).unwrap());
    let fault = if std::env::var(CHILD_INPUTS).unwrap() == "0" { Fault::None } else { Fault::Slow(5) };
    let mut model = Linear { speaks: true, ..Linear::new(3, fault) };
    let interrupt = Interrupt::listen().unwrap();
    let options = Options { schedule: Schedule { steps: 1_000_000, ..options().schedule }, ..options() };
    let summary =
        train(&mut model, &mut data(30, 3, 1), &options, &folder, false, &interrupt, &mut ()).unwrap();
    assert_eq!(summary.ended, Ended::Interrupted);
}

/// Starts [`listening_child`] and waits for its step 5.
fn start_listening(folder: &Path, slow: usize) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "listening_child", "--ignored", "--nocapture"]);
    command.env(CHILD_FOLDER, folder).env(CHILD_INPUTS, slow.to_string());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "step 5"));
    // Somebody goes on reading: a closed pipe would end the child.
    std::thread::spawn(move || lines.count());
    child
}

fn press_ctrl_c(child: &std::process::Child) {
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
}

#[test]
fn ctrl_c_saves_and_a_second_one_exits_at_once() {
    let folder = scratch();
    let mut child = start_listening(folder.path(), 0);
    press_ctrl_c(&child);
    assert!(child.wait().unwrap().success());
    let step = checkpoint(folder.path(), Kind::Last).progress.step;
    // A checkpoint every 7 steps would not be at the last step that was logged.
    assert_eq!(Some(step), metrics::read(folder.path()).unwrap().iter().map(Record::step).max());

    let folder = scratch();
    let mut child = start_listening(folder.path(), 1);
    // Signals that come together are one, so there may be more than two.
    let status = loop {
        press_ctrl_c(&child);
        std::thread::sleep(std::time::Duration::from_millis(50));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert_eq!(status.code(), Some(130));
    assert_eq!(checkpoint(folder.path(), Kind::Last).progress.step, 0);
}

/// Runs the test `child`, through a shell that says what it needs first.
fn start_child(folder: &Path, inputs: usize, first: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{first} exec \"$0\" \"$@\"")).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env(CHILD_FOLDER, folder).env(CHILD_INPUTS, inputs.to_string());
    command
}

#[test]
fn a_killed_training_continues_to_the_same_bits() {
    const INPUTS: usize = 2000;
    let (folder, whole) = (scratch(), scratch());
    train_child(whole.path(), INPUTS, false).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut kills = 0;
    loop {
        let mut child = start_child(folder.path(), INPUTS, "")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Two steps are at least one checkpoint: it gets further each time.
        let steps = rng.random_range(2..5);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = lines.map(Result::unwrap).filter(|line| line.starts_with("step ")).take(steps).count();
        if seen < steps {
            assert!(child.wait().unwrap().success());
            break;
        }
        // At any moment of what follows a step, mostly writing.
        std::thread::sleep(std::time::Duration::from_micros(rng.random_range(0..15_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills >= 2, "{kills}");
    assert!(outcome(folder.path()) == outcome(whole.path()), "{kills} kills");
}

#[test]
fn a_full_disk_keeps_the_checkpoint() {
    const INPUTS: usize = 40_000;
    let (folder, whole) = (scratch(), scratch());
    train_child(whole.path(), INPUTS, false).unwrap();
    // No room for any state: 320 kB.
    let limited = || start_child(folder.path(), INPUTS, "trap '' XFSZ; ulimit -f 64;").output().unwrap();
    let output = limited();
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("cannot save the best checkpoint of step 0"), "{text}");
    assert!(!names(folder.path()).iter().any(|name| name.contains("last") || name.contains("best")));

    // Room again, for a while.
    let mut model = Linear::new(INPUTS, Fault::None);
    let some = Options { stop_after: Some(7), ..child_options() };
    let mut data = data(24, INPUTS, 1);
    train(&mut model, &mut data, &some, folder.path(), true, &Interrupt::default(), &mut ()).unwrap();
    let before: Vec<_> = outcome(folder.path()).into_iter().filter(|(name, _)| name.contains('/')).collect();
    let output = limited();
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("cannot save the last checkpoint of step 8; the one before is intact"), "{text}");
    let after: Vec<_> = outcome(folder.path()).into_iter().filter(|(name, _)| name.contains('/')).collect();
    assert!(before == after);
    train_child(folder.path(), INPUTS, false).unwrap();
    assert!(outcome(folder.path()) == outcome(whole.path()));
}

#[test]
fn arrays_of_numpy_are_read() {
    let folder = scratch();
    let script = "import numpy as np; x = np.arange(12, dtype=np.float32).reshape(3, 4) / 7; y = np.array([2, 0, 1])\n\
        np.savez('stored.npz', x=x, y=y); np.savez_compressed('packed.npz', x=x, y=y)\n\
        np.savez('fortran.npz', x=np.asfortranarray(x), y=y)\n\
        np.save('x.npy', x); np.save('f.npy', np.asfortranarray(x)); np.save('big.npy', x.astype('>f4'))";
    let python = common::python::python();
    assert_eq!(
        common::run(Command::new(python).current_dir(folder.path()).args(["-c", script])).code,
        Some(0)
    );
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let x: Vec<f32> = (0..12).map(|i| i as f32 / 7.0).collect();
    let x = Tensor::from_f32(vec![3, 4], &x).unwrap();
    let expected: Tensors =
        [("x".to_owned(), x.clone()), ("y".to_owned(), Tensor::i64_vector(&[2, 0, 1]))].into();
    for name in ["stored.npz", "packed.npz", "fortran.npz"] {
        assert_eq!(arrays::read(&[path(name)], None).unwrap(), expected, "{name}");
    }
    let only = |argument: String| arrays::read(&[argument], Some("x")).map(|t| t["x"].clone());
    assert_eq!(only(path("x.npy")).unwrap(), x);
    assert_eq!(arrays::read(&[format!("a={}", path("x.npy"))], None).unwrap()["a"], x);
    assert!(message(only(path("f.npy"))).contains("numpy.ascontiguousarray"));
    assert!(message(only(path("big.npy"))).contains("NumPy type >f4"));
    assert!(message(arrays::read(&[path("x.npy")], None)).contains("does not say which input it is"));
    assert!(
        message(arrays::read(&[path("stored.npz"), path("packed.npz")], None)).contains("array x is in two")
    );
    let cut = |name: &str, length: usize| {
        let bytes = fs::read(folder.path().join(name)).unwrap();
        let place = folder.path().join(format!("cut-{name}"));
        fs::write(&place, &bytes[..length.min(bytes.len() - 1)]).unwrap();
        message(only(place.to_str().unwrap().to_owned()))
    };
    assert!(cut("x.npy", usize::MAX).contains("48 bytes expected, 47 found"));
    assert!(cut("x.npy", 50).contains("not an npy file"));
    assert!(cut("stored.npz", usize::MAX).contains("not an npz file"));

    let views = [("x", x.bytes())].map(|(name, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3, 4], bytes).unwrap())
    });
    fs::write(folder.path().join("x.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    assert_eq!(only(path("x.safetensors")).unwrap(), x);
    assert!(cut("x.safetensors", usize::MAX).contains("not a safetensors file"));
}

#[test]
fn texts_are_tokenized() {
    let folder = scratch();
    let tokenizer = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "unk_token": "?",
        "vocab": {"?": 0, "the": 1, "cat": 2, "sat": 3}}, "pre_tokenizer": {"type": "Whitespace"}}"#;
    fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    let open = |text: &[u8], vocabulary| {
        fs::write(folder.path().join("text.txt"), text).unwrap();
        let tokens = TextTokens::Tokenizer(folder.path().join("tokenizer.json"));
        Stream::open(&folder.path().join("text.txt"), Some(&tokens), vocabulary)
    };
    let stream = open(b"the cat sat\nthe dog", 4).unwrap();
    assert_eq!(stream.tokens(0, 9).collect::<Vec<_>>(), [1, 2, 3, 1, 0]);
    // Longer than what is tokenized at once.
    let long = open("the cat\n".repeat(300_000).as_bytes(), 4).unwrap();
    assert_eq!(long.len(), 600_000);
    assert!(long.tokens(0, usize::MAX).zip([1, 2].into_iter().cycle()).all(|(a, b)| a == b));
    assert!(message(open(b"the cat sat", 3)).contains("token 3 at place 2"));
    assert!(message(open(b"the \xff", 4)).contains("not UTF-8"));
    assert!(message(open(b"", 4)).contains("it has no tokens"));
}
