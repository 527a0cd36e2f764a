//! The code that turns 32 weights, one word of each plane, into 16 pairs of f16.
//!
//! Planes are merged by bit selects: with n planes merged into words of S >= n classes, the bits of the n leading planes of
//! weight `base` end at bit `base` of word `base mod S`. A field is cut out and put under the exponent that gives it
//! the unit scale at its place; one addition takes the exponent's value and half the range off again. Where a field would
//! reach above the mantissa its word is rotated first.

use std::fmt::Write;

use half::f16;
use mqc_ir::quant::{SliceMode, Width};

/// Bits of an f16's mantissa.
const MANTISSA: i32 = 10;

/// The statements of `select_pairs`: from `P[planes]` to `out[16]`, pairs of f16 that hold the index of a slice minus
/// `centre_index`.
pub fn statements(width: Width, mode: SliceMode) -> String {
    let mut network = Network { text: String::new(), temporaries: 0 };
    let rounds = rounds(width, mode);
    let field = mode.planes_read(width) as i32;
    let merged = network.merge(0, field as usize);
    // A rounded field needs a free bit below it for its half.
    let least = i32::from(rounds);
    let mut outputs = vec![String::new(); 16];
    for (class, word) in merged.iter().enumerate() {
        let bases: Vec<i32> = (0..16).filter(|b| b % merged.len() as i32 == class as i32).collect();
        let rotations = rotations(&bases, field, least);
        let mut rotated = vec![(0, word.clone())];
        for (base, rotation) in bases.iter().zip(rotations) {
            let source = match rotated.iter().find(|(by, _)| *by == rotation) {
                Some((_, source)) => source.clone(),
                None => {
                    let source = network.assign(format!("rotate_right({word}, {})", rotation.rem_euclid(32)));
                    rotated.push((rotation, source.clone()));
                    source
                }
            };
            let low = base - rotation - field + 1;
            outputs[*base as usize] = network.extract(&source, field, low, width, mode);
        }
    }
    for (i, output) in outputs.iter().enumerate() {
        let _ = writeln!(network.text, "    out[{i}] = {output};");
    }
    network.text
}

/// What is taken off an index so that products lie around 0.
pub fn centre_index(width: Width) -> i32 {
    1 << (width.bits() - 1)
}

/// Whether the index is rounded to, from one plane more.
fn rounds(width: Width, mode: SliceMode) -> bool {
    mode.planes_read(width) > usize::from(width.bits())
}

struct Network {
    text: String,
    temporaries: usize,
}

impl Network {
    fn assign(&mut self, expression: String) -> String {
        let name = format!("t{}", self.temporaries);
        self.temporaries += 1;
        let _ = writeln!(self.text, "    const u32 {name} = {expression};");
        name
    }

    /// Merges `count` planes from `first`: as many words as the next power of two. Word c has, of each weight whose base is
    /// c modulo that number, the bits of these planes next to each other.
    fn merge(&mut self, first: usize, count: usize) -> Vec<String> {
        if count == 1 {
            return vec![format!("P[{first}]")];
        }
        let classes = count.next_power_of_two();
        let left = classes / 2;
        let upper = self.merge(first, left);
        let lower = self.merge(first + left, count - left);
        (0..classes)
            .map(|class| {
                // Bit i belongs to the upper planes where it is the place of one of their bits of a weight of this class.
                let upper_bit =
                    |i: usize| (class + 2 * classes - first % classes - i % classes) % classes < left;
                let mask = (0..32).filter(|i| upper_bit(*i)).fold(0u32, |mask, i| mask | 1 << i);
                let (a, b) = (&upper[class % upper.len()], &lower[class % lower.len()]);
                self.assign(format!("bit_select({a}, {b}, {mask:#010x}u)"))
            })
            .collect()
    }

    /// The pair whose field of `field` bits begins at bit `low` of both halves of `source`.
    fn extract(&mut self, source: &str, field: i32, low: i32, width: Width, mode: SliceMode) -> String {
        let mask = ((1u32 << field) - 1) << low;
        // 2^(10 - low): the exponent at which the field's lowest bit counts 1.
        let mut exponent = ((25 - low) as u32) << MANTISSA;
        let centre = centre_index(width);
        let value = 1 << (MANTISSA - low);
        if !rounds(width, mode) {
            let pair =
                self.assign(format!("and_or({source}, {:#010x}u, {:#010x}u)", twice(mask), twice(exponent)));
            return self.assign(format!("add_pair({pair}, {:#010x}u)", pair_of(-(value + centre))));
        }
        // Half of the field and a quarter more, at 1024 where a unit is the last place: rounds half up.
        exponent |= 1 << (low - 1);
        let pair =
            self.assign(format!("and_or({source}, {:#010x}u, {:#010x}u)", twice(mask), twice(exponent)));
        let halved = format!("halve_add_pair({pair}, {:#010x}u)", pair_of(1024 - value / 2));
        let mut rounded = self.assign(halved);
        if mode == SliceMode::Round {
            let top = pair_of(1024 + 2 * centre - 1);
            rounded = self.assign(format!("min_pair({rounded}, {top:#010x}u)"));
        }
        self.assign(format!("add_pair({rounded}, {:#010x}u)", pair_of(-(1024 + centre))))
    }
}

/// For each base the rotation to the right of its word after which its field, `field` bits that end at the base, lies
/// within the mantissa and at least `least` bits above its end; as few different ones as there can be, none where it can.
fn rotations(bases: &[i32], field: i32, least: i32) -> Vec<i32> {
    let fits = |base: i32, by: i32| base - by < MANTISSA && base - by - field + 1 >= least;
    // Bases ascend, so the greatest rotation that the lowest base not yet served allows serves the most others.
    let mut chosen = vec![0];
    for &base in bases {
        if !chosen.iter().any(|by| fits(base, *by)) {
            chosen.push(base - field + 1 - least);
        }
    }
    let serves = |base: &i32| chosen.iter().copied().find(|by| fits(*base, *by)).unwrap_or(*base);
    bases.iter().map(serves).collect()
}

const fn twice(half: u32) -> u32 {
    half | half << 16
}

/// Two f16 of an integer that f16 holds exactly.
fn pair_of(value: i32) -> u32 {
    twice(u32::from(f16::from_f32(value as f32).to_bits()))
}
