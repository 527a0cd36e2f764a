//! The codes of a weight as the integers of one width, and how integers are packed.
//!
//! `w = scale (level - zero)`, where with `step = 2^(8-r)` of the 8-bit scale and zero point:
//!
//! ```text
//! midpoint:  level = q >> (8-r)                                     scale' = scale step    zero' = (zero + 0.5) / step - 0.5
//! round:     level = min(round_half_up(q / step), 2^r - 1)          scale' = scale step    zero' = zero / step
//! ```

use mqc_ir::DType;
use mqc_ir::quant::SliceMode;
use mqc_runtime::nested::{centre, slice, step, unpack_row};

use super::site::Site;
use crate::Error;

/// A weight in integers of `bits` bits.
pub struct Levels {
    pub rows: usize,
    pub cols: usize,
    pub bits: u8,
    /// [N, K].
    pub levels: Vec<u8>,
    /// Scales of a row.
    pub groups: usize,
    /// Columns that share a scale.
    pub group_len: usize,
    /// [N, G].
    pub scale: Vec<f32>,
    /// [N, G], not rounded.
    pub zero: Vec<f64>,
}

impl Levels {
    /// The weight of the node at its width.
    ///
    /// # Errors
    /// If `format` has no integers of that width, or the slices do not fit in them.
    pub fn read(site: &Site, format: &str) -> Result<Levels, Error> {
        let (weight, width) = (&site.weight, site.width);
        let (rows, cols, mode) = (weight.rows(), weight.cols(), weight.mode());
        if ![2, 4, 8].contains(&width.bits()) {
            return Err(site.error(format!(
                "{format} has integers of 8, 4 and 2 bits, found a width of {width}; export as float instead"
            )));
        }
        if mode == SliceMode::Extra && width.bits() < 8 {
            return Err(site.error(format!(
                "slices of mode extra have 2^{width} + 1 levels, which do not fit in the {width}-bit integers of \
                 {format}; export as float, or compile with slice mode midpoint or round"
            )));
        }
        if rows == 0 || cols == 0 {
            return Err(site.error(format!("a weight of [{rows}, {cols}] has no form in {format}")));
        }
        let planes: Vec<&[u8]> =
            weight.planes().iter().take(mode.planes_read(width)).map(|p| p.as_ref()).collect();
        let mut levels = vec![0; rows * cols];
        let step = step(width);
        for (row, levels) in levels.chunks_exact_mut(cols).enumerate() {
            unpack_row(&planes, row, levels).map_err(|e| site.error(e.to_string()))?;
            // Below 256 in all modes: extra is 8 bits wide here.
            levels.iter_mut().for_each(|q| *q = (slice(*q, width, mode) / step) as u8);
        }
        let map = weight.map(width);
        let centre = f64::from(centre(width, mode));
        Ok(Levels {
            rows,
            cols,
            bits: width.bits(),
            levels,
            groups: weight.grouping().groups(cols),
            group_len: weight.grouping().size(cols),
            scale: map.scale.as_slice().iter().map(|s| s * f32::from(step)).collect(),
            zero: map.zero.as_slice().iter().map(|z| (f64::from(*z) - centre) / f64::from(step)).collect(),
        })
    }

    /// What dequantization with the zero points `used` [N, G] misses: `scale (used - zero)` [N, G].
    pub fn offsets(&self, used: impl Iterator<Item = f64>) -> Vec<f32> {
        let maps = self.scale.iter().zip(&self.zero);
        maps.zip(used).map(|((scale, zero), used)| (f64::from(*scale) * (used - zero)) as f32).collect()
    }

    /// The integers nearest to the zero points that levels can hold, [N, G].
    pub fn integer_zero_points(&self) -> Vec<u8> {
        let most = f64::from((1u32 << self.bits) - 1);
        self.zero.iter().map(|zero| zero.round().clamp(0.0, most) as u8).collect()
    }
}

/// The unsigned integer type of so many bits; 8 where there is none.
pub fn unsigned(bits: u8) -> DType {
    match bits {
        2 => DType::U2,
        4 => DType::U4,
        _ => DType::U8,
    }
}

/// Integers of `bits` bits, as many as fit in each byte, the first in the lowest bits.
pub fn pack(integers: &[u8], bits: u8) -> Vec<u8> {
    let place = |byte: u8, (i, value): (usize, &u8)| byte | value << (i * usize::from(bits));
    integers.chunks(usize::from(8 / bits)).map(|chunk| chunk.iter().enumerate().fold(0, place)).collect()
}

/// Rows of `cols` integers, each filled up with 0 to whole blocks of `block` and packed: [N, blocks, block * bits / 8].
pub fn pack_rows(integers: &[u8], cols: usize, bits: u8, block: usize) -> Vec<u8> {
    let mut padded = vec![0; cols.next_multiple_of(block)];
    let mut out = Vec::with_capacity(integers.len() / cols * padded.len() * usize::from(bits) / 8);
    for row in integers.chunks_exact(cols) {
        padded[..cols].copy_from_slice(row);
        out.extend(pack(&padded, bits));
    }
    out
}
