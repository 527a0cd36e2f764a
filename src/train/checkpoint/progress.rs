//! How far a training is, and what must not change when it continues.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const FORMAT: &str = "mqc training checkpoint";
const VERSION: u32 = 1;
const MQC: &str = env!("CARGO_PKG_VERSION");

/// How far a training is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps that are done.
    pub step: u64,
    /// Whole passes over the data that are done.
    pub epoch: u64,
    /// Sha256 of what a step computes.
    pub fingerprint: String,
    /// Options and data, by name: what must be the same to continue.
    pub options: Map<String, Value>,
    /// The best validation so far.
    pub best: Option<Best>,
    /// Validations after the best one.
    pub evaluations_since_best: u64,
}

/// The best validation of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps that were done.
    pub step: u64,
    /// Its loss; f32, which survives JSON bit by bit.
    pub loss: f32,
}

/// What all versions of the file have.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    mqc: String,
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    header: Header,
    progress: &'a Progress,
}

#[derive(Deserialize)]
struct Body {
    progress: Progress,
}

impl Progress {
    /// The text of the file.
    pub fn to_json(&self) -> Result<String> {
        let header = Header { format: FORMAT.to_owned(), version: VERSION, mqc: MQC.to_owned() };
        Ok(serde_json::to_string_pretty(&File { header, progress: self })? + "\n")
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// Another file, or one of another version of the format or of mqc.
    pub fn from_json(text: &[u8]) -> Result<Progress> {
        let header: Header = serde_json::from_slice(text).context("it is no progress of a training")?;
        if header.format != FORMAT {
            bail!("its format is {:?}; expected {FORMAT:?}", header.format);
        }
        if header.version != VERSION {
            bail!("its format has version {}; this mqc reads version {VERSION}", header.version);
        }
        if header.mqc != MQC {
            bail!("mqc {} wrote it and this is mqc {MQC}: continue with the same version", header.mqc);
        }
        let body: Body = serde_json::from_slice(text).context("it is no progress of a training")?;
        Ok(body.progress)
    }

    /// Whether `now` may continue from here.
    ///
    /// # Errors
    /// Another model, other options or other data: says which.
    pub fn check_same(&self, now: &Progress) -> Result<()> {
        // Numbers of the file went through text; those of `now` must too.
        let options: Value = serde_json::from_str(&serde_json::to_string(&now.options)?)?;
        let mut found = vec![];
        differences("", &Value::Object(self.options.clone()), &options, &mut found);
        if !found.is_empty() {
            bail!("the checkpoint is of a training with other options: {}", found.join("; "));
        }
        if self.fingerprint != now.fingerprint {
            bail!(
                "the checkpoint is of another model: its fingerprint is {}, that of this model and its options is {}",
                self.fingerprint,
                now.fingerprint
            );
        }
        Ok(())
    }
}

fn differences(path: &str, then: &Value, now: &Value, found: &mut Vec<String>) {
    if let (Value::Object(then), Value::Object(now)) = (then, now) {
        let new = now.keys().filter(|key| !then.contains_key(*key));
        for key in then.keys().chain(new) {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let side = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
            differences(&path, &side(then), &side(now), found);
        }
    } else if then != now {
        found.push(format!("{path} was {then} and is {now}"));
    }
}
