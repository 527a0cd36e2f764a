//! The text form of the IR: `docs/ir.md` describes it.
//!
//! `parse(&print(g), &WeightsOf::new(g)) == g` for every graph without a cycle whose types, attributes and subgraphs
//! nest at most 64 deep. Printing depends on nothing but the graph.

use std::collections::BTreeMap;

use crate::{Graph, Tensor};

mod lexer;
pub(crate) mod op;
mod parse;
mod print;
mod tensor;
mod types;

pub use op::mnemonics;
pub use parse::parse;
pub use print::print;
pub use tensor::hash;

/// The name of an operation in texts: `mat_mul`, `relu`.
pub fn mnemonic(op: &crate::Op) -> String {
    op::parts(op).0
}

/// Where a text finds the constants that it only names.
pub trait Resolve {
    /// The tensors of this name; the text's type and hash choose among them.
    fn tensors(&self, name: &str) -> Vec<Tensor>;
}

/// For texts that hold all their constants.
pub struct NoWeights;

impl Resolve for NoWeights {
    fn tensors(&self, _: &str) -> Vec<Tensor> {
        Vec::new()
    }
}

/// The constants of a graph and of its subgraphs, `Constant` nodes included, under the names of their values.
#[derive(Default)]
pub struct WeightsOf(BTreeMap<String, Vec<Tensor>>);

impl WeightsOf {
    /// Collects them; tensors are shared, not copied.
    pub fn new(graph: &Graph) -> WeightsOf {
        let mut weights = WeightsOf::default();
        weights.collect(graph);
        weights
    }

    fn collect(&mut self, graph: &Graph) {
        for node in graph.ids().into_iter().filter_map(|id| graph.node(id)) {
            if let Some(tensor) = node.op.as_constant() {
                let name = node.outputs.first().map(|o| o.name.clone()).unwrap_or_default();
                self.0.entry(name).or_default().push(tensor.clone());
            }
            node.subgraphs.iter().for_each(|s| self.collect(&s.graph));
        }
    }
}

impl Resolve for WeightsOf {
    fn tensors(&self, name: &str) -> Vec<Tensor> {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// `; did you mean ..` for the names at most two edits and a third of the word away; else nothing.
fn near(word: &str, names: &[&str]) -> String {
    let limit = 2.min(word.chars().count() / 3);
    let mut close: Vec<_> =
        names.iter().map(|name| (edits(word, name), *name)).filter(|(n, _)| *n <= limit).collect();
    close.sort_unstable();
    let close: Vec<_> = close.into_iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    if close.is_empty() { String::new() } else { format!("; did you mean {}?", close.join(" or ")) }
}

/// Levenshtein distance, in characters; long words and words of very different length are just far.
fn edits(a: &str, b: &str) -> usize {
    if a.len().max(b.len()) > 80 || a.len().abs_diff(b.len()) > 8 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
