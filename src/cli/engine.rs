//! The options of the commands that run models.

use mqc_ir::Activations;
use mqc_ir::quant::Width;

use crate::run::Setup;

/// Who works, and what stays in memory.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct EngineArgs {
    /// Threads of the products; as many as there are processors if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How products round activations: int16, int8, int8:GROUP (one scale for so many), or f32, not at all; what the artifact
    /// was compiled for if not given.
    #[arg(long)]
    activations: Option<Activations>,
    /// Load the bit planes of so many bits when the model is opened, not when a layer first reads them. A run with more bits
    /// loads those that are missing.
    #[arg(long)]
    resident_bits: Option<Width>,
    /// Run the graph as it is, not fused (docs/fuse.md).
    #[arg(long)]
    unfused: bool,
}

impl EngineArgs {
    /// As a model is opened with.
    pub fn setup(&self) -> Setup {
        Setup {
            threads: self.threads.map_or(0, usize::from),
            activations: self.activations,
            resident_bits: self.resident_bits,
            unfused: self.unfused,
            without: vec![],
            cuda: false,
        }
    }
}
