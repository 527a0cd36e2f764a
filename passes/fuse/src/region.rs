//! Cuts a graph into regions along its order, and describes a region by its structure alone.
//!
//! Every run of nodes may be a region: what crosses its border is a leaf or a root. Cuts lie where one value alone
//! carries the computation on and is used both near and far, as the residual stream of a network does, so that no
//! pattern lies across them and repeated blocks are regions of equal structure.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::op::Nested;
use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, NodeId, Op, Tensor, Type, Value};

use crate::facts::Fact;
use crate::stored::StoredValues;

/// A value that is alive for longer belongs to the whole model: a mask, or the angles of rotary embeddings.
const GLOBAL: usize = 128;

/// Between the first and the last use of a residual lie at least so many nodes; patterns of rules are shorter.
const SPAN: usize = 10;

/// Rules read the elements of lists of integers up to this many, and single numbers: sizes, axes, factors. More would
/// tell blocks apart that differ by small weights only.
const SMALL: usize = 64;

/// Marks the place of a layer's name in an operation, so that blocks that differ by names alone are alike.
const MARK: char = '\u{1}';

/// A part of a graph.
#[derive(Debug, Default)]
pub(crate) struct Region {
    /// Its nodes, in order.
    pub nodes: Vec<NodeId>,
    /// Values from outside, by number.
    pub leaves: Vec<Value>,
    /// Its values that are used outside.
    pub roots: Vec<Value>,
    /// Names of layers, by number.
    pub layers: Vec<String>,
    /// What it is, names aside.
    pub key: Key,
}

/// The structure of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub nodes: Vec<Step>,
    pub leaves: Vec<Fact>,
    pub roots: Vec<Ref>,
    /// Codes among the leaves that have planes.
    pub stored: BTreeMap<usize, StoredLeaves>,
    /// A root must not be computed from a leaf that depends on it.
    pub forbidden: Vec<(Ref, usize)>,
}

/// A node of a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    pub op: Op,
    pub args: Vec<Option<Ref>>,
    pub types: Vec<Type>,
}

/// A value of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ref {
    Leaf(usize),
    /// Node and output.
    Node(usize, usize),
}

/// The stored parts of a nested weight, as leaves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoredLeaves {
    pub layer: String,
    pub map_widths: Vec<Width>,
    pub maps: Option<(usize, usize)>,
    pub planes: Vec<usize>,
}

/// The regions of a graph, in order.
pub(crate) fn partition(
    graph: &Graph,
    stored: &BTreeMap<Value, StoredValues>,
) -> Result<Vec<Region>, mqc_ir::Error> {
    let order: Vec<NodeId> = graph
        .order()?
        .into_iter()
        .filter(|id| {
            graph.node(*id).is_some_and(|n| !matches!(n.op, Op::Input) && n.op.as_constant().is_none())
        })
        .collect();
    let cuts = cuts(graph, &order);
    let mut regions = vec![];
    let mut start = 0;
    for end in cuts.into_iter().chain([order.len()]) {
        let region = Builder::new(graph, stored, &order[start..end]).build();
        if !region.nodes.is_empty() {
            regions.push(region);
        }
        start = end;
    }
    Ok(regions)
}

/// Whether a node is only known by its identity: rules neither look into it nor move it.
fn is_kept(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).is_none_or(|node| {
        !node.subgraphs.is_empty()
            || matches!(node.op, Op::Opaque(_) | Op::Dropout { .. } | Op::NestedQuantize(_))
    })
}

/// Places in the order before which a region begins.
fn cuts(graph: &Graph, order: &[NodeId]) -> Vec<usize> {
    let place: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut uses: Vec<Vec<usize>> = vec![vec![]; order.len()];
    let mut computed = vec![false; order.len()];
    for (user, id) in order.iter().enumerate() {
        for operand in graph.operands(*id).into_iter().flatten() {
            match place.get(&operand.node) {
                Some(source) => {
                    uses[*source].push(user);
                    computed[user] |= computed[*source];
                }
                None => computed[user] |= graph.constant(operand).is_none(),
            }
        }
    }
    // The local values that are alive, by the place of their last use.
    let mut alive: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut cuts = vec![];
    for place in 0..order.len() {
        alive = alive.split_off(&(place + 1, 0));
        let (Some(first), Some(last)) = (uses[place].first(), uses[place].last()) else { continue };
        if computed[place] && last - place <= GLOBAL {
            alive.insert((*last, place));
            if alive.len() == 1 && last - first >= SPAN {
                cuts.push(place + 1);
            }
        }
    }
    cuts
}

struct Builder<'a> {
    graph: &'a Graph,
    stored: &'a BTreeMap<Value, StoredValues>,
    segment: &'a [NodeId],
    region: Region,
    refs: BTreeMap<Value, Ref>,
}

impl<'a> Builder<'a> {
    fn new(
        graph: &'a Graph,
        stored: &'a BTreeMap<Value, StoredValues>,
        segment: &'a [NodeId],
    ) -> Builder<'a> {
        Builder { graph, stored, segment, region: Region::default(), refs: BTreeMap::new() }
    }

    fn build(mut self) -> Region {
        for id in self.segment.iter().filter(|id| !is_kept(self.graph, **id)) {
            self.step(*id);
        }
        for index in 0..self.region.nodes.len() {
            let id = self.region.nodes[index];
            for slot in 0..self.region.key.nodes[index].types.len() {
                let value = Value { node: id, slot };
                let inside = |user: &NodeId| self.region.nodes.contains(user);
                let outside = self.graph.users(value).iter().any(|(user, _)| !inside(user));
                if outside || self.graph.is_output(value) {
                    self.region.roots.push(value);
                    self.region.key.roots.push(Ref::Node(index, slot));
                }
            }
        }
        self.forbid();
        self.region
    }

    fn step(&mut self, id: NodeId) {
        let Some(node) = self.graph.node(id) else { return };
        let args = self.graph.operands(id).iter().map(|v| v.map(|v| self.reference(v))).collect();
        let index = self.region.nodes.len();
        for slot in 0..node.outputs.len() {
            self.refs.insert(Value { node: id, slot }, Ref::Node(index, slot));
        }
        let types = node.outputs.iter().map(|o| o.ty.clone()).collect();
        let op = self.nameless(&node.op);
        self.region.nodes.push(id);
        self.region.key.nodes.push(Step { op, args, types });
    }

    fn reference(&mut self, value: Value) -> Ref {
        if let Some(known) = self.refs.get(&value) {
            return *known;
        }
        let number = self.leaf(value);
        let reference = Ref::Leaf(number);
        self.refs.insert(value, reference);
        if let Some(stored) = self.stored.get(&value) {
            let mut leaf = |value: Value| self.leaf(value);
            let maps = stored.maps.map(|(scale, zero)| (leaf(scale), leaf(zero)));
            let planes = stored.planes.iter().map(|plane| leaf(*plane)).collect();
            let layer = self.mark(&stored.layer);
            let leaves = StoredLeaves { layer, map_widths: stored.map_widths.clone(), maps, planes };
            self.region.key.stored.insert(number, leaves);
        }
        reference
    }

    fn leaf(&mut self, value: Value) -> usize {
        let listed = self.graph.inputs().contains(&value.node);
        let constant = self.graph.constant(value).filter(|_| !listed);
        let is_read = |t: &&Tensor| t.len() == 1 || (t.len() <= SMALL && t.dtype() == DType::I64);
        let tensor: Option<Tensor> = constant.filter(is_read).cloned();
        let types = vec![self.graph.ty(value).clone()];
        self.region.key.leaves.push(Fact { types, constant: constant.is_some(), tensor });
        self.region.leaves.push(value);
        self.region.leaves.len() - 1
    }

    fn nameless(&mut self, op: &Op) -> Op {
        let mut nameless = |nested: &Nested| Nested { layer: self.mark(&nested.layer), ..nested.clone() };
        match op {
            Op::NestedMatMul(nested) => Op::NestedMatMul(nameless(nested)),
            Op::NestedGather(nested) => Op::NestedGather(nameless(nested)),
            Op::NestedConv { nested, window, shape } => {
                Op::NestedConv { nested: nameless(nested), window: window.clone(), shape: shape.clone() }
            }
            op => op.clone(),
        }
    }

    fn mark(&mut self, layer: &str) -> String {
        let layers = &mut self.region.layers;
        let number = layers.iter().position(|l| l == layer).unwrap_or_else(|| {
            layers.push(layer.to_owned());
            layers.len() - 1
        });
        format!("{MARK}{number}{MARK}")
    }

    /// Leaves that nodes kept among those of the region compute from its roots.
    fn forbid(&mut self) {
        let kept: BTreeSet<NodeId> =
            self.segment.iter().copied().filter(|id| is_kept(self.graph, *id)).collect();
        if kept.is_empty() {
            return;
        }
        let mut above: BTreeMap<NodeId, BTreeSet<Value>> = BTreeMap::new();
        for id in self.segment {
            let mut roots = BTreeSet::new();
            for operand in self.graph.operands(*id).into_iter().flatten() {
                roots.extend(above.get(&operand.node).into_iter().flatten().copied());
                if self.region.roots.contains(&operand) {
                    roots.insert(operand);
                }
            }
            above.insert(*id, roots);
        }
        for (number, leaf) in
            self.region.leaves.iter().enumerate().filter(|(_, leaf)| kept.contains(&leaf.node))
        {
            for root in above.get(&leaf.node).into_iter().flatten() {
                self.region.key.forbidden.extend(self.refs.get(root).map(|root| (*root, number)));
            }
        }
    }
}

/// The operation with the names of layers that belong to this region.
pub(crate) fn with_names(op: &Op, layers: &[String]) -> Op {
    let named = |nested: &Nested| Nested { layer: named(&nested.layer, layers), ..nested.clone() };
    match op {
        Op::NestedMatMul(nested) => Op::NestedMatMul(named(nested)),
        Op::NestedGather(nested) => Op::NestedGather(named(nested)),
        Op::NestedConv { nested, window, shape } => {
            Op::NestedConv { nested: named(nested), window: window.clone(), shape: shape.clone() }
        }
        op => op.clone(),
    }
}

/// `\u{1}0\u{1}+\u{1}1\u{1}` -> `q+k`.
fn named(text: &str, layers: &[String]) -> String {
    let part = |(index, part): (usize, &str)| match index % 2 {
        0 => part.to_owned(),
        _ => part.parse().ok().and_then(|n: usize| layers.get(n)).cloned().unwrap_or_default(),
    };
    text.split(MARK).enumerate().map(part).collect()
}
