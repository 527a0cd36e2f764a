//! What is known of every class: types, and whether it depends on constants only.

use std::collections::BTreeMap;

use egg::{Analysis, DidMerge, Id};
use mqc_ir::{Dim, Graph, Op, Tensor, TensorType, Type, Value, ValueInfo, infer};

use crate::node::{EGraph, Head, Node};
use crate::region::StoredLeaves;

/// What is known of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// The types of its outputs: one, unless it is a node with several.
    pub types: Vec<Type>,
    /// Whether it depends on constants only: it is computed before the model runs.
    pub constant: bool,
    /// The elements of a small constant.
    pub tensor: Option<Tensor>,
}

/// What is known of the leaves, and what rules did.
#[derive(Debug, Default)]
pub struct Facts {
    pub(crate) leaves: Vec<Fact>,
    /// Codes that have bit planes, by leaf.
    pub(crate) stored: BTreeMap<usize, StoredLeaves>,
    /// The types of the node that is added next, when the graph knows them.
    pub(crate) given: Option<Vec<Type>>,
    /// Nodes that rules made.
    pub(crate) made: Vec<(Node, &'static str)>,
    /// Classes that rules found equal.
    pub(crate) unions: Vec<(Id, &'static str)>,
}

impl Analysis<Node> for Facts {
    type Data = Fact;

    fn make(egraph: &mut EGraph, node: &Node, _: Id) -> Fact {
        let given = egraph.analysis.given.take();
        match &node.head {
            Head::Leaf(number) => egraph.analysis.leaves.get(*number).cloned().unwrap_or_default(),
            Head::Absent => Fact { constant: true, ..Fact::default() },
            Head::Output(slot) => {
                let of = node.args.first().map(|id| &egraph[*id].data);
                let ty = of.and_then(|fact| fact.types.get(*slot)).cloned().unwrap_or_default();
                Fact { types: vec![ty], constant: of.is_some_and(|f| f.constant), tensor: None }
            }
            Head::Op(op) => {
                let types = given.unwrap_or_else(|| infer_types(egraph, node, op));
                let tensor = op.as_constant().cloned();
                let from_constants =
                    !node.args.is_empty() && node.args.iter().all(|id| egraph[*id].data.constant);
                Fact { types, constant: tensor.is_some() || from_constants, tensor }
            }
        }
    }

    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        let types = match b.types.len() == a.types.len() {
            true => a.types.iter().zip(&b.types).map(|(a, b)| better(a, b)).collect(),
            false => a.types.clone(),
        };
        let merged = Fact {
            types,
            constant: a.constant || b.constant,
            tensor: a.tensor.clone().or_else(|| b.tensor.clone()),
        };
        let changed = DidMerge(merged != *a, merged != b);
        *a = merged;
        changed
    }
}

/// The types of the outputs of an operation; unknown where its operands do not fit.
fn infer_types(egraph: &EGraph, node: &Node, op: &Op) -> Vec<Type> {
    let unknown = vec![Type::Unknown; node.outputs];
    let mut graph = Graph::default();
    let mut operands = vec![];
    for id in &node.args {
        let class = &egraph[*id];
        let is_absent = class.nodes.iter().any(|n| n.head == Head::Absent);
        let value = match &class.data {
            _ if is_absent => None,
            Fact { tensor: Some(tensor), .. } => Some(graph.add_weight("", tensor.clone())),
            fact => Some(graph.add_input("", fact.types.first().cloned().unwrap_or_default())),
        };
        operands.push(value);
    }
    let outputs = vec![ValueInfo::default(); node.outputs];
    let Ok(id) = graph.insert(mqc_ir::Node::new(op.clone(), "", outputs), &operands) else { return unknown };
    match infer::infer_node(&mut graph, id) {
        Ok(()) => (0..node.outputs).map(|slot| graph.ty(Value { node: id, slot }).clone()).collect(),
        Err(_) => unknown,
    }
}

/// Of two types of one value, what either knows.
fn better(a: &Type, b: &Type) -> Type {
    match (a, b) {
        (Type::Unknown, _) => b.clone(),
        (Type::Tensor(a), Type::Tensor(b)) => {
            let shape = match (&a.shape, &b.shape) {
                (Some(a), Some(b)) if a.len() == b.len() => {
                    Some(a.iter().zip(b).map(|(a, b)| better_dim(a, b)).collect())
                }
                (Some(a), _) => Some(a.clone()),
                (None, b) => b.clone(),
            };
            Type::Tensor(TensorType { dtype: a.dtype.or(b.dtype), shape })
        }
        _ => a.clone(),
    }
}

fn better_dim(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Size(_), _) | (Dim::Symbol(_), Dim::Symbol(_) | Dim::Unknown) => a.clone(),
        (Dim::Symbol(_) | Dim::Unknown, _) => b.clone(),
    }
}
