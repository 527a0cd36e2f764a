//! Quantized weights become bit planes, and their users the operations that read them.
//!
//! Before: `%q, %s, %z = nested_quantize %w`, `%c = slice_bits %q`, `%d = dequantize %c, %s, %z`, `%y = mat_mul %x, %d`
//!
//! After:  `%y = nested_mat_mul %x, %fc1.width, %fc1.scale, %fc1.zero, %fc1.plane0, ...`
//!
//! The codes are chosen by the caller, who streams them to a file and gives back the tensors that lie there.

use std::collections::BTreeMap;

use mqc_ir::op::{Nested, WeightLayout};
use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, Node, NodeId, Op, Operands, Tensor, Type, Value, ValueInfo};

use crate::walk::for_each_graph;
use crate::{Error, Layer};

/// The stored parts of a nested weight.
#[derive(Clone, Debug)]
pub struct NestedTensors {
    /// f32 [N, G]; [1 + map_widths, N, G] when there are any: see [`Nested`].
    pub scale: Tensor,
    /// As `scale`.
    pub zero: Tensor,
    /// The widths with a scale and a zero of their own, wide first.
    pub map_widths: Vec<Width>,
    /// Leading bit planes, u8 [N, ceil(K/8)].
    pub planes: Vec<Tensor>,
}

/// Replaces every quantized weight by the tensors that `tensors` has for its layer (by name).
pub fn lower_nested(
    graph: &mut Graph,
    layers: &[Layer],
    tensors: &BTreeMap<String, NestedTensors>,
) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        for id in graph.order()? {
            let Some(node) = graph.node(id) else { continue };
            let Op::NestedQuantize(_) = node.op else { continue };
            let name = node.name.clone();
            let missing =
                || Error::Layer { layer: name.clone(), message: "has no stored tensors".to_owned() };
            let layer = layers.iter().find(|l| l.name == name).ok_or_else(missing)?;
            lower(graph, id, layer, tensors.get(&name).ok_or_else(missing)?)?;
        }
        graph.erase_dead();
        Ok(())
    })
}

/// The operands that a nested operation takes besides its data.
struct Parts {
    width: Value,
    scale: Value,
    zero: Value,
    planes: Vec<Value>,
}

fn lower(graph: &mut Graph, quantize: NodeId, layer: &Layer, tensors: &NestedTensors) -> Result<(), Error> {
    let add = |graph: &mut Graph, part: &str, tensor: Tensor| {
        let name = graph.fresh_name(&format!("{}.{part}", layer.name));
        graph.add_weight(name, tensor)
    };
    let float_codes = Value { node: quantize, slot: 0 };
    // Their names belong to the stored tensors from now on.
    if let Some(node) = graph.node_mut(quantize) {
        for (slot, output) in node.outputs.iter_mut().enumerate() {
            output.name = format!("{}.quantized{slot}", layer.name);
        }
    }
    let parts = Parts {
        width: add(graph, "width", Tensor::i64_scalar(8)),
        scale: add(graph, "scale", tensors.scale.clone()),
        zero: add(graph, "zero", tensors.zero.clone()),
        planes: tensors
            .planes
            .iter()
            .enumerate()
            .map(|(p, t)| add(graph, &format!("plane{p}"), t.clone()))
            .collect(),
    };
    let nested = Nested {
        layer: layer.name.clone(),
        mode: layer.spec.mode,
        grouping: layer.spec.grouping,
        cols: layer.cols as u64,
        map_widths: tensors.map_widths.clone(),
    };
    for (slice, _) in graph.users(float_codes) {
        for (dequantize, _) in graph.users(Value { node: slice, slot: 0 }) {
            replace_users(graph, Value { node: dequantize, slot: 0 }, DType::F32, layer, &nested, &parts)?;
        }
    }
    Ok(())
}

/// Replaces the users of a dequantized weight, looking through casts and transposes.
fn replace_users(
    graph: &mut Graph,
    float: Value,
    dtype: DType,
    layer: &Layer,
    nested: &Nested,
    parts: &Parts,
) -> Result<(), Error> {
    for (user, slot) in graph.users(float) {
        let Some(node) = graph.node(user).cloned() else { continue };
        let output = Value { node: user, slot: 0 };
        let operands = graph.operands(user);
        match (&node.op, slot) {
            (Op::Cast { to, .. }, 0) => replace_users(graph, output, *to, layer, nested, parts)?,
            (Op::Transpose { .. }, 0) => replace_users(graph, output, dtype, layer, nested, parts)?,
            (Op::MatMul, 1) => {
                let op = Op::NestedMatMul(nested.clone());
                replace(graph, user, op, dtype, operands.first().copied().flatten(), None, parts)?;
            }
            (Op::Conv(window), 1) => {
                let op = Op::NestedConv {
                    nested: nested.clone(),
                    window: window.clone(),
                    shape: layer.shape.clone(),
                };
                let bias = Some(operands.get(2).copied().flatten());
                replace(graph, user, op, dtype, operands.first().copied().flatten(), bias, parts)?;
            }
            (Op::Gather { axis: 0 }, 0) if layer.spec.layout == WeightLayout::RowsFirst => {
                let op = Op::NestedGather(nested.clone());
                replace(graph, user, op, dtype, operands.get(1).copied().flatten(), None, parts)?;
            }
            _ => {
                return Err(Error::Layer {
                    layer: layer.name.clone(),
                    message: format!("node {:?} uses the weight in a way that has no nested form", node.name),
                });
            }
        }
    }
    Ok(())
}

/// Puts the nested operation in the place of `user`; it computes in f32, other types are cast around it.
fn replace(
    graph: &mut Graph,
    user: NodeId,
    op: Op,
    dtype: DType,
    data: Option<Value>,
    bias: Option<Option<Value>>,
    parts: &Parts,
) -> Result<(), Error> {
    let Some(node) = graph.node(user).cloned() else { return Ok(()) };
    let to_f32 = |graph: &mut Graph, value: Option<Value>, what: &str| match (value, dtype) {
        (Some(value), dtype) if dtype != DType::F32 && !matches!(op, Op::NestedGather(_)) => {
            let cast = Op::Cast { to: DType::F32, saturate: true };
            graph.apply(cast, &format!("{}/{what}", node.name), &[value]).map(Some)
        }
        (value, _) => Ok(value),
    };
    let mut operands = Operands::new();
    operands.push(to_f32(graph, data, "f32")?);
    operands.extend([parts.width, parts.scale, parts.zero].map(Some));
    if let Some(bias) = bias {
        operands.push(to_f32(graph, bias, "bias_f32")?);
    }
    operands.extend(parts.planes.iter().copied().map(Some));
    let old = Value { node: user, slot: 0 };
    let (name, ty) = graph.info(old).map(|i| (i.name.clone(), i.ty.clone())).unwrap_or_default();
    let aside = graph.fresh_name(&format!("{name}/float"));
    if let Some(info) = graph.node_mut(user).and_then(|n| n.outputs.first_mut()) {
        info.name = aside;
    }
    if dtype == DType::F32 {
        let node = Node { op, outputs: vec![ValueInfo { name, ty }], ..node };
        let new = graph.insert(node, &operands)?;
        return Ok(graph.replace_uses(old, Value { node: new, slot: 0 })?);
    }
    let inner = ValueInfo { name: graph.fresh_name(&format!("{name}/f32")), ty: Type::Unknown };
    let nested = graph.insert(Node { op, outputs: vec![inner], ..node }, &operands)?;
    let cast = Node::new(Op::Cast { to: dtype, saturate: true }, "", vec![ValueInfo { name, ty }]);
    let cast = graph.insert(cast, &[Some(Value { node: nested, slot: 0 })])?;
    Ok(graph.replace_uses(old, Value { node: cast, slot: 0 })?)
}
