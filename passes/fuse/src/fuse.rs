//! The pass: attach planes, cut into regions, optimize each structure once, write back.

use std::collections::BTreeMap;

use mqc_ir::{Graph, NodeId, Op, Value};

use crate::region::{Key, Region, partition};
use crate::report::{Epilogue, Fired};
use crate::rewrite::{Template, apply, optimize};
use crate::rules::Rule;
use crate::{Error, FuseOptions, Report, recognize, report, rules, stored};

/// Optimizes a graph, bodies of its nodes included. Types must have been inferred; those of new values are what the
/// rules found. Names of values that stay, results, and nodes that the compiler need not understand stay as they are.
///
/// The result depends on the graph and the options alone.
///
/// # Errors
/// An unknown rule in the options, or a graph with a cycle.
pub fn fuse(graph: &mut Graph, options: &FuseOptions) -> Result<Report, Error> {
    let opset = graph.opsets.get("").copied().unwrap_or(i64::MAX);
    let rules = options.rules(opset)?;
    let mut fuser =
        Fuser { options, rules, memo: BTreeMap::new(), report: Report::default(), fuel: options.stop_after };
    fuser.graph(graph)?;
    fuser.report.regions.1 = fuser.memo.len().max(usize::from(fuser.report.regions.0 > 0));
    Ok(fuser.report)
}

struct Fuser<'a> {
    options: &'a FuseOptions,
    rules: Vec<&'static Rule>,
    memo: BTreeMap<Key, Template>,
    report: Report,
    fuel: Option<u64>,
}

impl Fuser<'_> {
    fn graph(&mut self, graph: &mut Graph) -> Result<(), Error> {
        for id in graph.order()? {
            self.bodies(graph, id)?;
        }
        graph.erase_dead();
        self.report.nodes.0 += running(graph)?;
        let values = stored::attach(graph, &self.options.stored)?;
        let regions = partition(graph, &values)?;
        // Nodes may be replaced by later regions, so names are read before.
        let mut replaced = BTreeMap::new();
        for region in &regions {
            self.region(graph, region, &mut replaced)?;
        }
        graph.erase_dead();
        self.report.nodes.1 += running(graph)?;
        for epilogue in recognize::epilogues(graph)? {
            let node = graph.label(epilogue.product);
            let parts = report::parts(&epilogue);
            self.report.epilogues.push(Epilogue { node, parts, nodes: epilogue.nodes });
        }
        Ok(())
    }

    fn bodies(&mut self, graph: &mut Graph, id: NodeId) -> Result<(), Error> {
        let mut subgraphs = match graph.node_mut(id) {
            Some(node) if !node.subgraphs.is_empty() => std::mem::take(&mut node.subgraphs),
            Some(_) | None => return Ok(()),
        };
        let result = subgraphs.iter_mut().try_for_each(|subgraph| self.graph(&mut subgraph.graph));
        if let Some(node) = graph.node_mut(id) {
            node.subgraphs = subgraphs;
        }
        result
    }

    fn region(
        &mut self,
        graph: &mut Graph,
        region: &Region,
        replaced: &mut BTreeMap<Value, Value>,
    ) -> Result<(), Error> {
        if !self.memo.contains_key(&region.key) || self.fuel.is_some() {
            let template = optimize(&region.key, &self.rules, self.options, self.fuel);
            self.report.enodes += template.enodes;
            self.report.iterations = self.report.iterations.max(template.iterations);
            self.memo.insert(region.key.clone(), template);
        }
        let Some(template) = self.memo.get(&region.key) else { return Ok(()) };
        let label = |node: usize| region.nodes.get(node).map(|id| graph.label(*id)).unwrap_or_default();
        let report = &mut self.report;
        report.regions.0 += 1;
        report.limited += usize::from(template.limited);
        report.cost = (report.cost.0 + template.cost.0, report.cost.1 + template.cost.1);
        for fired in &template.fired {
            let with = fired.with.clone();
            report.fired.push(Fired { rule: fired.rule, with, node: label(fired.node), saved: fired.saved });
        }
        for (pattern, node) in &template.recognized {
            report.recognized.push((*pattern, label(*node)));
        }
        self.fuel = self.fuel.map(|fuel| fuel.saturating_sub(template.fired.len() as u64));
        apply(graph, region, template, replaced)
    }
}

/// Nodes that compute something at run time; what is done to a product before it is stored is part of the product.
fn running(graph: &Graph) -> Result<usize, Error> {
    let mut constant: BTreeMap<NodeId, bool> = BTreeMap::new();
    let mut count = 0;
    for id in graph.order()? {
        let Some(node) = graph.node(id) else { continue };
        let operands = graph.operands(id);
        let known = match &node.op {
            Op::Input => false,
            Op::Weight(_) | Op::Constant(_) => !graph.inputs().contains(&id),
            Op::Opaque(_) => false,
            _ => {
                !operands.is_empty()
                    && operands.iter().flatten().all(|v| constant.get(&v.node) == Some(&true))
            }
        };
        constant.insert(id, known);
        let is_part = rules::is_epilogue(&node.op)
            && graph.operand(id, 0).is_some_and(|product| graph.users(product).len() == 1);
        count += usize::from(!known && !is_part && node.op != Op::Input);
    }
    Ok(count)
}
