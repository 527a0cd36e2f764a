//! New names for the values of a function body.

use std::collections::{BTreeMap, BTreeSet};

use super::MAX_DEPTH;
use crate::proto::{GraphProto, NodeProto};

/// All names of values in a model, and the prefixes of the calls that were inlined.
#[derive(Default)]
pub(super) struct Names {
    values: Taken,
    prefixes: Taken,
}

impl Names {
    /// Takes the names of the values of a graph and of the graphs inside it.
    pub fn add_graph(&mut self, graph: &GraphProto) {
        self.values.names.extend(defined(graph).map(str::to_owned));
        for node in &graph.node {
            self.values.names.extend(node.input.iter().cloned());
            for attribute in &node.attribute {
                attribute
                    .g
                    .as_deref()
                    .into_iter()
                    .chain(&attribute.graphs)
                    .for_each(|inner| self.add_graph(inner));
            }
        }
    }

    /// A value name that nothing in the model has.
    pub fn fresh(&mut self, base: &str) -> String {
        self.values.fresh(base)
    }

    /// A prefix that no other call has.
    pub fn fresh_prefix(&mut self, base: &str) -> String {
        self.prefixes.fresh(base)
    }
}

#[derive(Default)]
struct Taken {
    names: BTreeSet<String>,
    /// The numbers that each base got so far: many calls of one function stay linear.
    numbers: BTreeMap<String, usize>,
}

impl Taken {
    /// Takes `base`, or `base_1`, `base_2`, ...
    fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        while !self.names.insert(name.clone()) {
            let number = self.numbers.entry(base.to_owned()).or_default();
            *number += 1;
            name = format!("{base}_{number}");
        }
        name
    }
}

/// The names that a graph defines; unnamed outputs are empty.
fn defined(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let tensors = graph.initializer.iter().chain(sparse).map(|tensor| tensor.name());
    let outputs = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    graph.input.iter().map(|input| input.name()).chain(tensors).chain(outputs)
}

/// The names of a body and what they become; inner graphs add theirs and take them back.
pub(super) struct Scope<'a> {
    prefix: &'a str,
    names: BTreeMap<String, String>,
}

impl<'a> Scope<'a> {
    pub fn new(prefix: &'a str) -> Scope<'a> {
        Scope { prefix, names: BTreeMap::new() }
    }

    pub fn set(&mut self, name: &str, becomes: &str) {
        self.names.insert(name.to_owned(), becomes.to_owned());
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.names.get(name).map(String::as_str)
    }

    /// Renames what a node of the body uses and defines. A name that the body does not define stays: it is an error
    /// of the function that import reports.
    ///
    /// # Errors
    /// Graphs nested too deep.
    pub fn rename(&mut self, node: &mut NodeProto, names: &mut Names, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("the body has graphs nested over {MAX_DEPTH} levels deep"));
        }
        if !node.name().is_empty() {
            node.name = Some(format!("{}/{}", self.prefix, node.name()));
        }
        self.all(node.input.iter_mut().chain(&mut node.output));
        for attribute in &mut node.attribute {
            for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                self.graph(graph, names, depth + 1)?;
            }
        }
        Ok(())
    }

    fn graph(&mut self, graph: &mut GraphProto, names: &mut Names, depth: usize) -> Result<(), String> {
        let inner: BTreeSet<String> =
            defined(graph).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let mut outer = vec![];
        for name in inner {
            let fresh = names.fresh(&format!("{}/{name}", self.prefix));
            let hidden = self.names.insert(name.clone(), fresh);
            outer.push((name, hidden));
        }
        let sparse = graph.sparse_initializer.iter_mut().filter_map(|s| s.values.as_mut());
        let tensors = graph.initializer.iter_mut().chain(sparse).map(|tensor| &mut tensor.name);
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        self.all(values.map(|value| &mut value.name).chain(tensors).flatten());
        for node in &mut graph.node {
            self.rename(node, names, depth)?;
        }
        for (name, hidden) in outer {
            match hidden {
                Some(hidden) => self.names.insert(name, hidden),
                None => self.names.remove(&name),
            };
        }
        Ok(())
    }

    fn all<'b>(&self, names: impl Iterator<Item = &'b mut String>) {
        for name in names {
            if let Some(becomes) = self.names.get(name.as_str()) {
                name.clone_from(becomes);
            }
        }
    }
}
