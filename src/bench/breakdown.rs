//! Where the time of a run goes: by kind of operator, and by layer against what the machine can do.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use mqc_ir::Activations;
use mqc_ir::quant::Width;
use mqc_runtime::cpu::{OpTime, Resident};
use mqc_runtime::roofline::Limits;
use serde::Serialize;

use super::stats::{median, share};

/// One run, each operator at its median over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Breakdown {
    /// The sum over all operators.
    pub micros: f64,
    /// By kind, slow first.
    pub ops: Vec<OpKind>,
    /// All nested layers together.
    pub nested: Option<Work>,
    /// The nested layers, slow first.
    pub layers: Vec<Layer>,
}

/// All operators of a kind.
#[derive(Clone, Debug, Serialize)]
pub struct OpKind {
    /// The kind: ours, or tract's name.
    pub op: String,
    /// Whether it reads nested weights.
    pub nested: bool,
    /// How many ran.
    pub count: usize,
    /// What they took together.
    pub micros: f64,
    /// Of the sum over all operators.
    pub share: f64,
}

/// A nested layer, all its uses together.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// The layer.
    pub layer: String,
    /// What reads it.
    pub op: String,
    /// Rows and columns of the weight.
    pub shape: [usize; 2],
    /// The width.
    pub bits: Width,
    /// Time, bytes, operations.
    #[serde(flatten)]
    pub work: Work,
}

/// What was done, in what time, and in what time it could be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Time.
    pub micros: f64,
    /// Of the sum over all operators.
    pub share: f64,
    /// Bytes of planes, scales and zeros that the width reads.
    pub bytes: f64,
    /// Multiplications and additions.
    pub operations: f64,
    /// `bytes` over time, in 10^9 a second.
    pub gb_per_s: f64,
    /// `operations` over time, in 10^9 a second.
    pub gop_per_s: f64,
    /// The roofline: the longer of reading `bytes` from memory and computing `operations` at the int8 peak.
    pub floor_micros: f64,
    /// `floor_micros` over time; above 1 when the weights come from a cache.
    pub roofline_share: f64,
}

impl Work {
    fn add(&mut self, other: &Work) {
        self.micros += other.micros;
        self.bytes += other.bytes;
        self.operations += other.operations;
        self.floor_micros += other.floor_micros;
    }

    fn finish(&mut self, total: f64) {
        self.share = share(self.micros, total);
        self.gb_per_s = share(self.bytes, self.micros) / 1e3;
        self.gop_per_s = share(self.operations, self.micros) / 1e3;
        self.roofline_share = share(self.floor_micros, self.micros);
    }
}

/// Puts profiles of the same plan together.
pub fn breakdown(
    profiles: &[Vec<OpTime>],
    residents: &BTreeMap<String, Arc<Resident>>,
    widths: &BTreeMap<String, Width>,
    limits: &Limits,
) -> Result<Breakdown> {
    let ops = medians(profiles);
    let micros = ops.iter().map(|op| op.micros).sum();
    let mut layers: BTreeMap<&str, Layer> = BTreeMap::new();
    let mut kinds: BTreeMap<&str, OpKind> = BTreeMap::new();
    for op in &ops {
        let kind =
            OpKind { op: op.op.clone(), nested: op.layer.is_some(), count: 0, micros: 0.0, share: 0.0 };
        let kind = kinds.entry(&op.op).or_insert(kind);
        kind.count += 1;
        kind.micros += op.micros;
        let Some(name) = &op.layer else { continue };
        let (Some(resident), Some(width)) = (residents.get(name), widths.get(name)) else { continue };
        let layer = layers.entry(name).or_insert_with(|| Layer {
            layer: name.clone(),
            op: op.op.clone(),
            shape: [resident.weight().rows(), resident.weight().cols()],
            bits: *width,
            work: Work::default(),
        });
        layer.work.add(&work(op, resident, *width, limits)?);
    }
    let mut layers: Vec<Layer> = layers.into_values().collect();
    layers.iter_mut().for_each(|layer| layer.work.finish(micros));
    layers.sort_by(|a, b| b.work.micros.total_cmp(&a.work.micros));
    let mut ops: Vec<OpKind> = kinds.into_values().collect();
    ops.iter_mut().for_each(|kind| kind.share = share(kind.micros, micros));
    ops.sort_by(|a, b| b.micros.total_cmp(&a.micros));
    let nested = (!layers.is_empty()).then(|| {
        let mut all = Work::default();
        layers.iter().for_each(|layer| all.add(&layer.work));
        all.finish(micros);
        all
    });
    Ok(Breakdown { micros, ops, nested, layers })
}

/// The operators of the plan, each at the median of its times.
fn medians(profiles: &[Vec<OpTime>]) -> Vec<OpTime> {
    let Some(first) = profiles.first() else { return vec![] };
    let at = |index: usize| -> Vec<f64> {
        profiles.iter().filter_map(|p| p.get(index)).map(|op| op.micros).collect()
    };
    let one = |(index, op): (usize, &OpTime)| OpTime {
        micros: median(&at(index)).unwrap_or(op.micros),
        ..op.clone()
    };
    first.iter().enumerate().map(one).collect()
}

/// One use of a layer. A gather reads the rows it picks and computes nothing; every output element of the others is a sum
/// over the columns.
fn work(op: &OpTime, resident: &Resident, width: Width, limits: &Limits) -> Result<Work> {
    let weight = resident.weight();
    let all = weight.bytes_touched(width)? as f64;
    let (bytes, operations) = match op.picked {
        Some(rows) => (all * share(rows.min(weight.rows()) as f64, weight.rows() as f64), 0.0),
        None => (all, 2.0 * op.elements as f64 * weight.cols() as f64),
    };
    // An int16 activation is multiplied as two bytes.
    let peak = match resident.activations() {
        Activations::F32 => limits.f32_ops,
        Activations::Int16 => limits.int8_ops / 2.0,
        Activations::Int8 | Activations::Int8Group(_) => limits.int8_ops,
    };
    let floor = (bytes / limits.read_bytes).max(operations / peak);
    Ok(Work { micros: op.micros, bytes, operations, floor_micros: floor * 1e6, ..Work::default() })
}
