//! What a region becomes, and how that is written into the graph.

use std::collections::{BTreeMap, BTreeSet};

use egg::Language;
use mqc_ir::{Graph, Op, Type, Value, ValueInfo};

use crate::extract::{Selection, Space};
use crate::node::{Head, Node};
use crate::region::{Key, Ref, Region, with_names};
use crate::saturate::{Saturated, saturate};
use crate::{Error, FuseOptions, View, cost, recognize, rules};

/// What every region of one structure becomes.
#[derive(Debug, Default)]
pub(crate) struct Template {
    /// In order; empty when nothing is gained.
    steps: Vec<NewStep>,
    /// For every root of the region, what takes its place.
    roots: Vec<Ref>,
    /// The rewrites.
    pub fired: Vec<Fired>,
    /// Composites that are there but that the IR has no operation for, by the node that ends them.
    pub recognized: Vec<(recognize::Pattern, usize)>,
    /// Cost before and after, nanoseconds.
    pub cost: (f64, f64),
    /// e-nodes at the end.
    pub enodes: usize,
    /// Rounds of all rules.
    pub iterations: usize,
    /// Whether a limit ended the growth.
    pub limited: bool,
}

/// A rule that changed a value.
#[derive(Clone, Debug)]
pub(crate) struct Fired {
    pub rule: &'static str,
    /// The rules that made what it is computed from.
    pub with: Vec<&'static str>,
    /// The node of the region whose value is computed anew.
    pub node: usize,
    /// What the whole would cost more without, nanoseconds.
    pub saved: f64,
}

/// A node of the result.
#[derive(Debug)]
struct NewStep {
    /// The node of the region that it is.
    origin: Option<usize>,
    op: Op,
    args: Vec<Option<Ref>>,
    types: Vec<Type>,
    /// For every output the value of the region whose place it takes.
    replaces: Vec<Option<(usize, usize)>>,
    rule: &'static str,
}

/// Optimizes a region with no more than `fuel` rewrites.
pub(crate) fn optimize(
    key: &Key,
    rules: &[&'static rules::Rule],
    options: &FuseOptions,
    fuel: Option<u64>,
) -> Template {
    let saturated = saturate(key, rules, options.limits);
    let space = Space::new(&saturated, key, options);
    let before = cost_of(key, options);
    let mut template = Template {
        cost: (before, before),
        enodes: saturated.egraph.total_number_of_nodes(),
        iterations: saturated.iterations,
        limited: saturated.limited,
        recognized: recognize::find(&saturated),
        ..Template::default()
    };
    let Some((mut selection, mut after)) = space.best() else { return template };
    let mut changes = changes(&saturated, &space, &selection, after);
    if let Some(fuel) = fuel {
        for change in changes.split_off(changes.len().min(usize::try_from(fuel).unwrap_or(usize::MAX))) {
            change.undo.iter().for_each(|(class, choice)| selection[*class] = *choice);
        }
        after = space.cost(&selection).unwrap_or(f64::INFINITY);
    }
    if changes.is_empty() || after >= before {
        return template;
    }
    let stays = stays(&saturated, &space, &selection);
    template.recognized.retain(|(_, node)| stays.contains(node));
    template.fired = changes.into_iter().map(|change| change.fired).collect();
    template.cost = (before, after);
    write(&saturated, &space, &selection, key, &mut template);
    template
}

fn cost_of(key: &Key, options: &FuseOptions) -> f64 {
    let mut constant: Vec<bool> = vec![];
    let mut sum = 0.0;
    for step in &key.nodes {
        let facts: Vec<crate::facts::Fact> = step
            .args
            .iter()
            .flatten()
            .map(|arg| match arg {
                Ref::Leaf(number) => key.leaves[*number].clone(),
                Ref::Node(node, slot) => crate::facts::Fact {
                    types: vec![key.nodes[*node].types[*slot].clone()],
                    constant: constant[*node],
                    tensor: None,
                },
            })
            .collect();
        constant.push(!facts.is_empty() && facts.iter().all(|f| f.constant));
        let operands: Vec<_> = facts.iter().collect();
        sum += cost::node(&step.op, &operands, &step.types, *constant.last().unwrap_or(&false), options);
    }
    sum
}

/// Values that are computed anew by one node.
struct Change {
    fired: Fired,
    /// The choices without it.
    undo: Vec<(usize, usize)>,
}

fn changes(saturated: &Saturated, space: &Space, selection: &Selection, after: f64) -> Vec<Change> {
    let egraph = &saturated.egraph;
    let canonical = |node: &Node| node.clone().map_children(|arg| egraph.find(arg));
    let mut made: BTreeMap<Node, &'static str> = BTreeMap::new();
    for (node, rule) in &egraph.analysis.made {
        made.entry(canonical(node)).or_insert(rule);
    }
    let Some(order) = space.order(selection, space.roots()) else { return vec![] };
    let needed: BTreeSet<usize> = order.into_iter().collect();
    let mut changes: Vec<Change> = vec![];
    let mut merged: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, (node, values)) in saturated.nodes.iter().zip(&saturated.values).enumerate() {
        let node = canonical(node);
        for (slot, id) in values.iter().enumerate() {
            let Some(&class) = space.places.get(&egraph.find(*id)).filter(|class| needed.contains(*class))
            else {
                continue;
            };
            let own = match values.len() {
                1 => node.clone(),
                _ => match egraph.lookup(node.clone()) {
                    Some(tuple) => Node::output(slot, tuple),
                    None => continue,
                },
            };
            let chosen = &space.classes[class][selection[class]];
            let Some(original) = space.classes[class].iter().position(|c| c.node == own) else { continue };
            if chosen.node == own {
                continue;
            }
            if let (Head::Output(_), Some(of)) = (&chosen.node.head, chosen.args.first())
                && let Some(change) = merged.get(of).and_then(|at| changes.get_mut(*at))
            {
                change.undo.push((class, original));
                continue;
            }
            if let (Head::Output(_), Some(of)) = (&chosen.node.head, chosen.args.first()) {
                merged.insert(*of, changes.len());
            }
            let union =
                egraph.analysis.unions.iter().find(|(id, _)| egraph.find(*id) == egraph.find(values[slot]));
            let rule =
                made.get(&chosen.node).copied().or(union.map(|(_, rule)| *rule)).unwrap_or("same-value");
            let mut with = rules_below(space, selection, class, &made);
            with.retain(|other| *other != rule);
            let fired = Fired { rule, with, node: index, saved: space.classes[class][original].cost };
            changes.push(Change { fired, undo: vec![(class, original)] });
        }
    }
    for change in &mut changes {
        let mut without = selection.clone();
        change.undo.iter().for_each(|(class, choice)| without[*class] = *choice);
        if let Some(cost) = space.cost(&without) {
            change.fired.saved = cost - after;
        }
    }
    changes
}

/// Nodes with one output that are part of the result.
fn stays(saturated: &Saturated, space: &Space, selection: &Selection) -> BTreeSet<usize> {
    let egraph = &saturated.egraph;
    let needed: BTreeSet<usize> =
        space.order(selection, space.roots()).unwrap_or_default().into_iter().collect();
    let stays = |(index, (node, values)): (usize, (&Node, &Vec<egg::Id>))| {
        let class =
            space.places.get(&egraph.find(*values.first()?)).filter(|class| needed.contains(*class))?;
        let own = node.clone().map_children(|arg| egraph.find(arg));
        (space.classes[*class][selection[*class]].node == own).then_some(index)
    };
    saturated.nodes.iter().zip(&saturated.values).enumerate().filter_map(stays).collect()
}

/// The rules that made a class and what it is computed from, as far as rules made it, each once.
fn rules_below(
    space: &Space,
    selection: &Selection,
    class: usize,
    made: &BTreeMap<Node, &'static str>,
) -> Vec<&'static str> {
    let mut rules = vec![];
    let mut seen = BTreeSet::from([class]);
    let mut open = vec![class];
    while let Some(class) = open.pop() {
        let choice = &space.classes[class][selection[class]];
        let Some(rule) = made.get(&choice.node) else { continue };
        if !rules.contains(rule) {
            rules.push(*rule);
        }
        open.extend(choice.args.iter().filter(|arg| seen.insert(**arg)));
    }
    rules
}

/// Lists the nodes of a selection.
fn write(saturated: &Saturated, space: &Space, selection: &Selection, key: &Key, template: &mut Template) {
    let egraph = &saturated.egraph;
    let mut origins: BTreeMap<Node, usize> = BTreeMap::new();
    // Values of the region by their class.
    let mut values: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (index, (node, ids)) in saturated.nodes.iter().zip(&saturated.values).enumerate() {
        origins.entry(node.clone().map_children(|arg| egraph.find(arg))).or_insert(index);
        for (slot, id) in ids.iter().enumerate() {
            if let Some(class) = space.places.get(&egraph.find(*id)) {
                values.entry(*class).or_insert((index, slot));
            }
        }
    }
    let ids: Vec<egg::Id> = space.places.keys().copied().collect();
    let Some(order) = space.order(selection, space.roots()) else { return };
    let made: BTreeMap<Node, &'static str> = egraph
        .analysis
        .made
        .iter()
        .rev()
        .map(|(node, rule)| (node.clone().map_children(|arg| egraph.find(arg)), *rule))
        .collect();
    let mut refs: BTreeMap<usize, Option<Ref>> = BTreeMap::new();
    for class in order {
        let choice = &space.classes[class][selection[class]];
        let reference = match &choice.node.head {
            Head::Leaf(number) => Some(Ref::Leaf(*number)),
            Head::Absent => None,
            Head::Output(slot) => {
                let of = choice.args.first().and_then(|of| refs.get(of).copied().flatten());
                match of {
                    Some(Ref::Node(step, _)) => {
                        if let Some(replaces) = template.steps[step].replaces.get_mut(*slot) {
                            *replaces = values.get(&class).copied();
                        }
                        Some(Ref::Node(step, *slot))
                    }
                    Some(Ref::Leaf(_)) | None => None,
                }
            }
            Head::Op(op) => {
                let args = choice.args.iter().map(|arg| refs.get(arg).copied().flatten()).collect();
                let types = ids.get(class).map(|id| View(egraph).fact(*id).types.clone()).unwrap_or_default();
                let mut replaces = vec![None; choice.node.outputs];
                if let [replaced] = replaces.as_mut_slice() {
                    *replaced = values.get(&class).copied();
                }
                let origin = origins.get(&choice.node).copied();
                let rule = made.get(&choice.node).copied().unwrap_or_default();
                template.steps.push(NewStep { origin, op: op.clone(), args, types, replaces, rule });
                Some(Ref::Node(template.steps.len() - 1, 0))
            }
        };
        refs.insert(class, reference);
    }
    let root = |root: &Ref| match root {
        Ref::Leaf(_) => *root,
        Ref::Node(node, slot) => {
            let id = saturated.values[*node][*slot];
            let class = space.places.get(&egraph.find(id));
            class.and_then(|class| refs.get(class).copied().flatten()).unwrap_or(*root)
        }
    };
    template.roots = key.roots.iter().map(root).collect();
}

/// Writes the result into the graph. `replaced` has the values that took the place of others so far: leaves of this region
/// may be among those.
pub(crate) fn apply(
    graph: &mut Graph,
    region: &Region,
    template: &Template,
    replaced: &mut BTreeMap<Value, Value>,
) -> Result<(), Error> {
    if template.steps.is_empty() {
        return Ok(());
    }
    let leaves: Vec<Value> = region.leaves.iter().map(|leaf| *replaced.get(leaf).unwrap_or(leaf)).collect();
    let mut nodes = vec![];
    for step in &template.steps {
        let value = |reference: &Ref, nodes: &[mqc_ir::NodeId]| match reference {
            Ref::Leaf(number) => leaves.get(*number).copied(),
            Ref::Node(step, slot) => nodes.get(*step).map(|node| Value { node: *node, slot: *slot }),
        };
        let operands: Vec<Option<Value>> =
            step.args.iter().map(|arg| arg.as_ref().and_then(|arg| value(arg, &nodes))).collect();
        let node = match step.origin {
            Some(origin) => {
                let node = region.nodes[origin];
                if graph.operands(node).as_slice() != operands.as_slice() {
                    graph.set_operands(node, &operands)?;
                }
                node
            }
            None => insert(graph, region, step, &operands)?,
        };
        nodes.push(node);
    }
    for (old, new) in region.roots.iter().zip(&template.roots) {
        let new = match new {
            Ref::Leaf(number) => leaves[*number],
            Ref::Node(step, slot) => Value { node: nodes[*step], slot: *slot },
        };
        if new != *old {
            graph.replace_uses(*old, new)?;
            replaced.insert(*old, new);
        }
    }
    Ok(())
}

/// A new node. Where it takes the place of a value it takes its name, and the name and words of its node.
fn insert(
    graph: &mut Graph,
    region: &Region,
    step: &NewStep,
    operands: &[Option<Value>],
) -> Result<mqc_ir::NodeId, Error> {
    let place = |replaced: &Option<(usize, usize)>| {
        replaced.map(|(node, slot)| Value { node: region.nodes[node], slot })
    };
    let first = operands.iter().flatten().next().and_then(|v| graph.info(*v)).map(|i| i.name.clone());
    let base = first.map_or(step.rule.to_owned(), |first| format!("{first}/{}", step.rule));
    let mut outputs = vec![];
    for (slot, ty) in step.types.iter().enumerate() {
        let replaced = step.replaces.get(slot).and_then(place);
        let name = match replaced.and_then(|value| graph.info(value)).map(|info| info.name.clone()) {
            Some(name) => {
                let aside = graph.fresh_name(&format!("{name}/unfused"));
                if let Some(value) = replaced
                    && let Some(info) = graph.node_mut(value.node).and_then(|n| n.outputs.get_mut(value.slot))
                {
                    info.name = aside;
                }
                name
            }
            None if step.types.len() > 1 => graph.fresh_name(&format!("{base}/{slot}")),
            None => graph.fresh_name(&base),
        };
        outputs.push(ValueInfo { name, ty: ty.clone() });
    }
    let op = with_names(&step.op, &region.layers);
    let replaced = step.replaces.iter().find_map(place).filter(|_| step.replaces.len() == 1);
    let node = match replaced.and_then(|value| graph.node(value.node)) {
        Some(old) => mqc_ir::Node { op, outputs, ..old.clone() },
        None => mqc_ir::Node::new(op, outputs.first().map(|o| o.name.clone()).unwrap_or_default(), outputs),
    };
    Ok(graph.insert(node, operands)?)
}
