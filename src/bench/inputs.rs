//! Inputs of a batch size: random ones, or the first rows of given ones.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use mqc_ir::{Dim, Graph, Tensor, Type, Value};

use crate::data::{self, Tensors};
use crate::usage::UsageError;

/// Fails when a size is given for a dimension that no input has.
pub fn check_sizes(graph: &Graph, sizes: &BTreeMap<String, u64>) -> Result<()> {
    let inputs = data::required_inputs(graph);
    let dims = inputs.iter().filter_map(|(_, ty)| ty.shape()).flatten();
    let known: BTreeSet<&str> = dims
        .filter_map(|dim| match dim {
            Dim::Symbol(name) => Some(&**name),
            Dim::Size(_) | Dim::Unknown => None,
        })
        .collect();
    let Some(unknown) = sizes.keys().find(|name| !known.contains(name.as_str())) else { return Ok(()) };
    let known: Vec<&str> = known.into_iter().collect();
    let known = if known.is_empty() { "no named ones".to_owned() } else { known.join(", ") };
    bail!(UsageError(format!("--size {unknown}: no input has this dimension; the inputs have {known}")))
}

/// Random inputs as `mqc run` makes them. `batch` is the first size of every input that leaves it open.
pub fn random(
    graph: &Graph,
    seed: u64,
    sizes: &BTreeMap<String, u64>,
    batch: Option<usize>,
) -> Result<Tensors> {
    let Some(batch) = batch else { return data::random_inputs(graph, seed, sizes, 1) };
    check_batch(graph, batch)?;
    let mut graph = graph.clone();
    let mut sizes = sizes.clone();
    for id in graph.inputs().to_vec() {
        let value = Value { node: id, slot: 0 };
        let mut ty = graph.ty(value).clone();
        let Type::Tensor(tensor) = &mut ty else { continue };
        let Some(first) = tensor.shape.as_mut().and_then(|dims| dims.first_mut()) else { continue };
        match first {
            Dim::Symbol(name) => {
                if sizes.insert(name.to_string(), batch as u64).is_some_and(|size| size != batch as u64) {
                    bail!(UsageError(format!(
                        "--batch {batch} and --size {name}=... are the same dimension"
                    )));
                }
            }
            Dim::Unknown => {
                *first = Dim::Size(batch as u64);
                graph.set_type(value, ty);
            }
            Dim::Size(_) => {}
        }
    }
    data::random_inputs(&graph, seed, &sizes, 1)
}

/// The first `batch` rows of every input that leaves its first size open.
pub fn first_rows(graph: &Graph, tensors: &Tensors, batch: usize) -> Result<Tensors> {
    check_batch(graph, batch)?;
    let mut cut = tensors.clone();
    for name in open_inputs(graph) {
        let Some(tensor) = tensors.get(&name) else { continue };
        cut.insert(name.clone(), rows(tensor, batch).with_context(|| format!("input {name}"))?);
    }
    Ok(cut)
}

/// The batch size of the inputs, if one of them leaves it open.
pub fn batch_of(graph: &Graph, tensors: &Tensors) -> Option<usize> {
    open_inputs(graph).iter().find_map(|name| tensors.get(name)?.shape().first().copied())
}

fn rows(tensor: &Tensor, count: usize) -> Result<Tensor> {
    let Some((&have, rest)) = tensor.shape().split_first() else { return Ok(tensor.clone()) };
    if count > have {
        bail!(UsageError(format!("--batch {count}: the given input has {have} rows")));
    }
    let row = tensor.bytes().len().checked_div(have).unwrap_or(0);
    let shape = std::iter::once(count).chain(rest.iter().copied()).collect();
    Ok(Tensor::new(tensor.dtype(), shape, tensor.bytes().slice(..row * count))?)
}

/// Names of the inputs whose first size is not fixed.
fn open_inputs(graph: &Graph) -> Vec<String> {
    let first = |ty: &Type| ty.shape().and_then(|dims| dims.first()).cloned();
    let inputs = data::required_inputs(graph).into_iter();
    inputs
        .filter(|(_, ty)| matches!(first(ty), Some(Dim::Symbol(_) | Dim::Unknown)))
        .map(|(name, _)| name)
        .collect()
}

/// A model whose inputs all have a fixed first size runs at that size only.
fn check_batch(graph: &Graph, batch: usize) -> Result<()> {
    if batch == 0 {
        bail!(UsageError("--batch 0: expected at least 1".to_owned()));
    }
    let inputs = data::required_inputs(graph);
    let fixed =
        |ty: &Type| matches!(ty.shape().and_then(|d| d.first()), Some(Dim::Size(n)) if *n == batch as u64);
    if !open_inputs(graph).is_empty() || inputs.iter().any(|(_, ty)| fixed(ty)) {
        return Ok(());
    }
    let all: Vec<String> = inputs.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
    bail!(UsageError(format!("--batch {batch}: the first size of every input is fixed ({})", all.join(", "))))
}
