//! The report as a picture, and as a page around it.

use std::fmt::Write;

use super::report::{Report, label};
use crate::svg::{STYLE, escape, svg, tail};

const BAR: usize = 22;
const LEFT: usize = 170;
const LENGTH: f64 = 520.0;
const FLOAT: &str = "#718096";
const NESTED: &str = "#2b6cb0";

/// Bars of one scale.
struct Group {
    title: String,
    bars: Vec<Bar>,
}

struct Bar {
    bits: String,
    value: f64,
    text: String,
}

/// A bar a width for each text, task and classification; the line is the float model.
pub fn chart(report: &Report) -> String {
    let groups = groups(report);
    let rows: usize = groups.iter().map(|group| group.bars.len() + 1).sum();
    let mut svg = svg(900, (rows * BAR + 10) as u64);
    svg += "<style>text{font:12px system-ui,sans-serif}</style>\n";
    let mut y = 0;
    for group in &groups {
        text(&mut svg, 0, y + 15, "start", &group.title);
        y += BAR;
        let top = y;
        let finite = group.bars.iter().map(|bar| bar.value).filter(|value| value.is_finite());
        let most = finite.fold(f64::MIN_POSITIVE, f64::max);
        for bar in &group.bars {
            text(&mut svg, LEFT - 8, y + 15, "end", &tail(&label(&bar.bits), 24));
            let width = if bar.value.is_finite() { (bar.value / most * LENGTH).max(0.0) } else { 0.0 };
            let colour = if bar.bits == "float" { FLOAT } else { NESTED };
            // Writing to a String cannot fail.
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>",
                y + 3
            );
            text(&mut svg, LEFT + width as usize + 6, y + 15, "start", &bar.text);
            y += BAR;
        }
        let float = group.bars.iter().find(|bar| bar.bits == "float" && bar.value.is_finite());
        if let Some(float) = float.filter(|_| group.bars.len() > 1) {
            let x = LEFT as f64 + float.value / most * LENGTH;
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{y}\" stroke=\"{FLOAT}\" stroke-dasharray=\"3\"/>"
            );
        }
    }
    svg + "</svg>\n"
}

/// The page: the chart, and the report as JSON for whoever wants the numbers.
pub fn page(report: &Report) -> Result<String, serde_json::Error> {
    let title = escape(&report.model);
    let float = report.float.as_ref().map(|f| format!(", compared with {}", escape(f))).unwrap_or_default();
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}: eval</title>\n<style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<p>{}{float}.</p>\n{}",
        escape(report.created_by),
        chart(report),
    );
    for line in report.not_finite() {
        let _ = writeln!(html, "<p>{}</p>", escape(&line));
    }
    let json = escape(&serde_json::to_string_pretty(report)?);
    let _ =
        writeln!(html, "<details open><summary>All numbers</summary><pre>{json}</pre></details>\n</html>");
    Ok(html)
}

fn groups(report: &Report) -> Vec<Group> {
    let percent = |value: f64| format!("{:.1} %", value * 1e2);
    let mut groups = vec![];
    for found in &report.texts {
        let title = format!("{}: loss in nats a token, shorter is better", tail(&found.file, 60));
        let bar = |r: &super::report::Scored<super::Perplexity>| Bar {
            bits: r.bits.clone(),
            value: r.score.loss,
            text: format!("{:.4}, perplexity {:.2}", r.score.loss, r.score.perplexity),
        };
        groups.push(Group { title, bars: found.results.iter().map(bar).collect() });
    }
    for found in &report.tasks {
        let title = format!("{}: right answers, longer is better", tail(&found.task, 60));
        let bar = |r: &super::report::Scored<super::choice::Choices>| Bar {
            bits: r.bits.clone(),
            value: r.score.accuracy,
            text: format!(
                "{}, by characters {}",
                percent(r.score.accuracy),
                percent(r.score.accuracy_per_character)
            ),
        };
        groups.push(Group { title, bars: found.results.iter().map(bar).collect() });
    }
    if let Some(found) = &report.classification {
        let labelled = found.results.iter().any(|r| r.score.accuracy.is_some());
        let what = if labelled { "right classes" } else { "same class as the float model" };
        let title = format!("{}: {what}, longer is better", tail(&found.output, 60));
        let bars = found.results.iter().filter_map(|r| {
            let value = if labelled { r.score.accuracy } else { r.score.top1_agreement };
            value.map(|value| Bar { bits: r.bits.clone(), value, text: percent(value) })
        });
        groups.push(Group { title, bars: bars.collect() });
    }
    groups
}

fn text(svg: &mut String, x: usize, y: usize, anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
}
