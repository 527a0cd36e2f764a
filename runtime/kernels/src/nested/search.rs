//! The clipped range that minimises the squared error of a group, weighted over the widths.
//!
//! ```text
//! minimise over (low, high):   sum_r lambda_r sum_k (w_k - dequantize_r(quantize(w_k)))^2
//! ```
//!
//! The ends are clipping ratios of the full range, taken from the mean of the group (from 0 in a symmetric scheme).
//! One common ratio is searched on a geometric grid, then both ends move in eight directions with falling step.

use super::range::{Encoder, GroupMap};
use super::slice::{LevelRule, round_to_code_bits};
use mqc_ir::quant::{Scheme, SliceMode, Widths};

/// A clipping ratio is this to the power of an integer.
const RATIO: f64 = 0.98;
/// Exponents of the common ratios tried first: from 1.18 to 0.09, 15 % apart.
const FIRST_EXPONENTS: std::ops::RangeInclusive<i32> = -1..=15;
const FIRST_STEP: i32 = 8;
/// Steps of the exponents in the refinement.
const REFINEMENTS: [i32; 4] = [8, 4, 2, 1];
/// Moves tried at one step before it is halved.
const MOVES_PER_STEP: usize = 6;
/// A range must beat the full one by this part of its error: more than the rounding of the sums.
const LEAST_GAIN: f64 = 1e-4;
/// Directions of a move: the width of the range first, then its place, then one end alone.
const DIRECTIONS: [(i32, i32); 8] = [(1, 1), (-1, -1), (1, -1), (-1, 1), (1, 0), (-1, 0), (0, 1), (0, -1)];

const BLOCK: usize = 256;
const LANES: usize = 8;

/// What a search minimises: the scheme, and for every width its lambda and its levels.
#[derive(Debug, Clone)]
pub(super) struct Objective {
    scheme: Scheme,
    mode: SliceMode,
    terms: Vec<(f64, LevelRule)>,
}

impl Objective {
    /// `lambda` holds one weight for each of `widths`, in their order.
    pub(super) fn new(scheme: Scheme, mode: SliceMode, widths: Widths, lambda: &[f32]) -> Objective {
        let terms = widths.iter().zip(lambda).filter(|(_, lambda)| **lambda > 0.0);
        let terms = terms.map(|(width, &lambda)| (f64::from(lambda), LevelRule::new(width, mode))).collect();
        Objective { scheme, mode, terms }
    }

    /// The best map found for finite `weights` between `low` and `high`; never worse than that of the full range.
    pub(super) fn best_map(&self, weights: &[f32], low: f32, high: f32) -> GroupMap {
        let (low, high) = (f64::from(low), f64::from(high));
        let full = GroupMap::of_range(low, high, self.scheme, self.mode);
        if full.constant {
            return full;
        }
        let mut search = Search::new(self, weights, low, high);
        let full_error = search.error(full);
        search.run(full_error);
        let best = search.map();
        if search.best_error < full_error * (1.0 - LEAST_GAIN) && !best.constant { best } else { full }
    }
}

struct Search<'a> {
    objective: &'a Objective,
    weights: &'a [f32],
    low: f64,
    high: f64,
    anchor: f64,
    /// Exponents of the clipping ratios of the low and the high end.
    clip: (i32, i32),
    best_error: f64,
    positions: [f32; BLOCK],
    code_bits: [u32; BLOCK],
}

impl<'a> Search<'a> {
    fn new(objective: &'a Objective, weights: &'a [f32], low: f64, high: f64) -> Search<'a> {
        let anchor = match objective.scheme {
            Scheme::Asymmetric => weights.iter().map(|&w| f64::from(w)).sum::<f64>() / weights.len() as f64,
            Scheme::Symmetric => 0.0,
        };
        Search {
            objective,
            weights,
            low,
            high,
            anchor,
            clip: (0, 0),
            best_error: f64::INFINITY,
            positions: [0.0; BLOCK],
            code_bits: [0; BLOCK],
        }
    }

    fn run(&mut self, full_error: f64) {
        self.best_error = full_error;
        for exponent in FIRST_EXPONENTS {
            self.try_clip((exponent * FIRST_STEP, exponent * FIRST_STEP));
        }
        let directions = match self.objective.scheme {
            Scheme::Asymmetric => &DIRECTIONS[..],
            Scheme::Symmetric => &DIRECTIONS[..2],
        };
        for step in REFINEMENTS {
            for _ in 0..MOVES_PER_STEP {
                let (low, high) = self.clip;
                let moves =
                    directions.iter().map(|(to_low, to_high)| (low + to_low * step, high + to_high * step));
                if !moves.into_iter().any(|clip| self.try_clip(clip)) {
                    break;
                }
            }
        }
    }

    /// Takes `clip` if it is better than the best so far.
    fn try_clip(&mut self, clip: (i32, i32)) -> bool {
        let map = self.map_at(clip);
        if map.constant {
            return false;
        }
        let error = self.error(map);
        let better = error < self.best_error;
        if better {
            (self.clip, self.best_error) = (clip, error);
        }
        better
    }

    fn map(&self) -> GroupMap {
        self.map_at(self.clip)
    }

    fn map_at(&self, (low, high): (i32, i32)) -> GroupMap {
        let low = self.anchor + (self.low - self.anchor) * RATIO.powi(low);
        let high = self.anchor + (self.high - self.anchor) * RATIO.powi(high);
        match self.objective.scheme {
            Scheme::Asymmetric => GroupMap::asymmetric(low, high),
            Scheme::Symmetric => GroupMap::symmetric(high.max(-low), self.objective.mode),
        }
    }

    /// The weighted squared error of the group under `map`, which is not constant.
    fn error(&mut self, map: GroupMap) -> f64 {
        let encoder = Encoder::new(map);
        let mut total = 0.0;
        for weights in self.weights.chunks(BLOCK) {
            let positions = &mut self.positions[..weights.len()];
            let code_bits = &mut self.code_bits[..weights.len()];
            for ((position, bits), &weight) in positions.iter_mut().zip(code_bits.iter_mut()).zip(weights) {
                *position = encoder.position(weight);
                *bits = round_to_code_bits(*position);
            }
            for &(lambda, rule) in &self.objective.terms {
                total += lambda * squared_error(positions, code_bits, rule);
            }
        }
        total * f64::from(map.scale) * f64::from(map.scale)
    }
}

/// `sum (position - level)^2`.
fn squared_error(positions: &[f32], code_bits: &[u32], rule: LevelRule) -> f64 {
    let mut lanes = [0.0; LANES];
    let (position_lanes, position_tail) = positions.as_chunks::<LANES>();
    let (bits_lanes, bits_tail) = code_bits.as_chunks::<LANES>();
    for (positions, bits) in position_lanes.iter().zip(bits_lanes) {
        for i in 0..LANES {
            let error = positions[i] - rule.level(bits[i]);
            lanes[i] += error * error;
        }
    }
    for (i, (position, &bits)) in position_tail.iter().zip(bits_tail).enumerate() {
        let error = position - rule.level(bits);
        lanes[i] += error * error;
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}
