//! What a line of a table says: one of our products and the peers' beside it.

use mqc::bench::Spread;
use mqc_ir::Activations;
use mqc_ir::quant::Width;
use serde::Serialize;

use crate::Case;
use crate::bars::{self, Bar};
use crate::peer::{Format, Kind};

/// One of our products.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub case: Case,
    pub tokens: usize,
    pub bits: Width,
    pub activations: Activations,
    pub isa: String,
    /// Microseconds.
    pub micros: Spread,
    /// If planes and maps are not in cache.
    pub floor: Option<Floor>,
    pub rivals: Vec<Rival>,
    pub bars: Vec<Bar>,
}

/// The time in which planes and maps can be read from memory.
#[derive(Debug, Clone, Serialize)]
pub struct Floor {
    /// Microseconds.
    pub micros: Spread,
    /// Our time by it, the median of the rounds.
    pub ratio: f64,
}

/// The fastest format of a kind that holds at least our bits.
#[derive(Debug, Clone, Serialize)]
pub struct Rival {
    pub kind: Kind,
    pub name: String,
    pub bits: u8,
    /// Microseconds.
    pub micros: Spread,
    /// Our time by theirs, the median of the rounds.
    pub ratio: f64,
}

/// What one of us measured, a sample a round.
pub struct OurSamples {
    pub bits: Width,
    pub activations: Activations,
    pub isa: String,
    /// What reading took just before, if it counts.
    pub floors: Vec<f64>,
    pub micros: Vec<f64>,
}

/// What a peer measured, a sample a round.
pub struct PeerSamples {
    pub format: Format,
    pub micros: Vec<f64>,
}

/// A row for each of our products, with peers and bars. Lanes without samples have none.
pub fn rows(case: Case, tokens: usize, ours: Vec<OurSamples>, peers: &[PeerSamples]) -> Vec<Row> {
    let row = |ours: OurSamples| {
        Some(Row {
            case,
            tokens,
            bits: ours.bits,
            activations: ours.activations,
            micros: Spread::of(&ours.micros)?,
            floor: floor(&ours),
            rivals: rivals(&ours, peers),
            bars: vec![],
            isa: ours.isa,
        })
    };
    let mut rows: Vec<Row> = ours.into_iter().filter_map(row).collect();
    for i in 0..rows.len() {
        rows[i].bars = bars::of(&rows[i], &rows);
    }
    rows
}

fn floor(ours: &OurSamples) -> Option<Floor> {
    let ratios: Vec<f64> = ours.micros.iter().zip(&ours.floors).map(|(ours, floor)| ours / floor).collect();
    Some(Floor { micros: Spread::of(&ours.floors)?, ratio: Spread::of(&ratios)?.median })
}

fn rivals(ours: &OurSamples, peers: &[PeerSamples]) -> Vec<Rival> {
    let mut rivals: Vec<Rival> = vec![];
    for peer in peers {
        let Format { name, kind, bits, .. } = &peer.format;
        if !peer.format.matches(ours.activations) || *bits < ours.bits.bits() {
            continue;
        }
        let ratios: Vec<f64> =
            ours.micros.iter().zip(&peer.micros).map(|(ours, theirs)| ours / theirs).collect();
        let (Some(micros), Some(ratio)) = (Spread::of(&peer.micros), Spread::of(&ratios)) else { continue };
        let rival = Rival { kind: *kind, name: name.clone(), bits: *bits, micros, ratio: ratio.median };
        match rivals.iter_mut().find(|other| other.kind == *kind) {
            None => rivals.push(rival),
            Some(other) if (rival.bits, rival.micros.median) < (other.bits, other.micros.median) => {
                *other = rival
            }
            Some(_) => {}
        }
    }
    rivals.sort_by_key(|rival| rival.kind);
    rivals
}
