//! What integer zero points miss.
//!
//! A format dequantizes `scale (level - z)` with an integer z, the weight is `scale (level - zero)`: per row n and group g
//! they differ by the constant `D[n, g] = scale (z - zero)`. With the 0/1 matrix S [K, G] of which column is in which
//! group, `x W^T = x Q^T + (x S) D^T`: a product of rank G, in f32. Products of one x share x S.

use mqc_ir::op::Binary;
use mqc_ir::{Op, Tensor, Value};

use super::levels::Levels;
use super::site::{Scope, Site};
use super::transpose::transposed;
use crate::Error;

/// `product` plus what it misses; `offsets` is D.
pub fn correct_product(
    scope: &mut Scope,
    site: &Site,
    levels: &Levels,
    product: Value,
    offsets: &[f32],
) -> Result<Value, Error> {
    if offsets.iter().all(|d| *d == 0.0) {
        return Ok(product);
    }
    let key = (site.x, levels.group_len);
    let sums = match scope.group_sums.get(&key) {
        Some(&sums) => sums,
        None => {
            let indicator = group_indicator(scope, levels)?;
            let sums = scope.apply(Op::MatMul, &site.value_name("group_sums"), &[site.x, indicator])?;
            scope.group_sums.insert(key, sums);
            sums
        }
    };
    let (rows, groups) = (levels.rows, levels.groups);
    let offsets = scope.constant(&site.constant_name(&format!("correction{}", levels.bits)), || {
        Ok(Tensor::from_f32(vec![groups, rows], &transposed(offsets, rows, groups))?)
    })?;
    let correction = scope.apply(Op::MatMul, &site.value_name("correction"), &[sums, offsets])?;
    scope.apply(Op::Binary(Binary::Add), &site.value_name("corrected"), &[product, correction])
}

/// `weight` plus what it misses: D [N, 1, ..] broadcasts to it, or D [N, G] is spread over the columns of [N, K].
pub fn correct_weight(
    scope: &mut Scope,
    site: &Site,
    levels: &Levels,
    weight: Value,
    rank: usize,
    offsets: &[f32],
) -> Result<Value, Error> {
    if offsets.iter().all(|d| *d == 0.0) {
        return Ok(weight);
    }
    let mut shape = vec![levels.rows, levels.groups];
    shape.resize(rank, 1);
    let mut offsets =
        scope.constant(&site.constant_name("correction"), || Ok(Tensor::from_f32(shape, offsets)?))?;
    if levels.groups > 1 {
        let spread = group_spread(scope, levels)?;
        offsets = scope.apply(Op::MatMul, &site.value_name("correction"), &[offsets, spread])?;
    }
    scope.apply(Op::Binary(Binary::Add), &site.value_name("corrected"), &[weight, offsets])
}

/// S [K, G]: 1 where the column is in the group.
fn group_indicator(scope: &mut Scope, levels: &Levels) -> Result<Value, Error> {
    let (cols, groups, len) = (levels.cols, levels.groups, levels.group_len);
    scope.constant(&format!("group_sum_{cols}_by_{len}"), || {
        let value = |at: usize| if at / groups / len == at % groups { 1.0 } else { 0.0 };
        Ok(Tensor::from_f32(vec![cols, groups], &(0..cols * groups).map(value).collect::<Vec<f32>>())?)
    })
}

/// The transpose of S, [G, K]: a product with it repeats what a group has for each of its columns.
pub fn group_spread(scope: &mut Scope, levels: &Levels) -> Result<Value, Error> {
    let (cols, groups, len) = (levels.cols, levels.groups, levels.group_len);
    scope.constant(&format!("group_spread_{cols}_by_{len}"), || {
        let value = |at: usize| if at % cols / len == at / cols { 1.0 } else { 0.0 };
        Ok(Tensor::from_f32(vec![groups, cols], &(0..cols * groups).map(value).collect::<Vec<f32>>())?)
    })
}
