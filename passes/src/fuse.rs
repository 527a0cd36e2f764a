//! The e-graph as a pass: `mqc_fuse` does the work, this gives it the options and keeps its report.
//!
//! Before: `%a = transpose %x {perm = [1, 0]}`, `%b = relu %a`, `%y = transpose %b {perm = [1, 0]}`
//!
//! After:  `%y = relu %x`

use std::collections::BTreeMap;

use mqc_fuse::{Device, Devices, FuseOptions};
use mqc_ir::Graph;

use crate::{Context, Error, Pass};

/// See the module.
pub const FUSE: Pass = Pass {
    name: "fuse",
    about: "an e-graph chooses the cheapest of all equal graphs that its rules find (docs/fuse.md)",
    run,
};

/// What the CPU session gains by; the rest tract does when it plans, or needs constants folded.
const SESSION_RULES: [&str; 11] = [
    "attention",
    "rotary",
    "session-layer-norm",
    "session-rms-norm",
    "epilogue-bias",
    "epilogue-activation",
    "epilogue-gate",
    "epilogue-residual",
    "merge-transposes",
    "merge-reshapes",
    "drop-identity",
];

/// What programs of a CUDA device gain by: their own passes do the rest, and layers keep their names.
const CUDA_RULES: [&str; 7] = [
    "epilogue-bias",
    "epilogue-activation",
    "epilogue-gate",
    "epilogue-residual",
    "merge-transposes",
    "merge-reshapes",
    "drop-identity",
];

/// What `fuse` can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct FuseSettings {
    /// What the graph will run on.
    pub device: Device,
    /// Sizes of symbolic dimensions that costs are computed with.
    pub sizes: BTreeMap<String, u64>,
    /// Only these rules; all when empty.
    pub only: Vec<String>,
    /// Not these rules.
    pub without: Vec<String>,
    /// Whether the result may have operators that only mqc's own sessions know.
    pub session: bool,
}

impl FuseSettings {
    /// All rules that keep to ONNX, for the device of this name in the compiler's table.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(device: &str) -> Result<FuseSettings, Error> {
        let device = Devices::builtin()?.get(device)?.clone();
        let (sizes, only, without) = (BTreeMap::new(), vec![], vec![]);
        Ok(FuseSettings { device, sizes, only, without, session: false })
    }

    /// What the CPU session gains by.
    ///
    /// # Errors
    /// None, unless the compiler's own table were wrong.
    pub fn session() -> Result<FuseSettings, Error> {
        let only = SESSION_RULES.map(str::to_owned).to_vec();
        Ok(FuseSettings { only, session: true, ..FuseSettings::named("cpu")? })
    }

    /// What a program of a CUDA device gains by, a device of this name in the compiler's table.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn program(device: &str) -> Result<FuseSettings, Error> {
        let only = CUDA_RULES.map(str::to_owned).to_vec();
        Ok(FuseSettings { only, session: true, ..FuseSettings::named(device)? })
    }
}

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    let settings = match &context.fuse {
        Some(settings) => settings.clone(),
        None => FuseSettings::named("cpu")?,
    };
    let options = FuseOptions {
        symbols: settings.sizes,
        only: settings.only,
        without: settings.without,
        session: settings.session,
        stop_after: context.fuel(),
        ..FuseOptions::new(settings.device)
    };
    let report = mqc_fuse::fuse(graph, &options)?;
    for _ in &report.fired {
        context.rewrite();
    }
    context.fused = Some(report);
    Ok(())
}
