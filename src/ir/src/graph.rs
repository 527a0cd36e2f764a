//! The graph: nodes, values, edits that keep it consistent.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};
use smallvec::SmallVec;

use crate::{Error, Op, Tensor, Type};

/// A node of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NodeIndex);

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The node that computes it.
    pub node: NodeId,
    /// Which of its outputs.
    pub slot: usize,
}

/// The operands of a node; `None` is an optional operand that is absent.
pub type Operands = SmallVec<[Option<Value>; 4]>;

/// What is known of a value besides where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueInfo {
    /// Any text; unique in a graph once verified; empty for an optional output that is absent.
    pub name: String,
    /// Its type, as far as known.
    pub ty: Type,
}

/// A node: an operation with its names, outputs and nested graphs. Operands are kept by the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// The name that the model gives it; may be empty.
    pub name: String,
    /// Documentation string of the model.
    pub doc: String,
    /// Metadata of the model, in its order.
    pub metadata: Vec<(String, String)>,
    /// Its outputs.
    pub outputs: Vec<ValueInfo>,
    /// Bodies of If, Loop, Scan and the like.
    pub subgraphs: Vec<Subgraph>,
}

impl Node {
    /// A node with unnamed outputs of the given types.
    pub fn new(op: Op, name: impl Into<String>, outputs: Vec<ValueInfo>) -> Node {
        Node { op, name: name.into(), doc: String::new(), metadata: vec![], outputs, subgraphs: vec![] }
    }
}

/// A graph-valued attribute. Values that it captures from outside are explicit: they are operands of the node
/// and, in the same order, the last inputs of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subgraph {
    /// Name of the attribute.
    pub attribute: String,
    /// The body.
    pub graph: Graph,
    /// For each of the last inputs of `graph`, the operand slot of the node that feeds it.
    pub captures: Vec<usize>,
}

/// A result of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The value.
    pub value: Value,
    /// The name under which it leaves the graph, whatever the value is called.
    pub name: String,
    /// The type that the model declares; it may be wrong, what is inferred is in the value.
    pub declared: Type,
}

#[derive(Clone, Debug)]
struct Slot {
    node: Node,
    arity: usize,
    // Position in the order of insertion: petgraph reuses indices, so they cannot serve.
    sequence: u64,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    output: usize,
    operand: usize,
}

/// A dataflow graph. All printing, export and passes see the nodes in [`Graph::order`], which depends on nothing but
/// the edits made.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the graph.
    pub name: String,
    /// Documentation string.
    pub doc: String,
    /// Metadata in the model's order.
    pub metadata: Vec<(String, String)>,
    /// Operator set versions by domain; "" is ONNX's own. Empty in subgraphs.
    pub opsets: BTreeMap<String, i64>,
    net: StableDiGraph<Slot, Use>,
    inputs: Vec<NodeId>,
    outputs: Vec<Output>,
    names: BTreeSet<String>,
    next_sequence: u64,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: Type) -> Value {
        let id = self.push(Node::new(Op::Input, "", vec![ValueInfo { name: name.into(), ty }]), 0);
        self.inputs.push(id);
        Value { node: id, slot: 0 }
    }

    /// Adds a named parameter.
    pub fn add_weight(&mut self, name: impl Into<String>, tensor: Tensor) -> Value {
        let info = ValueInfo { name: name.into(), ty: Type::of(&tensor) };
        Value { node: self.push(Node::new(Op::Weight(tensor), "", vec![info]), 0), slot: 0 }
    }

    /// Lists a weight among the inputs: an input with a default (ONNX before IR 4 lists all initializers so).
    pub fn list_as_input(&mut self, weight: NodeId) {
        self.inputs.push(weight);
    }

    /// Takes weights out of the inputs: they can no longer be overridden.
    pub fn fix_weights(&mut self) {
        let net = &self.net;
        self.inputs.retain(|id| net.node_weight(id.0).is_some_and(|s| s.node.op == Op::Input));
    }

    /// Adds a node. Error when an operand is not a value of this graph.
    pub fn insert(&mut self, node: Node, operands: &[Option<Value>]) -> Result<NodeId, Error> {
        for (slot, operand) in operands.iter().enumerate() {
            if operand.is_some_and(|v| self.info(v).is_none()) {
                return Err(Error::UnknownOperand { node: node.name, slot });
            }
        }
        let id = self.push(node, operands.len());
        for (operand, value) in operands.iter().enumerate() {
            if let Some(value) = value {
                self.net.add_edge(value.node.0, id.0, Use { output: value.slot, operand });
            }
        }
        Ok(id)
    }

    /// Adds a node with one output of a fresh name derived from `name`, its type unknown until inferred.
    pub fn apply(&mut self, op: Op, name: &str, operands: &[Value]) -> Result<Value, Error> {
        let info = ValueInfo { name: self.fresh_name(name), ty: Type::Unknown };
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        Ok(Value { node: self.insert(Node::new(op, info.name.clone(), vec![info]), &operands)?, slot: 0 })
    }

    fn push(&mut self, node: Node, arity: usize) -> NodeId {
        self.names.extend(node.outputs.iter().map(|o| o.name.clone()));
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        NodeId(self.net.add_node(Slot { node, arity, sequence }))
    }

    /// A value name that nothing in this graph has: `base`, or `base_1`, `base_2`, ...
    pub fn fresh_name(&self, base: &str) -> String {
        if !base.is_empty() && !self.names.contains(base) {
            return base.to_owned();
        }
        let mut n = 1usize;
        loop {
            let name = format!("{base}_{n}");
            if !self.names.contains(&name) {
                return name;
            }
            n += 1;
        }
    }

    /// A value name that nothing in this graph has, `base` with a number; quick however many there are.
    pub fn numbered_name(&self, base: &str) -> String {
        self.fresh_name(&format!("{base}_{}", self.next_sequence))
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        Some(&self.net.node_weight(id.0)?.node)
    }

    /// What errors call a node: its name, else that of its first output.
    pub fn label(&self, id: NodeId) -> String {
        let Some(node) = self.node(id) else { return "(removed)".to_owned() };
        let value = node.outputs.iter().map(|o| &o.name).find(|name| !name.is_empty());
        match (node.name.as_str(), value) {
            ("", Some(value)) => value.clone(),
            ("", None) => "(unnamed)".to_owned(),
            (name, _) => name.to_owned(),
        }
    }

    /// The node, to change its operation, names, types or subgraphs. The number of outputs may only grow.
    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        Some(&mut self.net.node_weight_mut(id.0)?.node)
    }

    /// Name and type of a value.
    pub fn info(&self, value: Value) -> Option<&ValueInfo> {
        self.node(value.node)?.outputs.get(value.slot)
    }

    /// The type of a value; unknown where nothing is known.
    pub fn ty(&self, value: Value) -> &Type {
        static UNKNOWN: Type = Type::Unknown;
        self.info(value).map_or(&UNKNOWN, |i| &i.ty)
    }

    /// Sets the type of a value.
    pub fn set_type(&mut self, value: Value, ty: Type) {
        if let Some(info) = self.node_mut(value.node).and_then(|n| n.outputs.get_mut(value.slot)) {
            info.ty = ty;
        }
    }

    /// The constant that a value is, when its node is one.
    pub fn constant(&self, value: Value) -> Option<&Tensor> {
        self.node(value.node)?.op.as_constant()
    }

    /// The operands of a node in order.
    pub fn operands(&self, id: NodeId) -> Operands {
        let arity = self.net.node_weight(id.0).map_or(0, |s| s.arity);
        let mut operands: Operands = SmallVec::from_elem(None, arity);
        for edge in self.net.edges_directed(id.0, Direction::Incoming) {
            let value = Value { node: NodeId(edge.source()), slot: edge.weight().output };
            operands[edge.weight().operand] = Some(value);
        }
        operands
    }

    /// One operand, when present.
    pub fn operand(&self, id: NodeId, slot: usize) -> Option<Value> {
        self.operands(id).get(slot).copied().flatten()
    }

    /// Replaces all operands of a node. Error when one is not a value of this graph.
    pub fn set_operands(&mut self, id: NodeId, operands: &[Option<Value>]) -> Result<(), Error> {
        let name = self.node(id).map(|n| n.name.clone()).unwrap_or_default();
        for (slot, operand) in operands.iter().enumerate() {
            if operand.is_some_and(|v| self.info(v).is_none()) {
                return Err(Error::UnknownOperand { node: name, slot });
            }
        }
        let old: Vec<_> = self.net.edges_directed(id.0, Direction::Incoming).map(|e| e.id()).collect();
        for edge in old {
            self.net.remove_edge(edge);
        }
        for (operand, value) in operands.iter().enumerate() {
            if let Some(value) = value {
                self.net.add_edge(value.node.0, id.0, Use { output: value.slot, operand });
            }
        }
        if let Some(slot) = self.net.node_weight_mut(id.0) {
            slot.arity = operands.len();
        }
        Ok(())
    }

    /// The nodes that use a value, with the operand slot, in the order of insertion of the nodes.
    pub fn users(&self, value: Value) -> Vec<(NodeId, usize)> {
        let mut users: Vec<_> = self
            .net
            .edges_directed(value.node.0, Direction::Outgoing)
            .filter(|e| e.weight().output == value.slot)
            .map(|e| (self.sequence(e.target()), NodeId(e.target()), e.weight().operand))
            .collect();
        users.sort_unstable();
        users.into_iter().map(|(_, node, slot)| (node, slot)).collect()
    }

    /// Whether the graph returns the value.
    pub fn is_output(&self, value: Value) -> bool {
        self.outputs.iter().any(|o| o.value == value)
    }

    /// Makes every user of `old`, and the results of the graph, use `new`. Error when their known types disagree.
    pub fn replace_uses(&mut self, old: Value, new: Value) -> Result<(), Error> {
        if !self.ty(old).compatible(self.ty(new)) {
            let name = |v| self.info(v).map(|i| i.name.clone()).unwrap_or_default();
            return Err(Error::Replace {
                value: name(new),
                found: Box::new(self.ty(new).clone()),
                replaced: name(old),
                expected: Box::new(self.ty(old).clone()),
            });
        }
        for (user, slot) in self.users(old) {
            self.set_operand(user, slot, new);
        }
        for output in self.outputs.iter_mut().filter(|o| o.value == old) {
            output.value = new;
        }
        Ok(())
    }

    /// Makes one operand of a node another value; a slot past its operands adds absent ones in between.
    pub fn set_operand(&mut self, user: NodeId, slot: usize, value: Value) {
        let old = self
            .net
            .edges_directed(user.0, Direction::Incoming)
            .find(|e| e.weight().operand == slot)
            .map(|e| e.id());
        if let Some(edge) = old {
            self.net.remove_edge(edge);
        }
        if let Some(node) = self.net.node_weight_mut(user.0) {
            node.arity = node.arity.max(slot + 1);
        }
        self.net.add_edge(value.node.0, user.0, Use { output: value.slot, operand: slot });
    }

    /// The inputs in order; a weight among them is an input with a default.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// The results in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Sets the results.
    pub fn set_outputs(&mut self, outputs: Vec<Output>) {
        self.names.extend(outputs.iter().map(|o| o.name.clone()));
        self.outputs = outputs;
    }

    /// Removes the inputs that `keep` refuses; they must be unused.
    pub fn retain_inputs(&mut self, mut keep: impl FnMut(usize, NodeId) -> bool) {
        let mut index = 0;
        self.inputs.retain(|&id| {
            index += 1;
            keep(index - 1, id)
        });
    }

    /// Number of nodes, sources included.
    pub fn len(&self) -> usize {
        self.net.node_count()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.net.node_count() == 0
    }

    fn sequence(&self, index: NodeIndex) -> u64 {
        self.net.node_weight(index).map_or(u64::MAX, |s| s.sequence)
    }

    /// All nodes in the order of insertion, cycles or not.
    pub fn ids(&self) -> Vec<NodeId> {
        let mut ids: Vec<_> = self.net.node_indices().map(|i| (self.sequence(i), NodeId(i))).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// The nodes of every cycle: those that depend on themselves, grouped with the ones they share a cycle with.
    pub fn cycles(&self) -> Vec<Vec<NodeId>> {
        let mut cycles: Vec<Vec<NodeId>> = petgraph::algo::kosaraju_scc(&self.net)
            .into_iter()
            .filter(|group| group.len() > 1 || group.iter().any(|i| self.net.contains_edge(*i, *i)))
            .map(|mut group| {
                group.sort_unstable_by_key(|i| self.sequence(*i));
                group.into_iter().map(NodeId).collect()
            })
            .collect();
        cycles.sort_unstable_by_key(|group: &Vec<NodeId>| group.first().map(|id| self.sequence(id.0)));
        cycles
    }

    /// All nodes in topological order; among ready nodes the first inserted comes first. Error when there is a cycle.
    pub fn order(&self) -> Result<Vec<NodeId>, Error> {
        let mut missing: BTreeMap<NodeIndex, usize> = BTreeMap::new();
        for edge in self.net.edge_references() {
            *missing.entry(edge.target()).or_default() += 1;
        }
        let mut ready: BinaryHeap<Reverse<(u64, NodeIndex)>> = self
            .net
            .node_indices()
            .filter(|i| !missing.contains_key(i))
            .map(|i| Reverse((self.sequence(i), i)))
            .collect();
        let mut order = Vec::with_capacity(self.net.node_count());
        while let Some(Reverse((_, index))) = ready.pop() {
            order.push(NodeId(index));
            for edge in self.net.edges_directed(index, Direction::Outgoing) {
                if let Some(count) = missing.get_mut(&edge.target()) {
                    *count -= 1;
                    if *count == 0 {
                        missing.remove(&edge.target());
                        ready.push(Reverse((self.sequence(edge.target()), edge.target())));
                    }
                }
            }
        }
        if missing.is_empty() {
            return Ok(order);
        }
        let node = self.cycles().first().and_then(|group| group.first().copied());
        Err(Error::Cycle { node: node.map(|id| self.label(id)).unwrap_or_default() })
    }

    /// Removes every node that no result depends on, except inputs. Returns how many.
    pub fn erase_dead(&mut self) -> usize {
        let mut live: BTreeSet<NodeIndex> = BTreeSet::new();
        let results = self.outputs.iter().map(|o| o.value.node);
        let mut stack: Vec<NodeIndex> = self.inputs.iter().copied().chain(results).map(|id| id.0).collect();
        while let Some(index) = stack.pop() {
            if live.insert(index) {
                stack.extend(self.net.edges_directed(index, Direction::Incoming).map(|e| e.source()));
            }
        }
        let dead: Vec<_> = self.net.node_indices().filter(|i| !live.contains(i)).collect();
        for index in &dead {
            self.net.remove_node(*index);
        }
        if !dead.is_empty() {
            let values = self.net.node_weights().flat_map(|s| &s.node.outputs).map(|o| &o.name);
            self.names = values.chain(self.outputs.iter().map(|o| &o.name)).cloned().collect();
        }
        dead.len()
    }
}

/// Structural equality: the same nodes in the same order with the same operands, whatever their indices.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        let (Ok(ours), Ok(theirs)) = (self.order(), other.order()) else { return false };
        if ours.len() != theirs.len() {
            return false;
        }
        let place: BTreeMap<NodeId, usize> = ours.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let other_place: BTreeMap<NodeId, usize> =
            theirs.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let same_value = |a: &Value, b: &Value| {
            a.slot == b.slot && place.get(&a.node).is_some_and(|p| other_place.get(&b.node) == Some(p))
        };
        let same_operands = |a: &NodeId, b: &NodeId| {
            let (a, b) = (self.operands(*a), other.operands(*b));
            a.len() == b.len()
                && a.iter().zip(&b).all(|(a, b)| match (a, b) {
                    (None, None) => true,
                    (Some(a), Some(b)) => same_value(a, b),
                    (None, Some(_)) | (Some(_), None) => false,
                })
        };
        self.name == other.name
            && self.doc == other.doc
            && self.metadata == other.metadata
            && self.opsets == other.opsets
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(|(a, b)| place.get(a) == other_place.get(b))
            && self.outputs.len() == other.outputs.len()
            && self
                .outputs
                .iter()
                .zip(&other.outputs)
                .all(|(a, b)| same_value(&a.value, &b.value) && a.name == b.name && a.declared == b.declared)
            && ours.iter().zip(&theirs).all(|(a, b)| self.node(*a) == other.node(*b) && same_operands(a, b))
    }
}

impl Eq for Graph {}
