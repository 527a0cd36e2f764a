//! Prints a graph.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::lexer::{is_word, name, quote};
use super::{op, tensor};
use crate::{Graph, Node, NodeId, Op, Subgraph, Type, Value};

/// Headers that would be longer get one line for each input and output.
const MAX_HEADER: usize = 110;

/// Longer names of inputs and weights are not used in place of numbers.
const MAX_ID: usize = 64;

/// The text of a graph. Always the same for equal graphs. A graph with a cycle prints, but its text does not parse.
pub fn print(graph: &Graph) -> String {
    let mut out = String::new();
    write_graph(&mut out, graph, 0);
    out.push('\n');
    out
}

fn write_graph(out: &mut String, graph: &Graph, indent: usize) {
    let order = graph.order().unwrap_or_else(|_| graph.ids());
    let ids = number(graph, &order);
    let typed = inputs_at_the_start(graph, &order);
    let inputs: Vec<String> = graph.inputs().iter().map(|id| input(graph, *id, &ids, &typed)).collect();
    let outputs: Vec<String> =
        graph.outputs().iter().map(|o| format!("{}: {}", name(&o.name), o.declared)).collect();
    let title = if graph.name.is_empty() { String::new() } else { format!("@{}", name(&graph.name)) };
    let line = format!("graph {title}({}) -> ({}) {{\n", inputs.join(", "), outputs.join(", "));
    let margin = " ".repeat(indent + 2);
    if indent + line.len() <= MAX_HEADER || inputs.len() + outputs.len() < 2 {
        out.push_str(&line);
    } else {
        let end = " ".repeat(indent);
        let rows = |items: &[String]| items.join(&format!(",\n{margin}  "));
        let (inputs, outputs) = (rows(&inputs), rows(&outputs));
        let _ =
            writeln!(out, "graph {title}(\n{margin}  {inputs}\n{end}) -> (\n{margin}  {outputs}\n{end}) {{");
    }
    for (domain, version) in &graph.opsets {
        let _ = writeln!(out, "{margin}opset {} = {version}", name(domain));
    }
    if !graph.doc.is_empty() {
        let _ = writeln!(out, "{margin}doc {}", quote(graph.doc.as_bytes()));
    }
    for (key, value) in &graph.metadata {
        let _ = writeln!(out, "{margin}metadata {} = {}", name(key), quote(value.as_bytes()));
    }
    for id in order.iter().filter(|id| !typed.contains(id)) {
        if let Some(node) = graph.node(*id) {
            statement(out, graph, *id, node, &ids, indent + 2);
        }
    }
    let results: Vec<_> = graph.outputs().iter().map(|o| id_of(&ids, o.value)).collect();
    let _ = writeln!(out, "{}", format!("{margin}return {}", results.join(", ")).trim_end());
    let _ = write!(out, "{}}}", " ".repeat(indent));
}

/// What each value is called: inputs and weights by their names where these are plain and unique, all others by number.
fn number(graph: &Graph, order: &[NodeId]) -> BTreeMap<Value, String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let values: Vec<(Value, Option<&str>)> = order
        .iter()
        .filter_map(|id| Some((*id, graph.node(*id)?)))
        .flat_map(|(node, n)| {
            let may_be_named = matches!(n.op, Op::Input | Op::Weight(_));
            n.outputs.iter().enumerate().map(move |(slot, info)| {
                let plain = may_be_named && is_word(&info.name) && info.name.len() <= MAX_ID;
                (Value { node, slot }, plain.then_some(info.name.as_str()))
            })
        })
        .collect();
    for (_, name) in &values {
        if let Some(name) = name {
            *seen.entry(*name).or_default() += 1;
        }
    }
    let mut next = 0;
    let mut id = |name: Option<&str>| match name.filter(|name| seen.get(name) == Some(&1)) {
        Some(name) => name.to_owned(),
        None => {
            next += 1;
            (next - 1).to_string()
        }
    };
    values.into_iter().map(|(value, name)| (value, id(name))).collect()
}

fn id_of(ids: &BTreeMap<Value, String>, value: Value) -> String {
    format!("%{}", ids.get(&value).map_or("?", String::as_str))
}

/// The inputs that the header defines: those that come first in the graph, in the order of the header, and are plain.
fn inputs_at_the_start(graph: &Graph, order: &[NodeId]) -> BTreeSet<NodeId> {
    let is_input = |id: &NodeId| graph.node(*id).is_some_and(|n| n.op == Op::Input);
    let plain = |id: NodeId| {
        graph.operands(id).is_empty()
            && graph.node(id).is_some_and(|n| {
                n.outputs.len() == 1 && n.name.is_empty() && n.metadata.is_empty() && n.subgraphs.is_empty()
            })
    };
    let listed = graph.inputs().iter().filter(|id| is_input(id));
    listed.zip(order).take_while(|(a, b)| a == b && plain(**a)).map(|(id, _)| *id).collect()
}

fn input(graph: &Graph, id: NodeId, ids: &BTreeMap<Value, String>, typed: &BTreeSet<NodeId>) -> String {
    let written = id_of(ids, Value { node: id, slot: 0 });
    match graph.node(id) {
        Some(node) if typed.contains(&id) => {
            let types = node.outputs.iter().map(|o| o.ty.to_string()).collect::<String>();
            let mut text = format!("{written}: {types}");
            names(&mut text, node, std::slice::from_ref(&written));
            doc(&mut text, node);
            text
        }
        Some(_) | None => written,
    }
}

fn statement(
    out: &mut String,
    graph: &Graph,
    id: NodeId,
    node: &Node,
    ids: &BTreeMap<Value, String>,
    indent: usize,
) {
    let results: Vec<_> = (0..node.outputs.len()).map(|slot| id_of(ids, Value { node: id, slot })).collect();
    let operands: Vec<_> =
        graph.operands(id).iter().map(|v| v.map_or_else(|| "_".to_owned(), |v| id_of(ids, v))).collect();
    let (mnemonic, attributes) = op::parts(&node.op);
    let margin = " ".repeat(indent);
    out.push_str(&margin);
    out.push_str(&if results.is_empty() { "()".to_owned() } else { results.join(", ") });
    let _ = write!(out, " = {mnemonic}");
    if !operands.is_empty() {
        let _ = write!(out, " {}", operands.join(", "));
    }
    out.push_str(&op::write(&attributes));
    let constant = node.op.as_constant();
    let known = node.outputs.iter().any(|o| o.ty != Type::Unknown);
    if !node.outputs.is_empty() && (known || constant.is_some()) {
        let types: Vec<_> = node.outputs.iter().map(|o| o.ty.to_string()).collect();
        let _ = write!(out, " : {}", types.join(", "));
    }
    let mut comment = String::new();
    if let Some(constant) = constant {
        let declared = matches!(node.outputs.as_slice(), [only] if only.ty == Type::of(constant));
        let own = if declared { String::new() } else { format!("{} ", Type::of(constant)) };
        let data = tensor::write(constant);
        if tensor::is_named(&data) && constant.as_strings().is_none() {
            comment = format!("  # {} B", constant.bytes().len());
        }
        let _ = write!(out, " = {own}{data}");
    }
    if !node.name.is_empty() {
        let _ = write!(out, " @{}", name(&node.name));
    }
    names(out, node, &results);
    doc(out, node);
    for (key, value) in &node.metadata {
        let _ = write!(out, " metadata {} = {}", name(key), quote(value.as_bytes()));
    }
    out.push_str(&comment);
    out.push('\n');
    for subgraph in &node.subgraphs {
        write_subgraph(out, subgraph, indent + 2);
    }
}

fn write_subgraph(out: &mut String, subgraph: &Subgraph, indent: usize) {
    let _ = write!(out, "{}with {} ", " ".repeat(indent), name(&subgraph.attribute));
    if !subgraph.captures.is_empty() {
        let slots: Vec<_> = subgraph.captures.iter().map(usize::to_string).collect();
        let _ = write!(out, "captures [{}] ", slots.join(", "));
    }
    out.push_str("= ");
    write_graph(out, &subgraph.graph, indent);
    out.push('\n');
}

/// The name that a value has when the text gives none.
pub(super) fn default_name(id: &str, node: &str, results: usize) -> String {
    let numbered = id.starts_with(|c: char| c.is_ascii_digit());
    if numbered && results == 1 && !node.is_empty() { node.to_owned() } else { id.to_owned() }
}

fn names(out: &mut String, node: &Node, results: &[String]) {
    let default = |id: &String| default_name(id.trim_start_matches('%'), &node.name, results.len());
    if node.outputs.iter().zip(results).all(|(o, id)| o.name == default(id)) {
        return;
    }
    let names: Vec<_> = node
        .outputs
        .iter()
        .map(|o| match o.name.strip_prefix(&node.name) {
            Some(suffix) if !node.name.is_empty() && !suffix.is_empty() => format!("*{}", name(suffix)),
            Some(_) | None => name(&o.name),
        })
        .collect();
    let _ = write!(out, " as {}", names.join(", "));
}

fn doc(out: &mut String, node: &Node) {
    if !node.doc.is_empty() {
        let _ = write!(out, " doc {}", quote(node.doc.as_bytes()));
    }
}
