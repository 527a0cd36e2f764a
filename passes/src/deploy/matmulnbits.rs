//! com.microsoft.MatMulNBits: packed codes in blocks along K, one scale per block, the default zero point 2^(bits-1).
//!
//! What that zero point misses is corrected in f32: floating-point zero points take onnxruntime a hundred times as long.

use std::collections::BTreeMap;

use mqc_ir::op::{Opaque, Variadic};
use mqc_ir::quant::SliceMode;
use mqc_ir::{Attribute, DType, Op, Tensor, Value};

use super::AccuracyLevel;
use super::correction::correct_product;
use super::gather::{self, packed_codes};
use super::levels::{Levels, pack_rows};
use super::site::{Scope, Site};
use crate::Error;

const FORMAT: &str = "format matmulnbits";

/// Blocks that onnxruntime has fast products for at every number of bits.
const LARGEST_BLOCK: usize = 128;
const SMALLEST_BLOCK: usize = 16;

/// One product over the whole codes.
pub fn matmul(scope: &mut Scope, site: &Site, accuracy: AccuracyLevel) -> Result<Value, Error> {
    let levels = Levels::read(site, FORMAT)?;
    let block = block_size(site)?;
    let codes = packed_codes(scope, site, &levels, Some(block))?;
    let scales = scope.constant(&site.constant_name("scales"), || block_scales(&levels, block, 1.0))?;
    let op = product(&levels, levels.bits, block, accuracy);
    let product = scope.stand_in(site, op, &[Some(site.x), Some(codes), Some(scales)])?;
    let offsets = levels.offsets(std::iter::repeat(default_zero_point(levels.bits)));
    correct_product(scope, site, &levels, product, &offsets)
}

/// A table with the codes of [`matmul`], which a tied weight then stores once.
pub fn gather(scope: &mut Scope, site: &Site) -> Result<Value, Error> {
    let block = if scope.is_multiplied(&site.layer) { Some(block_size(site)?) } else { None };
    gather::lower(scope, site, block)
}

/// The slices of codes that widths share: their number of bits, from the most significant on.
const SLICES: [u8; 3] = [2, 2, 4];

/// The sum of a product over each slice that the width has. Scales are of the width's map: those of another have another name.
pub fn shared(scope: &mut Scope, site: &Site, accuracy: AccuracyLevel) -> Result<Value, Error> {
    if site.weight.mode() != SliceMode::Midpoint {
        return Err(site.error(format!(
            "widths can share slices only in slice mode midpoint, found {}: export each width by itself",
            site.weight.mode()
        )));
    }
    let levels = Levels::read(site, FORMAT)?;
    let block = block_size(site)?;
    let mut products = vec![];
    // In units of the levels: what the default zero points of all slices subtract together.
    let mut zero_point = 0.0;
    let mut first = 0;
    for bits in SLICES {
        let last = first + bits;
        if last > levels.bits {
            break;
        }
        let below = levels.bits - last;
        let weight_of_slice = f32::from(1u8 << below);
        zero_point += default_zero_point(bits) * f64::from(weight_of_slice);
        let range = format!("{first}-{}", last - 1);
        let codes = scope.constant(&site.constant_name(&format!("bits{range}")), || {
            let slice: Vec<u8> = levels.levels.iter().map(|l| l >> below & ((1 << bits) - 1)).collect();
            let shape = vec![levels.rows, levels.cols.div_ceil(block), block * usize::from(bits) / 8];
            Ok(Tensor::new(DType::U8, shape, pack_rows(&slice, levels.cols, bits, block).into())?)
        })?;
        let scales = scope
            .constant(&site.constant_name(&format!("scale{range}{}", map_name(site))), || {
                block_scales(&levels, block, weight_of_slice)
            })?;
        let op = product(&levels, bits, block, accuracy);
        let operands = [site.x, codes, scales];
        products.push(match first {
            0 => scope.stand_in(site, op, &operands.map(Some))?,
            _ => scope.apply_typed(op, &site.value_name(&format!("bits{range}")), &operands, site.ty())?,
        });
        first = last;
    }
    let sum = match products.as_slice() {
        [product] => *product,
        products => scope.apply(Op::Variadic(Variadic::Sum), &site.value_name("slices"), products)?,
    };
    let offsets = levels.offsets(std::iter::repeat(zero_point));
    correct_product(scope, site, &levels, sum, &offsets)
}

/// What tells the names of constants of the map in force from those of the others; empty for the first.
fn map_name(site: &Site) -> String {
    let (maps, in_force) = (site.weight.maps(), site.weight.map(site.width));
    let own = maps.iter().skip(1).find(|(_, map)| std::ptr::eq(*map, in_force));
    own.map_or_else(String::new, |(width, _)| format!(".r{width}"))
}

fn default_zero_point(bits: u8) -> f64 {
    f64::from(1u8 << (bits - 1))
}

fn product(levels: &Levels, bits: u8, block: usize, accuracy: AccuracyLevel) -> Op {
    let attributes = [
        ("K", levels.cols as i64),
        ("N", levels.rows as i64),
        ("bits", i64::from(bits)),
        ("block_size", block as i64),
        ("accuracy_level", accuracy.attribute()),
    ];
    let attributes: BTreeMap<_, _> = attributes.map(|(name, n)| (name.to_owned(), Attribute::Int(n))).into();
    Op::Opaque(Opaque {
        domain: "com.microsoft".to_owned(),
        op_type: "MatMulNBits".to_owned(),
        overload: String::new(),
        attributes,
    })
}

/// The largest block that lies within one group. Groups over the limit, and rows, repeat their scale.
fn block_size(site: &Site) -> Result<usize, Error> {
    let (cols, grouping) = (site.weight.cols(), site.weight.grouping());
    if grouping.groups(cols) == 1 {
        return Ok(if cols < LARGEST_BLOCK { 32 } else { LARGEST_BLOCK });
    }
    let group = grouping.size(cols);
    let block = (1 << group.trailing_zeros()).min(LARGEST_BLOCK);
    if block < SMALLEST_BLOCK {
        return Err(site.error(format!(
            "{FORMAT} has blocks of at least {SMALLEST_BLOCK} weights, found a group size of {group}; compile with one \
             that is a multiple of {SMALLEST_BLOCK}, or export as qdq"
        )));
    }
    Ok(block)
}

/// [N, blocks].
fn block_scales(levels: &Levels, block: usize, factor: f32) -> Result<Tensor, Error> {
    let blocks = levels.cols.div_ceil(block);
    let scale = |at: usize| {
        factor * levels.scale[at / blocks * levels.groups + at % blocks * block / levels.group_len]
    };
    let scales: Vec<f32> = (0..levels.rows * blocks).map(scale).collect();
    Ok(Tensor::from_f32(vec![levels.rows, blocks], &scales)?)
}
