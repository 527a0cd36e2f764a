//! `report.html`: the curves of a training per width, one self-contained page.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::metrics::{Record, Score};
use crate::svg::{STYLE, escape, svg};

/// The name of the report in the folder of a training.
pub const FILE: &str = "report.html";

const COLOURS: [&str; 8] =
    ["#c53030", "#2b6cb0", "#2f855a", "#b7791f", "#805ad5", "#0987a0", "#b83280", "#4a5568"];

/// Points that a curve is drawn with at most.
const POINTS: usize = 400;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 30.0;

/// A line of a chart: (step, value).
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Writes the report of a training's metrics.
pub fn write(folder: &Path, records: &[Record]) -> Result<()> {
    let path = folder.join(FILE);
    std::fs::write(&path, page(records)).with_context(|| format!("cannot write {}", path.display()))
}

fn page(records: &[Record]) -> String {
    let (mut train, mut validation, mut scores) = (vec![], vec![], vec![]);
    let mut rate = Curve { name: "rate".to_owned(), points: vec![] };
    for record in records {
        match record {
            Record::Train { step, losses, rate: now, .. } => {
                losses.iter().for_each(|(name, loss)| add(&mut train, name, *step, f64::from(*loss)));
                rate.points.push((*step as f64, f64::from(*now)));
            }
            Record::Validation { step, widths } => {
                widths.iter().for_each(|(name, score)| add(&mut validation, name, *step, score.loss));
                scores.push((*step, widths));
            }
        }
    }
    // A width has one colour in all charts.
    let mut names: Vec<&String> = train.iter().chain(&validation).map(|curve| &curve.name).collect();
    names.sort();
    names.dedup();
    let names: Vec<String> = names.into_iter().cloned().collect();
    let steps = records.iter().map(Record::step).max().unwrap_or(0);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Training</title>\n<style>{STYLE}</style>\n\
         <h1>Training</h1>\n<p>{steps} steps.</p>\n"
    );
    let chart = |html: &mut String, title: &str, curves: &[Curve]| {
        if curves.iter().any(|curve| !curve.points.is_empty()) {
            *html += &format!("<h2>{title}</h2>\n{}", chart(curves, &names));
        }
    };
    chart(&mut html, "Validation loss", &validation);
    chart(&mut html, "Training loss", &train);
    chart(&mut html, "Learning rate", &[rate]);
    if let Some((step, last)) = scores.last() {
        let _ = writeln!(html, "<h2>Validation after {step} steps</h2>\n<table>");
        html += "<tr><th>width<th>loss<th>perplexity<th>accuracy<th>best loss<th>at step</tr>\n";
        for (name, score) in *last {
            let all = scores.iter().filter_map(|(step, widths)| Some((*step, widths.get(name)?.loss)));
            let best = all.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((*step, score.loss));
            html += &row(name, score, best);
        }
        html += "</table>\n";
    }
    html + "</html>\n"
}

fn row(name: &str, score: &Score, (step, best): (u64, f64)) -> String {
    let number = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.4}"));
    let (perplexity, accuracy) = (number(score.perplexity), number(score.accuracy));
    let name = escape(name);
    format!("<tr><td>{name}<td>{:.4}<td>{perplexity}<td>{accuracy}<td>{best:.4}<td>{step}</tr>\n", score.loss)
}

fn add(curves: &mut Vec<Curve>, name: &str, step: u64, value: f64) {
    let point = (step as f64, value);
    match curves.iter_mut().find(|curve| curve.name == name) {
        Some(curve) => curve.points.push(point),
        None => curves.push(Curve { name: name.to_owned(), points: vec![point] }),
    }
}

/// Curves over steps, with axes and a legend.
fn chart(curves: &[Curve], names: &[String]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let step = tick((high - low).max(high.abs() * 1e-3).max(f64::MIN_POSITIVE));
    let low = (low / step).floor() * step;
    let high = ((high / step).ceil() * step).max(low + step);
    let x = |step: f64| LEFT + step / last * (WIDTH - LEFT - 20.0);
    let y = |value: f64| TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = svg(WIDTH as u64, HEIGHT as u64);
    let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ =
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
    };
    let lines: Vec<f64> =
        (0..=((high - low) / step).round() as usize).map(|i| low + i as f64 * step).collect();
    let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    lines.iter().for_each(|v| text(LEFT - 8.0, y(*v) + 4.0, "end", &format!("{v:.digits$}")));
    let every = tick(last).max(1.0);
    let marks: Vec<f64> = (0..=(last / every) as usize).map(|i| i as f64 * every).collect();
    marks.iter().for_each(|step| text(x(*step), HEIGHT - BOTTOM + 18.0, "middle", &format!("{step}")));
    for (index, curve) in curves.iter().enumerate() {
        text(LEFT + 26.0 + index as f64 * 100.0, 14.0, "start", &curve.name);
    }
    for value in &lines {
        let (from, to, y) = (x(0.0), x(last), y(*value));
        let _ = writeln!(svg, "<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"#e2e8f0\"/>");
    }
    for (index, curve) in curves.iter().enumerate() {
        let colour = names.iter().position(|name| *name == curve.name).unwrap_or(0);
        let colour = COLOURS[colour % COLOURS.len()];
        let left = LEFT + index as f64 * 100.0;
        let _ = writeln!(svg, "<path d=\"M{left} 10h20\" stroke=\"{colour}\" stroke-width=\"3\"/>");
        let thin = thin(&curve.points);
        let place = thin.iter().map(|(step, value)| format!("{:.1},{:.1}", x(*step), y(*value)));
        let place: Vec<String> = place.collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            place.join(" ")
        );
    }
    svg + "</svg>\n"
}

/// At most [`POINTS`] points: means of neighbours.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

/// A round distance of marks: 1, 2 or 5 times a power of ten, 4 to 10 of them in `range`.
fn tick(range: f64) -> f64 {
    let power = 10f64.powf((range / 5.0).log10().floor());
    let digit = range / 5.0 / power;
    power
        * if digit < 2.0 {
            1.0
        } else if digit < 5.0 {
            2.0
        } else {
            5.0
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_few() {
        for (range, expected) in [(1.0, 0.2), (0.03, 0.005), (7.0, 1.0), (10.0, 2.0), (400.0, 50.0)] {
            assert!((tick(range) / expected - 1.0).abs() < 1e-9, "{range}: {}", tick(range));
        }
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_mean() {
        let points: Vec<(f64, f64)> = (0..4 * POINTS).map(|i| (i as f64, (i % 2) as f64)).collect();
        let thin = thin(&points);
        assert_eq!(thin.len(), POINTS);
        assert!(thin.iter().all(|p| p.1 == 0.5));
        assert_eq!((thin[0].0, thin[1].0), (1.5, 5.5));
    }

    #[test]
    fn names_of_widths_do_not_break_the_page() {
        let score = Score { loss: 1.0, perplexity: None, accuracy: None, count: 1 };
        let widths = [("<8->2>".to_owned(), score)].into();
        let html = page(&[Record::Validation { step: 0, widths }]);
        assert!(html.contains("&lt;8-&gt;2&gt;") && !html.contains("<8"));
        // One value: no division by a range of zero.
        assert!(!html.contains("NaN") && !html.contains("inf"));
        assert!(!page(&[]).contains("<svg"));
    }
}
