//! What `mqc eval` found: the JSON that it writes, and what its tables and chart show. Numbers that are not finite are
//! null.

use serde::Serialize;

use super::choice::Choices;
use super::classify::Accuracy;
use super::perplexity::Perplexity;
use crate::artifact::manifest::CREATED_BY;

/// Everything of one call.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The artifact or model, as it was named.
    pub model: String,
    /// The float model that it was compared with.
    pub float: Option<String>,
    /// The program that measured, and its version.
    pub created_by: &'static str,
    /// Perplexity: one for each file of text or tokens.
    pub texts: Vec<Text>,
    /// Multiple choice: one for each file of questions.
    pub tasks: Vec<Task>,
    /// Classification.
    pub classification: Option<Classification>,
}

/// Perplexity on one file.
#[derive(Clone, Debug, Serialize)]
pub struct Text {
    /// The file, as it was named.
    pub file: String,
    /// Windows read.
    pub windows: usize,
    /// Tokens of each.
    pub window: usize,
    /// Of which so many at the end are scored.
    pub stride: usize,
    /// One for each model and width.
    pub results: Vec<Scored<Perplexity>>,
}

/// Multiple choice from one file.
#[derive(Clone, Debug, Serialize)]
pub struct Task {
    /// The name of the file without its ending.
    pub task: String,
    /// The file, as it was named.
    pub file: String,
    /// One for each model and width.
    pub results: Vec<Scored<Choices>>,
}

/// Classification of samples.
#[derive(Clone, Debug, Serialize)]
pub struct Classification {
    /// The output that was looked at.
    pub output: String,
    /// One for each model and width.
    pub results: Vec<Scored<Accuracy>>,
}

/// What was found at a width.
#[derive(Clone, Debug, Serialize)]
pub struct Scored<T> {
    /// The width as it was asked for, `float` for the float model; `onnx` for an ONNX model that is compared with it.
    pub bits: String,
    /// The result.
    #[serde(flatten)]
    pub score: T,
}

impl Report {
    /// Says who measured.
    pub const CREATED_BY: &'static str = CREATED_BY;

    /// Results in which something was not finite, as text.
    pub fn not_finite(&self) -> Vec<String> {
        let line = |what: &str, bits: &str, bad: u64, all: u64, unit: &str| {
            (bad > 0).then(|| {
                format!("{what}, {}: {bad} of {all} {unit} have logits that are NaN or infinite", label(bits))
            })
        };
        let texts = self.texts.iter().flat_map(|t| t.results.iter().map(move |r| (t, r)));
        let tasks = self.tasks.iter().flat_map(|t| t.results.iter().map(move |r| (t, r)));
        let classes = self.classification.iter().flat_map(|c| c.results.iter().map(move |r| (c, r)));
        texts
            .filter_map(|(t, r)| line(&t.file, &r.bits, r.score.not_finite, r.score.tokens, "tokens"))
            .chain(tasks.filter_map(|(t, r)| {
                line(&t.task, &r.bits, r.score.not_finite, r.score.questions, "questions")
            }))
            .chain(classes.filter_map(|(c, r)| {
                line(&c.output, &r.bits, r.score.not_finite, r.score.samples, "samples")
            }))
            .collect()
    }
}

/// A width as people say it.
pub fn label(bits: &str) -> String {
    match bits {
        "1" => "1 bit".to_owned(),
        bits if bits.parse::<u8>().is_ok() => format!("{bits} bits"),
        other => other.to_owned(),
    }
}
