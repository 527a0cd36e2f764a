//! `mqc export`: ONNX files for other runtimes.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mqc_ir::quant::Widths;
use mqc_passes::deploy::AccuracyLevel;

use super::Outcome;
use super::ui::{Ui, UsageError, bytes};
use crate::artifact::Artifact;
use crate::export::{self, Format};
use crate::precision::Precision;

#[derive(clap::Args)]
pub struct Args {
    /// The artifact.
    artifact: PathBuf,
    /// A width, or a TOML file with widths per layer; with --shared several widths. The widest that is stored, or 8,4,2, if not given.
    #[arg(long)]
    bits: Option<String>,
    /// What to write.
    #[arg(long)]
    format: FormatName,
    /// One data file of [2|2|4] slices and a small .onnx per width that points into it (matmulnbits only).
    #[arg(long)]
    shared: bool,
    /// What MatMulNBits computes with: int8 activations (level 4: fast, about 1 % error) or f32 (level 1: exact, slow).
    #[arg(long, default_value = "int8")]
    activations: Activations,
    /// The ONNX file to write; with --shared NAME.onnx becomes NAME.int8.onnx, NAME.int4.onnx, ...
    #[arg(long, short)]
    output: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Activations {
    Int8,
    F32,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    /// Local functions of standard operators over the bit planes, at any width.
    Functions,
    /// com.microsoft MatMulNBits, at 8, 4 and 2 bits.
    Matmulnbits,
    /// DequantizeLinear, at 8, 4 and 2 bits.
    Qdq,
    /// Float weights that hold the values of the width, at any width.
    Float,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let artifact = Artifact::open(&self.artifact)?;
        let accuracy = match self.activations {
            Activations::Int8 => AccuracyLevel::Int8,
            Activations::F32 => AccuracyLevel::F32,
        };
        let format = match (self.format, self.shared) {
            (FormatName::Matmulnbits, true) => {
                let widths: Widths = self.bits.as_deref().map_or_else(
                    || Ok(Widths::default()),
                    |b| b.parse().with_context(|| format!("--bits {b}")),
                )?;
                let files = export::shared(&artifact, widths, accuracy, &self.output, self.force)?;
                for (path, size) in files {
                    ui.say(format_args!("{}: {}", path.display(), bytes(size)));
                }
                return Ok(Outcome::Passed);
            }
            (_, true) => bail!(UsageError("--shared goes with --format matmulnbits".to_owned())),
            (FormatName::Functions, false) => Format::Functions,
            (FormatName::Matmulnbits, false) => Format::MatMulNBits(accuracy),
            (FormatName::Qdq, false) => Format::Qdq,
            (FormatName::Float, false) => Format::Float,
        };
        let precision = match &self.bits {
            Some(bits) => Precision::parse(bits)?,
            None => Precision::uniform(artifact.widest()),
        };
        for (path, size) in export::single(&artifact, &precision, format, &self.output, self.force)? {
            ui.say(format_args!("{}: {}", path.display(), bytes(size)));
        }
        Ok(Outcome::Passed)
    }
}
