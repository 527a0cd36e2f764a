//! The time of a model on a CUDA device, its inputs and outputs copied in every run.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::stats::Spread;
use super::{Options, inputs};
use crate::data::Tensors;
use crate::precision::Precision;
use crate::run::Loaded;

/// One precision with one set of inputs.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceCase {
    /// The precision as it was asked for.
    pub bits: String,
    /// Rows of the inputs, where they have any.
    pub batch: Option<usize>,
    /// Time of a run.
    pub micros: Spread,
    /// Kernels that a run launches.
    pub kernels: usize,
    /// Steps that the host does.
    pub host_steps: usize,
    /// The operations of these steps, and how often each.
    pub host_operations: BTreeMap<String, usize>,
    /// Bytes of bit planes on the device.
    pub resident_bytes: u64,
}

/// Measures every precision with every set of inputs. In a round each precision has one turn.
///
/// # Errors
/// Models that do not run on the device, and a device that is lost.
pub fn run(
    model: &Loaded,
    precisions: &[(String, Precision)],
    tensors: &[Tensors],
    options: &Options,
    progress: &mut dyn FnMut(),
) -> Result<Vec<DeviceCase>> {
    let session = model.device().context("the model was not opened on a device")?;
    let mut cases = vec![];
    for tensors in tensors {
        let mut lanes = vec![];
        for (bits, precision) in precisions {
            lanes.push((bits, model.prepare(precision)?, vec![]));
        }
        for round in 0..options.warmup + options.rounds {
            for (_, widths, totals) in &mut lanes {
                // Once to find what the other widths left, which compiles and records too.
                (0..if round == 0 { 3 } else { 1 })
                    .try_for_each(|_| session.run(widths, tensors).map(drop))?;
                let start = Instant::now();
                session.run(widths, tensors)?;
                if round >= options.warmup {
                    totals.push(start.elapsed().as_secs_f64() * 1e6);
                }
            }
            progress();
        }
        let counts = session.counts(tensors)?;
        for (bits, _, totals) in lanes {
            cases.push(DeviceCase {
                bits: bits.clone(),
                batch: inputs::batch_of(model.graph(), tensors),
                micros: Spread::of(&totals).context("no rounds were measured")?,
                kernels: counts.kernels,
                host_steps: counts.host,
                host_operations: counts.host_operations.clone(),
                resident_bytes: counts.resident_bytes,
            });
        }
    }
    Ok(cases)
}
