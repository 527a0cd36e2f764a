//! Type and shape inference with symbolic sizes.
//!
//! Every operation has one rule from operand types to output types, in the file of its group. Small integer tensors
//! are followed element by element, so that shapes that a model computes stay symbolic ([`symbolic::Expr`]).

mod control;
mod elementwise;
mod gather;
mod merge;
mod nested;
mod opaque;
mod product;
mod reduce;
mod reshape;
mod site;
mod slice;
pub mod symbolic;
#[cfg(test)]
mod tests;
mod values;
mod window;

use std::collections::BTreeMap;

use site::{Inferred, Known, Site, tensor};

use crate::{Error, Graph, NodeId, Op, Type, Value};

/// Nesting of subgraphs that is followed.
const MAX_DEPTH: usize = 64;

/// Infers the types of all values, in subgraphs too, and writes them to the graph.
///
/// What is there already (a model's `value_info`) fills in what cannot be inferred; where the two disagree the inferred
/// type wins. [`crate::graph::Output::declared`] stays as it is. Symbols are taken as sizes, never negative; equal
/// names are equal sizes. Semantics: the ONNX operator specification.
///
/// # Errors
///
/// All contradictions: operands of wrong element types, sizes that do not fit, dimensions that are negative or too
/// large, missing operands. The types of other nodes are inferred all the same.
pub fn infer(graph: &mut Graph) -> Result<(), Vec<Error>> {
    let mut errors = vec![];
    infer_scope(graph, Known::new(), 0, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The small integer and boolean tensors of this graph, subgraphs aside, whose every element follows from types and
/// constants: `Size(Shape(x)) == 3`, say, where the rank of x is known.
pub fn known_integers(graph: &Graph) -> BTreeMap<Value, Vec<i64>> {
    let known = infer_scope(&mut graph.clone(), Known::new(), 0, &mut vec![]);
    known.into_iter().filter_map(|(value, ints)| Some((value, ints.constants()?))).collect()
}

/// Infers the types of the outputs of one node from the types and constants that are its operands, for graphs that are
/// built node by node.
///
/// # Errors
///
/// What [`infer`] finds wrong with the node.
pub fn infer_node(graph: &mut Graph, id: NodeId) -> Result<(), Error> {
    let mut known = Known::new();
    for operand in graph.operands(id).into_iter().flatten() {
        let Some(source) = site(graph, operand.node, &known) else { continue };
        if source.node.op.as_constant().is_some() {
            let ints = values::evaluate(&source, &[source.graph.ty(operand).clone()]);
            known.extend(ints.into_iter().next().flatten().map(|ints| (operand, ints)));
        }
    }
    let Some(site) = site(graph, id, &known) else { return Ok(()) };
    let types = output_types(&site).map_err(|message| Error::Node {
        node: graph.label(id),
        op: op_name(&site.node.op),
        message,
    })?;
    for (slot, ty) in types.into_iter().enumerate() {
        graph.set_type(Value { node: id, slot }, ty);
    }
    Ok(())
}

/// Infers one graph. Returns the integers that are known in it.
fn infer_scope(graph: &mut Graph, mut known: Known, depth: usize, errors: &mut Vec<Error>) -> Known {
    let order = match graph.order() {
        Ok(order) => order,
        Err(error) => {
            errors.push(error);
            return known;
        }
    };
    let declared: BTreeMap<Value, Type> =
        graph.outputs().iter().map(|o| (o.value, o.declared.clone())).collect();
    for id in order {
        infer_bodies(graph, id, &known, depth, errors);
        let Some(site) = site(graph, id, &known) else {
            continue;
        };
        let inferred = output_types(&site).and_then(|types| {
            let types = merge::outputs(&site, id, types, &declared)?;
            let ints = values::evaluate(&site, &types);
            Ok((types, ints))
        });
        match inferred {
            Ok((types, ints)) => {
                for (slot, ty) in types.into_iter().enumerate() {
                    graph.set_type(Value { node: id, slot }, ty);
                }
                let ints = ints.into_iter().enumerate();
                known.extend(ints.filter_map(|(slot, v)| Some((Value { node: id, slot }, v?))));
            }
            Err(message) => {
                errors.push(Error::Node { node: graph.label(id), op: op_name(&site.node.op), message });
            }
        }
    }
    known
}

fn site<'a>(graph: &'a Graph, id: NodeId, known: &'a Known) -> Option<Site<'a>> {
    Some(Site { graph, node: graph.node(id)?, operands: graph.operands(id), known })
}

/// What errors call an operation.
fn op_name(op: &Op) -> String {
    match op {
        Op::Opaque(op) if op.domain.is_empty() => op.op_type.clone(),
        Op::Opaque(op) => format!("{}::{}", op.domain, op.op_type),
        op => crate::text::op::parts(op).0,
    }
}

/// Infers the subgraphs of a node; what they capture has the types and values that it has outside.
fn infer_bodies(graph: &mut Graph, id: NodeId, known: &Known, depth: usize, errors: &mut Vec<Error>) {
    if graph.node(id).is_none_or(|n| n.subgraphs.is_empty()) {
        return;
    }
    let Some(site) = site(graph, id, known) else {
        return;
    };
    if depth == MAX_DEPTH {
        let message = format!("subgraphs are nested deeper than {MAX_DEPTH}");
        return errors.push(Error::Node { node: graph.label(id), op: op_name(&site.node.op), message });
    }
    let mut inputs = vec![];
    for subgraph in &site.node.subgraphs {
        let own = subgraph.graph.inputs().len().saturating_sub(subgraph.captures.len());
        let mut types = match &site.node.op {
            Op::Opaque(op) => opaque::body_inputs(&site, op, own),
            _ => vec![],
        };
        types.resize(own, Type::Unknown);
        types.extend(subgraph.captures.iter().map(|slot| site.ty(*slot).clone()));
        let values: Vec<_> = subgraph.captures.iter().map(|slot| site.ints(*slot)).collect();
        let live = match &site.node.op {
            Op::Opaque(op) => control::is_live(&site, op, &subgraph.attribute),
            _ => true,
        };
        inputs.push((own, types, values, live));
    }
    let Some(node) = graph.node_mut(id) else {
        return;
    };
    // A branch that is never taken may well contradict the types at hand.
    for (subgraph, (own, types, values, _)) in node.subgraphs.iter_mut().zip(inputs).filter(|(_, i)| i.3) {
        let body = &mut subgraph.graph;
        let places: Vec<Value> = body.inputs().iter().map(|id| Value { node: *id, slot: 0 }).collect();
        for (place, ty) in places.iter().zip(types) {
            let merged = merge::merge(ty, body.ty(*place));
            body.set_type(*place, merged);
        }
        let captured = places.iter().skip(own).copied().zip(values);
        let known = captured.filter_map(|(place, v)| Some((place, v?))).collect();
        infer_scope(body, known, depth + 1, errors);
    }
}

/// The rule of each operation.
fn output_types(site: &Site) -> Inferred {
    let node = site.node;
    match &node.op {
        Op::Input => Ok(vec![]),
        Op::Weight(t) | Op::Constant(t) => Ok(vec![Type::of(t)]),
        Op::Identity => match site.value(0) {
            Some(value) => Ok(vec![site.graph.ty(value).clone()]),
            None => Err("operand 0 (input) is missing".to_owned()),
        },
        Op::Unary(kind) => elementwise::unary(site, *kind),
        Op::Binary(kind) => elementwise::binary(site, *kind),
        Op::Compare(kind) => elementwise::compare(site, *kind),
        Op::Variadic(kind) => elementwise::variadic(site, *kind),
        Op::Select => elementwise::select(site),
        Op::Clip => elementwise::clip(site),
        Op::LeakyRelu { .. } | Op::Elu { .. } | Op::HardSigmoid { .. } | Op::Gelu { .. } => {
            elementwise::float_map(site)
        }
        Op::FakeSlice { .. } => elementwise::float_map(site),
        Op::Cast { to, .. } => Ok(vec![tensor(Some(*to), site.tensor(0, "input")?.shape)]),
        Op::Reduce { kind, axes, keepdims, noop_with_empty_axes } => {
            reduce::reduce(site, *kind, axes, *keepdims, *noop_with_empty_axes)
        }
        Op::Reshape { allowzero } => reshape::reshape(site, *allowzero),
        Op::Transpose { perm } => reshape::transpose(site, perm),
        Op::Expand => reshape::expand(site),
        Op::Squeeze { axes } => reshape::squeeze(site, axes),
        Op::Unsqueeze { axes } => reshape::unsqueeze(site, axes),
        Op::Flatten { axis } => reshape::flatten(site, *axis),
        Op::Slice => slice::slice(site),
        Op::Concat { axis } => slice::concat(site, *axis),
        Op::Split { axis, sizes, num_outputs } => slice::split(site, *axis, sizes, *num_outputs),
        Op::Pad { .. } => slice::pad(site),
        Op::Gather { axis } => gather::gather(site, *axis),
        Op::GatherElements { axis } => gather::gather_elements(site, *axis),
        Op::GatherNd { batch_dims } => gather::gather_nd(site, *batch_dims),
        Op::ScatterElements { axis, .. } => gather::scatter_elements(site, *axis),
        Op::ScatterNd { .. } => gather::scatter_nd(site),
        Op::Tile => slice::tile(site),
        Op::Shape { start, end } => reshape::shape(site, *start, *end),
        Op::Size => reshape::size(site),
        Op::ConstantOfShape { value } => reshape::constant_of_shape(site, value),
        Op::Range => reshape::range(site),
        Op::MatMul => product::matmul(site),
        Op::Conv(window) => window::conv(site, window),
        Op::MaxPool { window, ceil_mode, .. } => window::pool(site, window, *ceil_mode, true),
        Op::AveragePool { window, ceil_mode, .. } => window::pool(site, window, *ceil_mode, false),
        Op::GlobalAveragePool | Op::GlobalMaxPool => window::global_pool(site),
        Op::Gemm { trans_a, trans_b, .. } => product::gemm(site, *trans_a, *trans_b),
        Op::Softmax { axis, flatten } | Op::LogSoftmax { axis, flatten } => {
            reduce::softmax(site, *axis, *flatten)
        }
        Op::BatchNormalization { .. } => reduce::batch_normalization(site),
        Op::LayerNormalization { axis, stash_type, .. } => {
            reduce::layer_normalization(site, *axis, *stash_type, true)
        }
        Op::RmsNormalization { axis, stash_type, .. } => {
            reduce::layer_normalization(site, *axis, *stash_type, false)
        }
        Op::Dropout { .. } => reduce::dropout(site),
        Op::NestedQuantize(parameters) => nested::quantize(site, parameters),
        Op::SliceBits { .. } => nested::slice_bits(site),
        Op::Dequantize { grouping, layout, shape, .. } => nested::dequantize(site, *grouping, *layout, shape),
        Op::NestedMatMul(nested) => nested::matmul(site, nested),
        Op::NestedConv { nested, window, shape } => nested::conv(site, nested, window, shape),
        Op::NestedGather(nested) => nested::gather(site, nested),
        Op::Opaque(op) => Ok(opaque::outputs(site, op)),
    }
}
