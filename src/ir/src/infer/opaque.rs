//! Operators that stay ONNX nodes: the only place where inference looks at the name of an operator.
//!
//! A table of what is common and cheap. Where nothing is certain the declared type stays.

use super::control;
use super::product::matmul_shape;
use super::site::{Shape, Site, axis, dim, tensor, unknown};
use super::symbolic::Expr;
use crate::op::Opaque;
use crate::{Attribute, DType, Dim, Type};

const MICROSOFT: &str = "com.microsoft";

/// The element type of an ONNX `TensorProto.DataType` number, as attributes like `dtype` hold it.
pub(super) fn element_type(code: i64) -> Option<DType> {
    Some(match code {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        8 => DType::String,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        14 => DType::C64,
        15 => DType::C128,
        16 => DType::Bf16,
        17 => DType::F8E4M3FN,
        18 => DType::F8E4M3FNUZ,
        19 => DType::F8E5M2,
        20 => DType::F8E5M2FNUZ,
        21 => DType::U4,
        22 => DType::I4,
        23 => DType::F4E2M1,
        24 => DType::F8E8M0,
        25 => DType::U2,
        26 => DType::I2,
        27 => DType::F6E2M3,
        28 => DType::F6E3M2,
        _ => return None,
    })
}

/// Types of the first outputs; the others, and unknown ones, keep what is declared.
pub(super) fn outputs(site: &Site, op: &Opaque) -> Vec<Type> {
    if !matches!(op.domain.as_str(), "" | "ai.onnx" | MICROSOFT) {
        return vec![];
    }
    let like = |slot: usize| site.ty(slot).clone();
    let shaped =
        |dtype: Option<DType>, slot: usize| tensor(dtype, site.ty(slot).shape().map(<[Dim]>::to_vec));
    match op.op_type.as_str() {
        "InstanceNormalization"
        | "GroupNormalization"
        | "SkipGroupNorm"
        | "LRN"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Trilu"
        | "CumSum"
        | "CumProd"
        | "Selu"
        | "Celu"
        | "ThresholdedRelu"
        | "Shrink"
        | "Hardmax"
        | "Swish"
        | "ReverseSequence"
        | "BatchNormalization"
        | "Gelu"
        | "Softmax"
        | "LogSoftmax"
        | "Clip"
        | "Dropout"
        | "ImageScaler"
        | "LayerNormalization"
        | "SimplifiedLayerNormalization"
        | "SkipLayerNormalization"
        | "SkipSimplifiedLayerNormalization"
        | "FastGelu"
        | "QuickGelu"
        | "BiasGelu"
        | "RotaryEmbedding" => vec![like(0)],
        "IsInf" => vec![shaped(Some(DType::Bool), 0)],
        "CastLike" => vec![shaped(site.ty(1).dtype(), 0)],
        "EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" => {
            let dtype = int(op, "dtype").and_then(element_type).or(site.ty(0).dtype());
            vec![shaped(dtype, 0)]
        }
        "QuantizeLinear" => {
            let given = int(op, "output_dtype").and_then(element_type);
            vec![shaped(site.ty(2).dtype().or(given).or(site.value(2).is_none().then_some(DType::U8)), 0)]
        }
        "DequantizeLinear" => {
            let given = int(op, "output_dtype").and_then(element_type);
            vec![shaped(given.or(site.ty(1).dtype()), 0)]
        }
        "DynamicQuantizeLinear" => vec![
            shaped(Some(DType::U8), 0),
            Type::tensor(DType::F32, vec![]),
            Type::tensor(DType::U8, vec![]),
        ],
        "MatMulInteger" => vec![tensor(Some(DType::I32), product_shape(site, 0, 1))],
        "QLinearMatMul" => vec![tensor(site.ty(7).dtype(), product_shape(site, 0, 3))],
        "MatMulNBits" => vec![tensor(site.ty(0).dtype(), with_last(site, int(op, "N")))],
        "ArgMax" | "ArgMin" => {
            let (at, keepdims) = (int(op, "axis").unwrap_or(0), int(op, "keepdims").unwrap_or(1) != 0);
            vec![tensor(Some(DType::I64), without_axis(site, at, keepdims))]
        }
        "TopK" => {
            let shape = top_k(site, int(op, "axis").unwrap_or(-1), int(op, "k"));
            vec![tensor(site.ty(0).dtype(), shape.clone()), tensor(Some(DType::I64), shape)]
        }
        "NonZero" => {
            let rank = site.ty(0).rank().map_or(Dim::Unknown, |r| Dim::Size(r as u64));
            vec![Type::tensor(DType::I64, vec![rank, Dim::Unknown])]
        }
        "OneHot" => vec![tensor(site.ty(2).dtype(), one_hot(site, int(op, "axis").unwrap_or(-1)))],
        "DepthToSpace" => vec![tensor(site.ty(0).dtype(), blocks(site, int(op, "blocksize"), true))],
        "SpaceToDepth" => vec![tensor(site.ty(0).dtype(), blocks(site, int(op, "blocksize"), false))],
        "LSTM" => recurrent(site, op, 3),
        "GRU" | "RNN" => recurrent(site, op, 2),
        // Forms that are too old, or too odd, to be operations of their own.
        "Reshape" | "Squeeze" | "Unsqueeze" | "Slice" | "Pad" | "Tile" | "Concat" | "Split" => {
            vec![tensor(site.ty(0).dtype(), None); site.node.outputs.len()]
        }
        "Upsample" | "Resize" | "ConvTranspose" => {
            let rank = site.ty(0).rank();
            vec![tensor(site.ty(0).dtype(), rank.map(unknown))]
        }
        "If" => control::if_outputs(site, op),
        "Loop" => control::loop_outputs(site),
        "Scan" => control::scan_outputs(site, op),
        _ => vec![],
    }
}

/// Types of the inputs of a body that are not captured, as the operands of the node tell them.
pub(super) fn body_inputs(site: &Site, op: &Opaque, count: usize) -> Vec<Type> {
    match (op.domain.as_str(), op.op_type.as_str()) {
        ("" | "ai.onnx", "Loop") => control::loop_inputs(site, count),
        ("" | "ai.onnx", "Scan") => control::scan_inputs(site, op, count),
        _ => vec![],
    }
}

pub(super) fn int(op: &Opaque, name: &str) -> Option<i64> {
    match op.attributes.get(name)? {
        Attribute::Int(value) => Some(*value),
        _ => None,
    }
}

pub(super) fn ints(op: &Opaque, name: &str) -> Option<Vec<i64>> {
    match op.attributes.get(name)? {
        Attribute::Ints(values) => Some(values.clone()),
        _ => None,
    }
}

fn shape(site: &Site, slot: usize) -> Shape {
    site.ty(slot).shape().map(<[Dim]>::to_vec)
}

fn product_shape(site: &Site, a: usize, b: usize) -> Shape {
    matmul_shape(&shape(site, a), &shape(site, b)).ok().flatten()
}

fn size(value: Option<Expr>) -> Dim {
    dim(value).unwrap_or(Dim::Unknown)
}

fn with_last(site: &Site, last: Option<i64>) -> Shape {
    let mut dims = shape(site, 0)?;
    *dims.last_mut()? = size(last.map(Expr::from));
    Some(dims)
}

fn without_axis(site: &Site, at: i64, keepdims: bool) -> Shape {
    let mut dims = shape(site, 0)?;
    let at = axis(at, dims.len()).ok()?;
    if keepdims {
        dims[at] = Dim::Size(1);
    } else {
        dims.remove(at);
    }
    Some(dims)
}

fn top_k(site: &Site, at: i64, attribute: Option<i64>) -> Shape {
    let mut dims = shape(site, 0)?;
    let at = axis(at, dims.len()).ok()?;
    let operand = site.ints(1).filter(|i| i.items.len() == 1).and_then(|i| i.items[0].clone());
    dims[at] = size(attribute.map(Expr::from).or(operand));
    Some(dims)
}

fn one_hot(site: &Site, at: i64) -> Shape {
    let mut dims = shape(site, 0)?;
    let at = axis(at, dims.len() + 1).ok()?;
    let depth = site.ints(1).filter(|i| i.items.len() == 1).and_then(|i| i.items[0].clone());
    dims.insert(at, size(depth));
    Some(dims)
}

/// [B, C, H, W] with blocks of pixels moved between the channels and the plane.
fn blocks(site: &Site, block: Option<i64>, to_space: bool) -> Shape {
    let dims = shape(site, 0)?;
    let [batch, channels, rows, cols] = dims.as_slice() else {
        return None;
    };
    let block = Expr::from(block.filter(|b| *b > 0)?);
    let area = block.mul(&block)?;
    let grow = |d: &Dim, by: &Expr| size(Expr::of(d).and_then(|d| d.mul(by)));
    let shrink = |d: &Dim, by: &Expr| size(Expr::of(d).and_then(|d| d.floor_div(by)));
    Some(if to_space {
        vec![batch.clone(), shrink(channels, &area), grow(rows, &block), grow(cols, &block)]
    } else {
        vec![batch.clone(), grow(channels, &area), shrink(rows, &block), shrink(cols, &block)]
    })
}

/// Y [seq, directions, batch, hidden] and `count - 1` last states [directions, batch, hidden]; with `layout` 1 batch is first.
fn recurrent(site: &Site, op: &Opaque, count: usize) -> Vec<Type> {
    let at =
        |slot: usize, i: usize| site.ty(slot).shape().and_then(|s| s.get(i)).cloned().unwrap_or(Dim::Unknown);
    let (first, second) = (at(0, 0), at(0, 1));
    let directions = match op.attributes.get("direction") {
        Some(Attribute::String(text)) if text.0 == b"bidirectional" => Dim::Size(2),
        Some(_) | None => Dim::Size(1),
    };
    let hidden = int(op, "hidden_size").map_or_else(|| at(2, 2), |h| size(Some(Expr::from(h))));
    let (sequence, state) = if int(op, "layout") == Some(1) {
        (vec![first.clone(), second, directions.clone(), hidden.clone()], vec![first, directions, hidden])
    } else {
        (vec![first, directions.clone(), second.clone(), hidden.clone()], vec![directions, second, hidden])
    };
    let dtype = site.ty(0).dtype();
    let mut types = vec![tensor(dtype, Some(sequence))];
    types.resize(count, tensor(dtype, Some(state)));
    types
}
