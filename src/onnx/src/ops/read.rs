//! ONNX node -> operation. Forms and defaults: the operator schemas of onnx 1.23.2, all versions.

use std::ops::RangeInclusive;

use bytes::Bytes;
use mqc_ir::op::{AutoPad, Binary, GeluKind, Nested, PadMode, ScatterReduction, Window};
use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_ir::{DType, Op, Tensor};

use super::attributes::Reader;
use super::names::{Named, axes_operand_since};
use super::{Form, NESTED_DOMAIN};
use crate::proto::DataType;
use crate::tensors;

/// The operation that says all that the node says; `None` when there is none.
pub(super) fn read(form: &Form) -> Option<Op> {
    let attributes = &mut Reader::new(&form.attributes, form.opset);
    let op = match form.domain {
        "" => standard(form, attributes)?,
        NESTED_DOMAIN => nested(form, attributes)?,
        _ => return None,
    };
    attributes.all_understood().then_some(op)
}

/// Whether the node has so many inputs, all required ones (the least number) present, and so many outputs.
fn fits(form: &Form, inputs: RangeInclusive<usize>, outputs: RangeInclusive<usize>) -> bool {
    inputs.contains(&form.inputs.len())
        && form.inputs[..*inputs.start()].iter().all(|there| *there)
        && outputs.contains(&form.outputs)
}

fn standard(form: &Form, a: &mut Reader) -> Option<Op> {
    const ANY: usize = usize::MAX;
    let opset = form.opset;
    let takes = |inputs| fits(form, inputs, 1..=1);
    Some(match form.op_type {
        "Identity" if takes(1..=1) => Op::Identity,
        "Where" if takes(3..=3) => Op::Select,
        "Clip" if opset >= 11 && takes(1..=3) => Op::Clip,
        "LeakyRelu" if takes(1..=1) => Op::LeakyRelu { alpha: a.float("alpha", 0.01) },
        "Elu" if takes(1..=1) => Op::Elu { alpha: a.float("alpha", 1.0) },
        "HardSigmoid" if takes(1..=1) => {
            Op::HardSigmoid { alpha: a.float("alpha", 0.2), beta: a.float("beta", 0.5) }
        }
        "Gelu" if takes(1..=1) => Op::Gelu { approximate: a.choice("approximate", GeluKind::Erf) },
        "Mod" if takes(2..=2) => Op::Binary(if a.flag("fmod", false) { Binary::Fmod } else { Binary::Mod }),
        "BitShift" if takes(2..=2) => Op::Binary(match a.text("direction")?.0.as_slice() {
            b"LEFT" => Binary::ShiftLeft,
            b"RIGHT" => Binary::ShiftRight,
            _ => return None,
        }),
        "Cast" if takes(1..=1) => {
            if opset >= 24 && a.text("round_mode").is_some_and(|mode| mode.0 != b"up") {
                return None;
            }
            Op::Cast {
                to: element_type(a.required_int("to"))?,
                saturate: opset < 19 || a.flag("saturate", true),
            }
        }
        "Reshape" if takes(2..=2) => Op::Reshape { allowzero: opset >= 14 && a.flag("allowzero", false) },
        "Transpose" if takes(1..=1) => Op::Transpose { perm: a.ints("perm") },
        "Expand" if takes(2..=2) => Op::Expand,
        "Squeeze" if opset < 13 && takes(1..=1) => Op::Squeeze { axes: a.ints("axes") },
        "Squeeze" if opset >= 13 && takes(1..=2) => Op::Squeeze { axes: None },
        "Unsqueeze" if opset < 13 && takes(1..=1) => Op::Unsqueeze { axes: Some(a.ints("axes")?) },
        "Unsqueeze" if opset >= 13 && takes(2..=2) => Op::Unsqueeze { axes: None },
        "Flatten" if takes(1..=1) => Op::Flatten { axis: a.int("axis", 1) },
        "Slice" if opset >= 10 && takes(3..=5) => Op::Slice,
        "Concat" if takes(1..=ANY) && form.inputs.iter().all(|there| *there) => {
            Op::Concat { axis: a.required_int("axis") }
        }
        "Split" if opset < 13 && fits(form, 1..=1, 1..=ANY) => {
            Op::Split { axis: a.int("axis", 0), sizes: a.ints("split"), num_outputs: None }
        }
        "Split" if opset >= 13 && fits(form, 1..=2, 1..=ANY) => {
            let num_outputs = if opset >= 18 { a.opt_int("num_outputs") } else { None };
            Op::Split { axis: a.int("axis", 0), sizes: None, num_outputs }
        }
        "Pad" if opset >= 11 && takes(2..=if opset >= 18 { 4 } else { 3 }) => {
            Op::Pad { mode: a.choice("mode", PadMode::Constant) }
        }
        "Gather" if takes(2..=2) => Op::Gather { axis: a.int("axis", 0) },
        "GatherElements" if takes(2..=2) => Op::GatherElements { axis: a.int("axis", 0) },
        "GatherND" if takes(2..=2) => {
            Op::GatherNd { batch_dims: if opset >= 12 { a.int("batch_dims", 0) } else { 0 } }
        }
        "ScatterElements" if takes(3..=3) => Op::ScatterElements {
            axis: a.int("axis", 0),
            reduction: a.choice("reduction", ScatterReduction::None),
        },
        "ScatterND" if takes(3..=3) => {
            Op::ScatterNd { reduction: a.choice("reduction", ScatterReduction::None) }
        }
        "Tile" if takes(2..=2) => Op::Tile,
        "Shape" if opset < 15 && takes(1..=1) => Op::Shape { start: 0, end: None },
        "Shape" if takes(1..=1) => Op::Shape { start: a.int("start", 0), end: a.opt_int("end") },
        "Size" if takes(1..=1) => Op::Size,
        "ConstantOfShape" if takes(1..=1) => {
            let value = a.tensor("value");
            if value.as_ref().is_some_and(|value| value.len() != 1) {
                return None;
            }
            Op::ConstantOfShape { value }
        }
        "Range" if takes(3..=3) => {
            if opset >= 27 && a.int("stash_type", 1) != 1 {
                return None;
            }
            Op::Range
        }
        "Constant" if fits(form, 0..=0, 1..=1) => Op::Constant(constant(a)?),

        "MatMul" if takes(2..=2) => Op::MatMul,
        "Gemm" if takes(if opset >= 11 { 2..=3 } else { 3..=3 }) => Op::Gemm {
            alpha: a.float("alpha", 1.0),
            beta: a.float("beta", 1.0),
            trans_a: a.flag("transA", false),
            trans_b: a.flag("transB", false),
        },
        "Conv" if takes(2..=3) => Op::Conv(window(a, true, true)?),
        "MaxPool" if fits(form, 1..=1, 1..=if opset >= 8 { 2 } else { 1 }) => Op::MaxPool {
            window: window(a, false, opset >= 10).filter(|w| !w.kernel_shape.is_empty())?,
            ceil_mode: opset >= 10 && a.flag("ceil_mode", false),
            storage_order: if opset >= 8 { a.int("storage_order", 0) } else { 0 },
        },
        "AveragePool" if takes(1..=1) => Op::AveragePool {
            window: window(a, false, opset >= 19).filter(|w| !w.kernel_shape.is_empty())?,
            ceil_mode: opset >= 10 && a.flag("ceil_mode", false),
            count_include_pad: a.flag("count_include_pad", false),
        },
        "GlobalAveragePool" if takes(1..=1) => Op::GlobalAveragePool,
        "GlobalMaxPool" if takes(1..=1) => Op::GlobalMaxPool,
        "Softmax" if takes(1..=1) => {
            Op::Softmax { axis: a.int("axis", softmax_axis(opset)), flatten: opset < 13 }
        }
        "LogSoftmax" if takes(1..=1) => {
            Op::LogSoftmax { axis: a.int("axis", softmax_axis(opset)), flatten: opset < 13 }
        }
        // More outputs, training_mode = 1 and spatial = 0 are other functions.
        "BatchNormalization" if takes(5..=5) => {
            if opset >= 14 && a.flag("training_mode", false) || opset < 9 && !a.flag("spatial", true) {
                return None;
            }
            Op::BatchNormalization { epsilon: a.float("epsilon", 1e-5), momentum: a.float("momentum", 0.9) }
        }
        "LayerNormalization" if fits(form, 2..=3, 1..=3) => Op::LayerNormalization {
            axis: a.int("axis", -1),
            epsilon: a.float("epsilon", 1e-5),
            stash_type: a.int("stash_type", 1),
        },
        "RMSNormalization" if takes(2..=2) => Op::RmsNormalization {
            axis: a.int("axis", -1),
            epsilon: a.float("epsilon", 1e-5),
            stash_type: a.int("stash_type", 1),
        },
        "Dropout" if opset >= 12 && fits(form, 1..=3, 1..=2) => Op::Dropout { seed: a.opt_int("seed") },
        "Dropout" if fits(form, 1..=1, 1..=2) => Op::Dropout { seed: None },
        name => return enumerated(name, form, a),
    })
}

/// The operators that differ in nothing but their name.
fn enumerated(name: &str, form: &Form, a: &mut Reader) -> Option<Op> {
    let takes = |inputs| fits(form, inputs, 1..=1);
    if let Some(unary) = Named::from_onnx(name, form.opset) {
        return takes(1..=1).then_some(Op::Unary(unary));
    }
    if let Some(binary) = Named::from_onnx(name, form.opset) {
        return takes(2..=2).then_some(Op::Binary(binary));
    }
    if let Some(compare) = Named::from_onnx(name, form.opset) {
        return takes(2..=2).then_some(Op::Compare(compare));
    }
    if let Some(variadic) = Named::from_onnx(name, form.opset) {
        let all = form.inputs.iter().all(|there| *there);
        return (takes(1..=usize::MAX) && all).then_some(Op::Variadic(variadic));
    }
    let kind = Named::from_onnx(name, form.opset)?;
    let by_operand = form.opset >= axes_operand_since(kind);
    takes(1..=if by_operand { 2 } else { 1 }).then(|| Op::Reduce {
        kind,
        axes: if by_operand { None } else { a.ints("axes") },
        keepdims: a.flag("keepdims", true),
        noop_with_empty_axes: by_operand && a.flag("noop_with_empty_axes", false),
    })
}

pub(super) fn softmax_axis(opset: i64) -> i64 {
    if opset < 13 { 1 } else { -1 }
}

fn element_type(number: i64) -> Option<DType> {
    tensors::dtype(DataType::try_from(i32::try_from(number).ok()?).ok()?)
}

/// The value of a `Constant`, in whichever attribute it is; `None` for a sparse one.
fn constant(a: &mut Reader) -> Option<Tensor> {
    let packed = |shape: Vec<usize>, strings: Vec<Bytes>| Tensor::strings(shape, strings).ok();
    let bytes = |text: &mqc_ir::Text| Bytes::copy_from_slice(&text.0);
    if let Some(tensor) = a.tensor("value") {
        Some(tensor)
    } else if let Some(value) = a.opt_float("value_float") {
        Some(Tensor::f32_scalar(value.0))
    } else if let Some(values) = a.floats("value_floats") {
        let values: Vec<f32> = values.iter().map(|value| value.0).collect();
        Tensor::from_f32(vec![values.len()], &values).ok()
    } else if let Some(value) = a.opt_int("value_int") {
        Some(Tensor::i64_scalar(value))
    } else if let Some(values) = a.ints("value_ints") {
        Some(Tensor::i64_vector(&values))
    } else if let Some(text) = a.text("value_string") {
        packed(vec![], vec![bytes(text)])
    } else if let Some(texts) = a.texts("value_strings") {
        packed(vec![texts.len()], texts.iter().map(bytes).collect())
    } else {
        None
    }
}

fn window(a: &mut Reader, grouped: bool, dilated: bool) -> Option<Window> {
    let group = if grouped { a.int("group", 1) } else { 1 };
    (group > 0).then(|| Window {
        auto_pad: a.choice("auto_pad", AutoPad::Notset),
        dilations: if dilated { a.ints("dilations").unwrap_or_default() } else { vec![] },
        group: if group == 1 { 0 } else { group },
        kernel_shape: a.ints("kernel_shape").unwrap_or_default(),
        pads: a.ints("pads").unwrap_or_default(),
        strides: a.ints("strides").unwrap_or_default(),
    })
}

/// The nested operators; the slicing mode is in the name: `NestedMatMul`, `NestedMatMulRound`, `NestedMatMulExtra`.
fn nested(form: &Form, a: &mut Reader) -> Option<Op> {
    const ANY: usize = usize::MAX;
    let (kind, mode) = ["NestedMatMul", "NestedConv", "NestedGather"].into_iter().find_map(|kind| {
        let mode = SliceMode::from_onnx(form.op_type.strip_prefix(kind)?, form.opset)?;
        Some((kind, mode))
    })?;
    let grouping = match a.opt_int("group_size") {
        None => Grouping::PerChannel,
        Some(size) => Grouping::Group(u32::try_from(size).ok().filter(|size| *size > 0)?),
    };
    let layer = String::from_utf8(a.text("layer")?.0.clone()).ok()?;
    let cols = u64::try_from(a.required_int("cols")).ok()?;
    let width = |bits: i64| Width::new(u8::try_from(bits).ok()?).ok();
    let map_widths =
        a.ints("map_widths").unwrap_or_default().into_iter().map(width).collect::<Option<_>>()?;
    let nested = Nested { layer, mode, grouping, cols, map_widths };
    match kind {
        "NestedMatMul" => fits(form, 5..=ANY, 1..=1).then_some(Op::NestedMatMul(nested)),
        "NestedGather" => fits(form, 5..=ANY, 1..=1).then_some(Op::NestedGather(nested)),
        _ => {
            let shape = a.ints("shape")?.into_iter().map(u64::try_from).collect::<Result<_, _>>().ok()?;
            let window = window(a, true, true)?;
            // Operand 4, the bias, may be absent.
            (fits(form, 4..=ANY, 1..=1) && form.inputs.len() >= 6).then_some(Op::NestedConv {
                nested,
                window,
                shape,
            })
        }
    }
}
