//! What `mqc eval` prints.

use anyhow::Result;

use crate::cli::ui::{Ui, table};
use crate::eval::Report;

/// A table for each text, task and classification, with a line for each width.
pub fn print(ui: &Ui, report: &Report) -> Result<()> {
    texts(ui, report)?;
    tasks(ui, report)?;
    classification(ui, report)
}

fn texts(ui: &Ui, report: &Report) -> Result<()> {
    for text in &report.texts {
        let tokens = text.results.first().map_or(0, |r| r.score.tokens);
        ui.print(format_args!(
            "{}: {tokens} tokens scored in {} windows of {}",
            text.file, text.windows, text.window
        ))?;
        let mut t = table(["bits", "loss", "perplexity", "bits/byte", "right", "KL to float", "agrees"], 1);
        for r in &text.results {
            let s = &r.score;
            t.add_row([
                r.bits.clone(),
                number(s.loss, 4),
                number(s.perplexity, 3),
                optional(s.bits_per_byte, 4),
                number(s.accuracy, 4),
                optional(s.kl, 5),
                optional(s.top1_agreement, 4),
            ]);
        }
        ui.print(t)?;
    }
    Ok(())
}

fn tasks(ui: &Ui, report: &Report) -> Result<()> {
    for task in &report.tasks {
        let questions = task.results.first().map_or(0, |r| r.score.questions);
        ui.print(format_args!("{}: {questions} questions", task.task))?;
        let mut t = table(
            ["bits", "right", "right by character", "bits/character", "same answer", "log-likelihood change"],
            1,
        );
        for r in &task.results {
            let s = &r.score;
            t.add_row([
                r.bits.clone(),
                number(s.accuracy, 4),
                number(s.accuracy_per_character, 4),
                number(s.label_bits_per_character, 4),
                optional(s.same_answer, 4),
                optional(s.log_likelihood_change, 4),
            ]);
        }
        ui.print(t)?;
    }
    Ok(())
}

fn classification(ui: &Ui, report: &Report) -> Result<()> {
    let Some(found) = &report.classification else { return Ok(()) };
    let samples = found.results.first().map_or(0, |r| r.score.samples);
    ui.print(format_args!("{}: {samples} samples", found.output))?;
    let mut t = table(
        ["bits", "right", "in first 5", "loss", "KL to float", "agrees", "float's in first 5", "cosine"],
        1,
    );
    for r in &found.results {
        let s = &r.score;
        t.add_row([
            r.bits.clone(),
            optional(s.accuracy, 4),
            optional(s.top5_accuracy, 4),
            optional(s.loss, 4),
            optional(s.kl, 5),
            optional(s.top1_agreement, 4),
            optional(s.reference_in_top5, 4),
            optional(s.cosine, 5),
        ]);
    }
    ui.print(t)
}

fn number(value: f64, digits: usize) -> String {
    if value.abs() < 1e6 || !value.is_finite() { format!("{value:.digits$}") } else { format!("{value:.2e}") }
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| number(value, digits))
}
