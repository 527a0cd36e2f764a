//! Chooses one e-node for every class that the roots need, at the least cost of the whole, shared parts paid once.
//!
//! The search starts from the graph as it was and from the cheapest trees, and changes one choice at a time, or all that
//! take outputs of one node, as long as the whole becomes cheaper. Nothing depends on time or on the order of hashes.

use std::collections::BTreeMap;

use egg::{Id, Language};

use crate::node::{Head, Node};
use crate::region::{Key, Ref};
use crate::saturate::Saturated;
use crate::{FuseOptions, View, cost};

/// Sweeps over all choices; every one makes the whole cheaper, and few are needed.
const SWEEPS: usize = 16;

/// A gain must be more than rounding.
const GAIN: f64 = 1.0 - 1e-9;

/// One way to compute a class.
#[derive(Debug)]
pub(crate) struct Choice {
    pub node: Node,
    /// The classes of its operands, by place.
    pub args: Vec<usize>,
    pub cost: f64,
}

/// The e-graph as plain lists.
#[derive(Debug)]
pub(crate) struct Space {
    pub classes: Vec<Vec<Choice>>,
    /// Place of each class.
    pub places: BTreeMap<Id, usize>,
    /// For a class that the region has, the choice that is its node.
    originals: Vec<Option<usize>>,
    /// Classes of the roots.
    roots: Vec<usize>,
    /// Classes of roots, and leaves that they must not be computed from.
    forbidden: Vec<(usize, usize)>,
}

/// A choice for every class.
pub(crate) type Selection = Vec<usize>;

impl Space {
    pub fn new(saturated: &Saturated, key: &Key, options: &FuseOptions) -> Space {
        let egraph = &saturated.egraph;
        let mut ids: Vec<Id> = egraph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        let places: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let place = |id: Id| places.get(&egraph.find(id)).copied().unwrap_or(0);
        let choice = |node: &Node, id: Id| {
            let operands: Vec<_> = node.args.iter().map(|arg| View(egraph).fact(*arg)).collect();
            let fact = View(egraph).fact(id);
            let cost = node.as_op().map(|op| cost::node(op, &operands, &fact.types, fact.constant, options));
            let node = node.clone().map_children(|arg| egraph.find(arg));
            Choice {
                args: node.args.iter().map(|arg| place(*arg)).collect(),
                node,
                cost: cost.unwrap_or(0.0),
            }
        };
        let classes: Vec<Vec<Choice>> = ids
            .iter()
            .map(|id| {
                let mut nodes: Vec<Choice> = egraph[*id].nodes.iter().map(|n| choice(n, *id)).collect();
                nodes.sort_by(|a, b| a.node.cmp(&b.node));
                nodes.dedup_by(|a, b| a.node == b.node);
                nodes
            })
            .collect();
        let originals = vec![None; classes.len()];
        let mut space =
            Space { originals, classes, places: places.clone(), roots: vec![], forbidden: vec![] };
        space.mark_originals(saturated, key);
        let root = |root: &Ref| match root {
            Ref::Leaf(_) => None,
            Ref::Node(node, slot) => {
                saturated.values.get(*node).and_then(|v| v.get(*slot)).map(|id| place(*id))
            }
        };
        space.roots = key.roots.iter().filter_map(root).collect();
        let leaf = |number: usize| egraph.lookup(Node::leaf(number)).map(place);
        space.forbidden =
            key.forbidden.iter().filter_map(|(r, number)| Some((root(r)?, leaf(*number)?))).collect();
        space
    }

    /// Nodes of the region come first: leaves, then in their order.
    fn mark_originals(&mut self, saturated: &Saturated, key: &Key) {
        let egraph = &saturated.egraph;
        let leaves = (0..key.leaves.len()).map(Node::leaf);
        let mut nodes: Vec<Node> = leaves.collect();
        for (node, values) in saturated.nodes.iter().zip(&saturated.values) {
            let node = node.clone().map_children(|arg| egraph.find(arg));
            if values.len() != 1 {
                let tuple = egraph.lookup(node.clone());
                nodes.extend(
                    tuple
                        .into_iter()
                        .flat_map(|id| (0..values.len()).map(move |slot| Node::output(slot, id))),
                );
            }
            nodes.push(node);
        }
        for node in nodes {
            let Some(place) = egraph.lookup(node.clone()).and_then(|id| self.places.get(&id)) else {
                continue;
            };
            let choice = self.classes[*place].iter().position(|c| c.node == node);
            if self.originals[*place].is_none() {
                self.originals[*place] = choice;
            }
        }
    }

    /// The best selection that was found.
    pub fn best(&self) -> Option<(Selection, f64)> {
        let trees = self.cheapest_trees();
        let originals: Selection =
            self.originals.iter().zip(&trees).map(|(original, tree)| original.unwrap_or(*tree)).collect();
        let groups = self.groups();
        let mut best: Option<(Selection, f64)> = None;
        for start in [originals, trees] {
            let Some(found) = self.improve(start, &groups) else { continue };
            if best.as_ref().is_none_or(|(_, cost)| found.1 < cost * GAIN) {
                best = Some(found);
            }
        }
        best
    }

    fn improve(&self, mut selection: Selection, groups: &[Vec<(usize, usize)>]) -> Option<(Selection, f64)> {
        let mut cost = self.cost(&selection)?;
        for _ in 0..SWEEPS {
            let before = cost;
            for moves in groups {
                if moves.iter().all(|(class, choice)| selection[*class] == *choice) {
                    continue;
                }
                let undo: Vec<_> = moves.iter().map(|(class, _)| (*class, selection[*class])).collect();
                moves.iter().for_each(|(class, choice)| selection[*class] = *choice);
                match self.cost(&selection) {
                    Some(changed) if changed < cost * GAIN => cost = changed,
                    _ => undo.iter().for_each(|(class, choice)| selection[*class] = *choice),
                }
            }
            if cost >= before {
                break;
            }
        }
        Some((selection, cost))
    }

    /// What is changed at once: all outputs of one node, then every single choice.
    fn groups(&self) -> Vec<Vec<(usize, usize)>> {
        let mut outputs: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        let mut single = vec![];
        for (class, choices) in self.classes.iter().enumerate().filter(|(_, choices)| choices.len() > 1) {
            for (choice, found) in choices.iter().enumerate() {
                single.push(vec![(class, choice)]);
                if let (Head::Output(_), Some(of)) = (&found.node.head, found.args.first()) {
                    outputs.entry(*of).or_default().push((class, choice));
                }
            }
        }
        outputs.into_values().chain(single).collect()
    }

    /// For every class the choice whose tree is cheapest; shared parts are paid at every use.
    fn cheapest_trees(&self) -> Selection {
        let mut costs = vec![f64::INFINITY; self.classes.len()];
        let mut selection = vec![0; self.classes.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for (class, choices) in self.classes.iter().enumerate() {
                for (index, choice) in choices.iter().enumerate() {
                    let cost = choice.cost + choice.args.iter().map(|arg| costs[*arg]).sum::<f64>();
                    if cost < costs[class] * GAIN {
                        (costs[class], selection[class]) = (cost, index);
                        changed = true;
                    }
                }
            }
        }
        selection
    }

    /// The cost of all that the roots need; `None` when it has a cycle or computes a root from what depends on it.
    pub fn cost(&self, selection: &Selection) -> Option<f64> {
        let order = self.order(selection, &self.roots)?;
        for (root, leaf) in &self.forbidden {
            if self.order(selection, &[*root])?.contains(leaf) {
                return None;
            }
        }
        Some(order.iter().map(|class| self.classes[*class][selection[*class]].cost).sum())
    }

    /// The classes that some need, operands first; `None` when there is a cycle.
    pub fn order(&self, selection: &Selection, roots: &[usize]) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut state = vec![State::New; self.classes.len()];
        let mut order = vec![];
        let mut stack: Vec<(usize, usize)> = vec![];
        for root in roots {
            if state[*root] == State::New {
                state[*root] = State::Open;
                stack.push((*root, 0));
            }
            while let Some((class, next)) = stack.last_mut() {
                let args = &self.classes[*class][selection[*class]].args;
                match args.get(*next) {
                    Some(&arg) => {
                        *next += 1;
                        match state[arg] {
                            State::New => {
                                state[arg] = State::Open;
                                stack.push((arg, 0));
                            }
                            State::Open => return None,
                            State::Done => {}
                        }
                    }
                    None => {
                        state[*class] = State::Done;
                        order.push(*class);
                        stack.pop();
                    }
                }
            }
        }
        Some(order)
    }

    /// Classes of the roots.
    pub fn roots(&self) -> &[usize] {
        &self.roots
    }
}
