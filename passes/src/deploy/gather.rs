//! Rows of a table of packed codes: only the rows that are asked for are unpacked and dequantized.
//!
//! `codes [V, bytes]` u8, low bits first: Gather, shift and take the remainder, cast to f32, subtract the zero point that is
//! not rounded, multiply by the scale. All of it is standard operators on types that every runtime has.

use mqc_ir::op::Binary;
use mqc_ir::{DType, Op, Tensor, Value};

use super::correction::group_spread;
use super::levels::{Levels, pack_rows};
use super::site::{Scope, Site};
use crate::Error;

/// The replacement of a NestedGather, over rows of whole bytes or of blocks of `block` codes.
pub fn lower(scope: &mut Scope, site: &Site, block: Option<usize>) -> Result<Value, Error> {
    let levels = Levels::read(site, "an integer table")?;
    let padded = levels.cols.next_multiple_of(block.unwrap_or(usize::from(8 / levels.bits)));
    let codes = packed_codes(scope, site, &levels, block)?;
    let mut rows = scope.apply(Op::Gather { axis: 0 }, &site.value_name("codes"), &[codes, site.x])?;
    if levels.bits < 8 {
        rows = unpack(scope, site, &levels, rows)?;
    }
    if levels.bits < 8 || block.is_some() {
        rows = flatten(scope, site, rows, padded)?;
    }
    if padded > levels.cols {
        let [from, to, axis] = [0, levels.cols as i64, -1].map(|n| Tensor::i64_vector(&[n]));
        let from = scope.constant("slice_from_start", || Ok(from))?;
        let to = scope.constant(&format!("slice_to_{}", levels.cols), || Ok(to))?;
        let axis = scope.constant("last_axis", || Ok(axis))?;
        rows = scope.apply(Op::Slice, &site.value_name("unpadded"), &[rows, from, to, axis])?;
    }
    let cast = Op::Cast { to: DType::F32, saturate: true };
    let rows = scope.apply(cast, &site.value_name("levels"), &[rows])?;
    let zero: Vec<f32> = levels.zero.iter().map(|z| *z as f32).collect();
    let zero = map_rows(scope, site, &levels, "row_zeros", &zero)?;
    let scale = map_rows(scope, site, &levels, "row_scales", &levels.scale)?;
    let centred = scope.apply(Op::Binary(Binary::Sub), &site.value_name("centred"), &[rows, zero])?;
    scope.stand_in(site, Op::Binary(Binary::Mul), &[Some(centred), Some(scale)])
}

/// u8 [V, bytes], or [V, blocks, bytes] as MatMulNBits has it.
pub fn packed_codes(
    scope: &mut Scope,
    site: &Site,
    levels: &Levels,
    block: Option<usize>,
) -> Result<Value, Error> {
    scope.constant(&site.constant_name("codes"), || {
        let (cols, bits) = (levels.cols, usize::from(levels.bits));
        let shape = match block {
            Some(block) => vec![levels.rows, cols.div_ceil(block), block * bits / 8],
            None => vec![levels.rows, (cols * bits).div_ceil(8)],
        };
        let bytes = pack_rows(&levels.levels, cols, levels.bits, block.unwrap_or(8 / bits));
        Ok(Tensor::new(DType::U8, shape, bytes.into())?)
    })
}

/// u8 [.., bytes] to integers u8 [.., bytes, integers of a byte].
fn unpack(scope: &mut Scope, site: &Site, levels: &Levels, bytes: Value) -> Result<Value, Error> {
    let bits = levels.bits;
    let axis = scope.constant("last_axis", || Ok(Tensor::i64_vector(&[-1])))?;
    let apart = scope.apply(Op::Unsqueeze { axes: None }, &site.value_name("bytes"), &[bytes, axis])?;
    let shifts: Vec<u8> = (0..8 / bits).map(|i| i * bits).collect();
    let shifts = scope.constant(&format!("shifts_{bits}"), || {
        Ok(Tensor::new(DType::U8, vec![shifts.len()], shifts.into())?)
    })?;
    let shifted =
        scope.apply(Op::Binary(Binary::ShiftRight), &site.value_name("shifted"), &[apart, shifts])?;
    let modulus = scope.constant(&format!("modulus_{bits}"), || {
        Ok(Tensor::new(DType::U8, vec![], vec![1u8 << bits].into())?)
    })?;
    scope.apply(Op::Binary(Binary::Mod), &site.value_name("integers"), &[shifted, modulus])
}

/// To [indices.., len].
fn flatten(scope: &mut Scope, site: &Site, rows: Value, len: usize) -> Result<Value, Error> {
    let shape =
        scope.apply(Op::Shape { start: 0, end: None }, &site.value_name("indices_shape"), &[site.x])?;
    let len = scope.constant(&format!("row_of_{len}"), || Ok(Tensor::i64_vector(&[len as i64])))?;
    let shape = scope.apply(Op::Concat { axis: 0 }, &site.value_name("rows_shape"), &[shape, len])?;
    scope.apply(Op::Reshape { allowzero: false }, &site.value_name("rows"), &[rows, shape])
}

/// What the rows asked for have of `values` [V, G], for each of their columns.
fn map_rows(
    scope: &mut Scope,
    site: &Site,
    levels: &Levels,
    what: &str,
    values: &[f32],
) -> Result<Value, Error> {
    let table = scope.constant(&site.constant_name(what), || {
        Ok(Tensor::from_f32(vec![levels.rows, levels.groups], values)?)
    })?;
    let rows = scope.apply(Op::Gather { axis: 0 }, &site.value_name(what), &[table, site.x])?;
    if levels.groups == 1 {
        return Ok(rows);
    }
    let spread = group_spread(scope, levels)?;
    scope.apply(Op::MatMul, &site.value_name(&format!("{what}_spread")), &[rows, spread])
}
