//! The verifier: what every graph between two passes must satisfy.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, Graph, Node, NodeId, Op, Output, Subgraph, Type, Value, text};

mod arity;
mod types;

/// Every error of the graph and of its subgraphs: cycles, then the nodes in their order (of insertion when there is a
/// cycle), then names, inputs and outputs. Empty when the graph is well formed.
///
/// Only what is certain is an error: types that are not known are not checked, a declared type of a result may be wrong.
pub fn verify(graph: &Graph) -> Vec<Error> {
    let mut verifier = Verifier { graph, path: String::new(), errors: Vec::new() };
    verifier.run();
    verifier.errors
}

struct Verifier<'a> {
    graph: &'a Graph,
    /// Where a subgraph is: `node.attribute/`.
    path: String,
    errors: Vec<Error>,
}

impl Verifier<'_> {
    fn run(&mut self) {
        for cycle in self.graph.cycles() {
            let names: Vec<_> =
                cycle.iter().map(|id| format!("{}{}", self.path, self.graph.label(*id))).collect();
            self.errors.push(Error::Cycle { node: names.join(", ") });
        }
        let ids = self.graph.order().unwrap_or_else(|_| self.graph.ids());
        for id in &ids {
            if let Some(node) = self.graph.node(*id) {
                for message in self.node(*id, node) {
                    self.node_error(*id, node, message);
                }
                self.subgraphs(*id, node);
            }
        }
        self.names(&ids);
        self.inputs(&ids);
        self.outputs(&ids);
    }

    fn node_error(&mut self, id: NodeId, node: &Node, message: String) {
        let node_name = format!("{}{}", self.path, self.graph.label(id));
        self.errors.push(Error::Node { node: node_name, op: describe(&node.op), message });
    }

    fn graph_error(&mut self, message: String) {
        self.errors.push(Error::Graph { graph: format!("{}{}", self.path, self.graph.name), message });
    }

    fn node(&self, id: NodeId, node: &Node) -> Vec<String> {
        let operands = self.graph.operands(id);
        let arity = arity::arity(&node.op);
        let mut messages = arity.check(&operands, node.outputs.len());
        for (slot, value) in operands.iter().enumerate() {
            let Some(value) = value else { continue };
            let operand = arity.operand(slot);
            match self.graph.info(*value) {
                None => messages.push(format!("{operand} is not a value of the graph")),
                Some(info) if info.name.is_empty() => {
                    let producer = self.graph.label(value.node);
                    messages
                        .push(format!("{operand} is output {} of {producer}, which has no name", value.slot));
                }
                Some(_) => {}
            }
        }
        messages.extend(types::check(self.graph, node, &operands, &arity));
        messages
    }

    fn subgraphs(&mut self, id: NodeId, node: &Node) {
        let mut seen = BTreeSet::new();
        for subgraph in &node.subgraphs {
            for message in self.subgraph(id, node, subgraph, &mut seen) {
                self.node_error(id, node, message);
            }
            let path = format!("{}{}.{}/", self.path, self.graph.label(id), subgraph.attribute);
            let mut inner = Verifier { graph: &subgraph.graph, path, errors: Vec::new() };
            inner.run();
            self.errors.append(&mut inner.errors);
        }
    }

    fn subgraph<'b>(
        &self,
        id: NodeId,
        node: &Node,
        subgraph: &'b Subgraph,
        seen: &mut BTreeSet<&'b str>,
    ) -> Vec<String> {
        let name = &subgraph.attribute;
        let inner = &subgraph.graph;
        let mut messages = Vec::new();
        let Op::Opaque(opaque) = &node.op else {
            messages.push(format!("only opaque nodes have subgraphs, found {name}"));
            return messages;
        };
        if opaque.attributes.contains_key(name) {
            messages.push(format!("attribute {name} is both a value and a subgraph"));
        }
        if !seen.insert(name) {
            messages.push(format!("subgraph {name} is there twice"));
        }
        if !inner.opsets.is_empty() {
            messages.push(format!("subgraph {name} has opsets; they belong to the outermost graph"));
        }
        let Some(first) = inner.inputs().len().checked_sub(subgraph.captures.len()) else {
            messages.push(format!(
                "subgraph {name} captures {} values but has only {} inputs",
                subgraph.captures.len(),
                inner.inputs().len()
            ));
            return messages;
        };
        for (input, slot) in inner.inputs()[first..].iter().zip(&subgraph.captures) {
            let Some(outer) = self.graph.operand(id, *slot) else {
                messages.push(format!("subgraph {name} captures operand {slot}, which is absent"));
                continue;
            };
            let input = Value { node: *input, slot: 0 };
            let label = inner.label(input.node);
            if inner.node(input.node).is_none_or(|n| n.op != Op::Input) {
                messages.push(format!("subgraph {name}: the captured {label} is not an input"));
                continue;
            }
            let (outer, input) = (self.graph.ty(outer), inner.ty(input));
            if !outer.compatible(input) {
                messages.push(format!(
                    "subgraph {name}: the captured {label} is {input}, operand {slot} is {outer}"
                ));
            }
        }
        messages
    }

    fn names(&mut self, ids: &[NodeId]) {
        let mut owners: BTreeMap<&str, NodeId> = BTreeMap::new();
        for id in ids {
            let Some(node) = self.graph.node(*id) else { continue };
            for info in node.outputs.iter().filter(|o| !o.name.is_empty()) {
                match owners.get(info.name.as_str()) {
                    None => {
                        owners.insert(&info.name, *id);
                    }
                    Some(owner) => {
                        let owner = self.graph.node(*owner).map(|n| describe(&n.op)).unwrap_or_default();
                        let message = format!(
                            "the name {:?} of its output is taken, by the {owner} before it",
                            info.name
                        );
                        self.node_error(*id, node, message);
                    }
                }
            }
        }
    }

    fn inputs(&mut self, ids: &[NodeId]) {
        let mut listed = BTreeSet::new();
        for id in self.graph.inputs() {
            let label = self.graph.label(*id);
            if !listed.insert(*id) {
                self.graph_error(format!("input {label} is listed twice"));
            }
            match self.graph.node(*id).map(|n| &n.op) {
                Some(Op::Input | Op::Weight(_)) => {}
                Some(op) => self.graph_error(format!(
                    "input {label} is a {}, expected an input or a weight",
                    describe(op)
                )),
                None => self.graph_error("an input is not a node of the graph".to_owned()),
            }
        }
        for id in ids {
            if !listed.contains(id) && self.graph.node(*id).is_some_and(|n| n.op == Op::Input) {
                self.graph_error(format!(
                    "{} is an input that the graph does not list",
                    self.graph.label(*id)
                ));
            }
        }
    }

    fn outputs(&mut self, ids: &[NodeId]) {
        let values = ids.iter().filter_map(|id| Some((*id, self.graph.node(*id)?)));
        let owners: BTreeMap<&str, Value> = values
            .flat_map(|(node, n)| {
                n.outputs.iter().enumerate().map(move |(slot, o)| (o.name.as_str(), Value { node, slot }))
            })
            .collect();
        let mut seen = BTreeSet::new();
        for Output { value, name, .. } in self.graph.outputs() {
            match self.graph.info(*value) {
                None => self.graph_error(format!("output {name:?} is not a value of the graph")),
                Some(info) if info.name.is_empty() => {
                    self.graph_error(format!("the value of output {name:?} has no name"))
                }
                Some(_) => {}
            }
            if name.is_empty() {
                self.graph_error("an output has no name".to_owned());
                continue;
            }
            if !seen.insert(name.as_str()) {
                self.graph_error(format!("two outputs are named {name:?}"));
            }
            // Export gives the value the output's name: it must not be the name of another value that stays.
            if let Some(other) = owners.get(name.as_str()).filter(|v| *v != value)
                && (!self.graph.users(*other).is_empty() || self.graph.is_output(*other))
            {
                self.graph_error(format!("output {name:?} has the name of another value, which is in use"));
            }
        }
    }
}

/// What errors call an operation: its mnemonic, for an opaque one the name in its domain.
fn describe(op: &Op) -> String {
    let Op::Opaque(opaque) = op else { return text::op::parts(op).0 };
    if opaque.domain.is_empty() {
        opaque.op_type.clone()
    } else {
        format!("{}.{}", opaque.domain, opaque.op_type)
    }
}

fn expected(what: &str, found: &Type, expected: &[Type]) -> Option<String> {
    if expected.iter().any(|e| e.compatible(found)) {
        return None;
    }
    let expected: Vec<_> = expected.iter().map(Type::to_string).collect();
    Some(format!("{what} is {found}, expected {}", expected.join(" or ")))
}
