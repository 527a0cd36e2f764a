//! From the range of a group of weights to its affine map, and from a weight to its code.

use super::slice::round_to_code_bits;
use mqc_ir::quant::{Scheme, SliceMode};

/// Ranges end here, so that every level of every mode (-128 to 256 steps from the zero point) is a finite f32.
const LARGEST: f64 = f32::MAX as f64 * 127.0 / 129.0;

/// The affine map of one group: `weight = scale * (level - zero)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GroupMap {
    pub scale: f32,
    pub zero: f32,
    /// The group holds one value, which code 0 stands for.
    pub constant: bool,
}

impl GroupMap {
    /// The map whose codes span [low, high]: `scale = (high - low) / 255`, `zero = -low / scale`.
    pub(super) fn asymmetric(low: f64, high: f64) -> GroupMap {
        let (low, high) = (low.clamp(-LARGEST, LARGEST), high.clamp(-LARGEST, LARGEST));
        let scale = ((high - low) / 255.0) as f32;
        if !scale.is_normal() {
            return GroupMap::constant(low + (high - low) / 2.0);
        }
        GroupMap { scale, zero: (-low / f64::from(scale)) as f32, constant: false }
    }

    /// The map that holds [-most, most] and has its zero in the middle: 127.5 where codes are bucket indices
    /// (midpoint), 128 where they are rounded.
    pub(super) fn symmetric(most: f64, mode: SliceMode) -> GroupMap {
        let most = most.min(LARGEST);
        let (steps, zero) = match mode {
            SliceMode::Midpoint => (127.5, 127.5),
            SliceMode::Round | SliceMode::Extra => (127.0, 128.0),
        };
        let scale = (most / steps) as f32;
        if scale.is_normal() { GroupMap { scale, zero, constant: false } } else { GroupMap::constant(0.0) }
    }

    /// The map of a group that holds only `value`, with code 0 throughout. The zero point of 2^31 absorbs the level in
    /// rounding, so that every width and mode gives `value` exactly. Below 2^-95, where the scale would lose bits, the
    /// group is 0.
    pub(super) fn constant(value: f64) -> GroupMap {
        const ABSORBING: f64 = (1u64 << 31) as f64;
        let scale = (value.abs() / ABSORBING) as f32;
        if scale.is_normal() {
            GroupMap { scale, zero: (-value.signum() * ABSORBING) as f32, constant: true }
        } else {
            GroupMap { scale: 0.0, zero: 0.0, constant: true }
        }
    }

    /// The map of a group with smallest weight `low` and largest `high`, both finite.
    pub(super) fn of_range(low: f64, high: f64, scheme: Scheme, mode: SliceMode) -> GroupMap {
        if low == high {
            return GroupMap::constant(low);
        }
        match scheme {
            Scheme::Asymmetric => GroupMap::asymmetric(low, high),
            Scheme::Symmetric => GroupMap::symmetric(high.max(-low), mode),
        }
    }
}

/// Turns weights into positions on the scale of codes. Half weights are used so that the distance between any two
/// floats stays finite; subtracting the low end first keeps groups far from 0 exact.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoder {
    half_low: f32,
    codes_per_half: f32,
}

impl Encoder {
    /// The encoder of a map that is not constant.
    pub(super) fn new(map: GroupMap) -> Encoder {
        let scale = f64::from(map.scale);
        Encoder {
            half_low: (-0.5 * scale * f64::from(map.zero)) as f32,
            codes_per_half: (2.0 / scale) as f32,
        }
    }

    /// Where `weight` lies, in codes; not clamped.
    #[inline(always)]
    pub(super) fn position(self, weight: f32) -> f32 {
        (weight * 0.5 - self.half_low) * self.codes_per_half
    }
}

/// The code nearest to each weight, half to even, clamped to 0..=255.
pub(super) fn encode(weights: &[f32], map: GroupMap, out: &mut [u8]) {
    if map.constant {
        return out.fill(0);
    }
    let encoder = Encoder::new(map);
    for (code, &weight) in out.iter_mut().zip(weights) {
        *code = round_to_code_bits(encoder.position(weight)) as u8;
    }
}

/// The smallest and the largest of `weights`; `None` when one of them is not finite. (0, 0) of no weights.
pub(super) fn finite_range(weights: &[f32]) -> Option<(f32, f32)> {
    const LANES: usize = 16;
    let mut low = [f32::INFINITY; LANES];
    let mut high = [f32::NEG_INFINITY; LANES];
    let mut poison = [0.0; LANES];
    let mut take = |i: usize, weight: f32| {
        low[i] = if weight < low[i] { weight } else { low[i] };
        high[i] = if weight > high[i] { weight } else { high[i] };
        // Adds 0 for a finite weight, NaN for any other.
        poison[i] += weight * 0.0;
    };
    let (lanes, tail) = weights.as_chunks::<LANES>();
    for lane in lanes {
        for (i, &weight) in lane.iter().enumerate() {
            take(i, weight);
        }
    }
    for (i, &weight) in tail.iter().enumerate() {
        take(i, weight);
    }
    if weights.is_empty() {
        return Some((0.0, 0.0));
    }
    let finite = poison.iter().all(|lane| *lane == 0.0);
    finite.then(|| {
        (low.into_iter().fold(f32::INFINITY, f32::min), high.into_iter().fold(f32::NEG_INFINITY, f32::max))
    })
}
