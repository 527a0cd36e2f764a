//! From a model to a graph of fixed shapes that training can take.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use mqc_ir::{Dim, Graph, Tensor, Type};
use mqc_onnx::Model;
use mqc_onnx::raise::raise_opset;
use mqc_passes::{Context, Debug, Options, Pipeline};
use mqc_training::static_shapes::fix_shapes;

use super::graphs::OPSET;
use crate::data::required_inputs;
use crate::load;
use crate::usage::UsageError;

/// Sizes of the dimensions that a model leaves open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The first dimension of each input.
    pub batch: usize,
    /// The second, where the model leaves it open and `named` does not say otherwise.
    pub sequence: Option<usize>,
    /// Dimensions by name.
    pub named: BTreeMap<String, usize>,
}

/// A float model, normalized and with `nested_quantize` in front of its weights.
///
/// # Errors
/// Whatever is wrong with the model; nothing to quantize.
pub fn nested_model(path: &Path, options: &Options) -> Result<Model> {
    let mut model = load::for_compiling(path)?;
    raise_opset(&mut model.graph, OPSET)?;
    let mut context = Context::new(options, None);
    Pipeline::compile().run(&mut model.graph, &mut context, &Debug::default())?;
    Ok(model)
}

/// A float model as it is, to be trained in float.
///
/// # Errors
/// Whatever is wrong with the model.
pub fn float_model(path: &Path) -> Result<Model> {
    let mut model = load::for_compiling(path)?;
    raise_opset(&mut model.graph, OPSET)?;
    let options = Options::default();
    let mut context = Context::new(&options, None);
    Pipeline::named(&["inline-if", "drop-identities", "erase-dead"])?.run(
        &mut model.graph,
        &mut context,
        &Debug::default(),
    )?;
    Ok(model)
}

/// The shape of each input under the given sizes.
///
/// # Errors
/// A dimension that nothing says the size of, or that the model fixes to another.
pub fn input_shapes(graph: &Graph, sizes: &Sizes) -> Result<BTreeMap<String, Vec<usize>>> {
    let mut shapes = BTreeMap::new();
    for (name, ty) in required_inputs(graph) {
        let Some(dims) = ty.shape() else { bail!("input {name} has no declared rank; training needs one") };
        let size = |(axis, dim): (usize, &Dim)| {
            let named = match dim {
                Dim::Symbol(symbol) => sizes.named.get(&symbol.to_string()).copied(),
                Dim::Size(_) | Dim::Unknown => None,
            };
            let size = match (dim, axis) {
                (Dim::Size(n), _) => Some(usize::try_from(*n)?),
                (_, 0) => named.or(Some(sizes.batch)),
                (_, 1) => named.or(sizes.sequence),
                _ => named,
            };
            size.with_context(|| {
                UsageError(format!("dimension {axis} of input {name} ({dim}) is open; give --dim {dim}=SIZE"))
            })
        };
        let shape = dims.iter().enumerate().map(size).collect::<Result<Vec<usize>>>()?;
        shapes.insert(name.clone(), shape);
    }
    Ok(shapes)
}

/// Fixes the shapes of a model.
///
/// # Errors
/// Those of [`input_shapes`] and of [`fix_shapes`].
pub fn fixed(mut graph: Graph, sizes: &Sizes) -> Result<Graph> {
    let shapes = input_shapes(&graph, sizes)?;
    fix_shapes(&mut graph, &shapes)?;
    Ok(graph)
}

/// The number of classes: the last size of an output.
pub fn classes(graph: &Graph, output: &str) -> Option<u64> {
    let output = graph.outputs().iter().find(|o| o.name == output)?;
    let ty: &Type = graph.ty(output.value);
    ty.shape()?.last()?.size()
}

/// Puts trained tensors in the place of a model's weights.
///
/// # Errors
/// A weight of another type or shape.
pub fn replace_weights(graph: &mut Graph, tensors: &BTreeMap<String, Tensor>) -> Result<usize> {
    let mut replaced = 0;
    for id in graph.ids() {
        let Some(node) = graph.node_mut(id) else { continue };
        let Some(tensor) = node.outputs.first().and_then(|o| tensors.get(&o.name)) else { continue };
        let mqc_ir::Op::Weight(old) = &mut node.op else { continue };
        if old.shape() != tensor.shape() || old.dtype() != tensor.dtype() {
            bail!(
                "weight {} is {:?}, the trained one {:?}",
                node.outputs[0].name,
                old.shape(),
                tensor.shape()
            );
        }
        *old = tensor.clone();
        replaced += 1;
    }
    Ok(replaced)
}
