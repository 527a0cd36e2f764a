//! Peers in Python: a process for each model and number of threads that answers one request at a time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::models::Model;

/// A running peer. Ends with this value.
pub struct Peer {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    name: String,
}

/// What a peer says; which fields are there depends on the request.
#[derive(Deserialize)]
struct Answer {
    name: Option<String>,
    seconds: Option<f64>,
}

impl Peer {
    /// Starts a script that lies beside this file; it compiles and warms up.
    pub fn start(python: &Path, script: &str, model: Model, threads: usize) -> Result<Peer> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/training_step").join(script);
        let mut process = Command::new(python)
            .arg(path)
            .args([threads.to_string().as_str(), model.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("{} has no pipes", python.display());
        };
        let (answers, requests) = (BufReader::new(answers), Some(requests));
        let mut peer = Peer { process, requests, answers, name: script.to_owned() };
        peer.name = peer.hear()?.name.with_context(|| format!("{script} does not say its name"))?;
        Ok(peer)
    }

    /// Who it is, with its version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seconds of one step, the mean of a turn.
    pub fn turn(&mut self) -> Result<f64> {
        if let Some(pipe) = &mut self.requests {
            writeln!(pipe, "turn").with_context(|| format!("{} has ended", self.name))?;
        }
        self.hear()?.seconds.with_context(|| format!("{} did not answer with a time", self.name))
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.answers.read_line(&mut line).with_context(|| format!("cannot hear {}", self.name))? == 0 {
            bail!("{} has ended", self.name);
        }
        serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.name))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input is the end of the process.
        self.requests = None;
        let _ = self.process.wait();
    }
}
