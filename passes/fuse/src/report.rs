//! What the optimizer did, as data and as text.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::recognize::Pattern;

/// What [`crate::fuse`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Nodes that run, sources and what depends on constants aside, before and after.
    pub nodes: (usize, usize),
    /// Cost of a run by the table, nanoseconds, before and after.
    pub cost: (f64, f64),
    /// Regions, and how many of them differ in structure.
    pub regions: (usize, usize),
    /// Nodes of all e-graphs.
    pub enodes: usize,
    /// Most rounds of rules in a region.
    pub iterations: usize,
    /// Regions whose e-graph reached a limit.
    pub limited: usize,
    /// The rewrites, in the order of the graph.
    pub fired: Vec<Fired>,
    /// Composites that the IR has no operation for and that stay, by the name of the node that ends them.
    pub recognized: Vec<(Pattern, String)>,
    /// Products with an epilogue that kernels could take.
    pub epilogues: Vec<Epilogue>,
}

/// A rewrite.
#[derive(Clone, Debug, PartialEq)]
pub struct Fired {
    /// The rule.
    pub rule: &'static str,
    /// Other rules that made what it is computed from.
    pub with: Vec<&'static str>,
    /// The node whose value is computed anew.
    pub node: String,
    /// What a run would cost more without, nanoseconds.
    pub saved: f64,
}

/// What follows a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epilogue {
    /// The product.
    pub node: String,
    /// `bias`, `gelu`, `gate`, `residual`.
    pub parts: Vec<&'static str>,
    /// Nodes that it takes.
    pub nodes: usize,
}

impl Report {
    /// The report as text: a table of rules, then each place.
    pub fn explain(&self) -> String {
        self.to_string()
    }

    fn by_rule(&self) -> Vec<(&'static str, usize, f64)> {
        let mut rules: BTreeMap<&'static str, (usize, f64)> = BTreeMap::new();
        for fired in &self.fired {
            let (count, saved) = rules.entry(fired.rule).or_default();
            (*count, *saved) = (*count + 1, *saved + fired.saved);
        }
        rules.into_iter().map(|(rule, (count, saved))| (rule, count, saved)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.nodes;
        writeln!(f, "nodes   {before} -> {after}")?;
        writeln!(f, "cost    {} -> {} a run, by the table", time(self.cost.0), time(self.cost.1))?;
        let (regions, different) = self.regions;
        writeln!(
            f,
            "regions {regions}, {different} different; {} e-nodes, {} iterations",
            self.enodes, self.iterations
        )?;
        if self.limited > 0 {
            writeln!(
                f,
                "limits  {} regions reached a limit; what was found until then is used",
                self.limited
            )?;
        }
        for (rule, count, saved) in self.by_rule() {
            writeln!(f, "\n{rule} x{count}, saved {}", time(saved))?;
            for fired in self.fired.iter().filter(|fired| fired.rule == rule) {
                let with = match fired.with.as_slice() {
                    [] => String::new(),
                    rules => format!(", with {}", rules.join(", ")),
                };
                writeln!(f, "  {:<40} {}{with}", fired.node, time(fired.saved))?;
            }
        }
        let mut patterns: BTreeMap<Pattern, Vec<&str>> = BTreeMap::new();
        for (pattern, node) in &self.recognized {
            patterns.entry(*pattern).or_default().push(node);
        }
        for (pattern, nodes) in patterns {
            writeln!(f, "\nfound, no operation for it: {pattern} x{}", nodes.len())?;
            writeln!(f, "  {}", nodes.join(", "))?;
        }
        let mut epilogues: BTreeMap<&[&str], Vec<&Epilogue>> = BTreeMap::new();
        for epilogue in &self.epilogues {
            epilogues.entry(&epilogue.parts).or_default().push(epilogue);
        }
        for (parts, found) in epilogues {
            let nodes: usize = found.iter().map(|e| e.nodes).sum();
            writeln!(f, "\nepilogue {} x{}, {nodes} nodes", parts.join(", "), found.len())?;
            let names: Vec<&str> = found.iter().map(|e| e.node.as_str()).collect();
            writeln!(f, "  {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// `950 ns`, `12.3 us`, `4.56 ms`.
fn time(nanoseconds: f64) -> String {
    let mut text = String::new();
    let written = match nanoseconds.abs() {
        n if n < 1e3 => write!(text, "{nanoseconds:.0} ns"),
        n if n < 1e6 => write!(text, "{:.1} us", nanoseconds / 1e3),
        _ => write!(text, "{:.2} ms", nanoseconds / 1e6),
    };
    debug_assert!(written.is_ok(), "strings take what is written");
    text
}

/// The parts of an epilogue in words.
pub(crate) fn parts(epilogue: &crate::recognize::Epilogue) -> Vec<&'static str> {
    let bias = epilogue.bias.map(|_| "bias");
    let gate = epilogue.gate.map(|_| "gate");
    let residual = epilogue.residual.map(|_| "residual");
    [bias, epilogue.activation.name(), gate, residual].into_iter().flatten().collect()
}
