//! Peers in Python: processes that answer one request at a time, so that turns never overlap.
//!
//! A peer ends its turn when its worker threads sleep; until the next request it waits for a line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use mqc_ir::Activations;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Case;

/// What is compared. Of several formats of a kind with equal bits the fastest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// onnxruntime's product with weights of 8, 4 or 2 bits in blocks.
    MatMulNBits,
    /// onnxruntime's product of 8-bit integers.
    MatMulInteger,
    #[serde(rename = "ggml")]
    Ggml,
    #[serde(rename = "tract")]
    Tract,
}

/// A format that a peer multiplies.
#[derive(Debug, Clone, Deserialize)]
pub struct Format {
    pub name: String,
    pub kind: Kind,
    pub bits: u8,
    /// How it rounds activations.
    pub activations: Activations,
}

impl Format {
    /// Whether it rounds activations to integers, as ours do, or not at all, as ours do.
    pub fn matches(&self, ours: Activations) -> bool {
        (self.activations == Activations::F32) == (ours == Activations::F32)
    }
}

/// A running peer. Ends with this value.
pub struct Peer {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    name: String,
    formats: Vec<Format>,
}

/// What a peer says first.
#[derive(Deserialize)]
struct Greeting {
    name: String,
    cases: Vec<Format>,
}

/// What a peer answers; which fields are there depends on the request.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    copies: Option<usize>,
    micros: Option<f64>,
}

impl Peer {
    /// Starts a script that lies beside this file.
    pub fn start(python: &Path, script: &str, folder: Option<&Path>) -> Result<Peer> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/nested_matmul").join(script);
        let mut process = Command::new(python)
            .arg(path)
            .args(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("{} has no pipes", python.display());
        };
        let mut answers = BufReader::new(answers);
        let Greeting { name, cases } = serde_json::from_str(&line(&mut answers, script)?)
            .with_context(|| format!("{script} does not start"))?;
        Ok(Peer { process, requests: Some(requests), answers, name, formats: cases })
    }

    /// Who it is, with its version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it can multiply.
    pub fn formats(&self) -> &[Format] {
        &self.formats
    }

    /// Loads as many weights as come to `bytes`; false if this machine does not run the format.
    pub fn load(&mut self, format: usize, case: Case, bytes: usize) -> Result<bool> {
        let (shape, threads) = (case.shape, case.threads);
        let request = json!({
            "do": "load", "case": self.formats[format].name,
            "k": shape.k, "n": shape.n, "bytes": bytes, "threads": threads,
        });
        Ok(self.ask(&request)?.copies.is_some_and(|copies| copies > 0))
    }

    /// Microseconds of a product of a format that is loaded.
    pub fn turn(&mut self, format: usize, tokens: usize) -> Result<f64> {
        let request = json!({ "do": "turn", "case": self.formats[format].name, "m": tokens });
        self.ask(&request)?.micros.with_context(|| format!("{} did not answer with a time", self.name))
    }

    /// Unloads everything.
    pub fn unload(&mut self) -> Result<()> {
        self.ask(&json!({ "do": "drop" })).map(drop)
    }

    fn ask(&mut self, request: &Value) -> Result<Answer> {
        if let Some(pipe) = &mut self.requests {
            writeln!(pipe, "{request}").with_context(|| format!("{} has ended", self.name))?;
        }
        let line = line(&mut self.answers, &self.name)?;
        let answer: Answer =
            serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.name))?;
        match answer.error {
            Some(error) => bail!("{}, {request}: {error}", self.name),
            None => Ok(answer),
        }
    }
}

fn line(answers: &mut BufReader<ChildStdout>, name: &str) -> Result<String> {
    let mut line = String::new();
    if answers.read_line(&mut line).with_context(|| format!("cannot hear {name}"))? == 0 {
        bail!("{name} has ended");
    }
    Ok(line)
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input is the end of the process.
        self.requests = None;
        let _ = self.process.wait();
    }
}
