//! `report.html`: the artifact in pictures, one self-contained file.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use mqc_ir::quant::Width;
use serde::Serialize;

use crate::artifact::Manifest;
use crate::artifact::store::{self, Store};
use crate::svg::{STYLE, escape, svg, tail};

/// The name of the report in an artifact's folder.
pub const FILE: &str = "report.html";

/// What a run at a width reads of the weights, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// The width.
    pub bits: Width,
    /// Bit planes.
    pub planes: u64,
    /// Scales and zero points.
    pub scales: u64,
    /// Tensors that are not nested.
    pub untouched: u64,
}

impl Size {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.planes + self.scales + self.untouched
    }
}

/// What every width up to `widest` reads.
pub fn sizes(manifest: &Manifest, stored: &Store, widest: Width) -> Vec<Size> {
    let resident: u64 = stored
        .tensors()
        .iter()
        .filter(|t| store::parse_plane_name(&t.name).is_none())
        .map(|t| t.end() - t.start)
        .sum();
    let all_maps: u64 = manifest.layers.iter().map(|l| l.scale_bytes).sum();
    let scales = manifest.layers.iter().map(|l| l.map_bytes()).sum();
    let planes = |w| manifest.layers.iter().map(|l| l.bytes_per_plane * l.mode.planes_read(w) as u64).sum();
    let size = |bits| Size { bits, planes: planes(bits), scales, untouched: resident - all_maps };
    Width::all().rev().filter(|w| *w <= widest).map(size).collect()
}

/// Writes the report. `source_bytes` is the size of the float model.
pub fn write(path: &Path, manifest: &Manifest, stored: &Store, source_bytes: u64) -> Result<()> {
    let widest = manifest.widest(stored.planes_available()).unwrap_or(Width::MAX);
    let sizes = sizes(manifest, stored, widest);
    let html = page(manifest, &sizes, source_bytes);
    std::fs::write(path, html).with_context(|| format!("cannot write {}", path.display()))
}

fn page(manifest: &Manifest, sizes: &[Size], source_bytes: u64) -> String {
    let title = escape(&manifest.source.file);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<p>{} nested layers, {} parameters; {} slices, {} scheme, range {}; compiled for {} bits.</p>\n",
        manifest.layers.len(),
        manifest.layers.iter().map(|l| l.parameters).sum::<u64>(),
        manifest.mode,
        manifest.scheme,
        manifest.range,
        manifest.bits,
    );
    let own_maps = manifest.layers.iter().filter(|l| !l.map_widths.is_empty()).count();
    if own_maps > 0 {
        let widths: BTreeSet<Width> =
            manifest.layers.iter().flat_map(|l| l.map_widths.iter().copied()).collect();
        let widths: Vec<String> = widths.iter().rev().map(Width::to_string).collect();
        let _ = writeln!(
            html,
            "<p>{own_maps} layers have scales and zeros of their own at {} bits.</p>",
            widths.join(",")
        );
    }
    html += "<h2>Weight bytes read per precision</h2>\n";
    html += &size_chart(sizes, source_bytes);
    html += "<h2>Signal to quantization noise per layer and width (dB)</h2>\n\
             <p>Darker is noisier. Weights only; the effect on the outputs is what <code>mqc verify --layers</code> measures.</p>\n";
    html += &ratio_chart(manifest, sizes);
    if !manifest.skipped.is_empty() {
        html +=
            "<h2>Weights that stay in float</h2>\n<table><tr><th>node<th>operator<th>weight<th>reason</tr>\n";
        for s in &manifest.skipped {
            let row = [&s.node, &s.op, &s.weight, &s.reason].map(|t| escape(t));
            // Writing to a String cannot fail.
            let _ = writeln!(html, "<tr><td>{}</tr>", row.join("<td>"));
        }
        html += "</table>\n";
    }
    html + "</html>\n"
}

/// Horizontal bars: the float model, then every width.
fn size_chart(sizes: &[Size], source_bytes: u64) -> String {
    const BAR: u64 = 22;
    let most = sizes.iter().map(Size::total).chain([source_bytes]).max().unwrap_or(1).max(1);
    let scale = |bytes: u64| bytes as f64 * 640.0 / most as f64;
    let mut svg = svg(900, (sizes.len() as u64 + 1) * BAR + 30);
    let parts = [("nested planes", "#2b6cb0"), ("scales and zeros", "#90cdf4"), ("not nested", "#cbd5e0")];
    let mut bar = |index: u64, label: String, values: &[(u64, &str)]| {
        let y = index * BAR;
        let _ = write!(svg, "<text x=\"90\" y=\"{}\" text-anchor=\"end\">{label}</text>", y + 15);
        let mut x = 100.0;
        for (bytes, colour) in values {
            let width = scale(*bytes);
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>",
                y + 3
            );
            x += width;
        }
        let total: u64 = values.iter().map(|v| v.0).sum();
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{}</text>", x + 6.0, y + 15, megabytes(total));
    };
    bar(0, "float model".to_owned(), &[(source_bytes, "#718096")]);
    for (index, size) in sizes.iter().enumerate() {
        let values = [(size.planes, parts[0].1), (size.scales, parts[1].1), (size.untouched, parts[2].1)];
        bar(index as u64 + 1, bits(size.bits), &values);
    }
    let y = (sizes.len() as u64 + 1) * BAR + 8;
    for (index, (name, colour)) in parts.iter().enumerate() {
        let x = 100 + index * 170;
        let _ = write!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{name}</text>", x + 18, y + 11);
    }
    svg + "</svg>\n"
}

/// A grid: a row a layer, a column a width.
fn ratio_chart(manifest: &Manifest, sizes: &[Size]) -> String {
    const ROW: usize = 18;
    const LEFT: usize = 430;
    const COLUMN: usize = 58;
    let mut svg =
        svg(LEFT as u64 + 8 * COLUMN as u64 + 10, (manifest.layers.len() + 1) as u64 * ROW as u64 + 10);
    for (column, size) in sizes.iter().enumerate() {
        let x = LEFT + column * COLUMN + COLUMN / 2;
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"13\" text-anchor=\"middle\">{}</text>", bits(size.bits));
    }
    for (row, layer) in manifest.layers.iter().enumerate() {
        let y = (row + 1) * ROW;
        let label: String = tail(&layer.name, 62);
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 8,
            y + 13,
            escape(&label)
        );
        for (column, size) in sizes.iter().enumerate() {
            let ratio = layer.sqnr_db.get(&size.bits).copied().flatten();
            let x = LEFT + column * COLUMN;
            let (colour, ink) = shade(ratio);
            let text = ratio.map_or_else(|| "exact".to_owned(), |r| format!("{r:.1}"));
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{COLUMN}\" height=\"{ROW}\" fill=\"{colour}\"/>"
            );
            let middle = x + COLUMN / 2;
            let _ = writeln!(
                svg,
                "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"{ink}\">{text}</text>",
                y + 13
            );
        }
    }
    svg + "</svg>\n"
}

fn bits(width: Width) -> String {
    if width.bits() == 1 { "1 bit".to_owned() } else { format!("{width} bits") }
}

/// From dark red at 0 dB to white at 45 dB, with an ink that is readable on it.
fn shade(ratio: Option<f64>) -> (String, &'static str) {
    let share = (ratio.unwrap_or(45.0) / 45.0).clamp(0.0, 1.0);
    let mix = |from: f64| (from + (255.0 - from) * share).round() as u8;
    (
        format!("#{:02x}{:02x}{:02x}", mix(155.0), mix(30.0), mix(30.0)),
        if share < 0.35 { "#fff" } else { "#222" },
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}
