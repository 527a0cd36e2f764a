//! What we hold ourselves to: bounds on our time by a peer's, by the memory floor, and by our own at the next width.

use mqc_ir::Activations;
use serde::Serialize;

use crate::Place;
use crate::peer::Kind;
use crate::row::{Rival, Row};

/// A bound.
#[derive(Debug, Clone, Serialize)]
pub struct Bar {
    /// What our time is divided by.
    pub by: By,
    /// The quotient.
    pub ratio: f64,
    pub at_most: f64,
}

/// What our time is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum By {
    Floor,
    Peer(Kind),
    /// Our own time at 4 bits for 3, at 8 bits for 5, 6 and 7.
    Wider,
}

impl Bar {
    pub fn met(&self) -> bool {
        self.ratio <= self.at_most
    }
}

/// The bars of a row; `all` are the rows of its case and number of tokens.
pub fn of(row: &Row, all: &[Row]) -> Vec<Bar> {
    let floor = floor(row).zip(row.floor.as_ref()).map(|(at_most, floor)| Bar {
        by: By::Floor,
        ratio: floor.ratio,
        at_most,
    });
    let peers = row.rivals.iter().filter_map(|rival| {
        Some(Bar { by: By::Peer(rival.kind), ratio: rival.ratio, at_most: peer(row, rival)? })
    });
    floor.into_iter().chain(peers).chain(wider(row, all)).collect()
}

fn integers(row: &Row) -> bool {
    matches!(row.activations, Activations::Int8 | Activations::Int8Group(_))
}

fn floor(row: &Row) -> Option<f64> {
    if row.tokens != 1 || !integers(row) {
        return None;
    }
    match row.bits.bits() {
        8 => Some(1.15),
        4 => Some(1.35),
        2 => Some(1.6),
        _ => None,
    }
}

fn peer(row: &Row, rival: &Rival) -> Option<f64> {
    let equal = rival.bits == row.bits.bits();
    match rival.kind {
        Kind::MatMulInteger => (integers(row) && row.tokens == 128).then_some(1.2),
        Kind::Ggml => (integers(row) && equal).then_some(1.0),
        Kind::Tract => (row.tokens == 1 && equal).then_some(1.0),
        Kind::MatMulNBits if !equal => None,
        Kind::MatMulNBits if row.activations == Activations::F32 => (row.tokens == 1).then_some(1.0),
        Kind::MatMulNBits if integers(row) => blocks(row),
        Kind::MatMulNBits => None,
    }
}

/// Against equal bits in blocks of 128.
fn blocks(row: &Row) -> Option<f64> {
    let [eight, four, two] = match (row.case.weights, row.tokens, row.case.threads) {
        (Place::Memory, 1, 1) => [1.0, 0.75, 0.6],
        (Place::Memory, 1, _) => [1.0, 0.9, 0.75],
        (Place::Cache, 1, _) => [1.1, 1.1, 0.9],
        (Place::Memory, 16, _) => [0.75; 3],
        (Place::Memory, 128, _) => [0.65; 3],
        (Place::Memory | Place::Cache, _, _) => return None,
    };
    match row.bits.bits() {
        8 => Some(eight),
        4 => Some(four),
        2 => Some(two),
        _ => None,
    }
}

fn wider(row: &Row, all: &[Row]) -> Option<Bar> {
    let bits = match row.bits.bits() {
        3 => 4,
        5..=7 => 8,
        _ => return None,
    };
    let same = |other: &&Row| {
        other.bits.bits() == bits && other.activations == row.activations && other.isa == row.isa
    };
    let other = all.iter().find(same)?;
    // Differences below this are within what rounds differ by.
    let at_most = 1.03;
    Some(Bar { by: By::Wider, ratio: row.micros.median / other.micros.median, at_most })
}
