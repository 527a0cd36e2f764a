//! Activations as the kernels read them: in the order of the cells, as integers or floats.
//!
//! A token of integer activations is one stream of int8, or two for int16: `x = scale * (256 * high + low)`.

use std::ops::Range;

use aligned_vec::avec;
use mqc_ir::Activations;

use super::cells::{BLOCK, BLOCK_CODES, CELL, Cells, Lines, put_cell, take_cell};
use super::strip::GROUP_LANES;
use super::{Isa, Threads};

/// Largest code of int16 activations: high bytes stay within -127..=127.
const INT16: f32 = 32_512.0;
/// Tokens below this are 0: the reciprocal of their scale is no float any more.
const LEAST: f32 = 1e-30;
/// Activations that make a task: some tens of microseconds.
pub(super) const TASK: usize = 1 << 14;
/// 1.5 * 2^23: adding it rounds to an integer, half to even.
const ROUND: f32 = 12_582_912.0;

/// Integer activations.
#[derive(Debug)]
pub(super) struct Streams {
    /// [tokens * limbs, stride]
    codes: Lines<i8>,
    /// Bytes of a stream.
    stride: usize,
    /// 1 for int8, 2 for int16.
    pub limbs: usize,
    /// [tokens]: the unit of a code, 1 where `lanes` says it. NaN for a token that has values that are not finite.
    scales: Vec<f32>,
    /// [tokens, blocks * 16]: the unit of the codes of a cell, if it differs within a token.
    lanes: Option<Lines<f32>>,
    /// [tokens, groups padded to 16]: sums of the activations as rounded over each group of the weight.
    sums: Lines<f32>,
    /// Values of a token in `sums`.
    padded_groups: usize,
}

impl Streams {
    /// Quantizes `x`, [tokens, cols]. `None` for activations that stay floats.
    pub fn new(
        isa: Isa,
        threads: &Threads,
        cells: &Cells,
        activations: Activations,
        x: &[f32],
        tokens: usize,
    ) -> Option<Streams> {
        let (limbs, run) = match activations {
            Activations::F32 => return None,
            Activations::Int16 => (2, None),
            Activations::Int8 => (1, None),
            Activations::Int8Group(size) => (1, Some((size as usize / CELL).max(1))),
        };
        let stride = cells.stride();
        let padded = cells.blocks() * BLOCK;
        let padded_groups = cells.groups().next_multiple_of(GROUP_LANES);
        let mut streams = Streams {
            codes: avec![[64]| 0; tokens * limbs * stride],
            stride,
            limbs,
            scales: vec![1.0; tokens],
            lanes: run.map(|_| avec![[64]| 0.0; tokens * padded]),
            sums: avec![[64]| 0.0; tokens * padded_groups],
            padded_groups,
        };
        if stride == 0 {
            return Some(streams);
        }
        let mut lanes = streams.lanes.as_mut().map(|lanes| lanes.chunks_mut(padded));
        let mut jobs = Vec::with_capacity(tokens);
        let codes = streams.codes.chunks_mut(limbs * stride).zip(&mut streams.scales);
        let parts = codes.zip(streams.sums.chunks_mut(padded_groups)).zip(x.chunks(cells.cols()));
        for (((codes, scale), sums), x) in parts {
            let units = match lanes.as_mut().and_then(Iterator::next) {
                Some(lanes) => Units::Cells { run: run.unwrap_or(1), lanes },
                None => Units::Token(scale),
            };
            jobs.push(Token { x, codes, limbs, units, sums });
        }
        let run = (TASK / cells.cols()).max(1);
        threads
            .chunks(&mut jobs, run, |_, jobs| jobs.iter_mut().for_each(|token| isa.quantize(token, cells)));
        Some(streams)
    }

    /// Number of streams.
    pub fn count(&self) -> usize {
        self.scales.len() * self.limbs
    }

    /// The codes of a stream.
    pub fn codes(&self, stream: usize) -> &[i8] {
        &self.codes[stream * self.stride..][..self.stride]
    }

    /// The same, for kernels that want them in another order.
    #[cfg(target_arch = "x86_64")]
    pub fn codes_mut(&mut self, stream: usize) -> &mut [i8] {
        &mut self.codes[stream * self.stride..][..self.stride]
    }

    /// What a code of the stream is worth where `lanes` do not say it.
    pub fn unit(&self, stream: usize) -> f32 {
        let scale = self.scales[self.token_of(stream)];
        if self.is_high(stream) { 256.0 * scale } else { scale }
    }

    /// The sums of the stream's token over each group, padded with zeros to a multiple of 16; `None` for the high bytes, so
    /// that a token counts once.
    pub fn offset_sums(&self, stream: usize) -> Option<&[f32]> {
        let token = self.token_of(stream);
        (!self.is_high(stream)).then(|| &self.sums[token * self.padded_groups..][..self.padded_groups])
    }

    /// The token of a stream: limbs are 1 or 2, and a division would take as long as a block.
    fn token_of(&self, stream: usize) -> usize {
        stream >> (self.limbs - 1)
    }

    fn is_high(&self, stream: usize) -> bool {
        self.limbs == 2 && stream.is_multiple_of(2)
    }

    /// The units of the cells of a stream, padded to whole blocks.
    pub fn lanes(&self, stream: usize) -> Option<&[f32]> {
        let padded = self.stride / BLOCK_CODES * BLOCK;
        self.lanes.as_ref().map(|lanes| &lanes[self.token_of(stream) * padded..][..padded])
    }
}

/// A token and where it goes.
pub(super) struct Token<'a> {
    x: &'a [f32],
    codes: &'a mut [i8],
    limbs: usize,
    units: Units<'a>,
    sums: &'a mut [f32],
}

/// Where the unit of the codes goes: one for the token, or one for each run of cells.
enum Units<'a> {
    Token(&'a mut f32),
    Cells { run: usize, lanes: &'a mut [f32] },
}

impl Token<'_> {
    /// Inlined into a function of each instruction set, and so compiled for its registers.
    #[inline(always)]
    pub fn quantize(&mut self, cells: &Cells) {
        let limit = if self.limbs == 2 { INT16 } else { 127.0 };
        let run = match &self.units {
            Units::Token(_) => cells.count(),
            Units::Cells { run, .. } => *run,
        };
        let mut sums = vec![0.0; self.sums.len()];
        let (mut unit, mut inverse, mut next) = (0.0, 0.0, 0);
        for (cell, (group, columns)) in cells.iter().enumerate() {
            if cell == next {
                next += run;
                let end = cells.count().min(next);
                let largest = largest(&self.x[columns.start..cells.columns(end - 1).end]);
                unit = if largest.is_finite() { largest / limit } else { f32::NAN };
                inverse = if largest > LEAST { limit / largest } else { 0.0 };
                match &mut self.units {
                    Units::Token(scale) => **scale = unit,
                    Units::Cells { lanes, .. } => lanes[cell..end].fill(unit),
                }
            }
            let sum = if unit.is_finite() { self.quantize_cell(cell, columns, inverse) } else { 0 };
            sums[group] += f64::from(sum) * f64::from(unit);
        }
        for (sum, total) in self.sums.iter_mut().zip(sums) {
            *sum = total as f32;
        }
    }

    /// Writes the codes of a cell and returns their sum.
    #[inline(always)]
    fn quantize_cell(&mut self, cell: usize, columns: Range<usize>, inverse: f32) -> i32 {
        let x = take_cell(columns, self.x);
        // Loops, not `map`: that is a function of its own, and so not compiled for the registers at hand.
        let (mut high, mut low, mut sum) = ([0; CELL], [0; CELL], 0);
        for i in 0..CELL {
            let q = (x[i] * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
            high[i] = ((q + 128) >> 8) as i8;
            low[i] = q as i8;
            sum += q;
        }
        if self.limbs == 2 {
            let (highs, lows) = self.codes.split_at_mut(self.codes.len() / 2);
            put_cell(cell, &high, highs);
            put_cell(cell, &low, lows);
        } else {
            put_cell(cell, &low, self.codes);
        }
        sum
    }
}

/// The largest magnitude; not finite if any value is not.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff)))
}
