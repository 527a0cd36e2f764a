//! Operation -> ONNX node.

use std::ops::Range;

use mqc_ir::Op;
use mqc_ir::op::{AutoPad, Binary, GeluKind, Nested, Opaque, PadMode, ScatterReduction, Window};

use super::NESTED_DOMAIN;
use super::attributes::Writer;
use super::names::{Named, axes_operand_since};
use super::read::softmax_axis;
use crate::{Error, tensors};

/// Where a node is written.
pub(super) struct Target<'a> {
    /// Number of its inputs.
    pub inputs: usize,
    /// ONNX operator set of the model.
    pub opset: i64,
    /// Its name, for errors.
    pub node: &'a str,
}

impl Target<'_> {
    /// A node of ONNX's own domain that is there from opset `since` on.
    fn node(&self, op_type: &'static str, since: i64, attributes: Writer) -> Result<Opaque, Error> {
        self.check(op_type, since..i64::MAX)?;
        Ok(Opaque {
            domain: String::new(),
            op_type: op_type.to_owned(),
            overload: String::new(),
            attributes: attributes.0,
        })
    }

    /// Whether the model's opset has `form`.
    fn check(&self, form: &'static str, opsets: Range<i64>) -> Result<(), Error> {
        if opsets.contains(&self.opset) {
            return Ok(());
        }
        let (node, found) = (self.node.to_owned(), self.opset);
        Err(match self.opset < opsets.start {
            true => Error::OpsetTooOld { node, form, found, since: opsets.start },
            false => Error::OpsetTooNew { node, form, found, until: opsets.end },
        })
    }

    fn dialect(&self, op: &'static str) -> Error {
        Error::Dialect { node: self.node.to_owned(), op }
    }

    fn number(&self, field: &'static str, value: u64) -> Result<i64, Error> {
        i64::try_from(value).map_err(|_| Error::TooLargeNumber {
            node: self.node.to_owned(),
            field,
            found: value,
        })
    }
}

pub(super) fn write(op: &Op, to: &Target) -> Result<Opaque, Error> {
    let a = Writer::default();
    match op {
        Op::Input | Op::Weight(_) => Err(to.dialect("a source")),
        Op::Constant(value) => to.node("Constant", 1, a.tensor("value", Some(value))),
        Op::Identity => to.node("Identity", 1, a),
        Op::Unary(unary) => named(*unary, to, a),
        Op::Binary(binary) => match binary {
            Binary::Fmod => named(*binary, to, a.flag("fmod", true, false)),
            Binary::ShiftLeft => named(*binary, to, a.text("direction", "LEFT")),
            Binary::ShiftRight => named(*binary, to, a.text("direction", "RIGHT")),
            Binary::Add
            | Binary::Sub
            | Binary::Mul
            | Binary::Div
            | Binary::Pow
            | Binary::Mod
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::BitwiseAnd
            | Binary::BitwiseOr
            | Binary::BitwiseXor
            | Binary::PRelu => named(*binary, to, a),
        },
        Op::Compare(compare) => named(*compare, to, a),
        Op::Variadic(variadic) => named(*variadic, to, a),
        Op::Select => to.node("Where", 9, a),
        Op::Clip => to.node("Clip", 11, a),
        Op::LeakyRelu { alpha } => to.node("LeakyRelu", 6, a.float("alpha", *alpha, 0.01)),
        Op::Elu { alpha } => to.node("Elu", 6, a.float("alpha", *alpha, 1.0)),
        Op::HardSigmoid { alpha, beta } => {
            to.node("HardSigmoid", 6, a.float("alpha", *alpha, 0.2).float("beta", *beta, 0.5))
        }
        Op::Cast { to: dtype, saturate } => {
            let number = i64::from(tensors::data_type(*dtype) as i32);
            let a = a.opt_int("to", Some(number)).flag("saturate", *saturate, true);
            to.node("Cast", if *saturate { 6 } else { 19 }, a)
        }
        Op::Reduce { kind, axes, keepdims, noop_with_empty_axes } => {
            let since = axes_operand_since(*kind);
            let (name, first) = kind.onnx();
            if axes.is_some() {
                to.check("a reduction with its axes as an attribute", first..since)?;
            }
            if to.inputs > 1 || *noop_with_empty_axes {
                to.check("a reduction with its axes as an operand", since..i64::MAX)?;
            }
            let a = a.opt_ints("axes", axes.as_deref()).flag("keepdims", *keepdims, true);
            to.node(name, first, a.flag("noop_with_empty_axes", *noop_with_empty_axes, false))
        }
        Op::Reshape { allowzero } => {
            to.node("Reshape", if *allowzero { 14 } else { 5 }, a.flag("allowzero", *allowzero, false))
        }
        Op::Transpose { perm } => to.node("Transpose", 1, a.opt_ints("perm", perm.as_deref())),
        Op::Expand => to.node("Expand", 8, a),
        Op::Squeeze { axes } => {
            let a = attribute_before_13("axes", axes.as_deref(), to, a)?;
            to.node("Squeeze", 1, a)
        }
        Op::Unsqueeze { axes } => {
            let a = attribute_before_13("axes", axes.as_deref(), to, a)?;
            to.node("Unsqueeze", 1, a)
        }
        Op::Flatten { axis } => to.node("Flatten", 1, a.int("axis", *axis, 1)),
        Op::Slice => to.node("Slice", 10, a),
        Op::Concat { axis } => to.node("Concat", 4, a.opt_int("axis", Some(*axis))),
        Op::Split { axis, sizes, num_outputs } => {
            let a = attribute_before_13("split", sizes.as_deref(), to, a)?;
            let a = a.int("axis", *axis, 0).opt_int("num_outputs", *num_outputs);
            to.node("Split", if num_outputs.is_some() { 18 } else { 2 }, a)
        }
        Op::Pad { mode } => {
            let since = if to.inputs > 3 { 18 } else { mode.onnx().1 };
            to.node("Pad", since, a.choice("mode", *mode, PadMode::Constant))
        }
        Op::Gather { axis } => to.node("Gather", 1, a.int("axis", *axis, 0)),
        Op::GatherElements { axis } => to.node("GatherElements", 11, a.int("axis", *axis, 0)),
        Op::GatherNd { batch_dims } => {
            to.node("GatherND", if *batch_dims == 0 { 11 } else { 12 }, a.int("batch_dims", *batch_dims, 0))
        }
        Op::ScatterElements { axis, reduction } => {
            let a = a.int("axis", *axis, 0).choice("reduction", *reduction, ScatterReduction::None);
            to.node("ScatterElements", scatter_since(*reduction), a)
        }
        Op::ScatterNd { reduction } => {
            let a = a.choice("reduction", *reduction, ScatterReduction::None);
            to.node("ScatterND", scatter_since(*reduction), a)
        }
        Op::Tile => to.node("Tile", 6, a),
        Op::Shape { start, end } => {
            let since = if *start == 0 && end.is_none() { 1 } else { 15 };
            to.node("Shape", since, a.int("start", *start, 0).opt_int("end", *end))
        }
        Op::Size => to.node("Size", 1, a),
        Op::ConstantOfShape { value } => to.node("ConstantOfShape", 9, a.tensor("value", value.as_ref())),
        Op::Range => to.node("Range", 11, a),
        Op::MatMul => to.node("MatMul", 1, a),
        Op::Conv(w) => to.node("Conv", 1, window(w, a)),
        Op::MaxPool { window: w, ceil_mode, storage_order } => {
            let since = match (*ceil_mode || !w.dilations.is_empty(), *storage_order) {
                (true, _) => 10,
                (false, 0) => 1,
                (false, _) => 8,
            };
            let a = window(w, a).flag("ceil_mode", *ceil_mode, false).int("storage_order", *storage_order, 0);
            to.node("MaxPool", since, a)
        }
        Op::AveragePool { window: w, ceil_mode, count_include_pad } => {
            let since = match (w.dilations.is_empty(), *ceil_mode) {
                (false, _) => 19,
                (true, true) => 10,
                (true, false) => 7,
            };
            let a = window(w, a).flag("ceil_mode", *ceil_mode, false);
            to.node("AveragePool", since, a.flag("count_include_pad", *count_include_pad, false))
        }
        Op::GlobalAveragePool => to.node("GlobalAveragePool", 1, a),
        Op::GlobalMaxPool => to.node("GlobalMaxPool", 1, a),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            let a = a.float("alpha", *alpha, 1.0).float("beta", *beta, 1.0);
            let a = a.flag("transA", *trans_a, false).flag("transB", *trans_b, false);
            to.node("Gemm", if to.inputs < 3 { 11 } else { 7 }, a)
        }
        Op::Softmax { axis, flatten } => softmax("Softmax", *axis, *flatten, to, a),
        Op::LogSoftmax { axis, flatten } => softmax("LogSoftmax", *axis, *flatten, to, a),
        Op::Gelu { approximate } => to.node("Gelu", 20, a.choice("approximate", *approximate, GeluKind::Erf)),
        Op::BatchNormalization { epsilon, momentum } => {
            let a = a.float("epsilon", *epsilon, 1e-5).float("momentum", *momentum, 0.9);
            to.node("BatchNormalization", 7, a)
        }
        Op::LayerNormalization { axis, epsilon, stash_type } => {
            let a =
                a.int("axis", *axis, -1).float("epsilon", *epsilon, 1e-5).int("stash_type", *stash_type, 1);
            to.node("LayerNormalization", 17, a)
        }
        Op::RmsNormalization { axis, epsilon, stash_type } => {
            let a =
                a.int("axis", *axis, -1).float("epsilon", *epsilon, 1e-5).int("stash_type", *stash_type, 1);
            to.node("RMSNormalization", 23, a)
        }
        Op::Dropout { seed } => {
            let since = if to.inputs > 1 || seed.is_some() { 12 } else { 7 };
            to.node("Dropout", since, a.opt_int("seed", *seed))
        }
        Op::NestedQuantize(_) => Err(to.dialect("nested_quantize")),
        Op::SliceBits { .. } => Err(to.dialect("slice_bits")),
        Op::Dequantize { .. } => Err(to.dialect("dequantize")),
        Op::FakeSlice { .. } => Err(to.dialect("fake_slice")),
        Op::NestedMatMul(n) => nested("NestedMatMul", n, to, a),
        Op::NestedGather(n) => nested("NestedGather", n, to, a),
        Op::NestedConv { nested: n, window: w, shape } => {
            let shape: Vec<_> =
                shape.iter().map(|size| to.number("shape", *size)).collect::<Result<_, _>>()?;
            nested("NestedConv", n, to, window(w, a).opt_ints("shape", Some(&shape)))
        }
        Op::Opaque(opaque) => Ok(opaque.clone()),
    }
}

fn named<T: Named>(value: T, to: &Target, a: Writer) -> Result<Opaque, Error> {
    let (name, since) = value.onnx();
    to.node(name, since, a)
}

/// A list that is an attribute before opset 13 and the second operand since.
fn attribute_before_13(
    name: &'static str,
    list: Option<&[i64]>,
    to: &Target,
    a: Writer,
) -> Result<Writer, Error> {
    if list.is_some() {
        to.check("axes or sizes as an attribute", 1..13)?;
    }
    if to.inputs > 1 {
        to.check("axes or sizes as an operand", 13..i64::MAX)?;
    }
    Ok(a.opt_ints(name, list))
}

fn scatter_since(reduction: ScatterReduction) -> i64 {
    if reduction == ScatterReduction::None { 11 } else { reduction.onnx().1 }
}

fn softmax(name: &'static str, axis: i64, flatten: bool, to: &Target, a: Writer) -> Result<Opaque, Error> {
    match flatten {
        true => to.check("a softmax over all axes from `axis` on", 1..13)?,
        false => to.check("a softmax over one axis", 13..i64::MAX)?,
    }
    to.node(name, 1, a.int("axis", axis, softmax_axis(to.opset)))
}

pub(super) fn window(w: &Window, a: Writer) -> Writer {
    a.choice("auto_pad", w.auto_pad, AutoPad::Notset)
        .ints("dilations", &w.dilations)
        .int("group", w.group.max(1), 1)
        .ints("kernel_shape", &w.kernel_shape)
        .ints("pads", &w.pads)
        .ints("strides", &w.strides)
}

fn nested(kind: &str, nested: &Nested, to: &Target, a: Writer) -> Result<Opaque, Error> {
    let size: Option<u32> = nested.grouping.into();
    let map_widths: Vec<i64> = nested.map_widths.iter().map(|width| width.bits().into()).collect();
    let a = a
        .text("layer", &nested.layer)
        .opt_int("group_size", size.map(i64::from))
        .opt_int("cols", Some(to.number("cols", nested.cols)?))
        .ints("map_widths", &map_widths);
    let op_type = format!("{kind}{}", nested.mode.onnx().0);
    Ok(Opaque { domain: NESTED_DOMAIN.to_owned(), op_type, overload: String::new(), attributes: a.0 })
}
