//! The definition of slicing: what an 8-bit code means at r bits.
//!
//! With `step = 2^(8-r)` and an affine map `scale`, `zero`:
//!
//! ```text
//! midpoint:  w = scale * ((step * (q >> (8-r)) + (step - 1) / 2) - zero)
//! round:     w = scale * (step * min(round_half_up(q / step), 2^r - 1) - zero)         (MatQuant, Eq. 6)
//! extra:     w = scale * (step * round_half_up(q / step) - zero)                       (2^r + 1 levels)
//! ```
//!
//! The parenthesis `level - zero` is rounded to f32, then the product is. The level itself is exact.

use mqc_ir::quant::{SliceMode, Width};

/// Distance between two neighbouring levels of an r-bit slice, in 8-bit codes: 2^(8-r).
pub fn step(width: Width) -> u16 {
    1 << (8 - width.bits())
}

/// The r-bit slice of code `q` in units of 8-bit codes, a multiple of `step(width)`: at most 255, in extra mode 256.
/// Bits of `q` below the planes that `mode` reads have no influence.
pub fn slice(q: u8, width: Width, mode: SliceMode) -> u16 {
    let step = step(width);
    let q = u16::from(q);
    match mode {
        SliceMode::Midpoint => q / step * step,
        SliceMode::Round => ((q + step / 2) / step * step).min(256 - step),
        SliceMode::Extra => (q + step / 2) / step * step,
    }
}

/// What is added to a slice to reach the level it stands for, in 8-bit codes: the centre of the bucket in midpoint
/// mode, 0 otherwise. A multiple of 1/2.
pub fn centre(width: Width, mode: SliceMode) -> f32 {
    match mode {
        SliceMode::Midpoint => f32::from(step(width) - 1) / 2.0,
        SliceMode::Round | SliceMode::Extra => 0.0,
    }
}

/// The weight that code `q` stands for at `width`. This is the definition; everything else is tested against it.
pub fn dequantize(q: u8, width: Width, mode: SliceMode, scale: f32, zero: f32) -> f32 {
    let level = f32::from(slice(q, width, mode)) + centre(width, mode);
    scale * (level - zero)
}

/// `weight = multiplier * index + offset` with `index = slice / step`, an integer: for kernels that spend one fused
/// multiply-add on a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MultiplyAdd {
    /// Weight units per index.
    pub multiplier: f32,
    /// The weight of index 0.
    pub offset: f32,
}

/// The multiplier and offset of `dequantize` over the index of a slice. One fused multiply-add differs from
/// `dequantize` by at most `2^-22 * scale * (256 + |zero|)`.
pub fn multiply_add(width: Width, mode: SliceMode, scale: f32, zero: f32) -> MultiplyAdd {
    let offset = f64::from(scale) * (f64::from(centre(width, mode)) - f64::from(zero));
    MultiplyAdd { multiplier: scale * f32::from(step(width)), offset: offset as f32 }
}

/// 2^23: a float of this size has an integer in its low mantissa bits.
const INTEGER_BIAS: f32 = 8_388_608.0;

/// `slice` and `centre` without branches, for loops over many codes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LevelRule {
    half: u32,
    mask: u32,
    top: f32,
    centre: f32,
}

impl LevelRule {
    pub(super) fn new(width: Width, mode: SliceMode) -> LevelRule {
        let step = u32::from(step(width));
        let (half, top) = match mode {
            SliceMode::Midpoint => (0, 255),
            SliceMode::Round => (step / 2, 256 - step),
            SliceMode::Extra => (step / 2, 256),
        };
        LevelRule { half, mask: !(step - 1), top: top as f32, centre: centre(width, mode) }
    }

    /// The level of a code that `code_bits` or `round_to_code_bits` put into the low bits of a float.
    #[inline(always)]
    pub(super) fn level(self, code_bits: u32) -> f32 {
        let slice = f32::from_bits((code_bits + self.half) & self.mask) - INTEGER_BIAS;
        let slice = if slice < self.top { slice } else { self.top };
        slice + self.centre
    }
}

/// A code as `LevelRule::level` takes it.
#[inline(always)]
pub(super) fn code_bits(code: u8) -> u32 {
    INTEGER_BIAS.to_bits() | u32::from(code)
}

/// The code nearest to `position` (in 8-bit codes), half to even, as `LevelRule::level` takes it; its low byte is
/// the code.
#[inline(always)]
pub(super) fn round_to_code_bits(position: f32) -> u32 {
    let above = if position > 0.0 { position } else { 0.0 };
    let inside = if above < 255.0 { above } else { 255.0 };
    (inside + INTEGER_BIAS).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MODES: [SliceMode; 3] = [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra];

    /// The formulas of the module's text, in f64 and with a real division.
    fn reference(q: u8, width: Width, mode: SliceMode, scale: f32, zero: f32) -> f64 {
        let bits = i32::from(width.bits());
        let step = 2f64.powi(8 - bits);
        let rounded = (f64::from(q) / step + 0.5).floor();
        let (scale, zero) = (f64::from(scale), f64::from(zero));
        match mode {
            SliceMode::Midpoint => scale * (step * ((f64::from(q) / step).floor() + 0.5) - 0.5 - zero),
            SliceMode::Round => scale * (step * rounded.min(2f64.powi(bits) - 1.0) - zero),
            SliceMode::Extra => scale * (step * rounded - zero),
        }
    }

    fn codes() -> impl Iterator<Item = (u8, Width, SliceMode)> {
        (0..=255)
            .flat_map(|q| Width::all().flat_map(move |r| MODES.into_iter().map(move |mode| (q, r, mode))))
    }

    #[test]
    fn the_definition_is_the_formula() {
        for (q, width, mode) in codes() {
            // Powers of two and halves: every step is exact in f32.
            let found = dequantize(q, width, mode, 0.25, 127.5);
            assert_eq!(f64::from(found), reference(q, width, mode, 0.25, 127.5), "{q} {width} {mode}");
        }
    }

    #[test]
    fn the_rule_for_loops_is_the_definition() {
        for (q, width, mode) in codes() {
            let level = f32::from(slice(q, width, mode)) + centre(width, mode);
            assert_eq!(LevelRule::new(width, mode).level(code_bits(q)), level, "{q} {width} {mode}");
        }
    }

    #[test]
    fn only_the_planes_read_matter() {
        for (q, width, mode) in codes() {
            let unread = 8 - mode.planes_read(width) as u32;
            let prefix = (u32::from(q) >> unread << unread) as u8;
            assert_eq!(slice(prefix, width, mode), slice(q, width, mode), "{q} {width} {mode}");
            assert_eq!(slice(q, width, mode) % step(width), 0);
        }
    }

    #[test]
    fn full_width_is_the_code() {
        for (q, _, mode) in codes() {
            assert_eq!(dequantize(q, Width::MAX, mode, 1.0, 0.0), f32::from(q));
        }
    }

    #[test]
    fn rounding_is_not_a_prefix() {
        for (bits, expected) in [(2, 96), (3, 112), (4, 120), (6, 126)] {
            let width = Width::new(bits).unwrap();
            let differs =
                |q: &u8| slice(*q, width, SliceMode::Round) != slice(*q, width, SliceMode::Midpoint);
            assert_eq!((0..=255).filter(differs).count(), expected, "int{bits}");
        }
    }

    #[test]
    fn modes_have_their_number_of_levels() {
        for width in Width::all() {
            let levels = |mode| {
                let mut levels: Vec<u16> = (0..=255).map(|q| slice(q, width, mode)).collect();
                levels.dedup();
                levels.len()
            };
            let full = 1 << width.bits();
            assert_eq!(levels(SliceMode::Midpoint), full);
            assert_eq!(levels(SliceMode::Round), full);
            assert_eq!(levels(SliceMode::Extra), if width == Width::MAX { full } else { full + 1 });
        }
    }

    #[test]
    fn rounding_to_codes_is_half_to_even_and_saturates() {
        let cases =
            [(0.5, 0), (1.5, 2), (2.5, 2), (254.5, 254), (255.5, 255), (1e30, 255), (-3.0, 0), (0.50001, 1)];
        for (position, code) in cases {
            assert_eq!(round_to_code_bits(position) & 0xff, code, "{position}");
        }
    }

    proptest! {
        #[test]
        fn a_multiply_add_is_within_its_tolerance(
            q: u8, bits in 1u8..=8, mode in prop::sample::select(MODES.to_vec()),
            scale in 1e-20f32..1e20, zero in -1e6f32..1e6,
        ) {
            let width = Width::new(bits).unwrap();
            let MultiplyAdd { multiplier, offset } = multiply_add(width, mode, scale, zero);
            let index = f32::from(slice(q, width, mode) / step(width));
            let expected = reference(q, width, mode, scale, zero);
            let unit = f64::from(scale) * (256.0 + f64::from(zero.abs()));
            prop_assert!((f64::from(multiplier.mul_add(index, offset)) - expected).abs() <= 2f64.powi(-23) * unit);
            prop_assert!((f64::from(dequantize(q, width, mode, scale, zero)) - expected).abs() <= 2f64.powi(-23) * unit);
        }
    }
}
