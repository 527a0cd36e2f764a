//! The report as a picture, and as a page around it.

use std::fmt::Write;

use super::report::{Case, Report};
use crate::svg::{STYLE, escape, svg, tail};

/// Nested operators first, then the slowest others; what is left is one part.
const COLOURS: [&str; 6] = ["#2b6cb0", "#63b3ed", "#b7791f", "#9ae6b4", "#d69e2e", "#805ad5"];
const REST: &str = "#cbd5e0";
const PEER: &str = "#718096";

const BAR: usize = 22;
const LEFT: usize = 170;
const LENGTH: f64 = 520.0;

/// A bar a case, its operators by colour; below each onnxruntime's bars on the same scale.
pub fn chart(report: &Report) -> String {
    let kinds = kinds(report);
    let bars: usize = report.cases.iter().map(|case| 1 + case.peers.len()).sum();
    let groups = report.groups().count();
    let legend = (kinds.len() + 2).div_ceil(4) * BAR;
    let mut svg = svg(900, ((bars + groups) * BAR + legend + 20) as u64);
    svg += "<style>text{font:12px system-ui,sans-serif}</style>\n";
    let mut y = 0;
    for group in report.groups() {
        let Some(first) = group.first() else { continue };
        text(&mut svg, 0, y + 15, "start", &title(first));
        y += BAR;
        let most = group.iter().flat_map(all_micros).fold(f64::MIN_POSITIVE, f64::max);
        for case in group {
            text(&mut svg, LEFT - 8, y + 15, "end", &bits(case));
            let parts = parts(case, &kinds);
            let end = bar(&mut svg, y, parts.into_iter().map(|(micros, c)| (micros / most * LENGTH, c)));
            let nested = case.breakdown.nested.map(|n| format!(", roofline {:.0} %", n.roofline_share * 1e2));
            let label = format!("{}{}", millis(case.micros.median), nested.unwrap_or_default());
            text(&mut svg, end + 6, y + 15, "start", &label);
            y += BAR;
            for peer in &case.peers {
                text(&mut svg, LEFT - 8, y + 15, "end", &format!("onnxruntime {}", peer.model));
                let end = bar(&mut svg, y, std::iter::once((peer.micros.median / most * LENGTH, PEER)));
                let label = format!("{}, ours / theirs {:.2}", millis(peer.micros.median), peer.ratio);
                text(&mut svg, end + 6, y + 15, "start", &label);
                y += BAR;
            }
        }
    }
    let names = kinds.iter().map(String::as_str).zip(COLOURS);
    for (index, (name, colour)) in names.chain([("other operators", REST), ("onnxruntime", PEER)]).enumerate()
    {
        let (x, y) = (LEFT + index % 4 * 175, y + 10 + index / 4 * BAR);
        let _ = write!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        text(&mut svg, x + 18, y + 11, "start", &tail(name, 22));
    }
    svg + "</svg>\n"
}

/// The page: the chart, what the machine reaches, and the report as JSON for whoever wants the numbers.
pub fn page(report: &Report) -> Result<String, serde_json::Error> {
    let title = escape(&report.model);
    let machine = &report.machine;
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}: bench</title>\n<style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<p>{}, {} cores; medians of {} rounds.</p>\n<h2>Time of a run</h2>\n{}",
        escape(machine.cpu.as_deref().unwrap_or("unknown processor")),
        machine.cores,
        report.rounds,
        chart(report),
    );
    html += "<h2>Limits of the machine</h2>\n<table><tr><th>threads<th>memory read, GB/s<th>int8, GOP/s<th>f32, GFLOP/s</tr>\n";
    for l in &machine.limits {
        // Writing to a String cannot fail.
        let _ = writeln!(
            html,
            "<tr><td>{}<td>{:.1}<td>{:.0} ({})<td>{:.0}</tr>",
            l.threads, l.read_gb_per_s, l.int8_gop_per_s, l.int8_instruction, l.f32_gop_per_s
        );
    }
    html += "</table>\n";
    for note in &report.notes {
        let _ = writeln!(html, "<p>{}</p>", escape(note));
    }
    let json = escape(&serde_json::to_string_pretty(report)?);
    let _ = writeln!(html, "<details><summary>All numbers</summary><pre>{json}</pre></details>\n</html>");
    Ok(html)
}

/// The kinds that have a colour: nested ones, then the slowest over all cases.
fn kinds(report: &Report) -> Vec<String> {
    let mut sums: Vec<(bool, f64, &str)> = vec![];
    for op in report.cases.iter().flat_map(|case| &case.breakdown.ops) {
        match sums.iter_mut().find(|(.., name)| *name == op.op) {
            Some((_, micros, _)) => *micros += op.micros,
            None => sums.push((op.nested, op.micros, &op.op)),
        }
    }
    sums.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
    sums.into_iter().take(COLOURS.len()).map(|(.., name)| name.to_owned()).collect()
}

/// The bar of a case: the whole at its median, divided as the operators divide it.
fn parts(case: &Case, kinds: &[String]) -> Vec<(f64, &'static str)> {
    let of = |name: &str| case.breakdown.ops.iter().find(|op| op.op == name).map_or(0.0, |op| op.share);
    let mut parts: Vec<(f64, &str)> = kinds.iter().map(|name| of(name)).zip(COLOURS).collect();
    parts.push(((1.0 - parts.iter().map(|(share, _)| share).sum::<f64>()).max(0.0), REST));
    parts.into_iter().map(|(share, colour)| (share * case.micros.median, colour)).collect()
}

fn all_micros(case: &Case) -> impl Iterator<Item = f64> {
    std::iter::once(case.micros.median).chain(case.peers.iter().map(|peer| peer.micros.median))
}

fn title(case: &Case) -> String {
    let inputs: Vec<String> = case.inputs.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
    let threads = if case.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", case.threads) };
    tail(&format!("{threads}; {}", inputs.join(", ")), 120)
}

fn bits(case: &Case) -> String {
    match case.bits.as_str() {
        "1" => "1 bit".to_owned(),
        bits if bits.parse::<u8>().is_ok() => format!("{bits} bits"),
        other => tail(other, 24),
    }
}

fn millis(micros: f64) -> String {
    format!("{:.3} ms", micros / 1e3)
}

/// Draws the parts one after the other; returns where they end.
fn bar(svg: &mut String, y: usize, parts: impl Iterator<Item = (f64, &'static str)>) -> usize {
    let mut x = LEFT as f64;
    for (width, colour) in parts {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>",
            y + 3
        );
        x += width;
    }
    x as usize
}

fn text(svg: &mut String, x: usize, y: usize, anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
}
