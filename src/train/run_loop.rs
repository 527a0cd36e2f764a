//! The loop: steps, validations, checkpoints, and when to stop.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;

use super::checkpoint::{Best, Kind, Progress, Store};
use super::data::Data;
use super::interrupt::Interrupt;
use super::metrics::Log;
use super::model::{self, Losses, Model, WidthMetrics};
use super::options::Options;
use super::watch::{Step, Watch};
use super::{metrics, report};
use crate::usage::UsageError;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All steps are done.
    Finished,
    /// The validation did not get better for too long.
    EarlyStop,
    /// As many steps as were asked for; more are left.
    StopAfter,
    /// Ctrl-C.
    Interrupted,
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Why it ended.
    pub ended: Ended,
    /// Steps that are done, those before a continued run too.
    pub step: u64,
    /// Steps of this run.
    pub steps: u64,
    /// The best validation.
    pub best: Option<Best>,
    /// The last validation of this run.
    pub validation: Vec<WidthMetrics>,
    /// Time of this run.
    pub seconds: f64,
}

/// Trains in a folder: checkpoints `last` and `best`, `metrics.jsonl`, TensorBoard events, `report.html`.
///
/// With `resume` it continues from `last` as if it had never stopped, or starts where there is no checkpoint yet.
///
/// # Errors
/// Bad options or data; a folder that holds another training; a checkpoint that does not fit or is damaged; a loss or a
/// state that is not finite; an I/O error. Checkpoints that were there are intact.
pub fn train(
    model: &mut dyn Model,
    data: &mut Data,
    options: &Options,
    folder: &Path,
    resume: bool,
    interrupt: &Interrupt,
    watch: &mut dyn Watch,
) -> Result<Summary> {
    options.check(data)?;
    let store = Store::open(folder)?;
    let mut progress = Progress {
        step: 0,
        epoch: 0,
        fingerprint: model.fingerprint(),
        options: options.to_compare(data)?,
        best: None,
        evaluations_since_best: 0,
    };
    let checkpoint = store.load(Kind::Last)?;
    let is_new = checkpoint.is_none();
    if let Some(checkpoint) = checkpoint {
        let (step, place) = (checkpoint.progress.step, folder.display());
        if !resume {
            bail!(UsageError(format!(
                "{place} holds a training of {step} steps: continue it with --resume, or choose another folder"
            )));
        }
        checkpoint.progress.check_same(&progress)?;
        model::restore(model, &checkpoint.state)?;
        progress = checkpoint.progress;
    }
    let log = Log::open(folder, progress.step, is_new, options.is_language_model)?;
    watch.start(progress.step, options.schedule.steps);
    let (saved, first) = ((!is_new).then_some(progress.step), progress.step);
    let mut run = Run { model, data, options, store, log, watch, progress, saved, validation: vec![] };
    let start = Instant::now();
    let ended = run.go(interrupt);
    // The curves are worth a look above all where it failed; its error says more than one of the report.
    let reported = report::write(folder, &metrics::read(folder)?);
    let ended = ended?;
    reported?;
    Ok(Summary {
        ended,
        step: run.progress.step,
        steps: run.progress.step - first,
        best: run.progress.best,
        validation: run.validation,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// A training under way.
struct Run<'a> {
    model: &'a mut dyn Model,
    data: &'a mut Data,
    options: &'a Options,
    store: Store,
    log: Log,
    watch: &'a mut dyn Watch,
    progress: Progress,
    /// The step of the last checkpoint.
    saved: Option<u64>,
    validation: Vec<WidthMetrics>,
}

impl Run<'_> {
    fn go(&mut self, interrupt: &Interrupt) -> Result<Ended> {
        if self.saved.is_none() {
            // The start is a candidate for the best, and a training that is killed early can continue.
            self.evaluate()?;
            self.save(Kind::Last)?;
        }
        let last = self.options.schedule.steps;
        let stop = self.options.stop_after.map_or(u64::MAX, |steps| self.progress.step.saturating_add(steps));
        let ended = loop {
            let step = self.progress.step;
            if step >= last {
                break Ended::Finished;
            } else if self.options.patience.is_some_and(|p| self.progress.evaluations_since_best >= p) {
                break Ended::EarlyStop;
            } else if interrupt.is_requested() {
                break Ended::Interrupted;
            } else if step >= stop {
                break Ended::StopAfter;
            }
            self.step()?;
            let step = self.progress.step;
            if step.is_multiple_of(self.options.evaluate_every) || step == last {
                self.evaluate()?;
            }
            if step.is_multiple_of(self.options.save_every) {
                self.save(Kind::Last)?;
            }
        };
        if self.saved != Some(self.progress.step) {
            self.save(Kind::Last)?;
        }
        Ok(ended)
    }

    fn step(&mut self) -> Result<()> {
        let step = self.progress.step + 1;
        let rate = self.options.schedule.rate(step);
        let losses = self.model.step(&self.data.batch(step)?, step, rate)?;
        self.progress.step = step;
        self.progress.epoch = step / self.data.steps_per_epoch();
        if let Some((name, loss)) = bad_loss(&losses) {
            return self.not_finite(&format!("{name} is {loss}"));
        }
        let epoch = step as f64 / self.data.steps_per_epoch() as f64;
        let report = Step { step, epoch, rate, losses: &losses };
        if step.is_multiple_of(self.options.log_every) {
            self.log.step(&report)?;
        }
        self.watch.step(&report);
        Ok(())
    }

    /// Validates, and keeps the state if it is the best.
    fn evaluate(&mut self) -> Result<()> {
        let batches =
            self.data.validation_batches().min(self.options.validation_batches.unwrap_or(usize::MAX));
        if batches == 0 {
            return Ok(());
        }
        let mut metrics = vec![];
        for index in 0..batches {
            let (batch, valid) = self.data.validation_batch(index)?;
            model::add(&mut metrics, self.model.evaluate(&batch, valid)?)?;
        }
        if let Some(ignored) = metrics.iter().find(|m| m.count == 0) {
            bail!("the validation data has no targets at {}: all labels are ignored", ignored.name);
        }
        if let Some(bad) = metrics.iter().find(|m| !m.loss().is_finite()) {
            return self.not_finite(&format!("the validation loss of {} is {}", bad.name, bad.loss()));
        }
        let step = self.progress.step;
        let loss = self.options.best_by.loss(&metrics)? as f32;
        let is_best = self.progress.best.is_none_or(|best| loss < best.loss);
        self.log.validation(step, &metrics)?;
        self.watch.evaluated(step, &metrics, is_best);
        self.validation = metrics;
        if is_best {
            self.progress.best = Some(Best { step, loss });
            self.progress.evaluations_since_best = 0;
            self.save(Kind::Best)?;
        } else {
            self.progress.evaluations_since_best += 1;
        }
        Ok(())
    }

    fn save(&mut self, kind: Kind) -> Result<()> {
        if self.model.first_bad().is_some() {
            return self.not_finite("the state is not finite");
        }
        self.log.sync()?;
        self.store.save(kind, &self.progress, &self.model.state()?)?;
        if kind == Kind::Last {
            self.saved = Some(self.progress.step);
        }
        Ok(())
    }

    /// The error of a training that diverged.
    fn not_finite(&self, what: &str) -> Result<()> {
        let tensor = self.model.first_bad().map_or_else(
            || "all tensors of the state are finite".to_owned(),
            |name| format!("the first bad tensor is {name}"),
        );
        let kept = self.saved.map_or_else(
            || "there is no checkpoint yet".to_owned(),
            |step| format!("the last good checkpoint is of step {step}"),
        );
        bail!(
            "step {}: {what}; {tensor}; {kept}. Try a lower learning rate or clip gradients",
            self.progress.step
        )
    }
}

fn bad_loss(losses: &Losses) -> Option<(String, f32)> {
    let widths = losses.widths.iter().map(|(name, loss)| (format!("the loss of {name}"), *loss));
    widths.chain([("the loss".to_owned(), losses.total)]).find(|(_, loss)| !loss.is_finite())
}
