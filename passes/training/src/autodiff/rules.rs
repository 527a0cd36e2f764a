//! The table: what is known of the gradient of every operation.

use mqc_ir::Op;
use mqc_ir::op::{PadMode, ScatterReduction};

use super::site::Site;
use super::{Cotangents, convolution, elementwise, index, layout, normalization, pool, product, reduce};
use crate::Builder;

type Apply<'a> = Box<dyn Fn(&mut Builder, &Site) -> Cotangents + 'a>;

/// What is known of the gradient of an operation.
pub(super) enum Rule<'a> {
    /// By a rule for maps of elements: cotangents may be smaller than the outputs, and have the shape of the output.
    Elementwise(Apply<'a>),
    /// By a rule that is given cotangents of the outputs' shapes, and gives such of the operands' shapes or smaller.
    Own(Apply<'a>),
    /// That of its expansion.
    Expand,
    /// It is zero wherever it exists, or the output is no real number.
    Zero,
    /// There is none, and why.
    Missing(&'static str),
}

fn elementwise<'a>(f: impl Fn(&mut Builder, &Site) -> Cotangents + 'a) -> Rule<'a> {
    Rule::Elementwise(Box::new(f))
}

fn own<'a>(f: impl Fn(&mut Builder, &Site) -> Cotangents + 'a) -> Rule<'a> {
    Rule::Own(Box::new(f))
}

const NESTED: &str = "it reads stored codes, which are integers; train the float weight behind them";
const ONE_WINS: &str = "a scatter that multiplies or compares is not differentiated";

/// The rule of an operation.
pub(super) fn rule(op: &Op) -> Rule<'_> {
    match op {
        Op::Input | Op::Weight(_) | Op::Constant(_) => Rule::Zero,
        Op::Identity | Op::Dropout { .. } | Op::Expand => elementwise(elementwise::same),
        Op::Unary(kind) => match elementwise::unary(*kind) {
            Some(f) => elementwise(move |b, s| elementwise::map(b, s, f)),
            None => Rule::Zero,
        },
        Op::Binary(kind) => match elementwise::binary(*kind) {
            Some(f) => elementwise(f),
            None => Rule::Zero,
        },
        Op::Compare(_) => Rule::Zero,
        Op::Variadic(kind) => elementwise(move |b, s| elementwise::variadic(b, s, *kind)),
        Op::Select => elementwise(elementwise::select),
        Op::Clip => elementwise(elementwise::clip),
        Op::LeakyRelu { alpha } => elementwise(move |b, s| elementwise::leaky_relu(b, s, alpha.0)),
        Op::Elu { alpha } => elementwise(move |b, s| elementwise::elu(b, s, alpha.0)),
        Op::HardSigmoid { alpha, .. } => elementwise(move |b, s| elementwise::hard_sigmoid(b, s, alpha.0)),
        Op::Cast { .. } => elementwise(elementwise::cast),
        Op::Reduce { kind, axes, keepdims, noop_with_empty_axes } => {
            own(move |b, s| reduce::reduce(b, s, *kind, axes.as_deref(), *keepdims, *noop_with_empty_axes))
        }
        Op::Reshape { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Flatten { .. } => {
            own(layout::reshape)
        }
        Op::Transpose { perm } => own(move |b, s| layout::transpose(b, s, perm.as_deref())),
        Op::Slice => own(layout::slice),
        Op::Concat { axis } => own(move |b, s| layout::concat(b, s, *axis)),
        Op::Split { axis, .. } => own(move |b, s| layout::split(b, s, *axis)),
        Op::Pad { mode: PadMode::Constant } => own(layout::pad_constant),
        Op::Pad { mode: mode @ (PadMode::Reflect | PadMode::Edge | PadMode::Wrap) } => {
            own(move |b, s| layout::pad_copy(b, s, *mode))
        }
        Op::Gather { axis } => own(move |b, s| index::gather(b, s, *axis)),
        Op::GatherElements { axis } => own(move |b, s| index::gather_elements(b, s, *axis)),
        Op::GatherNd { batch_dims } => own(move |b, s| index::gather_nd(b, s, *batch_dims)),
        Op::ScatterElements { axis, reduction } => match reduction {
            ScatterReduction::None => own(move |b, s| index::scatter_elements(b, s, *axis, true)),
            ScatterReduction::Add => own(move |b, s| index::scatter_elements(b, s, *axis, false)),
            ScatterReduction::Mul | ScatterReduction::Max | ScatterReduction::Min => Rule::Missing(ONE_WINS),
        },
        Op::ScatterNd { reduction } => match reduction {
            ScatterReduction::None => own(|b, s| index::scatter_nd(b, s, true)),
            ScatterReduction::Add => own(|b, s| index::scatter_nd(b, s, false)),
            ScatterReduction::Mul | ScatterReduction::Max | ScatterReduction::Min => Rule::Missing(ONE_WINS),
        },
        Op::Tile => own(layout::tile),
        Op::Shape { .. } | Op::Size | Op::ConstantOfShape { .. } => Rule::Zero,
        Op::Range => Rule::Missing("a range whose bounds are trained is not differentiated"),
        Op::MatMul => own(product::matmul),
        Op::Conv(window) => own(move |b, s| convolution::conv(b, s, window)),
        Op::MaxPool { window, storage_order, .. } => {
            own(move |b, s| pool::max_pool(b, s, window, *storage_order))
        }
        Op::AveragePool { window, count_include_pad, .. } => {
            own(move |b, s| pool::average_pool(b, s, window, *count_include_pad))
        }
        Op::GlobalAveragePool => own(pool::global_average_pool),
        Op::GlobalMaxPool => own(pool::global_max_pool),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            own(move |b, s| product::gemm(b, s, alpha.0, beta.0, *trans_a, *trans_b))
        }
        Op::Softmax { axis, flatten } => own(move |b, s| normalization::softmax(b, s, *axis, *flatten)),
        Op::LogSoftmax { axis, flatten } => {
            own(move |b, s| normalization::log_softmax(b, s, *axis, *flatten))
        }
        Op::Gelu { approximate } => elementwise(move |b, s| elementwise::gelu(b, s, *approximate)),
        Op::BatchNormalization { epsilon, .. } => {
            own(move |b, s| normalization::batch_normalization(b, s, epsilon.0))
        }
        Op::LayerNormalization { axis, .. } => {
            own(move |b, s| normalization::layer_normalization(b, s, *axis))
        }
        Op::RmsNormalization { axis, epsilon, .. } => {
            own(move |b, s| normalization::rms_normalization(b, s, *axis, epsilon.0))
        }
        Op::FakeSlice { .. } => elementwise(elementwise::fake_slice),
        Op::NestedQuantize(_)
        | Op::SliceBits { .. }
        | Op::Dequantize { .. }
        | Op::NestedMatMul(_)
        | Op::NestedConv { .. }
        | Op::NestedGather(_) => Rule::Missing(NESTED),
        Op::Opaque(_) => Rule::Expand,
    }
}
