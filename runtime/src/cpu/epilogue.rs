//! What follows a product, `activation(y + bias) * gate + residual`: what a node says of it, the computation, and an operator
//! of its own for products that have other users.

use std::sync::{Arc, Mutex, PoisonError};

use mqc_kernels::cpu::{Activation, Epilogue, Threads};
use pulp::{Arch, Simd, WithSimd};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Engine;
use super::same_shape::{floats, same_shape_op};

/// Elements below which threads cost more than they save, and about as many a task has.
const TASK: usize = 1 << 15;

/// Elements that stay in the first-level cache from one step to the next.
const BLOCK: usize = 1 << 10;

/// The parts that a node has, besides its first input; they are its next inputs in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// `[N]`
    pub bias: bool,
    pub activation: Activation,
    /// As the product.
    pub gate: bool,
    /// As the product.
    pub residual: bool,
}

impl Parts {
    /// Reads the inputs after the first, and the attribute `activation`.
    pub fn parse(node: &NodeProto) -> TractResult<Parts> {
        let given = |input: usize| node.input.get(input).is_some_and(|name| !name.is_empty());
        let activation = match node.get_attr_opt::<String>("activation")?.as_deref() {
            None => Activation::Identity,
            Some("relu") => Activation::Relu,
            Some("gelu") => Activation::Gelu,
            Some("gelu_tanh") => Activation::GeluTanh,
            Some("silu") => Activation::Silu,
            Some(other) => bail!("activation is {other}, expected relu, gelu, gelu_tanh or silu"),
        };
        Ok(Parts { bias: given(1), activation, gate: given(2), residual: given(3) })
    }

    /// Inputs besides the first.
    pub fn inputs(&self) -> usize {
        usize::from(self.bias) + usize::from(self.gate) + usize::from(self.residual)
    }

    /// The epilogue with `inputs`, those after the first.
    pub fn epilogue<'a>(&self, inputs: &[&'a [f32]]) -> Epilogue<'a> {
        let mut inputs = inputs.iter().copied();
        let mut next = |given: bool| given.then(|| inputs.next()).flatten();
        let (bias, gate, residual) = (next(self.bias), next(self.gate), next(self.residual));
        Epilogue { bias, activation: self.activation, gate, residual }
    }
}

/// All of it but the bias, in place, element by element. A pass of its own over values that are still in the caches: kernels
/// store a strip of rows token by token, and would read gate and residual that way, line by line.
pub(super) fn finish(y: &mut [f32], epilogue: &Epilogue, threads: &Threads) {
    let Epilogue { bias: _, activation, gate, residual } = *epilogue;
    if activation == Activation::Identity && gate.is_none() && residual.is_none() {
        return;
    }
    let arch = Arch::new();
    let task = |at: usize, y: &mut [f32]| {
        let end = at + y.len();
        let (gate, residual) = (gate.map(|gate| &gate[at..end]), residual.map(|part| &part[at..end]));
        arch.dispatch(Elements { y, activation, gate, residual });
    };
    if y.len() <= TASK {
        task(0, y);
    } else {
        let tasks: Vec<_> = y.chunks_mut(TASK).map(Mutex::new).collect();
        threads.run(tasks.len(), |index| {
            task(index * TASK, &mut tasks[index].lock().unwrap_or_else(PoisonError::into_inner));
        });
    }
}

/// Some elements, gate and residual of the same length. Not a closure: the work must be inlined where the vectors are enabled.
struct Elements<'a> {
    y: &'a mut [f32],
    activation: Activation,
    gate: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

impl WithSimd for Elements<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (block, y) in self.y.chunks_mut(BLOCK).enumerate() {
            let at = block * BLOCK;
            self.activation.apply(y);
            if let Some(gate) = self.gate {
                y.iter_mut().zip(&gate[at..]).for_each(|(y, gate)| *y *= gate);
            }
            if let Some(residual) = self.residual {
                y.iter_mut().zip(&residual[at..]).for_each(|(y, residual)| *y += residual);
            }
        }
    }
}

/// One node of kind `Epilogue`: `y[, bias][, gate][, residual]` to the shape of y.
#[derive(Debug, Clone)]
pub(super) struct EpilogueOp {
    pub engine: Arc<Engine>,
    pub parts: Parts,
}

impl PartialEq for EpilogueOp {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl Eq for EpilogueOp {}

impl EpilogueOp {
    fn kind(&self) -> &'static str {
        "Epilogue"
    }

    fn inputs(&self) -> usize {
        1 + self.parts.inputs()
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let shape = inputs[0].shape();
        let floats = floats(inputs)?;
        let mut y = floats[0].to_vec();
        let epilogue = self.parts.epilogue(&floats[1..]);
        let Epilogue { bias, gate, residual, .. } = epilogue;
        let rows = shape.last().copied().unwrap_or(1);
        ensure!(bias.is_none_or(|bias| bias.len() == rows), "the bias does not have {rows} elements");
        let fits = |part: Option<&[f32]>| part.is_none_or(|part| part.len() == y.len());
        ensure!(fits(gate) && fits(residual), "gate and residual are not as the product, {shape:?}");
        if let Some(bias) = bias {
            let rows = y.chunks_exact_mut(rows.max(1));
            rows.for_each(|row| row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
        }
        finish(&mut y, &epilogue, &self.engine.threads());
        tract_ndarray::Array1::from(y).into_tensor().into_shape(shape)
    }
}

same_shape_op!(EpilogueOp);
