//! `mqc compile`: the options of the command line and of `mqc.toml`, and the summary.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use mqc_cuda::Target;
use mqc_ir::Activations;
use mqc_ir::quant::{Affine, Grouping, RangeMethod, Scheme, SliceMode, Widths};
use mqc_passes::{Debug, LayerOverride, Options, QuantizeOptions};
use serde::Deserialize;

use super::Outcome;
use super::ui::{Ui, UsageError, bytes, decibel, table};
use crate::artifact::Manifest;
use crate::compile::{Compiled, Request, compile};
use crate::load;

#[derive(clap::Args)]
pub struct Args {
    /// The ONNX model.
    model: PathBuf,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    debug: DebugArgs,
    /// A file with any of these options; `mqc.toml` beside the model or here is read without asking.
    #[arg(long)]
    config: Option<PathBuf>,
}

/// What comes out, and where.
#[derive(clap::Args, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Destination {
    /// The artifact to write; the model's name with .mqc if not given.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Replace an artifact that is there.
    #[arg(long)]
    force: bool,
    /// Write the CUDA kernels of a device into the artifact, as kernels/*.cu: cuda:sm_80 or cuda:sm_90a. Where NVRTC is found
    /// they are compiled too.
    #[arg(long, value_name = "DEVICE")]
    target: Option<CudaTarget>,
    /// Print the manifest as JSON.
    #[arg(long)]
    json: bool,
}

/// `cuda:` and an architecture.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct CudaTarget(Target);

impl FromStr for CudaTarget {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<CudaTarget, UsageError> {
        let architecture = text.strip_prefix("cuda:");
        let architecture = architecture.ok_or_else(|| {
            UsageError(format!("{text:?} is no target; expected cuda:sm_80 or cuda:sm_90a"))
        })?;
        architecture.parse().map(CudaTarget).map_err(|e: mqc_cuda::CudaError| UsageError(e.to_string()))
    }
}

impl TryFrom<String> for CudaTarget {
    type Error = UsageError;

    fn try_from(text: String) -> Result<CudaTarget, UsageError> {
        text.parse()
    }
}

/// How to quantize.
#[derive(clap::Args, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// The widths that count [default: 8,4,2]; every width from 1 to 8 can be run.
    #[arg(long)]
    bits: Option<Widths>,
    /// The weight of each width's error, in the order of --bits from wide to narrow; all 1 if not given.
    #[arg(long, value_delimiter = ',')]
    lambda: Option<Vec<f32>>,
    /// asymmetric or symmetric [default: asymmetric].
    #[arg(long)]
    scheme: Option<Scheme>,
    /// How codes are cut: midpoint, round (MatQuant) or extra (its Extra-Precision) [default: midpoint].
    #[arg(long)]
    slice: Option<SliceMode>,
    /// How ranges are chosen: minmax, or mse, which searches the clipping with the least error over --bits [default: minmax].
    #[arg(long)]
    range: Option<RangeMethod>,
    /// shared: all widths read a weight with one scale and zero point per channel or group; per-width: each of --bits has its
    /// own, fitted to the codes by least squares [default: shared].
    #[arg(long)]
    affine: Option<Affine>,
    /// So many weights share a scale (32, 64, 128); a whole output channel if not given.
    #[arg(long, value_parser = group_size)]
    group_size: Option<Grouping>,
    /// How runs round activations unless they say otherwise: int16, int8, int8:GROUP (one scale for so many), or f32, not at
    /// all [default: int16].
    #[arg(long)]
    activations: Option<Activations>,
    /// Nest the tables behind Gather too.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    embeddings: Option<bool>,
    /// Only layers that match a glob (layer, weight or node name).
    #[arg(long)]
    include: Vec<String>,
    /// No layers that match a glob.
    #[arg(long)]
    exclude: Vec<String>,
    /// Accept NaN and infinity in weights.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    allow_nonfinite: Option<bool>,
    /// `[[layer]]` tables: options for the layers that match a glob.
    #[arg(skip)]
    layer: Vec<LayerOverride>,
}

/// Looking into the compiler.
#[derive(clap::Args, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DebugArgs {
    /// Write the IR after each pass into this folder.
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Only after these passes.
    #[arg(long, value_name = "PASS", requires = "dump_ir")]
    dump_after: Vec<String>,
    /// Make no more than so many rewrites, to find the one that does harm.
    #[arg(long, value_name = "N")]
    stop_after: Option<u64>,
}

impl DebugArgs {
    fn or(self, other: DebugArgs) -> DebugArgs {
        DebugArgs {
            dump_ir: self.dump_ir.or(other.dump_ir),
            dump_after: if self.dump_after.is_empty() { other.dump_after } else { self.dump_after },
            stop_after: self.stop_after.or(other.stop_after),
        }
    }

    /// As the pass manager takes it.
    pub fn to_debug(&self) -> Debug {
        Debug {
            dump_ir: self.dump_ir.clone(),
            dump_after: self.dump_after.clone(),
            stop_after: self.stop_after,
        }
    }
}

fn group_size(text: &str) -> Result<Grouping> {
    let size: u32 = text.parse().context("expected a number such as 32, 64 or 128; 0 is a whole channel")?;
    Ok(Grouping::try_from(Some(size))?)
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let path = self.config.or_else(|| default_config(&self.model));
        let file = path.map_or_else(|| Ok(File::default()), |path| File::read(&path))?;
        let settings = self.settings.or(file.settings);
        let debug = self.debug.or(file.debug);
        let output = self.destination.output.or(file.destination.output);
        let output = output.unwrap_or_else(|| self.model.with_extension("mqc"));
        let activations = settings.activations.unwrap_or_default();
        let affine = settings.affine.unwrap_or_default();
        let options = Options { quantize: settings.quantize()? };
        let bar = ui.progress("compiling", 1000);
        let mut shown = 0;
        let mut progress = |done: u64, total: u64| {
            let now = done * 1000 / total.max(1);
            bar.advance(now - shown);
            shown = now;
        };
        let request = Request {
            model: &self.model,
            output: &output,
            force: self.destination.force || file.destination.force,
            options: &options,
            affine,
            trained: None,
            activations,
            target: self.destination.target.or(file.destination.target).map(|CudaTarget(target)| target),
            debug: &debug.to_debug(),
        };
        let compiled = compile(&request, &mut progress)
            .with_context(|| format!("cannot compile {}", self.model.display()))?;
        drop(bar);
        if self.destination.json || file.destination.json {
            ui.print(serde_json::to_string_pretty(&compiled.manifest)?)?;
        } else if !ui.is_quiet() {
            summary(ui, &compiled)?;
        }
        Ok(Outcome::Passed)
    }
}

fn default_config(model: &Path) -> Option<PathBuf> {
    let beside = model.parent().unwrap_or(Path::new(".")).join("mqc.toml");
    [beside, PathBuf::from("mqc.toml")].into_iter().find(|p| p.is_file())
}

/// `mqc.toml`: every option of the command line under its long name, and `[[layer]]` tables.
#[derive(Default)]
struct File {
    destination: Destination,
    settings: Settings,
    debug: DebugArgs,
}

impl File {
    fn read(path: &Path) -> Result<File> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        File::parse(&text).with_context(|| format!("{} is not a configuration", path.display()))
    }

    fn parse(text: &str) -> Result<File> {
        let mut table: toml::Table = toml::from_str(text)?;
        let mut take = |keys: &[&str]| -> toml::Table {
            keys.iter().filter_map(|key| table.remove_entry(*key)).collect()
        };
        let destination = take(&["output", "force", "target", "json"]).try_into()?;
        let debug = take(&["dump-ir", "dump-after", "stop-after"]).try_into()?;
        Ok(File { destination, debug, settings: table.try_into()? })
    }
}

impl Settings {
    /// These settings, and those of `other` where nothing is said here.
    fn or(self, other: Settings) -> Settings {
        let list = |own: Vec<String>, other| if own.is_empty() { other } else { own };
        Settings {
            bits: self.bits.or(other.bits),
            lambda: self.lambda.or(other.lambda),
            scheme: self.scheme.or(other.scheme),
            slice: self.slice.or(other.slice),
            range: self.range.or(other.range),
            affine: self.affine.or(other.affine),
            group_size: self.group_size.or(other.group_size),
            activations: self.activations.or(other.activations),
            embeddings: self.embeddings.or(other.embeddings),
            include: list(self.include, other.include),
            exclude: list(self.exclude, other.exclude),
            allow_nonfinite: self.allow_nonfinite.or(other.allow_nonfinite),
            layer: other.layer,
        }
    }

    /// How runs round activations.
    pub fn activations(&self) -> Activations {
        self.activations.unwrap_or_default()
    }

    /// Which maps widths have, where it was said.
    pub fn affine(&self) -> Option<Affine> {
        self.affine
    }

    /// As the pass takes them.
    pub fn quantize(self) -> Result<QuantizeOptions> {
        let widths = self.bits.unwrap_or_default();
        let count = widths.iter().count();
        let lambda = self.lambda.unwrap_or_else(|| vec![1.0; count]);
        if lambda.len() != count {
            let found = lambda.len();
            return Err(UsageError(format!(
                "--lambda needs a number for each of the {count} widths, found {found}"
            ))
            .into());
        }
        let defaults = QuantizeOptions::default();
        Ok(QuantizeOptions {
            widths,
            lambda,
            scheme: self.scheme.unwrap_or(defaults.scheme),
            slice: self.slice.unwrap_or(defaults.slice),
            range: self.range.unwrap_or(defaults.range),
            grouping: self.group_size.unwrap_or(defaults.grouping),
            embeddings: self.embeddings.unwrap_or(defaults.embeddings),
            include: self.include,
            exclude: self.exclude,
            layers: self.layer,
            allow_nonfinite: self.allow_nonfinite.unwrap_or(defaults.allow_nonfinite),
        })
    }
}

/// Layers with their noise, what stayed in float, sizes.
fn summary(ui: &Ui, compiled: &Compiled) -> Result<()> {
    let Manifest { layers, skipped, bits, .. } = &compiled.manifest;
    let mut t = table(
        ["nested layer", "op", "shape"]
            .map(str::to_owned)
            .into_iter()
            .chain(bits.iter().map(|w| format!("dB at {w}"))),
        3,
    );
    for layer in layers {
        let ratios = bits.iter().map(|w| decibel(layer.sqnr_db.get(&w).copied().flatten()));
        let row = [layer.name.clone(), format!("{:?}", layer.op), format!("{:?}", layer.shape)];
        t.add_row(row.into_iter().chain(ratios));
    }
    ui.print(t)?;
    if !skipped.is_empty() {
        let mut t = table(["stays in float", "op", "reason"], 3);
        for s in skipped {
            t.add_row([&s.node, &s.op, &s.reason]);
        }
        ui.print(t)?;
    }
    if let Some(kernels) = &compiled.kernels {
        ui.print(format_args!("{} CUDA kernels, {}", kernels.kernels, kernels.compiled))?;
        kernels.notes.iter().try_for_each(|note| ui.print(note))?;
    }
    let written = load::folder_bytes(&compiled.artifact)?;
    ui.print(format_args!(
        "{}: {} layers nested, {} left in float, {} (the model: {})",
        compiled.artifact.display(),
        layers.len(),
        skipped.len(),
        bytes(written),
        bytes(compiled.source_bytes),
    ))
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_file_knows_every_option_of_the_command_line() {
        let command = Args::augment_args(clap::Command::new("compile"));
        let options =
            command.get_arguments().filter_map(clap::Arg::get_long).filter(|name| *name != "config");
        for option in options {
            // Of some type the key must be right: an unknown key is an error for all of them.
            let values = [
                "true",
                "1",
                "\"x\"",
                "[8]",
                "[\"x\"]",
                "[1.0]",
                "\"midpoint\"",
                "\"mse\"",
                "\"symmetric\"",
                "\"per-width\"",
                "\"int8\"",
                "\"cuda:sm_90a\"",
                "64",
            ];
            let known = values.iter().any(|value| File::parse(&format!("{option} = {value}")).is_ok());
            assert!(known, "{option}");
        }
        assert!(File::parse("wdiths = [8]").is_err());
    }
}
