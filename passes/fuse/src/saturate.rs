//! A region as an e-graph, and the rules run on it until nothing is new or a limit is reached.

use std::time::Duration;

use egg::{
    Applier, Id, PatternAst, Rewrite, Runner, SearchMatches, Searcher, SimpleScheduler, StopReason, Subst,
    Symbol, Var,
};
use mqc_ir::{Dim, Type};

use crate::facts::Facts;
use crate::node::{EGraph, Node};
use crate::region::{Key, Ref};
use crate::rules::Rule;
use crate::{Limits, View};

/// A region with all that rules found equal.
pub(crate) struct Saturated {
    pub egraph: EGraph,
    /// The class of every output of every node, as added.
    pub values: Vec<Vec<Id>>,
    /// The e-node of every node, as added.
    pub nodes: Vec<Node>,
    /// Rounds.
    pub iterations: usize,
    /// Whether a limit ended the growth.
    pub limited: bool,
}

pub(crate) fn saturate(key: &Key, rules: &[&'static Rule], limits: Limits) -> Saturated {
    let facts = Facts { leaves: key.leaves.clone(), stored: key.stored.clone(), ..Facts::default() };
    let mut egraph = EGraph::new(facts);
    let leaves: Vec<Id> = (0..key.leaves.len()).map(|number| egraph.add(Node::leaf(number))).collect();
    let mut values: Vec<Vec<Id>> = vec![];
    let mut nodes = vec![];
    for step in &key.nodes {
        let mut args = vec![];
        for arg in &step.args {
            args.push(match arg {
                None => egraph.add(Node::absent()),
                Some(Ref::Leaf(number)) => leaves[*number],
                Some(Ref::Node(node, slot)) => values[*node][*slot],
            });
        }
        let node = Node::op(step.op.clone(), step.types.len(), args);
        egraph.analysis.given = Some(step.types.clone());
        let id = egraph.add(node.clone());
        egraph.analysis.given = None;
        nodes.push(node);
        values.push(match step.types.len() {
            1 => vec![id],
            outputs => (0..outputs).map(|slot| egraph.add(Node::output(slot, id))).collect(),
        });
    }
    let rewrites: Vec<Rewrite<Node, Facts>> =
        rules.iter().filter_map(|rule| Rewrite::new(rule.name, Roots(rule), Apply(rule)).ok()).collect();
    egraph.rebuild();
    let runner = Runner::<Node, Facts>::new(Facts::default())
        .with_egraph(egraph)
        .with_iter_limit(limits.iterations)
        .with_node_limit(limits.nodes)
        .with_time_limit(Duration::MAX)
        .with_scheduler(SimpleScheduler)
        .run(&rewrites);
    let limited = !matches!(runner.stop_reason, Some(StopReason::Saturated));
    Saturated { egraph: runner.egraph, values, nodes, iterations: runner.iterations.len(), limited }
}

/// Finds the classes that a rule looks at.
struct Roots(&'static Rule);

impl Searcher<Node, Facts> for Roots {
    fn search_eclass_with_limit(
        &self,
        egraph: &EGraph,
        eclass: Id,
        _: usize,
    ) -> Option<SearchMatches<'_, Node>> {
        let found = egraph[eclass].nodes.iter().filter_map(Node::as_op).any(self.0.root);
        found.then(|| SearchMatches { eclass, substs: vec![Subst::default()], ast: None })
    }

    fn vars(&self) -> Vec<Var> {
        vec![]
    }
}

/// Adds what a rule finds equal.
struct Apply(&'static Rule);

impl Applier<Node, Facts> for Apply {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        eclass: Id,
        _: &Subst,
        _: Option<&PatternAst<Node>>,
        _: Symbol,
    ) -> Vec<Id> {
        let found = (self.0.apply)(View(egraph), egraph.find(eclass));
        let mut changed = vec![];
        for (class, expr) in found {
            let new = expr.add(egraph, self.0.name);
            if View(egraph).find(class) != new && fits(View(egraph).ty(class), View(egraph).ty(new)) {
                egraph.union(class, new);
                egraph.analysis.unions.push((class, self.0.name));
                changed.push(new);
            }
        }
        changed
    }
}

/// Whether a value of the new type can take the place of the old one: a net under the conditions of the rules.
fn fits(old: &Type, new: &Type) -> bool {
    let (Some(old_dims), Some(new_dims)) = (old.shape(), new.shape()) else { return false };
    old.dtype().is_some()
        && old.dtype() == new.dtype()
        && old_dims.len() == new_dims.len()
        && old_dims.iter().zip(new_dims).all(|(a, b): (&Dim, &Dim)| a.compatible(b))
}
