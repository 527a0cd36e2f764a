//! `mqc eval`: perplexity, multiple-choice questions and classification, per width and beside the float model.

mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mqc_ir::quant::Width;

use super::Outcome;
use super::engine::EngineArgs;
use super::ui::{Ui, UsageError};
use crate::artifact::Artifact;
use crate::eval::choice::{self, Encoded};
use crate::eval::perplexity::{Tokens, perplexity};
use crate::eval::report::{Classification, Scored, Task, Text};
use crate::eval::samples::{Classifier, Samples, classification};
use crate::eval::text::{self, Tokenizer};
use crate::eval::{LanguageModel, Models, Report, SessionModel, Windows, chart, evenly};
use crate::load;
use crate::precision::Precision;

/// Tokens of a window if a model takes so many.
const WINDOW: usize = 512;

#[derive(clap::Args)]
pub struct Args {
    /// An artifact, or an ONNX model to run in float.
    #[arg(value_name = "MODEL")]
    subject: PathBuf,
    /// Widths, or TOML files with widths per layer; the widths that the artifact was compiled for if not given.
    #[arg(long, value_delimiter = ',')]
    bits: Vec<String>,
    /// The float ONNX model to compare with.
    #[arg(long, short, value_name = "FLOAT")]
    model: Option<PathBuf>,
    /// Texts to measure the perplexity of.
    #[arg(long, value_delimiter = ',', value_name = "FILE", requires = "tokenizer")]
    text: Vec<PathBuf>,
    /// The same of files of tokens: little-endian integers of 16 or 32 bits, by the ending .u16 or .u32.
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    tokens: Vec<PathBuf>,
    /// Multiple-choice questions: jsonl files with `context` (or `contexts`), `continuations` and `label`.
    #[arg(long, value_delimiter = ',', value_name = "FILE", requires = "tokenizer")]
    tasks: Vec<PathBuf>,
    /// The tokenizer.json that belongs to the model; `bytes` where every byte is a token.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Tokens that are read together; 512 if not given, or as many as the model takes.
    #[arg(long)]
    window: Option<usize>,
    /// Tokens between the starts of windows; so many at the end of each are scored. Half a window if not given.
    #[arg(long)]
    stride: Option<usize>,
    /// Samples to classify: x.npz with arrays named like the inputs, or NAME=x.npy, NAME=x.pb.
    #[arg(long, short, conflicts_with_all = ["text", "tokens", "tasks"])]
    input: Vec<String>,
    /// Array of the input npz with class numbers.
    #[arg(long, requires = "input")]
    labels: Option<String>,
    /// The output with the logits of the classes; the first if not given.
    #[arg(long, requires = "input")]
    output: Option<String>,
    /// At most so many windows, questions of a task, or samples, evenly spaced.
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Write all numbers to a JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a chart.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write a page with the chart and all numbers.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// A width or a map, as it was asked for.
type Asked = Vec<(String, Precision)>;

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        // A mistake in the arguments shows before a large model is loaded.
        let asked =
            self.bits.iter().map(|b| Ok((b.clone(), Precision::parse(b)?))).collect::<Result<Asked>>()?;
        self.check()?;
        let mut report = Report {
            model: self.subject.display().to_string(),
            float: self.model.as_ref().map(|m| m.display().to_string()),
            created_by: Report::CREATED_BY,
            texts: vec![],
            tasks: vec![],
            classification: None,
        };
        if self.input.is_empty() {
            self.language(ui, asked, &mut report)?;
        } else {
            report.classification = Some(self.classify(ui, asked)?);
        }
        tables::print(ui, &report)?;
        self.write(ui, &report)?;
        let broken = report.not_finite();
        for line in &broken {
            ui.print(line)?;
        }
        Ok(if broken.is_empty() { Outcome::Passed } else { Outcome::Failed })
    }

    fn check(&self) -> Result<()> {
        let usage = |message: String| bail!(UsageError(message));
        if self.text.is_empty() && self.tokens.is_empty() && self.tasks.is_empty() && self.input.is_empty() {
            return usage("nothing to evaluate on: give --text, --tokens, --tasks or --input".to_owned());
        }
        if !self.input.is_empty() && self.labels.is_none() && self.model.is_none() {
            return usage("--input needs --labels, or --model to compare with, or both".to_owned());
        }
        if self.limit == Some(0) || self.window == Some(0) || self.stride == Some(0) {
            return usage("--limit, --window and --stride are at least 1".to_owned());
        }
        if !load::is_artifact(&self.subject) && !self.bits.is_empty() {
            let path = self.subject.display();
            return usage(format!("{path} is an ONNX model and runs in float; --bits goes with an artifact"));
        }
        match &self.model {
            Some(float) if load::is_artifact(float) => {
                usage(format!("--model {}: an artifact, expected the float ONNX model", float.display()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The names of the results, the float model's first if there is one, and the widths of the model.
    fn precisions(&self, asked: Asked, artifact: Option<&Artifact>) -> (Vec<String>, Vec<Precision>) {
        let own = match artifact {
            None => {
                let name = if self.model.is_some() { "onnx" } else { "float" };
                vec![(name.to_owned(), Precision::uniform(Width::MAX))]
            }
            Some(artifact) if asked.is_empty() => {
                let widths = artifact.manifest().bits.iter().filter(|w| *w <= artifact.widest());
                widths.map(|w| (w.to_string(), Precision::uniform(w))).collect()
            }
            Some(_) => asked,
        };
        let (mut names, precisions): (Vec<String>, _) = own.into_iter().unzip();
        if self.model.is_some() {
            names.insert(0, "float".to_owned());
        }
        (names, precisions)
    }

    fn language(&self, ui: &Ui, asked: Asked, report: &mut Report) -> Result<()> {
        let tokenizer = self.tokenizer.as_deref().map(Tokenizer::open).transpose()?;
        let tokenizer = || tokenizer.as_ref().context("no tokenizer");
        let mut texts = vec![];
        for path in &self.text {
            texts.push((path, text::read_text(path, tokenizer()?)?));
        }
        for path in &self.tokens {
            texts.push((path, text::read_tokens(path)?));
        }
        let mut tasks = vec![];
        for path in &self.tasks {
            let questions = evenly(choice::read_questions(path)?, self.limit);
            let encode = |q: &choice::Question| q.encode(tokenizer()?);
            let encoded = questions.iter().map(encode).collect::<Result<Vec<_>>>();
            tasks.push((path, encoded.with_context(|| format!("cannot ask {}", path.display()))?));
        }
        if let Some((path, _)) = texts.iter().find(|(_, tokens)| tokens.ids.is_empty()) {
            bail!(UsageError(format!("{} has no tokens", path.display())));
        }

        let setup = self.engine.setup();
        let model = SessionModel::open(&self.subject, &setup)?;
        let float = self.model.as_ref().map(|path| SessionModel::open(path, &setup)).transpose()?;
        let (names, precisions) = self.precisions(asked, model.artifact());
        let opened: Vec<&SessionModel> = float.iter().chain([&model]).collect();
        check_vocabulary(&opened, &texts, &tasks)?;
        let mut models = models(float.as_ref(), &model, &precisions)?;
        for (path, tokens) in &texts {
            report.texts.push(self.text(ui, path, tokens, &opened, &names, &mut models)?);
        }
        if !tasks.is_empty() {
            opened.iter().for_each(|model| model.plan_any_length());
        }
        for (path, questions) in &tasks {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let bar = ui.progress(&name, questions.len() as u64);
            let results = choice::choices(questions, &mut models, &mut || bar.advance(1));
            let results = results.with_context(|| format!("cannot evaluate on {}", path.display()))?;
            report.tasks.push(Task {
                task: name,
                file: path.display().to_string(),
                results: scored(&names, results),
            });
        }
        for error in opened.iter().filter_map(|model| model.plan_error()) {
            ui.say(format_args!("slow: every length of question was planned anew, because of: {error}"));
        }
        Ok(())
    }

    fn text(
        &self,
        ui: &Ui,
        path: &Path,
        tokens: &Tokens,
        opened: &[&SessionModel],
        names: &[String],
        models: &mut Models,
    ) -> Result<Text> {
        let most = opened.iter().filter_map(|m| m.positions()).min().unwrap_or(WINDOW);
        let window = self.window.unwrap_or(WINDOW.min(most));
        let stride = self.stride.unwrap_or((window / 2).max(1));
        let context = || format!("cannot evaluate on {}", path.display());
        let mut windows = Windows::new(tokens.ids.len(), window, stride).with_context(context)?;
        if let Some(limit) = self.limit {
            windows = windows.evenly(limit);
        }
        let (count, length) = (windows.len(), windows.length());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bar = ui.progress(&name, count as u64);
        let results =
            perplexity(tokens, windows, models, &mut |windows| bar.advance(windows)).with_context(context)?;
        Ok(Text {
            file: path.display().to_string(),
            windows: count,
            window: length,
            stride: stride.min(length - 1),
            results: scored(names, results),
        })
    }

    fn classify(&self, ui: &Ui, asked: Asked) -> Result<Classification> {
        let setup = self.engine.setup();
        let output = self.output.as_deref();
        let model = Classifier::open(&self.subject, output, &setup)?;
        let float = self.model.as_ref().map(|path| Classifier::open(path, Some(model.output()), &setup));
        let float = float.transpose()?;
        let samples = Samples::read(&self.input, self.labels.as_deref(), model.loaded().graph(), self.limit)?;
        let (names, precisions) = self.precisions(asked, model.loaded().opened());
        let bar = ui.progress("samples", samples.len() as u64);
        let widest = Precision::uniform(Width::MAX);
        let reference = float.as_ref().map(|f| (f, &widest));
        let results =
            classification(&samples, reference, (&model, &precisions), &mut |samples| bar.advance(samples))?;
        Ok(Classification { output: model.output().to_owned(), results: scored(&names, results) })
    }

    fn write(&self, ui: &Ui, report: &Report) -> Result<()> {
        let write = |path: &Option<PathBuf>, content: &dyn Fn() -> Result<String>| -> Result<()> {
            let Some(path) = path else { return Ok(()) };
            std::fs::write(path, content()?).with_context(|| format!("cannot write {}", path.display()))?;
            ui.say(format_args!("{} written", path.display()));
            Ok(())
        };
        write(&self.json, &|| Ok(serde_json::to_string_pretty(report)? + "\n"))?;
        write(&self.svg, &|| Ok(chart::chart(report)))?;
        write(&self.html, &|| Ok(chart::page(report)?))
    }
}

/// The float model as the reference, and the model at every width.
fn models<'a>(
    float: Option<&'a SessionModel>,
    model: &'a SessionModel,
    precisions: &[Precision],
) -> Result<Models<'a>> {
    let boxed = |model: &'a SessionModel, precision: &Precision| -> Result<Box<dyn LanguageModel + 'a>> {
        Ok(Box::new(model.at(precision)?))
    };
    Ok(Models {
        reference: float.map(|f| boxed(f, &Precision::uniform(Width::MAX))).transpose()?,
        compared: precisions.iter().map(|p| boxed(model, p)).collect::<Result<_>>()?,
    })
}

/// Fails when a token of a text or a question is not in the vocabulary of a model that says how large it is.
fn check_vocabulary(
    models: &[&SessionModel],
    texts: &[(&PathBuf, Tokens)],
    tasks: &[(&PathBuf, Vec<Encoded>)],
) -> Result<()> {
    let Some(vocabulary) = models.iter().filter_map(|m| m.vocabulary()).min() else { return Ok(()) };
    for (path, tokens) in texts {
        text::check_vocabulary(&tokens.ids, vocabulary).with_context(|| path.display().to_string())?;
    }
    for (path, questions) in tasks {
        for sequence in questions.iter().flat_map(|q| &q.sequences) {
            text::check_vocabulary(sequence, vocabulary).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn scored<T>(names: &[String], results: Vec<T>) -> Vec<Scored<T>> {
    names.iter().zip(results).map(|(bits, score)| Scored { bits: bits.clone(), score }).collect()
}
