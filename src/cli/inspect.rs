//! `mqc inspect`: what an artifact holds.

use std::path::PathBuf;

use anyhow::Result;
use mqc_ir::quant::Width;
use serde::Serialize;

use super::Outcome;
use super::ui::{Ui, bytes, decibel, table};
use crate::artifact::{Artifact, Layer, Manifest};
use crate::report;

#[derive(clap::Args)]
pub struct Args {
    /// The artifact.
    artifact: PathBuf,
    /// Widths of the columns.
    #[arg(long, default_value = "8,6,4,3,2")]
    bits: mqc_ir::quant::Widths,
    /// Also list the weights that stayed in float, with the reason.
    #[arg(long)]
    skipped: bool,
    /// Print JSON: the whole manifest and the bytes per precision.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected<'a> {
    manifest: &'a Manifest,
    bytes_read: Vec<report::Size>,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let artifact = Artifact::open(&self.artifact)?;
        let manifest = artifact.manifest();
        let widest = artifact.widest();
        let sizes = report::sizes(manifest, artifact.store(), widest);
        if self.json {
            ui.print(serde_json::to_string_pretty(&Inspected { manifest, bytes_read: sizes })?)?;
            return Ok(Outcome::Passed);
        }
        ui.print(format_args!(
            "{} from {}: {} layers, {} to 1 bits, compiled for {}, {} slices, {}, range {}, {} activations",
            self.artifact.display(),
            manifest.source.file,
            manifest.layers.len(),
            widest,
            manifest.bits,
            manifest.mode,
            manifest.scheme,
            manifest.range,
            manifest.activations,
        ))?;
        let shown: Vec<Width> = self.bits.iter().filter(|w| *w <= widest).collect();
        let header = ["layer", "op", "shape", "group", "own maps"].map(str::to_owned).into_iter();
        let mut layers = table(header.chain(shown.iter().map(|w| format!("dB at {w}"))), 5);
        for layer in &manifest.layers {
            let group =
                Option::<u32>::from(layer.group_size).map_or_else(|| "row".to_owned(), |g| g.to_string());
            let mut row = vec![layer.name.clone(), format!("{:?}", layer.op), format!("{:?}", layer.shape)];
            row.extend([group, own_maps(layer)]);
            row.extend(shown.iter().map(|w| decibel(layer.sqnr_db.get(w).copied().flatten())));
            layers.add_row(row);
        }
        ui.print(layers)?;
        let mut t = table(["bits", "nested weights", "scales and zeros", "untouched", "read in all"], 1);
        for size in sizes.iter().filter(|s| shown.contains(&s.bits)) {
            let parts = [size.planes, size.scales, size.untouched, size.total()].map(bytes);
            t.add_row(std::iter::once(size.bits.to_string()).chain(parts));
        }
        ui.print(t)?;
        let rest = manifest.skipped.len();
        if self.skipped && rest > 0 {
            let mut t = table(["stays in float", "op", "weight", "reason"], 4);
            for s in &manifest.skipped {
                t.add_row([&s.node, &s.op, &s.weight, &s.reason]);
            }
            ui.print(t)?;
        } else if rest > 0 {
            ui.print(format_args!("{rest} weights stay in float; --skipped lists them"))?;
        }
        Ok(Outcome::Passed)
    }
}

/// The widths that have an affine map of their own, and whether it was learned.
fn own_maps(layer: &Layer) -> String {
    let widths: Vec<String> = layer.map_widths.iter().map(Width::to_string).collect();
    let widths = if widths.is_empty() { "-".to_owned() } else { widths.join(",") };
    if layer.trained { format!("{widths} trained") } else { widths }
}
