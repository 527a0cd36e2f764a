//! The names that the values of one graph are written under.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::{Graph, NodeId, Op, Value};

use crate::Error;

/// Names of the values of a graph, unlike each other and unlike those of the graphs around it.
pub(super) struct Names<'a> {
    outer: Option<&'a Names<'a>>,
    names: BTreeMap<Value, String>,
    taken: BTreeSet<String>,
    /// For each result: the name of the `Identity` that it needs.
    pub identities: Vec<Option<String>>,
}

impl<'a> Names<'a> {
    /// Names for all values. `captured` are the outer names of the last inputs. Inputs and outputs of the main graph
    /// keep their names whatever else has them; positions, not names, matter in inner graphs.
    ///
    /// # Errors
    /// Two inputs or outputs of the main graph want one name.
    pub fn new(
        graph: &Graph,
        order: &[NodeId],
        outer: Option<&'a Names<'a>>,
        captured: &[String],
    ) -> Result<Names<'a>, Error> {
        let (names, taken) = (BTreeMap::new(), BTreeSet::new());
        let mut this = Names { outer, names, taken, identities: vec![] };
        let wanted = |value| graph.info(value).map_or("", |info| info.name.as_str());

        let own = graph.inputs().len() - captured.len().min(graph.inputs().len());
        for (position, &node) in graph.inputs().iter().enumerate() {
            let value = Value { node, slot: 0 };
            match position.checked_sub(own).and_then(|i| captured.get(i)) {
                Some(name) => drop(this.names.insert(value, name.clone())),
                None => {
                    this.interface(graph, wanted(value)).map(|name| drop(this.names.insert(value, name)))?
                }
            }
        }
        // First the results that have their name already, then those that can take it.
        for renamed in [false, true] {
            for output in graph.outputs() {
                let computed =
                    graph.node(output.value.node).is_some_and(|n| !matches!(n.op, Op::Weight(_) | Op::Input));
                let fits = if renamed { computed } else { wanted(output.value) == output.name };
                if fits && !this.names.contains_key(&output.value) && this.is_free(&output.name) {
                    this.taken.insert(output.name.clone());
                    this.names.insert(output.value, output.name.clone());
                }
            }
        }
        let mut returned = BTreeSet::new();
        for output in graph.outputs() {
            let name = this.names.get(&output.value);
            // A value of an inner graph may leave under any name, but a captured one is not of that graph.
            let any_name = outer.is_some()
                && name.is_none_or(|name| this.taken.contains(name))
                && !returned.contains(&output.value);
            let direct = any_name || name.is_some_and(|name| *name == output.name);
            if direct && name.is_none() {
                let name = this.fresh(wanted(output.value));
                this.names.insert(output.value, name);
            }
            returned.insert(output.value);
            let identity = if direct { None } else { Some(this.interface(graph, &output.name)?) };
            this.identities.push(identity);
        }
        for &node in order {
            for slot in 0..graph.node(node).map_or(0, |n| n.outputs.len()) {
                let value = Value { node, slot };
                let absent =
                    wanted(value).is_empty() && graph.users(value).is_empty() && !graph.is_output(value);
                if !absent && !this.names.contains_key(&value) {
                    let name = this.fresh(wanted(value));
                    this.names.insert(value, name);
                }
            }
        }
        Ok(this)
    }

    /// The name of a value; empty when it is an absent output.
    pub fn of(&self, value: Value) -> &str {
        self.names.get(&value).map_or("", String::as_str)
    }

    /// Takes the name of an input or output.
    fn interface(&mut self, graph: &Graph, name: &str) -> Result<String, Error> {
        if self.outer.is_some() {
            return Ok(self.fresh(name));
        }
        if name.is_empty() || !self.taken.insert(name.to_owned()) {
            return Err(Error::InterfaceName { graph: graph.name.clone(), name: name.to_owned() });
        }
        Ok(name.to_owned())
    }

    /// Takes `base`, or `base_1`, `base_2`, ...
    fn fresh(&mut self, base: &str) -> String {
        let base = if base.is_empty() { "value" } else { base };
        let numbered = (1usize..).map(|n| format!("{base}_{n}"));
        let name = std::iter::once(base.to_owned()).chain(numbered).find(|name| self.is_free(name));
        let name = name.unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }

    fn is_free(&self, name: &str) -> bool {
        !name.is_empty() && !self.taken.contains(name) && self.outer.is_none_or(|outer| outer.is_free(name))
    }
}
