//! A whole model measured: every width, batch and number of threads in turn, operator by operator, against what the
//! machine can do and against onnxruntime.

mod breakdown;
mod calibrate;
pub mod chart;
pub mod inputs;
pub mod on_device;
mod peer;
mod report;
pub mod rivals;
mod stats;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use anyhow::{Context, Result};
use mqc_ir::quant::Width;
use mqc_runtime::Session;
use mqc_runtime::cpu::OpTime;
use mqc_runtime::roofline::{self, Limits};

pub use breakdown::{Breakdown, Layer, OpKind, Work};
pub use calibrate::calibrate;
pub use peer::Peer;
pub use report::{Case, LimitRow, Machine, PeerTime, Report, cores};
pub use rivals::Rivals;
pub use stats::{Spread, share};

use crate::data::Tensors;
use crate::precision::Precision;
use crate::run::Loaded;
use rivals::Lane;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds that count.
    pub rounds: usize,
    /// Rounds before them that do not.
    pub warmup: usize,
    /// Numbers of threads to measure with.
    pub threads: Vec<usize>,
}

/// What the machine reaches with one thread, with all, and with each number in `threads`.
pub fn limits(threads: &[usize]) -> Result<BTreeMap<usize, Limits>> {
    let all = report::cores();
    let mut limits = BTreeMap::new();
    for &count in [1, all].iter().chain(threads) {
        if let Entry::Vacant(entry) = limits.entry(count) {
            entry.insert(roofline::measure(count).context("cannot measure the machine's limits")?);
        }
    }
    Ok(limits)
}

/// Rounds that [`run`] reports the end of.
pub fn round_count(options: &Options, inputs: usize) -> u64 {
    (options.threads.len() * inputs * (options.warmup + options.rounds)) as u64
}

/// Measures every precision with every set of inputs and number of threads. In a round everyone has one turn: each
/// precision, then each model of onnxruntime.
pub fn run(
    model: &Loaded,
    precisions: &[(String, Precision)],
    inputs: &[Tensors],
    options: &Options,
    limits: &BTreeMap<usize, Limits>,
    mut rivals: Option<&mut Rivals>,
    progress: &mut dyn FnMut(),
) -> Result<Vec<Case>> {
    let mut cases = vec![];
    for &count in &options.threads {
        let limits = limits.get(&count).context("the machine was not measured with these threads")?;
        let session = model.session()?;
        session.engine().set_threads(count);
        let loaded = rivals.as_deref_mut().map(|r| r.load(count)).transpose()?.unwrap_or_default();
        for tensors in inputs {
            let mut ours = precisions
                .iter()
                .map(|(bits, precision)| Ok(Ours::new(bits, model.prepare(precision)?)))
                .collect::<Result<Vec<_>>>()?;
            let mut theirs =
                rivals.as_deref_mut().map(|r| r.lanes(&loaded, tensors)).transpose()?.unwrap_or_default();
            for round in 0..options.warmup + options.rounds {
                let counts = round >= options.warmup;
                for lane in &mut ours {
                    lane.turn(session, tensors, counts)?;
                }
                if let Some(rivals) = rivals.as_deref_mut() {
                    rivals.turns(&mut theirs, counts);
                }
                progress();
            }
            for lane in ours {
                cases.push(lane.case(model, count, tensors, limits, &theirs)?);
            }
        }
    }
    Ok(cases)
}

/// One precision under measurement.
struct Ours {
    bits: String,
    widths: BTreeMap<String, Width>,
    totals: Vec<f64>,
    profiles: Vec<Vec<OpTime>>,
}

impl Ours {
    fn new(bits: &str, widths: BTreeMap<String, Width>) -> Ours {
        Ours { bits: bits.to_owned(), widths, totals: vec![], profiles: vec![] }
    }

    /// Three runs: one that finds what the others left in the caches, one with a clock around every operator, one with
    /// a clock around the whole.
    fn turn(&mut self, session: &Session, inputs: &Tensors, counts: bool) -> Result<()> {
        let widths = &self.widths;
        session.run(widths, inputs)?;
        let profile = session.profile(widths, inputs)?;
        let start = Instant::now();
        session.run(widths, inputs)?;
        let micros = start.elapsed().as_secs_f64() * 1e6;
        if counts {
            self.profiles.push(profile);
            self.totals.push(micros);
        }
        Ok(())
    }

    fn case(
        self,
        model: &Loaded,
        threads: usize,
        tensors: &Tensors,
        limits: &Limits,
        theirs: &[Lane],
    ) -> Result<Case> {
        let peers = theirs.iter().filter(|lane| lane.bits.as_ref().is_none_or(|bits| *bits == self.bits));
        let breakdown =
            breakdown::breakdown(&self.profiles, model.session()?.layers(), &self.widths, limits)?;
        Ok(Case {
            threads,
            batch: inputs::batch_of(model.graph(), tensors),
            inputs: tensors
                .iter()
                .map(|(name, t)| (name.clone(), format!("{}{:?}", t.dtype(), t.shape())))
                .collect(),
            micros: Spread::of(&self.totals).context("no rounds were measured")?,
            breakdown,
            peers: peers.filter_map(|lane| lane.against(&self.totals)).collect(),
            bits: self.bits,
        })
    }
}
