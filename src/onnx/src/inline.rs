//! Inlining of model-local functions: every call becomes the nodes of the body.
//!
//! The nested operators of mqc (domain "ai.mqc") stay: their functions are only for runtimes that do not know them.

mod rename;

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;
use crate::import::domain;
use crate::import::scope::label;
use crate::ops::NESTED_DOMAIN;
use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
};

use rename::{Names, Scope};

/// Functions that call functions, and graphs within graphs, to this depth.
const MAX_DEPTH: usize = 64;
/// Nodes that calls may become: far over any model, so that functions that double at each level end in an error.
const MAX_NODES: usize = 1 << 19;

/// Replaces the calls of local functions in the graph, its inner graphs and the training graphs by the functions'
/// bodies and removes the functions. Inner values are called `CALL/NAME`, where that is free.
///
/// # Errors
/// A function that calls itself; a call with too many inputs or outputs, or of an output that the body does not
/// compute; a body whose operators are of another version than the model's; over half a million nodes.
pub fn inline_functions(model: &mut ModelProto) -> Result<(), Error> {
    let (kept, functions): (Vec<_>, Vec<_>) =
        std::mem::take(&mut model.functions).into_iter().partition(|f| f.domain() == NESTED_DOMAIN);
    model.functions = kept;
    let table: BTreeMap<Key, &FunctionProto> =
        functions.iter().map(|f| (key(f.domain(), f.name(), f.overload()), f)).collect();
    if table.is_empty() {
        return Ok(());
    }
    let mut inliner = Inliner { table, opsets: &mut model.opset_import, names: Names::default(), nodes: 0 };
    let training = model.training_info.iter_mut();
    let training = training.flat_map(|t| [&mut t.initialization, &mut t.algorithm]).flatten();
    for graph in model.graph.as_mut().into_iter().chain(training) {
        inliner.names.add_graph(graph);
        inliner.graph(graph, &mut vec![], 0)?;
    }
    Ok(())
}

/// Domain, name and overload.
type Key<'a> = (&'a str, &'a str, &'a str);

fn key<'a>(of: &'a str, name: &'a str, overload: &'a str) -> Key<'a> {
    (domain(of), name, overload)
}

struct Inliner<'a> {
    table: BTreeMap<Key<'a>, &'a FunctionProto>,
    opsets: &'a mut Vec<OperatorSetIdProto>,
    names: Names,
    /// Nodes made so far.
    nodes: usize,
}

impl<'a> Inliner<'a> {
    fn graph(&mut self, graph: &mut GraphProto, calls: &mut Vec<Key<'a>>, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep { graph: graph.name().to_owned(), limit: MAX_DEPTH });
        }
        let nodes = std::mem::take(&mut graph.node);
        graph.node = self.nodes(nodes, &mut graph.value_info, calls, depth)?;
        Ok(())
    }

    fn nodes(
        &mut self,
        nodes: Vec<NodeProto>,
        value_info: &mut Vec<ValueInfoProto>,
        calls: &mut Vec<Key<'a>>,
        depth: usize,
    ) -> Result<Vec<NodeProto>, Error> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                    self.graph(graph, calls, depth + 1)?;
                }
            }
            let Some(&function) = self.table.get(&key(node.domain(), node.op_type(), node.overload())) else {
                expanded.push(node);
                continue;
            };
            let called = key(function.domain(), function.name(), function.overload());
            let name = display(called);
            if calls.contains(&called) {
                let through: Vec<_> = calls.iter().map(|call| display(*call)).collect();
                return Err(Error::Recursion { function: name, calls: through.join(", ") });
            }
            if calls.len() >= MAX_DEPTH {
                return Err(call_error(
                    &node,
                    &name,
                    format!("functions call each other over {MAX_DEPTH} levels deep"),
                ));
            }
            self.check_opsets(function, &name)?;
            let (body, info) = self.body(&node, function, &name)?;
            value_info.extend(info);
            calls.push(called);
            expanded.extend(self.nodes(body, value_info, calls, depth)?);
            calls.pop();
        }
        Ok(expanded)
    }

    /// The nodes of a call, and what the function says of the types of its values.
    fn body(
        &mut self,
        call: &NodeProto,
        function: &FunctionProto,
        name: &str,
    ) -> Result<(Vec<NodeProto>, Vec<ValueInfoProto>), Error> {
        let error = |message: String| call_error(call, name, message);
        for (what, found, most) in [
            ("inputs", call.input.len(), function.input.len()),
            ("outputs", call.output.len(), function.output.len()),
        ] {
            if found > most {
                return Err(error(format!("it has {found} {what}, the function {most}")));
            }
        }
        self.nodes += function.node.len();
        if self.nodes > MAX_NODES {
            return Err(Error::Expansion { limit: MAX_NODES });
        }

        let prefix = if call.name().is_empty() { function.name() } else { call.name() };
        let prefix = self.names.fresh_prefix(prefix);
        let mut scope = Scope::new(&prefix);
        for (index, formal) in function.input.iter().enumerate() {
            scope.set(formal, call.input.get(index).map_or("", String::as_str));
        }
        // A result that the body computes gets the caller's name; one that is an input, or is there twice, is copied.
        let mut copies = vec![];
        let computed: BTreeSet<&str> =
            function.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        let mut given = BTreeSet::new();
        for (formal, actual) in
            function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty())
        {
            if computed.contains(formal.as_str()) && given.insert(formal) {
                scope.set(formal, actual);
            } else {
                copies.push((formal, actual));
            }
        }
        for output in function.node.iter().flat_map(|n| &n.output).filter(|output| !output.is_empty()) {
            if !given.contains(output) {
                let fresh = self.names.fresh(&format!("{prefix}/{output}"));
                scope.set(output, &fresh);
            }
        }

        let mut body = Vec::with_capacity(function.node.len() + copies.len());
        for node in &function.node {
            let mut node = node.clone();
            // Graphs that the call brings know the names of the caller: they come in after renaming.
            scope.rename(&mut node, &mut self.names, 0).map_err(error)?;
            bind(&mut node.attribute, call, function, 0).map_err(error)?;
            body.push(node);
        }
        for (formal, actual) in copies {
            let source = scope.get(formal).filter(|source| !source.is_empty());
            let source = source.ok_or_else(|| error(format!("output '{formal}' has no value")))?;
            body.push(NodeProto {
                op_type: Some("Identity".to_owned()),
                input: vec![source.to_owned()],
                output: vec![actual.clone()],
                ..NodeProto::default()
            });
        }
        let info = function.value_info.iter().filter_map(|info| {
            let name = scope
                .get(info.name())
                .filter(|name| !name.is_empty() && !call.input.iter().any(|i| i == name));
            name.map(|name| ValueInfoProto { name: Some(name.to_owned()), ..info.clone() })
        });
        Ok((body, info.collect()))
    }

    /// Whether the operators in the body mean what they mean in the model; a domain that the model lacks is added.
    fn check_opsets(&mut self, function: &FunctionProto, name: &str) -> Result<(), Error> {
        let mut used = BTreeSet::new();
        let calls =
            |node: &NodeProto| self.table.contains_key(&key(node.domain(), node.op_type(), node.overload()));
        each_node(&function.node, &mut |node| {
            if !calls(node) {
                used.insert(domain(node.domain()).to_owned());
            }
        });
        for import in function.opset_import.iter().filter(|import| used.contains(domain(import.domain()))) {
            let of = domain(import.domain());
            match self.opsets.iter().find(|model| domain(model.domain()) == of) {
                None => self.opsets.push(import.clone()),
                Some(model) if model.version() == import.version() => {}
                Some(model) => {
                    return Err(Error::FunctionOpset {
                        function: name.to_owned(),
                        domain: of.to_owned(),
                        body: import.version(),
                        model: model.version(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn display((domain, name, overload): Key) -> String {
    let parts = [domain, name, overload].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(".")
}

fn call_error(call: &NodeProto, function: &str, message: String) -> Error {
    Error::Call { node: label(call), function: function.to_owned(), message }
}

fn each_node(nodes: &[NodeProto], visit: &mut dyn FnMut(&NodeProto)) {
    for node in nodes {
        visit(node);
        for attribute in &node.attribute {
            for graph in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
                each_node(&graph.node, visit);
            }
        }
    }
}

/// Puts the attributes of the call, or the function's defaults, where the body refers to them; a reference to an
/// attribute that has neither goes.
fn bind(
    attributes: &mut Vec<AttributeProto>,
    call: &NodeProto,
    function: &FunctionProto,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("the body has graphs nested over {MAX_DEPTH} levels deep"));
    }
    let mut bound = Vec::with_capacity(attributes.len());
    for mut attribute in std::mem::take(attributes) {
        let reference = attribute.ref_attr_name();
        if reference.is_empty() {
            for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                for node in &mut graph.node {
                    bind(&mut node.attribute, call, function, depth + 1)?;
                }
            }
            bound.push(attribute);
            continue;
        }
        let mut values = call.attribute.iter().chain(&function.attribute_proto);
        let Some(value) = values.find(|value| value.name() == reference) else { continue };
        if attribute.r#type() != value.r#type() {
            let (expected, found) = (attribute.r#type(), value.r#type());
            return Err(format!(
                "attribute '{reference}' is of type {found:?}, the body expects {expected:?}"
            ));
        }
        bound.push(AttributeProto { name: attribute.name.clone(), ..value.clone() });
    }
    *attributes = bound;
    Ok(())
}

#[cfg(test)]
mod tests;
