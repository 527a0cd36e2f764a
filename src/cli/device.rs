//! `--device`: where a model runs.

use anyhow::Result;
use clap::ValueEnum;

use super::ui::Ui;
use crate::cuda;

/// Where to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The machine's processors.
    #[default]
    Cpu,
    /// A CUDA device, or an error that says why not.
    Cuda,
    /// A CUDA device where one can be used, else the processors.
    Auto,
}

impl Device {
    /// Whether it is a CUDA device; where the processors take its place, says why.
    ///
    /// # Errors
    /// Why there is no device, when one was asked for.
    pub fn is_cuda(self, ui: &Ui) -> Result<bool> {
        match (self, cuda::unavailable()) {
            (Device::Cpu, _) => Ok(false),
            (Device::Cuda | Device::Auto, None) => Ok(true),
            (Device::Cuda, Some(reason)) => Err(reason.into()),
            (Device::Auto, Some(reason)) => {
                ui.say(format_args!("running on the CPU: {reason}"));
                Ok(false)
            }
        }
    }
}
