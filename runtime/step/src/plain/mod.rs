//! One node computed plainly: simple loops over dense tensors, floats in f64. The reference of the fast paths.

pub(crate) mod gather;
pub(crate) mod layout;
mod normalize;
mod pointwise;
pub(crate) mod products;
pub(crate) mod reduce;
mod running;
pub(crate) mod scalar;
pub(crate) mod slice;
pub(crate) mod window;

use mqc_ir::{DType, Op};

use crate::array::{Data, Slice, each_kind};
use crate::{Array, Real};

/// An operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arg<'a, T> {
    pub shape: &'a [usize],
    pub dtype: DType,
    pub data: Slice<'a, T>,
    /// The elements, when they are integers that are known before the run.
    pub known: Option<&'a [i64]>,
}

/// Element type and sizes of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub dtype: DType,
    pub shape: Vec<usize>,
}

/// A node with its operands.
pub(crate) struct Call<'a, T> {
    pub args: &'a [Option<Arg<'a, T>>],
    pub outputs: &'a [Spec],
}

type Computed<T> = Result<Vec<Data<T>>, String>;

impl<'a, T: Real> Call<'a, T> {
    fn optional(&self, slot: usize) -> Option<&'a Arg<'a, T>> {
        self.args.get(slot).and_then(Option::as_ref)
    }

    fn arg(&self, slot: usize) -> Result<&'a Arg<'a, T>, String> {
        self.optional(slot).ok_or_else(|| format!("operand {slot} is missing"))
    }

    fn real(&self, slot: usize) -> Result<(&'a [T], &'a [usize]), String> {
        let arg = self.arg(slot)?;
        match arg.data {
            Slice::Real(v) => Ok((v, arg.shape)),
            Slice::Int(_) | Slice::Bool(_) => {
                Err(format!("operand {slot} has type {}, expected a float", arg.dtype))
            }
        }
    }

    fn ints(&self, slot: usize) -> Result<(&'a [i64], &'a [usize]), String> {
        let arg = self.arg(slot)?;
        match arg.data {
            Slice::Int(v) => Ok((v, arg.shape)),
            Slice::Real(_) | Slice::Bool(_) => {
                Err(format!("operand {slot} has type {}, expected an integer", arg.dtype))
            }
        }
    }

    /// Integers that say how to compute, such as axes.
    fn list(&self, slot: usize) -> Result<Option<&'a [i64]>, String> {
        match self.optional(slot) {
            None => Ok(None),
            Some(Arg { known: Some(known), .. }) => Ok(Some(known)),
            Some(_) => Ok(Some(self.ints(slot)?.0)),
        }
    }

    fn output(&self) -> Result<&'a Spec, String> {
        self.outputs.first().ok_or_else(|| "the node has no output".to_owned())
    }
}

/// The outputs of a node. The error says what is wrong with it.
pub(crate) fn compute<T: Real>(op: &Op, call: &Call<T>) -> Computed<T> {
    let one = |data: Result<Data<T>, String>| Ok(vec![data?]);
    let same = || Ok(each_kind!(call.arg(0)?.data, v => v.to_vec()));
    match op {
        Op::Input => Err("an input has no value of its own".to_owned()),
        Op::Weight(t) | Op::Constant(t) => {
            one(Array::from_tensor(t).map(Array::into_data).map_err(|e| e.to_string()))
        }
        Op::Identity
        | Op::Reshape { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. } => one(same()),
        Op::Unary(kind) => one(pointwise::unary(call, *kind)),
        Op::Binary(kind) => one(pointwise::binary(call, *kind)),
        Op::Compare(kind) => one(pointwise::compare(call, *kind)),
        Op::Variadic(kind) => one(pointwise::variadic(call, *kind)),
        Op::Select => one(pointwise::select(call)),
        Op::Clip => one(pointwise::clip(call)),
        Op::LeakyRelu { .. }
        | Op::Elu { .. }
        | Op::HardSigmoid { .. }
        | Op::Gelu { .. }
        | Op::FakeSlice { .. } => one(pointwise::map(call, op)),
        Op::Cast { to, saturate: _ } => one(pointwise::cast(call, *to)),
        Op::Reduce { kind, axes, keepdims: _, noop_with_empty_axes } => {
            one(reduce::reduce(call, *kind, axes, *noop_with_empty_axes))
        }
        Op::Transpose { perm } => one(layout::transpose(call, perm)),
        Op::Expand => one(layout::expand(call)),
        Op::Slice => one(slice::slice(call)),
        Op::Concat { axis } => one(layout::concat(call, *axis)),
        Op::Split { axis, sizes: _, num_outputs: _ } => layout::split(call, *axis),
        Op::Pad { mode } => one(layout::pad(call, *mode)),
        Op::Gather { axis } => one(gather::gather(call, *axis)),
        Op::GatherElements { axis } => one(gather::gather_elements(call, *axis)),
        Op::GatherNd { batch_dims } => one(gather::gather_nd(call, *batch_dims)),
        Op::ScatterElements { axis, reduction } => one(gather::scatter_elements(call, *axis, *reduction)),
        Op::ScatterNd { reduction } => one(gather::scatter_nd(call, *reduction)),
        Op::Tile => one(layout::tile(call)),
        Op::Shape { start, end } => one(layout::shape(call, *start, *end)),
        Op::Size => one(Ok(Data::Int(vec![call.arg(0)?.data.len() as i64]))),
        Op::ConstantOfShape { value } => one(layout::constant_of_shape(call, value)),
        Op::Range => one(layout::range(call)),
        Op::MatMul => one(products::matmul(call)),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            one(products::gemm(call, alpha.0, beta.0, *trans_a, *trans_b))
        }
        Op::Conv(window) => one(window::conv(call, window)),
        Op::MaxPool { window, ceil_mode: _, storage_order } => window::max_pool(call, window, *storage_order),
        Op::AveragePool { window, ceil_mode: _, count_include_pad } => {
            one(window::average_pool(call, window, *count_include_pad))
        }
        Op::GlobalAveragePool => {
            one(window::global(call, |v| v.iter().map(|v| v.f64()).sum::<f64>() / v.len() as f64))
        }
        Op::GlobalMaxPool => {
            one(window::global(call, |v| v.iter().map(|v| v.f64()).fold(f64::NEG_INFINITY, scalar::max)))
        }
        Op::Softmax { axis, flatten } => one(normalize::softmax(call, *axis, *flatten, false)),
        Op::LogSoftmax { axis, flatten } => one(normalize::softmax(call, *axis, *flatten, true)),
        Op::BatchNormalization { epsilon, momentum: _ } => one(normalize::batch(call, f64::from(epsilon.0))),
        Op::LayerNormalization { axis, epsilon, stash_type: _ } => {
            normalize::layer(call, *axis, f64::from(epsilon.0))
        }
        Op::RmsNormalization { axis, epsilon, stash_type: _ } => {
            one(normalize::rms(call, *axis, f64::from(epsilon.0)))
        }
        Op::Dropout { .. } => {
            let mut outputs = vec![same()?];
            if call.outputs.len() > 1 {
                outputs.push(Data::Bool(vec![true; outputs[0].len()]));
            }
            Ok(outputs)
        }
        Op::NestedQuantize(_)
        | Op::SliceBits { .. }
        | Op::Dequantize { .. }
        | Op::NestedMatMul(_)
        | Op::NestedConv { .. }
        | Op::NestedGather(_) => Err(unknown(op).unwrap_or_default().to_owned()),
        Op::Opaque(_) => match running::running(op) {
            Some(how) => one(running::sums(call, how)),
            None => Err(unknown(op).unwrap_or_default().to_owned()),
        },
    }
}

/// Why the engine does not compute an operation, when it does not.
pub(crate) fn unknown(op: &Op) -> Option<&'static str> {
    match op {
        Op::NestedQuantize(_)
        | Op::SliceBits { .. }
        | Op::Dequantize { .. }
        | Op::NestedMatMul(_)
        | Op::NestedConv { .. }
        | Op::NestedGather(_) => {
            Some("the training engine has no nested weights, expected float weights and fake_slice")
        }
        Op::Opaque(_) if running::running(op).is_some() => None,
        Op::Opaque(_) => Some("the training engine does not know this operator, expected standard operators"),
        _ => None,
    }
}

/// Bytes of a value.
pub(crate) fn bytes<T>(spec: &Spec, kind: crate::Kind) -> usize {
    crate::index::count(&spec.shape) * kind.size::<T>()
}

/// Error when results are not what the types of the outputs say.
pub(crate) fn check<T: Real>(results: &[Data<T>], specs: &[Spec]) -> Result<(), String> {
    if results.len() < specs.len() {
        return Err(format!("the node has {} outputs, expected at most {}", specs.len(), results.len()));
    }
    for (data, spec) in results.iter().zip(specs) {
        let needed = crate::index::count(&spec.shape);
        if data.len() != needed || Some(data.kind()) != crate::Kind::of(spec.dtype) {
            return Err(format!(
                "the result has {} {:?} elements, expected {needed} of type {}",
                data.len(),
                data.kind(),
                spec.dtype
            ));
        }
    }
    Ok(())
}
