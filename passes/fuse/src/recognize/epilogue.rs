//! What follows a product and can be done before its result is stored: `activation(y + bias) * gate + residual`.
//!
//! The kernels take it. Found on the graph, where it is known that nobody else uses what lies between.

use mqc_ir::op::{Binary, GeluKind, Unary};
use mqc_ir::{Graph, NodeId, Op, Value};

/// The function after the bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activation {
    /// y
    #[default]
    Identity,
    /// max(y, 0)
    Relu,
    /// Exact.
    Gelu,
    /// By tanh.
    GeluTanh,
    /// y sigmoid(y)
    Silu,
}

impl Activation {
    /// What attributes and reports call it; nothing for the identity.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Activation::Identity => None,
            Activation::Relu => Some("relu"),
            Activation::Gelu => Some("gelu"),
            Activation::GeluTanh => Some("gelu_tanh"),
            Activation::Silu => Some("silu"),
        }
    }

    /// The activation of this name.
    pub fn of_name(name: &[u8]) -> Option<Activation> {
        let all = [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];
        all.into_iter().find(|activation| activation.name().is_some_and(|own| own.as_bytes() == name))
    }
}

/// The epilogue of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epilogue {
    /// The product: MatMul or NestedMatMul with a constant weight.
    pub product: NodeId,
    /// A constant vector, one element an output row.
    pub bias: Option<Value>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Multiplied after the activation, of the shape of the result.
    pub gate: Option<Value>,
    /// Added last, of the shape of the result.
    pub residual: Option<Value>,
    /// The value that the product with its epilogue computes.
    pub result: Value,
    /// Nodes that it saves.
    pub nodes: usize,
}

/// The epilogues of all products that have one.
///
/// # Errors
/// The graph has a cycle.
pub fn epilogues(graph: &Graph) -> Result<Vec<Epilogue>, mqc_ir::Error> {
    let order = graph.order()?;
    let mut taken: Vec<Value> = vec![];
    let mut found = vec![];
    for product in order.into_iter().filter(|id| is_product(graph, *id)) {
        let epilogue = epilogue(graph, product, &taken);
        if epilogue.nodes > 0 {
            taken.push(epilogue.result);
            found.push(epilogue);
        }
    }
    Ok(found)
}

fn is_product(graph: &Graph, id: NodeId) -> bool {
    match graph.node(id).map(|n| &n.op) {
        Some(Op::MatMul) => graph.operand(id, 1).is_some_and(|w| graph.constant(w).is_some()),
        Some(Op::NestedMatMul(_)) => true,
        Some(_) | None => false,
    }
}

fn epilogue(graph: &Graph, product: NodeId, taken: &[Value]) -> Epilogue {
    let result = Value { node: product, slot: 0 };
    let mut found = Epilogue {
        product,
        bias: None,
        activation: Activation::Identity,
        gate: None,
        residual: None,
        result,
        nodes: 0,
    };
    if let Some((value, bias)) = pair(graph, found.result, Binary::Add)
        && graph.constant(bias).is_some()
        && graph.ty(bias).rank() == Some(1)
        && graph.ty(bias).shape().and_then(|s| s.last()) == graph.ty(result).shape().and_then(|s| s.last())
    {
        found = Epilogue { bias: Some(bias), result: value, nodes: found.nodes + 1, ..found };
    }
    if let Some((value, activation, nodes)) = activated(graph, found.result) {
        found = Epilogue { activation, result: value, nodes: found.nodes + nodes, ..found };
    }
    let same = |value: Value, other: Value| {
        graph.ty(value).shape().is_some() && graph.ty(value) == graph.ty(other) && !taken.contains(&value)
    };
    if let Some((value, gate)) = pair(graph, found.result, Binary::Mul).filter(|(v, gate)| same(*v, *gate)) {
        found = Epilogue { gate: Some(gate), result: value, nodes: found.nodes + 1, ..found };
    }
    if let Some((value, other)) = pair(graph, found.result, Binary::Add).filter(|(v, other)| same(*v, *other))
    {
        found = Epilogue { residual: Some(other), result: value, nodes: found.nodes + 1, ..found };
    }
    found
}

/// The only node that uses a value, when it is no result of the graph.
fn only_user(graph: &Graph, value: Value) -> Option<NodeId> {
    match graph.users(value).as_slice() {
        [(user, _)] if !graph.is_output(value) => Some(*user),
        _ => None,
    }
}

/// The result and the other operand of the only user of a value.
fn pair(graph: &Graph, value: Value, kind: Binary) -> Option<(Value, Value)> {
    let user =
        only_user(graph, value).filter(|u| graph.node(*u).is_some_and(|n| n.op == Op::Binary(kind)))?;
    let (a, b) = (graph.operand(user, 0)?, graph.operand(user, 1)?);
    Some((Value { node: user, slot: 0 }, if a == value { b } else { a }))
}

/// The value after the activation, and how many nodes it takes.
fn activated(graph: &Graph, value: Value) -> Option<(Value, Activation, usize)> {
    if let Some(silu) = silu(graph, value) {
        return Some((silu, Activation::Silu, 2));
    }
    let user = only_user(graph, value)?;
    let activation = match &graph.node(user)?.op {
        Op::Unary(Unary::Relu) => Activation::Relu,
        Op::Gelu { approximate: GeluKind::Erf } => Activation::Gelu,
        Op::Gelu { approximate: GeluKind::Tanh } => Activation::GeluTanh,
        _ => return None,
    };
    Some((Value { node: user, slot: 0 }, activation, 1))
}

/// y sigmoid(y), where nothing else uses y.
fn silu(graph: &Graph, value: Value) -> Option<Value> {
    let users = graph.users(value);
    let &[(a, _), (b, _)] = users.as_slice() else { return None };
    let is = |id: NodeId, op: Op| graph.node(id).is_some_and(|n| n.op == op);
    let (sigmoid, mul) = match is(a, Op::Unary(Unary::Sigmoid)) {
        true => (a, b),
        false => (b, a),
    };
    let matches = is(sigmoid, Op::Unary(Unary::Sigmoid))
        && is(mul, Op::Binary(Binary::Mul))
        && only_user(graph, Value { node: sigmoid, slot: 0 }) == Some(mul)
        && !graph.is_output(value);
    matches.then_some(Value { node: mul, slot: 0 })
}
