//! THE list of operations. Every concern (inference, text, export, gradients, lowering) matches it exhaustively.
//!
//! Semantics, operand order and attribute names are those of the ONNX operator of the same name in its newest form, unless said otherwise.
//! An ONNX node in an older form, of another domain, or not listed here is [`Op::Opaque`], kept verbatim.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width, Widths};
use crate::{Attribute, DType, F32, Tensor};

/// What a node computes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "ONNX documents its operators and attributes")]
pub enum Op {
    // ---- Sources.
    /// An input of the graph.
    Input,
    /// A constant that is a named parameter of the model (an ONNX initializer).
    #[serde(skip)]
    Weight(Tensor),
    /// A constant that is a node of the model (ONNX `Constant`).
    #[serde(skip)]
    Constant(Tensor),

    // ---- Primitives.
    Identity,
    Unary(Unary),
    Binary(Binary),
    Compare(Compare),
    /// Elementwise over any number of operands.
    Variadic(Variadic),
    /// ONNX `Where`: condition, value if true, value if false.
    Select,
    /// ONNX `Clip`: input, min?, max?.
    Clip,
    LeakyRelu {
        alpha: F32,
    },
    Elu {
        alpha: F32,
    },
    HardSigmoid {
        alpha: F32,
        beta: F32,
    },
    Cast {
        to: DType,
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        saturate: bool,
    },
    /// Reduction; the axes are an attribute (older forms), the second operand, or all.
    Reduce {
        kind: Reduction,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        axes: Option<Vec<i64>>,
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        keepdims: bool,
        #[serde(default, skip_serializing_if = "is_default")]
        noop_with_empty_axes: bool,
    },
    Reshape {
        #[serde(default, skip_serializing_if = "is_default")]
        allowzero: bool,
    },
    Transpose {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        perm: Option<Vec<i64>>,
    },
    /// ONNX `Expand`: broadcast to the shape in the second operand.
    Expand,
    Squeeze {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        axes: Option<Vec<i64>>,
    },
    Unsqueeze {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        axes: Option<Vec<i64>>,
    },
    Flatten {
        axis: i64,
    },
    /// Data, starts, ends, axes?, steps?.
    Slice,
    Concat {
        axis: i64,
    },
    /// Sizes are an attribute (before opset 13), the second operand, or equal parts.
    Split {
        axis: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sizes: Option<Vec<i64>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        num_outputs: Option<i64>,
    },
    /// Data, pads, value?, axes?.
    Pad {
        mode: PadMode,
    },
    Gather {
        axis: i64,
    },
    GatherElements {
        axis: i64,
    },
    GatherNd {
        #[serde(default, skip_serializing_if = "is_default")]
        batch_dims: i64,
    },
    ScatterElements {
        axis: i64,
        reduction: ScatterReduction,
    },
    ScatterNd {
        reduction: ScatterReduction,
    },
    Tile,
    Shape {
        #[serde(default, skip_serializing_if = "is_default")]
        start: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<i64>,
    },
    Size,
    /// A tensor of the shape in the operand, filled with `value` (one element).
    ConstantOfShape {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Tensor>,
    },
    Range,
    MatMul,
    Conv(Window),
    MaxPool {
        #[serde(default, skip_serializing_if = "is_default")]
        window: Window,
        #[serde(default, skip_serializing_if = "is_default")]
        ceil_mode: bool,
        #[serde(default, skip_serializing_if = "is_default")]
        storage_order: i64,
    },
    AveragePool {
        #[serde(default, skip_serializing_if = "is_default")]
        window: Window,
        #[serde(default, skip_serializing_if = "is_default")]
        ceil_mode: bool,
        #[serde(default, skip_serializing_if = "is_default")]
        count_include_pad: bool,
    },
    GlobalAveragePool,
    GlobalMaxPool,

    // ---- Composites: keep their identity for export and fast kernels.
    /// alpha * A' B' + beta * C.
    Gemm {
        #[serde(default = "one", skip_serializing_if = "is_one")]
        alpha: F32,
        #[serde(default = "one", skip_serializing_if = "is_one")]
        beta: F32,
        #[serde(default, skip_serializing_if = "is_default")]
        trans_a: bool,
        #[serde(default, skip_serializing_if = "is_default")]
        trans_b: bool,
    },
    /// Over one axis; `flatten`: over all axes from `axis` on (before opset 13).
    Softmax {
        axis: i64,
        #[serde(default, skip_serializing_if = "is_default")]
        flatten: bool,
    },
    LogSoftmax {
        axis: i64,
        #[serde(default, skip_serializing_if = "is_default")]
        flatten: bool,
    },
    Gelu {
        approximate: GeluKind,
    },
    /// Inference form: x, scale, bias, mean, variance.
    BatchNormalization {
        epsilon: F32,
        momentum: F32,
    },
    LayerNormalization {
        axis: i64,
        epsilon: F32,
        stash_type: i64,
    },
    RmsNormalization {
        axis: i64,
        epsilon: F32,
        stash_type: i64,
    },
    /// The identity at inference: data, ratio?, training_mode?.
    Dropout {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: Option<i64>,
    },

    // ---- Quantization dialect. Codes, scale and zero are matrices over (output row, reduction): see `WeightLayout`.
    /// Float weight -> codes u8 [N, K], scale f32 [N, G], zero f32 [N, G].
    NestedQuantize(NestedQuantize),
    /// Codes u8 [N, K] -> the leading `width` bits of each, u8 [N, K], rounded as `mode` says.
    SliceBits {
        width: Width,
        mode: SliceMode,
    },
    /// Slice u8 [N, K], scale, zero -> float weight of shape `shape`.
    Dequantize {
        width: Width,
        mode: SliceMode,
        #[serde(default, skip_serializing_if = "is_default")]
        grouping: Grouping,
        layout: WeightLayout,
        shape: Vec<u64>,
    },
    /// Position on the scale of codes (weight / scale + zero), any shape -> the level of its nearest code cut to `width`
    /// bits, in 8-bit codes. Its gradient is straight-through: that of the identity inside the range of codes.
    FakeSlice {
        width: Width,
        mode: SliceMode,
    },
    /// x [.., K], width i64 [], scale, zero, plane u8 [N, ceil(K/8)] ... -> x W^T [.., N]; scale and zero as [`Nested`] says.
    NestedMatMul(Nested),
    /// `x [B, C, ..], width, scale, zero, bias? [M], plane ... -> the convolution [B, M, ..]`; rows are output channels.
    NestedConv {
        nested: Nested,
        #[serde(default, skip_serializing_if = "is_default")]
        window: Window,
        /// Shape of the float weight, [M, C / group, ..].
        shape: Vec<u64>,
    },
    /// indices, width, scale, zero, plane ... -> rows of the table, [indices.., K].
    NestedGather(Nested),

    /// An ONNX node kept as it is.
    Opaque(Opaque),
}

/// Elementwise, one operand, no attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum Unary {
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    BitwiseNot,
    Ceil,
    Cos,
    Cosh,
    Erf,
    Exp,
    Floor,
    HardSwish,
    IsNan,
    Log,
    Mish,
    Neg,
    Not,
    Reciprocal,
    Relu,
    Round,
    Sigmoid,
    Sign,
    Sin,
    Sinh,
    Softplus,
    Softsign,
    Sqrt,
    Tan,
    Tanh,
}

/// Elementwise, two operands, broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    /// ONNX `Mod` with fmod = 0: the sign of the divisor.
    Mod,
    /// ONNX `Mod` with fmod = 1: the sign of the dividend.
    Fmod,
    And,
    Or,
    Xor,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    ShiftLeft,
    ShiftRight,
    PRelu,
}

/// Elementwise comparison, two operands, broadcasting, to bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// Elementwise, any number of operands, broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum Variadic {
    Max,
    Mean,
    Min,
    Sum,
}

/// How [`Op::Reduce`] combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum Reduction {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

/// How [`Op::Pad`] fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum PadMode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

/// What a scatter does with the element that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum ScatterReduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeluKind {
    /// x/2 (1 + erf(x / sqrt 2)); ONNX `approximate = "none"`.
    Erf,
    /// The tanh approximation.
    Tanh,
}

/// The sliding window of a convolution or pooling. Empty lists mean ONNX's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub struct Window {
    #[serde(skip_serializing_if = "is_default")]
    pub auto_pad: AutoPad,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dilations: Vec<i64>,
    /// Only for convolutions; 0 stands for the default of 1.
    #[serde(skip_serializing_if = "is_default")]
    pub group: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel_shape: Vec<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pads: Vec<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strides: Vec<i64>,
}

/// ONNX `auto_pad`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum AutoPad {
    #[default]
    Notset,
    SameUpper,
    SameLower,
    Valid,
}

/// How the float weight of an ONNX node is a matrix of N output rows by K reduction elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLayout {
    /// The first dimension is N, the others in order are K: Conv [M, C/g, ..], Gather tables [V, D], Gemm with trans_b [N, K].
    RowsFirst,
    /// [K, N]: the right operand of MatMul.
    RowsLast,
}

/// How to choose the codes of a weight: `matquant.md`, equations 1 and 6 of arXiv 2502.06786.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented on the types")]
pub struct NestedQuantize {
    pub scheme: Scheme,
    pub mode: SliceMode,
    #[serde(default, skip_serializing_if = "is_default")]
    pub grouping: Grouping,
    pub range: RangeMethod,
    /// The widths whose error counts, with `lambda` as their weights in the same order.
    pub widths: Widths,
    pub lambda: Vec<F32>,
    pub layout: WeightLayout,
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_nonfinite: bool,
}

/// A nested weight in bit planes, as an operand list `width, scale, zero, .., plane0, plane1, ..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nested {
    /// Name of the layer: what per-layer widths and reports call it.
    pub layer: String,
    /// How codes are cut to a width.
    pub mode: SliceMode,
    /// Which weights share scale and zero.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grouping: Grouping,
    /// K: planes are padded to whole bytes.
    pub cols: u64,
    /// The widths that have a scale and a zero of their own, wide first. Without any, scale and zero are f32 [N, G];
    /// otherwise [1 + widths, N, G]: what all others use, then those of each. A width uses the map of the nearest wider
    /// one (or itself) that has its own, else the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub map_widths: Vec<Width>,
}

/// An ONNX node that the compiler need not understand. Graph-valued attributes are the node's subgraphs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub struct Opaque {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    pub op_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub overload: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Attribute>,
}

impl Op {
    /// The tensor, when this is a constant of either kind.
    pub fn as_constant(&self) -> Option<&Tensor> {
        match self {
            Op::Weight(t) | Op::Constant(t) => Some(t),
            _ => None,
        }
    }
}

fn yes() -> bool {
    true
}

fn one() -> F32 {
    F32(1.0)
}

fn is_yes(b: &bool) -> bool {
    *b
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(f: &F32) -> bool {
    *f == one()
}
