//! What a node costs on a device: bytes over bandwidth, operations over peak, and the start of the node.

mod device;
#[cfg(test)]
mod tests;

pub use device::{Device, Devices};

use mqc_ir::op::{Binary, Unary};
use mqc_ir::{Dim, Op, Type};

use crate::facts::Fact;
use crate::{FuseOptions, rules};

/// Operations of a function such as exp, when it is computed in vectors.
const FUNCTION: f64 = 16.0;

/// Nanoseconds of a node with operands and outputs of these types; nothing for what is computed before the model runs.
pub fn node(op: &Op, operands: &[&Fact], outputs: &[Type], constant: bool, options: &FuseOptions) -> f64 {
    let device = &options.device;
    let work = match constant {
        true => Work::None,
        false => work(op, operands, outputs, options),
    };
    let result: f64 = outputs.iter().map(|ty| bytes(ty, options)).sum();
    let moved = |operands: &[&Fact]| {
        let of = |constant: bool| -> f64 {
            let chosen = operands.iter().filter(|f| f.constant == constant);
            chosen.filter_map(|f| f.types.first()).map(|ty| bytes(ty, options)).sum()
        };
        1e9 * (of(true) / device.memory_bytes + (of(false) + result) / device.cache_bytes)
    };
    match work {
        Work::None => 0.0,
        Work::View => device.view_ns * outputs.len() as f64,
        Work::Elements(operations) => {
            let elements: f64 = outputs.first().map_or(0.0, |ty| elements(ty, options));
            device.node_ns + moved(operands) + 1e9 * operations * elements / device.elementwise
        }
        Work::Nodes(nodes) => {
            let elements: f64 = outputs.first().map_or(0.0, |ty| elements(ty, options));
            nodes * (device.node_ns + moved(operands) + 1e9 * elements / device.elementwise)
        }
        Work::Rows => device.node_ns * outputs.len() as f64 + 2e9 * result / device.cache_bytes,
        Work::Product(operations) => {
            device.node_ns + moved(operands) + 1e9 * operations / device.float_products
        }
        Work::Nested(operations, skipped) => {
            let read = &operands[..operands.len() - skipped.min(operands.len())];
            device.node_ns + moved(read) + 1e9 * operations / device.nested_products
        }
        Work::Finish(operations) => {
            let elements: f64 = outputs.first().map_or(0.0, |ty| elements(ty, options));
            let read: f64 =
                operands.iter().skip(1).filter_map(|f| f.types.first()).map(|ty| bytes(ty, options)).sum();
            1e9 * (read / device.cache_bytes + operations * elements / device.elementwise)
        }
    }
}

/// What a node does.
enum Work {
    /// Nothing at run time.
    None,
    /// Another shape of the same elements.
    View,
    /// So many operations for each element of the result; all operands are read.
    Elements(f64),
    /// So many nodes of one operation for each element of the result.
    Nodes(f64),
    /// As much is read of the operands as is written, output by output.
    Rows,
    /// So many operations in all.
    Product(f64),
    /// So many operations in all; the last so many operands are not read.
    Nested(f64, usize),
    /// So many operations for each element of a product, the first operand, before it is stored.
    Finish(f64),
}

fn work(op: &Op, operands: &[&Fact], outputs: &[Type], options: &FuseOptions) -> Work {
    let ty = |slot: usize| operands.get(slot).and_then(|f| f.types.first());
    let result = outputs.first().map_or(0.0, |ty| elements(ty, options));
    let last = |slot: usize| {
        let dim = ty(slot).and_then(Type::shape).and_then(<[Dim]>::last);
        dim.map_or(1.0, |dim| size(dim, options))
    };
    // Operations for each element of the result, when every element of an operand takes so many.
    let each_input = |operations: f64| {
        let input = ty(0).map_or(0.0, |ty| elements(ty, options));
        Work::Elements(operations * input / result.max(1.0))
    };
    // Planes behind those of the width are not read.
    let skipped = |first: usize, mode: mqc_ir::quant::SliceMode| {
        operands.len().saturating_sub(first).saturating_sub(mode.planes_read(options.width))
    };
    match op {
        Op::Input | Op::Weight(_) | Op::Constant(_) => Work::None,
        Op::Identity
        | Op::Reshape { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. }
        | Op::Shape { .. }
        | Op::Size
        | Op::Dropout { .. } => Work::View,
        Op::Unary(kind) => Work::Elements(unary(*kind)),
        Op::Binary(Binary::Pow | Binary::Mod | Binary::Fmod) => Work::Elements(FUNCTION),
        Op::Binary(Binary::Div) => Work::Elements(4.0),
        Op::Binary(_)
        | Op::Compare(_)
        | Op::Variadic(_)
        | Op::Select
        | Op::Clip
        | Op::LeakyRelu { .. }
        | Op::HardSigmoid { .. }
        | Op::Cast { .. }
        | Op::ConstantOfShape { .. }
        | Op::Range
        | Op::NestedQuantize(_)
        | Op::SliceBits { .. } => Work::Elements(1.0),
        Op::Opaque(opaque) => match (opaque.domain.as_str(), opaque.op_type.as_str()) {
            (rules::DOMAIN, "Attention") => {
                let positions = ty(1).and_then(Type::shape).and_then(|s| s.get(1)).map(|d| size(d, options));
                let rows = result / last(2).max(1.0);
                Work::Product(2.0 * rows * positions.unwrap_or(1.0) * (last(0) + last(2)))
            }
            (rules::DOMAIN, "Rotary") => Work::Elements(4.0),
            (rules::DOMAIN, "RmsNorm") => Work::Elements(5.0),
            (rules::DOMAIN, "LayerNorm") => Work::Elements(8.0),
            (rules::DOMAIN, rules::EPILOGUE) => match opaque.attributes.contains_key("activation") {
                true => Work::Finish(FUNCTION),
                false => Work::Finish(1.0),
            },
            _ => Work::Elements(1.0),
        },
        Op::Dequantize { .. } => Work::Elements(2.0),
        Op::FakeSlice { .. } => Work::Elements(6.0),
        Op::Elu { .. } | Op::Gelu { .. } => Work::Elements(FUNCTION),
        Op::Reduce { .. } | Op::GlobalAveragePool | Op::GlobalMaxPool => each_input(1.0),
        Op::Softmax { .. } | Op::LogSoftmax { .. } => Work::Elements(FUNCTION + 4.0),
        Op::BatchNormalization { .. } => Work::Elements(2.0),
        // tract spells them out, up to a node for each operation.
        Op::LayerNormalization { .. } if options.session => Work::Nodes(8.0),
        Op::RmsNormalization { .. } if options.session => Work::Nodes(5.0),
        Op::LayerNormalization { .. } => Work::Elements(8.0),
        Op::RmsNormalization { .. } => Work::Elements(5.0),
        // Parts of one row lie in it as they are.
        Op::Split { axis, .. } => match is_one_row(ty(0), *axis, options) {
            true => Work::View,
            false => Work::Rows,
        },
        Op::Transpose { .. }
        | Op::Expand
        | Op::Slice
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::GatherElements { .. }
        | Op::GatherNd { .. }
        | Op::ScatterElements { .. }
        | Op::ScatterNd { .. }
        | Op::Tile
        | Op::NestedGather(_) => Work::Rows,
        Op::MatMul | Op::Gemm { .. } => Work::Product(2.0 * result * last(0)),
        Op::Conv(_) => {
            let weight = ty(1).map_or(0.0, |ty| elements(ty, options));
            let rows = ty(1).and_then(Type::shape).and_then(<[Dim]>::first);
            let rows = rows.map_or(1.0, |dim| size(dim, options)).max(1.0);
            Work::Product(2.0 * result * weight / rows)
        }
        Op::MaxPool { window, .. } | Op::AveragePool { window, .. } => {
            Work::Elements(window.kernel_shape.iter().map(|k| *k as f64).product())
        }
        Op::NestedMatMul(nested) => Work::Nested(2.0 * result * nested.cols as f64, skipped(4, nested.mode)),
        Op::NestedConv { nested, .. } => {
            Work::Nested(2.0 * result * nested.cols as f64, skipped(5, nested.mode))
        }
    }
}

fn unary(kind: Unary) -> f64 {
    match kind {
        Unary::Abs
        | Unary::BitwiseNot
        | Unary::Ceil
        | Unary::Floor
        | Unary::IsNan
        | Unary::Neg
        | Unary::Not
        | Unary::Relu
        | Unary::Round
        | Unary::Sign => 1.0,
        Unary::HardSwish | Unary::Reciprocal | Unary::Softsign | Unary::Sqrt => 4.0,
        Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::Cos
        | Unary::Cosh
        | Unary::Erf
        | Unary::Exp
        | Unary::Log
        | Unary::Mish
        | Unary::Sigmoid
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Tan
        | Unary::Tanh => FUNCTION,
    }
}

/// Whether no dimension before the axis has more than one place.
fn is_one_row(ty: Option<&Type>, axis: i64, options: &FuseOptions) -> bool {
    let Some(dims) = ty.and_then(Type::shape) else { return false };
    let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
    let before = usize::try_from(axis).ok().and_then(|axis| dims.get(..axis));
    before.is_some_and(|dims| dims.iter().all(|dim| size(dim, options) <= 1.0))
}

fn size(dim: &Dim, options: &FuseOptions) -> f64 {
    let size = match dim {
        Dim::Size(size) => *size,
        Dim::Symbol(name) => options.symbols.get(&**name).copied().unwrap_or(options.unknown_size),
        Dim::Unknown => options.unknown_size,
    };
    size as f64
}

fn elements(ty: &Type, options: &FuseOptions) -> f64 {
    ty.shape().map_or(options.unknown_size as f64, |dims| dims.iter().map(|dim| size(dim, options)).product())
}

fn bytes(ty: &Type, options: &FuseOptions) -> f64 {
    let bits = ty.dtype().and_then(mqc_ir::DType::bits).unwrap_or(64);
    elements(ty, options) * bits as f64 / 8.0
}
