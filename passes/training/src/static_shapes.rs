//! Gives every value of a model a fixed shape: what a model computes from the sizes of its inputs becomes constants.

use std::collections::BTreeMap;

use mqc_ir::infer::{infer, known_integers};
use mqc_ir::{DType, Dim, Graph, Op, Tensor, Type, Value, text};

use crate::Error;
use crate::expand::expand_operators;

/// Fixes the inputs to `shapes` (by name) and folds what follows from them.
///
/// # Errors
/// Inputs without a shape, shapes that the model contradicts, subgraphs, values whose sizes stay unknown, and float
/// types other than f32.
pub fn fix_shapes(graph: &mut Graph, shapes: &BTreeMap<String, Vec<usize>>) -> Result<(), Error> {
    for id in graph.inputs().to_vec() {
        let value = Value { node: id, slot: 0 };
        let (name, ty) = graph.info(value).map(|i| (i.name.clone(), i.ty.clone())).unwrap_or_default();
        if graph.constant(value).is_some() {
            continue;
        }
        let shape = shapes.get(&name).ok_or_else(|| {
            Error::invalid("input", &name, "has no shape; training graphs are made for one size of batch")
        })?;
        let dtype = ty.dtype().ok_or_else(|| Error::invalid("input", &name, "has no element type"))?;
        let fixed = Type::tensor(dtype, shape.iter().map(|&n| Dim::Size(n as u64)).collect());
        if !ty.compatible(&fixed) {
            return Err(Error::invalid("input", &name, format!("is {ty}, which {fixed} does not fit")));
        }
        graph.set_type(value, fixed);
    }
    forget_symbols(graph);
    infer(graph).map_err(first)?;
    fold(graph)?;
    expand_operators(graph)?;
    fold(graph)?;
    check(graph)
}

/// What was inferred for sizes of any batch; the inputs now say more.
fn forget_symbols(graph: &mut Graph) {
    for id in graph.ids() {
        let Some(node) = graph.node_mut(id) else { continue };
        if !matches!(node.op, Op::Input | Op::Weight(_) | Op::Constant(_)) {
            node.outputs.iter_mut().for_each(|o| o.ty = Type::Unknown);
        }
    }
    let mut outputs = graph.outputs().to_vec();
    outputs.iter_mut().for_each(|o| o.declared = Type::Unknown);
    graph.set_outputs(outputs);
}

fn fold(graph: &mut Graph) -> Result<(), Error> {
    for (value, items) in known_integers(graph) {
        let Some(info) = graph.info(value).filter(|_| graph.constant(value).is_none()).cloned() else {
            continue;
        };
        let sizes: Option<Vec<usize>> =
            info.ty.shape().map(|s| s.iter().filter_map(|d| d.size().map(|n| n as usize)).collect());
        let (Some(shape), Some(dtype)) = (sizes, info.ty.dtype()) else { continue };
        let Some(tensor) = integers(dtype, shape, &items)? else { continue };
        let constant = graph.add_weight(graph.numbered_name(&info.name), tensor);
        graph.replace_uses(value, constant)?;
    }
    graph.erase_dead();
    infer(graph).map_err(first)
}

fn integers(dtype: DType, shape: Vec<usize>, items: &[i64]) -> Result<Option<Tensor>, Error> {
    Ok(match dtype {
        DType::I64 => Some(Tensor::from_i64(shape, items)?),
        DType::I32 => {
            let bytes = items.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect();
            Some(Tensor::new(dtype, shape, bytes)?)
        }
        DType::Bool => Some(Tensor::new(dtype, shape, items.iter().map(|&v| u8::from(v != 0)).collect())?),
        _ => None,
    })
}

fn check(graph: &Graph) -> Result<(), Error> {
    for id in graph.order()? {
        let Some(node) = graph.node(id) else { continue };
        if !node.subgraphs.is_empty() {
            let message = "has a body; bodies (If, Loop, Scan) are not trained through";
            return Err(Error::invalid("node", graph.label(id), message));
        }
        for (slot, output) in node.outputs.iter().enumerate() {
            let used = !graph.users(Value { node: id, slot }).is_empty();
            let is_static = output.ty.shape().is_some_and(|s| s.iter().all(|d| d.size().is_some()));
            if (used || graph.is_output(Value { node: id, slot })) && !is_static {
                return Err(Error::NotStatic {
                    value: format!("{} ({})", output.name, text::mnemonic(&node.op)),
                    found: output.ty.to_string(),
                    expected: "a tensor whose sizes are all known",
                });
            }
            if let Some(dtype) = output.ty.dtype().filter(|d| d.is_float() && *d != DType::F32 && used) {
                let message = format!("is {dtype}; training graphs are f32, convert the model first");
                return Err(Error::invalid("value", &output.name, message));
            }
        }
    }
    Ok(())
}

fn first(errors: Vec<mqc_ir::Error>) -> Error {
    match errors.into_iter().next() {
        Some(error) => error.into(),
        None => Error::invalid("graph", "", "types cannot be inferred"),
    }
}
