//! What is written down of a training: JSON lines in `metrics.jsonl`, and TensorBoard event files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::events::Events;
use super::model::WidthMetrics;
use super::watch::Step;

/// The name of the file.
pub const FILE: &str = "metrics.jsonl";

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A step, and its losses by width.
    Train { step: u64, epoch: f64, rate: f32, loss: f32, losses: BTreeMap<String, f32> },
    /// A validation, by width.
    Validation { step: u64, widths: BTreeMap<String, Score> },
}

/// The validation of a width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Mean loss of a target.
    pub loss: f64,
    /// Of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Where targets are classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Number of targets.
    pub count: u64,
}

impl Record {
    /// The step that it is of.
    pub fn step(&self) -> u64 {
        match self {
            Record::Train { step, .. } | Record::Validation { step, .. } => *step,
        }
    }
}

/// Both files under way.
pub struct Log {
    lines: File,
    events: Events,
    has_perplexity: bool,
}

impl Log {
    /// Continues the files of a training that has done `step` steps; lines of later steps are removed. Starts them anew
    /// when `is_new`.
    pub fn open(folder: &Path, step: u64, is_new: bool, has_perplexity: bool) -> Result<Log> {
        let path = folder.join(FILE);
        let context = || format!("cannot open {}", path.display());
        let kept = if is_new { 0 } else { records(&path)?.1.get_to(step) };
        let options = OpenOptions::new().append(true).create(true).open(&path);
        let lines = options.with_context(context)?;
        lines.set_len(kept).with_context(context)?;
        Ok(Log { lines, events: Events::create(folder, step)?, has_perplexity })
    }

    /// Writes a step down.
    pub fn step(&mut self, step: &Step<'_>) -> Result<()> {
        let losses = &step.losses;
        self.line(&Record::Train {
            step: step.step,
            epoch: step.epoch,
            rate: step.rate,
            loss: losses.total,
            losses: losses.widths.iter().cloned().collect(),
        })?;
        let mut values = vec![("train/loss".to_owned(), losses.total), ("train/rate".to_owned(), step.rate)];
        values.extend(losses.widths.iter().map(|(name, loss)| (format!("train/loss/{name}"), *loss)));
        self.events.values(step.step, &values)
    }

    /// Writes a validation down.
    pub fn validation(&mut self, step: u64, metrics: &[WidthMetrics]) -> Result<()> {
        let score = |m: &WidthMetrics| Score {
            loss: m.loss(),
            perplexity: self.has_perplexity.then(|| m.perplexity()).filter(|p| p.is_finite()),
            accuracy: m.accuracy(),
            count: m.count,
        };
        let widths: BTreeMap<String, Score> = metrics.iter().map(|m| (m.name.clone(), score(m))).collect();
        let mut values = vec![];
        for (name, score) in &widths {
            let numbers =
                [("loss", Some(score.loss)), ("perplexity", score.perplexity), ("accuracy", score.accuracy)];
            let numbers = numbers.into_iter().filter_map(|(what, number)| Some((what, number?)));
            values.extend(numbers.map(|(what, number)| (format!("validation/{what}/{name}"), number as f32)));
        }
        self.line(&Record::Validation { step, widths })?;
        self.events.values(step, &values)
    }

    /// Puts the lines on the disk.
    pub fn sync(&self) -> Result<()> {
        self.lines.sync_all().with_context(|| format!("cannot flush {FILE}"))
    }

    fn line(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record)? + "\n";
        self.lines.write_all(line.as_bytes()).with_context(|| format!("cannot write {FILE}"))
    }
}

/// The records of a folder, in order.
pub fn read(folder: &Path) -> Result<Vec<Record>> {
    Ok(records(&folder.join(FILE))?.0)
}

/// Where lines end.
struct Ends(Vec<(u64, u64)>);

impl Ends {
    /// Bytes of the lines up to those of a step.
    fn get_to(&self, step: u64) -> u64 {
        self.0.iter().take_while(|(s, _)| *s <= step).last().map_or(0, |(_, end)| *end)
    }
}

/// The records up to the first line that a killed process cut off.
fn records(path: &Path) -> Result<(Vec<Record>, Ends)> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![],
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let (mut records, mut ends, mut end) = (vec![], vec![], 0);
    for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let Ok(record) = serde_json::from_slice::<Record>(line) else { break };
        end += line.len() as u64;
        ends.push((record.step(), end));
        records.push(record);
    }
    Ok((records, Ends(ends)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::model::Losses;

    fn write(log: &mut Log, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            let losses = Losses { total: 0.1 * step as f32, widths: vec![("int2".to_owned(), 0.3)] };
            log.step(&Step { step, epoch: 0.5, rate: 1e-3, losses: &losses }).unwrap();
            let width = |name: &str| WidthMetrics {
                name: name.to_owned(),
                loss_sum: 3.0,
                count: 4,
                correct: Some(step),
            };
            log.validation(step, &[width("int2"), width("int8")]).unwrap();
        }
    }

    #[test]
    fn lines_after_the_checkpoint_and_a_cut_line_go_when_it_continues() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut log = Log::open(folder.path(), 0, true, true).unwrap();
        write(&mut log, 1..=3);
        let three = fs::read_to_string(&path).unwrap();
        write(&mut log, 4..=5);
        let five = fs::read_to_string(&path).unwrap();
        fs::write(&path, &five[..five.len() - 9]).unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 9);
        let mut log = Log::open(folder.path(), 3, false, true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), three);
        write(&mut log, 4..=5);
        assert_eq!(fs::read_to_string(&path).unwrap(), five);
        Log::open(folder.path(), 0, true, true).unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
    }

    #[test]
    fn a_score_has_what_its_task_has() {
        let folder = tempfile::tempdir().unwrap();
        write(&mut Log::open(folder.path(), 0, true, false).unwrap(), 3..=3);
        let records = read(folder.path()).unwrap();
        let score = Score { loss: 0.75, perplexity: None, accuracy: Some(0.75), count: 4 };
        let widths = ["int2", "int8"].map(|name| (name.to_owned(), score)).into();
        assert_eq!(records[1], Record::Validation { step: 3, widths });
        write(&mut Log::open(folder.path(), 0, true, true).unwrap(), 3..=3);
        let Record::Validation { widths, .. } = &read(folder.path()).unwrap()[1] else { panic!() };
        assert_eq!(widths["int2"].perplexity, Some(0.75f64.exp()));
    }
}
