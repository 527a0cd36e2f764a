//! DequantizeLinear in front of MatMul and Conv.

use std::collections::BTreeMap;

use mqc_ir::op::{Opaque, Window};
use mqc_ir::{Attribute, DType, Dim, Op, Tensor, Type, Value};

use super::correction::{correct_product, correct_weight};
use super::float::conv_operands;
use super::levels::{Levels, pack, unsigned};
use super::site::{Scope, Site};
use super::transpose::transposed;
use crate::Error;

/// The weight of MatMul: codes [K, N], scales [N] or, for groups, [G, N]. From that form onnxruntime makes MatMulNBits.
pub fn matmul(scope: &mut Scope, site: &Site) -> Result<Value, Error> {
    let levels = Levels::read(site, "format qdq")?;
    let zero_points = levels.integer_zero_points();
    let (rows, cols, groups) = (levels.rows, levels.cols, levels.groups);
    // onnxruntime 1.32 gets the product wrong when a row of [K, N] does not end with a byte of 2-bit codes.
    let weight = if levels.bits == 2 && !rows.is_multiple_of(4) {
        let axis = Axis { axis: 1, groups: Some([rows, groups]) };
        let parts = Parts {
            codes: levels.levels.clone(),
            scale: levels.scale.clone(),
            zero_points: zero_points.clone(),
        };
        let weight = dequantize(scope, site, &levels, &[rows, cols], axis, parts)?;
        let swap = Op::Transpose { perm: Some(vec![1, 0]) };
        scope.apply(swap, &site.value_name("transposed"), &[weight])?
    } else {
        let parts = Parts {
            codes: transposed(&levels.levels, rows, cols),
            scale: transposed(&levels.scale, rows, groups),
            zero_points: transposed(&zero_points, rows, groups),
        };
        let axis = match groups {
            1 => Axis { axis: 1, groups: None },
            _ => Axis { axis: 0, groups: Some([groups, rows]) },
        };
        dequantize(scope, site, &levels, &[cols, rows], axis, parts)?
    };
    let product = scope.stand_in(site, Op::MatMul, &[Some(site.x), Some(weight)])?;
    let offsets = levels.offsets(zero_points.into_iter().map(f64::from));
    correct_product(scope, site, &levels, product, &offsets)
}

/// The weight of Conv: codes of its shape and scales [N], or for groups codes [N, K] and scales [N, G].
pub fn conv(
    scope: &mut Scope,
    site: &Site,
    window: &Window,
    shape: &[usize],
    bias: Option<Value>,
) -> Result<Value, Error> {
    let levels = Levels::read(site, "DequantizeLinear")?;
    let zero_points = levels.integer_zero_points();
    let offsets = levels.offsets(zero_points.iter().map(|z| f64::from(*z)));
    let parts = Parts { codes: levels.levels.clone(), scale: levels.scale.clone(), zero_points };
    let weight = if levels.groups == 1 {
        let weight = dequantize(scope, site, &levels, shape, Axis { axis: 0, groups: None }, parts)?;
        correct_weight(scope, site, &levels, weight, shape.len(), &offsets)?
    } else {
        let axis = Axis { axis: 1, groups: Some([levels.rows, levels.groups]) };
        let matrix = dequantize(scope, site, &levels, &[levels.rows, levels.cols], axis, parts)?;
        let matrix = correct_weight(scope, site, &levels, matrix, 2, &offsets)?;
        let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let shape = scope.constant(&site.constant_name("shape"), || Ok(Tensor::i64_vector(&shape)))?;
        scope.apply(Op::Reshape { allowzero: false }, &site.value_name("weight"), &[matrix, shape])?
    };
    scope.stand_in(site, Op::Conv(window.clone()), &conv_operands(site.x, weight, bias))
}

/// Codes, scales and zero points in the order in which DequantizeLinear reads them.
struct Parts {
    codes: Vec<u8>,
    scale: Vec<f32>,
    zero_points: Vec<u8>,
}

/// The axis along which scales differ; for groups, the shape of the scales, blocks lying along `axis`.
struct Axis {
    axis: i64,
    groups: Option<[usize; 2]>,
}

fn dequantize(
    scope: &mut Scope,
    site: &Site,
    levels: &Levels,
    shape: &[usize],
    axis: Axis,
    parts: Parts,
) -> Result<Value, Error> {
    let integers = |shape: &[usize], integers: &[u8]| {
        Tensor::new(unsigned(levels.bits), shape.to_vec(), pack(integers, levels.bits).into())
    };
    let maps = axis.groups.map_or(vec![levels.rows], |groups| groups.to_vec());
    let codes = scope.constant(&site.constant_name("integers"), || Ok(integers(shape, &parts.codes)?))?;
    let scale = scope
        .constant(&site.constant_name("scales"), || Ok(Tensor::from_f32(maps.clone(), &parts.scale)?))?;
    let zero_points =
        scope.constant(&site.constant_name("zero_points"), || Ok(integers(&maps, &parts.zero_points)?))?;
    let mut attributes = BTreeMap::from([("axis".to_owned(), Attribute::Int(axis.axis))]);
    if axis.groups.is_some() {
        attributes.insert("block_size".to_owned(), Attribute::Int(levels.group_len as i64));
    }
    let op = Opaque {
        domain: String::new(),
        op_type: "DequantizeLinear".to_owned(),
        overload: String::new(),
        attributes,
    };
    let ty = Type::tensor(DType::F32, shape.iter().map(|&d| Dim::Size(d as u64)).collect());
    scope.apply_typed(Op::Opaque(op), &site.value_name("dequantized"), &[codes, scale, zero_points], ty)
}
