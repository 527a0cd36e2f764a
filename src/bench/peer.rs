//! onnxruntime in a Python process beside ours, which answers one request at a time: rounds of both interleave.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("peer.py");

/// A running onnxruntime. Ends with this value.
pub struct Peer {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    version: String,
}

/// A model that the peer has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(u64);

/// What the peer says; which fields are there depends on the request.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    version: Option<String>,
    session: Option<u64>,
    micros: Option<f64>,
}

impl Peer {
    /// Starts the interpreter.
    ///
    /// # Errors
    /// If there is none, or it cannot import onnxruntime and numpy.
    pub fn start(python: &Path) -> Result<Peer> {
        let mut process = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("{} has no pipes", python.display());
        };
        let answers = BufReader::new(answers);
        let mut peer = Peer { process, requests: Some(requests), answers, version: String::new() };
        peer.version = peer.answer()?.version.unwrap_or_default();
        Ok(peer)
    }

    /// The version of onnxruntime.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Loads a model for a number of threads.
    pub fn load(&mut self, model: &Path, threads: usize) -> Result<SessionId> {
        let path = model.to_str().with_context(|| format!("{} is not UTF-8", model.display()))?;
        let answer = self.ask(&json!({ "do": "load", "path": path, "threads": threads }))?;
        answer.session.map(SessionId).context("onnxruntime did not answer with a session")
    }

    /// Reads the inputs of the runs that follow.
    pub fn read_inputs(&mut self, npz: &Path) -> Result<()> {
        let path = npz.to_str().with_context(|| format!("{} is not UTF-8", npz.display()))?;
        self.ask(&json!({ "do": "read", "path": path })).map(drop)
    }

    /// Runs once. Returns microseconds.
    pub fn run(&mut self, session: SessionId) -> Result<f64> {
        let answer = self.ask(&json!({ "do": "run", "number": session.0 }))?;
        answer.micros.context("onnxruntime did not answer with a time")
    }

    /// Forgets every model.
    pub fn clear(&mut self) -> Result<()> {
        self.ask(&json!({ "do": "clear" })).map(drop)
    }

    fn ask(&mut self, request: &Value) -> Result<Answer> {
        if let Some(pipe) = &mut self.requests {
            writeln!(pipe, "{request}").context("the process of onnxruntime has ended")?;
        }
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.answers.read_line(&mut line).context("cannot hear onnxruntime")? == 0 {
            bail!("the process of onnxruntime has ended");
        }
        let answer: Answer =
            serde_json::from_str(&line).with_context(|| format!("onnxruntime says {:?}", line.trim_end()))?;
        match answer.error {
            Some(error) => bail!("{error}"),
            None => Ok(answer),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input is the end of the process.
        self.requests = None;
        let _ = self.process.wait();
    }
}
