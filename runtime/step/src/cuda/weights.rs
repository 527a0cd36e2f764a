//! Nodes that name a nested weight instead of having it among their operands.

use std::collections::BTreeMap;

use mqc_ir::op::Opaque;
use mqc_ir::{Attribute, DType, Dim, Graph, Node, NodeId, Op, Text, Type, Value, ValueInfo};
use mqc_kernels::cpu::Activation;
use mqc_kernels::nested::NestedWeight;

use crate::lower::task::{Epilogue, Nested};

/// The domain of these nodes.
const DOMAIN: &str = "ai.mqc.device";
const MATMUL: &str = "NestedMatMul";
const GATHER: &str = "NestedGather";
const WHOLE: &str = "NestedWeight";
const EPILOGUE: &str = "Epilogue";
const ACTIVATION: &str = "activation";
const LAYER: &str = "layer";

/// Leaves nodes that name their weight, and returns the weights by name. A convolution becomes one with a float weight that
/// is made of the nested one in every run. `weight_of` reads the weight of a nested node; `activation_of` tells the nodes
/// `activation(x + bias) * gate + residual` and their function, which become part of a product that nobody else reads.
///
/// # Errors
/// Those of `weight_of`; a graph with a cycle.
pub fn bind<E: From<mqc_ir::Error>>(
    graph: &mut Graph,
    mut weight_of: impl FnMut(&Graph, NodeId) -> Result<Option<NestedWeight>, E>,
    activation_of: impl Fn(&Op) -> Option<Activation>,
) -> Result<BTreeMap<String, NestedWeight>, E> {
    let mut weights = BTreeMap::new();
    for id in graph.order()? {
        let Some(op) = graph.node(id).map(|node| node.op.clone()) else { continue };
        if let Some(activation) = activation_of(&op) {
            finish(graph, id, activation)?;
            continue;
        }
        let (Op::NestedMatMul(nested) | Op::NestedGather(nested) | Op::NestedConv { nested, .. }) = &op
        else {
            continue;
        };
        let layer = nested.layer.clone();
        if !weights.contains_key(&layer) {
            let Some(weight) = weight_of(graph, id)? else { continue };
            weights.insert(layer.clone(), weight);
        }
        let data = graph.operand(id, 0);
        let (op, operands) = match &op {
            Op::NestedConv { window, shape, .. } => {
                let weight = whole(graph, &layer, shape)?;
                (Op::Conv(window.clone()), vec![data, Some(weight), graph.operand(id, 4)])
            }
            Op::NestedGather(_) => (naming(GATHER, Some(layer)), vec![data]),
            _ => (naming(MATMUL, Some(layer)), vec![data]),
        };
        if let Some(node) = graph.node_mut(id) {
            node.op = op;
        }
        let given = if operands.last() == Some(&None) { operands.len() - 1 } else { operands.len() };
        graph.set_operands(id, &operands[..given])?;
    }
    graph.erase_dead();
    Ok(weights)
}

/// Puts an epilogue into the product before it, which moves to where the operands of the epilogue are; one of a product that
/// has other users, or of another value, stays a node of its own.
fn finish(graph: &mut Graph, id: NodeId, activation: Activation) -> Result<(), mqc_ir::Error> {
    let mut operands = graph.operands(id).to_vec();
    let product = operands.first().copied().flatten().filter(|value| {
        let alone = graph.users(*value).len() == 1 && !graph.is_output(*value);
        let plain = graph.node(value.node).and_then(|node| named(&node.op));
        alone && matches!(plain, Some(Nested::MatMul { epilogue, .. }) if epilogue == Epilogue::default())
    });
    let layer = product.and_then(|value| graph.node(value.node)).and_then(|node| named(&node.op));
    let mut op = match (&layer, product) {
        (Some(kind), Some(value)) => {
            operands[0] = graph.operand(value.node, 0);
            naming(MATMUL, Some(kind.layer().to_owned()))
        }
        _ => naming(EPILOGUE, None),
    };
    if let Op::Opaque(opaque) = &mut op {
        opaque.attributes.insert(ACTIVATION.to_owned(), Attribute::Int(number(activation)));
        let given = |slot: usize| i64::from(operands.get(slot).is_some_and(Option::is_some));
        for (slot, name) in PARTS.into_iter().enumerate() {
            opaque.attributes.insert(name.to_owned(), Attribute::Int(given(slot + 1)));
        }
    }
    if let Some(node) = graph.node_mut(id) {
        node.op = op;
    }
    graph.set_operands(id, &operands)
}

/// Operands of an epilogue, behind the first.
const PARTS: [&str; 3] = ["bias", "gate", "residual"];

fn number(activation: Activation) -> i64 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
        Activation::GeluTanh => 3,
        Activation::Silu => 4,
    }
}

fn activation_in(opaque: &Opaque) -> Activation {
    let all =
        [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];
    let found = opaque.attributes.get(ACTIVATION);
    let is = |activation: &Activation| found == Some(&Attribute::Int(number(*activation)));
    all.into_iter().find(is).unwrap_or_default()
}

/// A node without operands whose value is a whole weight, as floats.
fn whole(graph: &mut Graph, layer: &str, shape: &[u64]) -> Result<Value, mqc_ir::Error> {
    let ty = Type::tensor(DType::F32, shape.iter().map(|size| Dim::Size(*size)).collect());
    let name = graph.fresh_name(&format!("{layer}.float"));
    let node = Node::new(naming(WHOLE, Some(layer.to_owned())), name.clone(), vec![ValueInfo { name, ty }]);
    Ok(Value { node: graph.insert(node, &[])?, slot: 0 })
}

fn naming(op_type: &str, layer: Option<String>) -> Op {
    let attribute = |layer: String| (LAYER.to_owned(), Attribute::String(Text(layer.into_bytes())));
    Op::Opaque(Opaque {
        domain: DOMAIN.to_owned(),
        op_type: op_type.to_owned(),
        overload: String::new(),
        attributes: layer.map(attribute).into_iter().collect(),
    })
}

/// What a node does that names its weight; `None` for all others.
pub(crate) fn named(op: &Op) -> Option<Nested> {
    let Op::Opaque(opaque) = op else { return None };
    let Some(Attribute::String(Text(layer))) = opaque.attributes.get(LAYER) else { return None };
    let layer = String::from_utf8_lossy(layer).into_owned();
    match (opaque.domain.as_str(), opaque.op_type.as_str()) {
        (DOMAIN, MATMUL) => {
            let [bias, gate, residual] =
                PARTS.map(|part| opaque.attributes.get(part) == Some(&Attribute::Int(1)));
            let epilogue = Epilogue { bias, activation: activation_in(opaque), gate, residual };
            Some(Nested::MatMul { layer, epilogue })
        }
        (DOMAIN, GATHER) => Some(Nested::Gather { layer }),
        (DOMAIN, WHOLE) => Some(Nested::Whole { layer }),
        _ => None,
    }
}

/// The function of an epilogue that is a node of its own; `None` for other nodes.
pub(crate) fn epilogue(op: &Op) -> Option<Activation> {
    match op {
        Op::Opaque(opaque) if (opaque.domain.as_str(), opaque.op_type.as_str()) == (DOMAIN, EPILOGUE) => {
            Some(activation_in(opaque))
        }
        _ => None,
    }
}
