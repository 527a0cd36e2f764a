//! Names of one ONNX graph: what it defines, what it takes from outside, in which order its nodes can run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use indexmap::IndexSet;

use super::{MAX_DEPTH, domain};
use crate::Error;
use crate::proto::{GraphProto, NodeProto};

/// What defines a name.
#[derive(Clone, Copy)]
pub(super) enum Definition {
    Input,
    Initializer,
    Node(usize),
}

/// The graphs in the attributes of a node.
pub(super) fn graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs))
}

/// How errors call a node: its name, or its operator and first output.
pub(crate) fn label(node: &NodeProto) -> String {
    match (node.name(), node.output.first()) {
        ("", Some(output)) => format!("{} -> {output}", node.op_type()),
        ("", None) => node.op_type().to_owned(),
        (name, _) => name.to_owned(),
    }
}

/// Every name that the graph defines.
///
/// # Errors
/// A name is defined twice or an input or initializer has none. An initializer may have the name of an input: it is
/// the input's default.
pub(super) fn definitions(graph: &GraphProto) -> Result<BTreeMap<&str, Definition>, Error> {
    let mut definitions: BTreeMap<&str, Definition> = BTreeMap::new();
    let mut define = |name, definition, what: &str| {
        let value = || format!("{what} '{name}'");
        let before = definitions.insert(name, definition);
        match (before, definition) {
            (None, _) => Ok(()),
            (Some(Definition::Input), Definition::Initializer) => Ok(()),
            (Some(_), _) => Err(Error::DefinedTwice { graph: graph.name().to_owned(), value: value() }),
        }
    };
    let unnamed = |what, index| Error::Unnamed { graph: graph.name().to_owned(), what, index };
    for (index, input) in graph.input.iter().enumerate() {
        if input.name().is_empty() {
            return Err(unnamed("input", index));
        }
        define(input.name(), Definition::Input, "input")?;
    }
    let sparse =
        graph.sparse_initializer.iter().map(|s| s.values.as_ref().map_or("", |values| values.name()));
    for (index, name) in graph.initializer.iter().map(|tensor| tensor.name()).chain(sparse).enumerate() {
        if name.is_empty() {
            return Err(unnamed("initializer", index));
        }
        define(name, Definition::Initializer, "initializer")?;
    }
    for (index, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            define(output, Definition::Node(index), "output of a node")?;
        }
    }
    Ok(definitions)
}

/// The names that a node uses without defining them: its inputs, and what its graphs take from outside.
///
/// # Errors
/// See [`definitions`]; nesting over [`MAX_DEPTH`].
pub(super) fn uses(node: &NodeProto, depth: usize) -> Result<IndexSet<&str>, Error> {
    let mut uses: IndexSet<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for graph in graphs(node) {
        uses.extend(captures(graph, depth + 1)?);
    }
    Ok(uses)
}

/// The names that a graph uses without defining them, in the order of use.
///
/// # Errors
/// As [`uses`].
pub(super) fn captures(graph: &GraphProto, depth: usize) -> Result<IndexSet<&str>, Error> {
    check_depth(graph, depth)?;
    let defined = definitions(graph)?;
    let mut captures = IndexSet::new();
    for node in &graph.node {
        captures.extend(uses(node, depth)?.into_iter().filter(|name| !defined.contains_key(name)));
    }
    let outputs = graph.output.iter().map(|output| output.name());
    captures.extend(outputs.filter(|name| !name.is_empty() && !defined.contains_key(name)));
    Ok(captures)
}

pub(super) fn check_depth(graph: &GraphProto, depth: usize) -> Result<(), Error> {
    match depth <= MAX_DEPTH {
        true => Ok(()),
        false => Err(Error::TooDeep { graph: graph.name().to_owned(), limit: MAX_DEPTH }),
    }
}

/// The nodes, each after those whose outputs it uses; nodes that are in order stay where they are.
///
/// # Errors
/// A cycle; see [`uses`].
pub(super) fn sorted(
    graph: &GraphProto,
    definitions: &BTreeMap<&str, Definition>,
    depth: usize,
) -> Result<Vec<usize>, Error> {
    let mut users: Vec<Vec<usize>> = vec![vec![]; graph.node.len()];
    let mut missing = vec![0usize; graph.node.len()];
    for (user, node) in graph.node.iter().enumerate() {
        for name in uses(node, depth)? {
            if let Some(Definition::Node(producer)) = definitions.get(name) {
                users[*producer].push(user);
                missing[user] += 1;
            }
        }
    }
    let mut ready: BinaryHeap<_> =
        (0..missing.len()).filter(|node| missing[*node] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for &user in &users[node] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    match missing.iter().position(|missing| *missing > 0) {
        None => Ok(order),
        Some(node) => Err(Error::Cycle { graph: graph.name().to_owned(), node: label(&graph.node[node]) }),
    }
}

/// Whether the graph has nodes of ONNX's own operators.
pub(super) fn uses_standard_domain(graph: &GraphProto, depth: usize) -> Result<bool, Error> {
    check_depth(graph, depth)?;
    for node in &graph.node {
        if domain(node.domain()).is_empty() {
            return Ok(true);
        }
        for inner in graphs(node) {
            if uses_standard_domain(inner, depth + 1)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
