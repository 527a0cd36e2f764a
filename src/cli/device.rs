//! `--device`: where a model runs.

use anyhow::Result;
use clap::ValueEnum;

use super::ui::Ui;
use crate::cuda;

/// Where to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// This machine's processors.
    #[default]
    Cpu,
    /// A CUDA device, or an error that says why not.
    Cuda,
    /// A CUDA device where one can be used, else the processors.
    Auto,
}

impl Device {
    /// Checks that the session on the processors, the only one there is yet, is what was asked for.
    pub fn check(self, ui: &Ui) -> Result<()> {
        let reason = || match cuda::unavailable() {
            Some(reason) => anyhow::Error::new(reason),
            None => anyhow::anyhow!("whole models do not run on CUDA devices yet, only single products"),
        };
        match self {
            Device::Cpu => {}
            Device::Cuda => return Err(reason()),
            Device::Auto => ui.say(format_args!("running on the CPU: {:#}", reason())),
        }
        Ok(())
    }
}
