//! OmniQuant's equivalent transformation (arXiv 2308.13137, equation 3), where it costs nothing at run time:
//!
//! ```text
//! X W + b  =  ((X - delta) / s) (s . W) + b + delta W
//! ```
//!
//! X must be the result of a norm (or another product with a constant gain) that only nested weights read: 1 / s then
//! belongs to the gain. delta needs a bias behind the norm and behind each of the weights.

use std::collections::BTreeMap;

use mqc_ir::op::{Binary, WeightLayout};
use mqc_ir::{DType, Graph, Op, Tensor, Value};

use crate::source::{Layer, Source};
use crate::training::names;
use crate::{Builder, Error};

/// A constant that takes a part of the transformation.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Its name.
    pub name: String,
    /// Its value in the model.
    pub tensor: Tensor,
    /// In the source graph.
    pub value: Value,
}

/// The transformation of one value.
#[derive(Clone, Debug)]
pub struct Equivalent {
    /// Name of the value.
    pub name: String,
    /// Elements of its last axis.
    pub size: usize,
    /// Places in the source's list of the layers that read it.
    pub layers: Vec<usize>,
    /// What it is multiplied by, shape \[size\].
    pub gain: Constant,
    /// Where delta can be had: what is added to it, and the bias of each layer in the order of `layers`.
    pub biases: Option<(Constant, Vec<Constant>)>,
}

/// The values of a model that can be transformed.
pub fn find(source: &Source) -> Vec<Equivalent> {
    let graph = source.graph();
    let mut readers: BTreeMap<Value, Vec<(usize, Value)>> = BTreeMap::new();
    for (index, layer) in source.layers.iter().enumerate() {
        if let Some((x, product)) = product_of(graph, layer) {
            readers.entry(x).or_default().push((index, product));
        }
    }
    readers.into_iter().filter_map(|(x, readers)| equivalent(source, x, &readers)).collect()
}

fn equivalent(source: &Source, x: Value, readers: &[(usize, Value)]) -> Option<Equivalent> {
    let graph = source.graph();
    let size = usize::try_from(graph.ty(x).shape()?.last()?.size()?).ok()?;
    if graph.users(x).len() != readers.len() || graph.is_output(x) {
        return None;
    }
    let constant = |value: Option<Value>, length: usize| -> Option<Constant> {
        let value = value?;
        let tensor = graph.constant(value)?;
        let alone = graph.users(value).len() == 1 && !graph.is_output(value);
        let fits = tensor.dtype() == DType::F32 && tensor.shape() == [length];
        let name = graph.info(value)?.name.clone();
        (alone && fits).then(|| Constant { name, tensor: tensor.clone(), value })
    };
    // Either operand of a commutative operation: the constant, and the other.
    let sides = |value: Value, kind: Binary, length: usize| -> Option<(Constant, Value)> {
        if graph.node(value.node).map(|n| &n.op) != Some(&Op::Binary(kind)) {
            return None;
        }
        let (a, b) = (graph.operand(value.node, 0)?, graph.operand(value.node, 1)?);
        constant(Some(b), length).map(|c| (c, a)).or_else(|| constant(Some(a), length).map(|c| (c, b)))
    };
    let only_user = |value: Value| match graph.users(value).as_slice() {
        [(user, _)] if !graph.is_output(value) => Some(Value { node: *user, slot: 0 }),
        _ => None,
    };
    let (gain, bias) = match graph.node(x.node).map(|n| &n.op)? {
        Op::Binary(Binary::Mul) => (sides(x, Binary::Mul, size)?.0, None),
        Op::Binary(Binary::Add) => {
            let (bias, product) = sides(x, Binary::Add, size)?;
            only_user(product)?;
            (sides(product, Binary::Mul, size)?.0, Some(bias))
        }
        Op::RmsNormalization { .. } => (constant(graph.operand(x.node, 1), size)?, None),
        Op::LayerNormalization { .. } => {
            (constant(graph.operand(x.node, 1), size)?, constant(graph.operand(x.node, 2), size))
        }
        _ => return None,
    };
    let behind = |(index, product): &(usize, Value)| {
        let rows = source.layers[*index].grouped().rows;
        match graph.node(product.node).map(|n| &n.op)? {
            Op::Gemm { beta, .. } if beta.0 == 1.0 => constant(graph.operand(product.node, 2), rows),
            Op::MatMul => Some(sides(only_user(*product)?, Binary::Add, rows)?.0),
            _ => None,
        }
    };
    let behind: Option<Vec<Constant>> = readers.iter().map(behind).collect();
    let name = graph.info(x)?.name.clone();
    let layers = readers.iter().map(|(index, _)| *index).collect();
    Some(Equivalent { name, size, layers, gain, biases: bias.zip(behind) })
}

/// What a layer's weight is multiplied with, and the product, if that is all that reads the weight.
fn product_of(graph: &Graph, layer: &Layer) -> Option<(Value, Value)> {
    let [weight] = layer.uses() else { return None };
    let [(user, 1)] = graph.users(*weight)[..] else { return None };
    let is_product = match &graph.node(user)?.op {
        Op::MatMul => true,
        Op::Gemm { trans_a, alpha, .. } => !*trans_a && alpha.0 == 1.0,
        _ => false,
    };
    is_product.then_some((graph.operand(user, 0)?, Value { node: user, slot: 0 }))
}

/// What is learned of a transformation.
#[derive(Clone, Copy, Debug)]
pub struct Learned {
    /// ln s, \[size\]: s stays positive.
    pub log_scale: Value,
    /// delta, \[size\].
    pub delta: Option<Value>,
}

/// `s . W`, in the shape of the weight.
pub fn scaled_weight(
    b: &mut Builder,
    layer: &Layer,
    weight: Value,
    learned: Learned,
) -> Result<Value, Error> {
    let scale = b.unary(mqc_ir::op::Unary::Exp, learned.log_scale)?;
    let scale = match layer.spec.layout {
        WeightLayout::RowsFirst => scale,
        WeightLayout::RowsLast => {
            let size = b.shape(scale)?.iter().product();
            b.reshape(scale, &[size, 1])?
        }
    };
    b.mul(weight, scale)
}

/// The constants around the weights, transformed.
pub fn constants(
    b: &mut Builder,
    equivalent: &Equivalent,
    layers: &[Layer],
    learned: Learned,
) -> Result<Vec<(Constant, Value)>, Error> {
    let scale = b.unary(mqc_ir::op::Unary::Exp, learned.log_scale)?;
    let gain = b.constant(equivalent.gain.tensor.clone());
    let mut folded = vec![(equivalent.gain.clone(), b.div(gain, scale)?)];
    if let (Some((before, behind)), Some(delta)) = (&equivalent.biases, learned.delta) {
        let bias = b.constant(before.tensor.clone());
        let moved = b.sub(bias, delta)?;
        folded.push((before.clone(), b.div(moved, scale)?));
        let row = b.reshape(delta, &[1, equivalent.size])?;
        for (bias, layer) in behind.iter().zip(&equivalent.layers) {
            let layer = &layers[*layer];
            let mut weight = b.constant(layer.tensor.clone());
            if layer.spec.layout == WeightLayout::RowsFirst {
                weight = b.transpose(weight, &[1, 0])?;
            }
            let product = b.matmul(row, weight)?;
            let product = b.reshape(product, &[layer.grouped().rows])?;
            let old = b.constant(bias.tensor.clone());
            folded.push((bias.clone(), b.add(old, product)?));
        }
    }
    Ok(folded)
}

/// The state of a transformation: names and sizes.
pub fn state(equivalent: &Equivalent) -> Vec<(String, usize)> {
    let mut state = vec![(names::log_scale(&equivalent.name), equivalent.size)];
    if equivalent.biases.is_some() {
        state.push((names::delta(&equivalent.name), equivalent.size));
    }
    state
}
