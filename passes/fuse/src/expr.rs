//! What a rule puts in the place of a class.

use egg::Id;
use mqc_ir::{Op, Tensor};

use crate::node::{EGraph, Node};

/// A term over classes of the e-graph.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// What is there.
    Class(Id),
    /// An optional operand that is not there.
    Absent,
    /// An operation with one output.
    Op(Op, Vec<Expr>),
    /// One output of an operation with several: the operation, how many it has, its operands, which.
    Output(Op, usize, Vec<Expr>, usize),
}

impl Expr {
    /// An i64 vector.
    pub fn ints(values: &[i64]) -> Expr {
        Expr::constant(Tensor::i64_vector(values))
    }

    /// A constant.
    pub fn constant(tensor: Tensor) -> Expr {
        Expr::Op(Op::Constant(tensor), vec![])
    }

    /// An operation on one operand.
    pub fn map(op: Op, of: Expr) -> Expr {
        Expr::Op(op, vec![of])
    }

    /// Adds the term to the e-graph; new nodes are the rule's.
    pub(crate) fn add(&self, egraph: &mut EGraph, rule: &'static str) -> Id {
        let (node, slot) = match self {
            Expr::Class(id) => return egraph.find(*id),
            Expr::Absent => (Node::absent(), None),
            Expr::Op(op, args) => (Node::op(op.clone(), 1, add_all(args, egraph, rule)), None),
            Expr::Output(op, outputs, args, slot) => {
                (Node::op(op.clone(), *outputs, add_all(args, egraph, rule)), Some(*slot))
            }
        };
        let id = insert(node, egraph, rule);
        slot.map_or(id, |slot| insert(Node::output(slot, id), egraph, rule))
    }
}

fn add_all(args: &[Expr], egraph: &mut EGraph, rule: &'static str) -> Vec<Id> {
    args.iter().map(|arg| arg.add(egraph, rule)).collect()
}

fn insert(node: Node, egraph: &mut EGraph, rule: &'static str) -> Id {
    if let Some(id) = egraph.lookup(node.clone()) {
        return id;
    }
    egraph.analysis.made.push((node.clone(), rule));
    egraph.add(node)
}
