//! `mqc slice`: a smaller artifact that stops at a width.

use std::path::PathBuf;

use anyhow::{Context, Result};
use mqc_ir::quant::Width;

use super::Outcome;
use super::ui::{Ui, bytes};
use crate::artifact::Artifact;
use crate::emit;

#[derive(clap::Args)]
pub struct Args {
    /// The artifact.
    artifact: PathBuf,
    /// The widest width that the new artifact can run at.
    #[arg(long)]
    bits: Width,
    /// The new artifact.
    #[arg(long, short)]
    output: PathBuf,
    /// Replace an artifact that is there.
    #[arg(long)]
    force: bool,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let artifact = Artifact::open(&self.artifact)?;
        let size = emit::slice(&artifact, self.bits, &self.output, self.force)
            .with_context(|| format!("cannot slice {}", self.artifact.display()))?;
        ui.say(format_args!("{}: {} at up to {} bits", self.output.display(), bytes(size), self.bits));
        Ok(Outcome::Passed)
    }
}
