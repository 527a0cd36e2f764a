//! What a rule puts in the place of a class.

use egg::Id;
use mqc_ir::{Op, Tensor, Type};

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
    /// An operation with one output whose type its operands do not tell.
    Typed(Op, Type, Vec<Expr>),
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
            Expr::Op(op, args) | Expr::Typed(op, _, args) => {
                (Node::op(op.clone(), 1, add_all(args, egraph, rule)), None)
            }
            Expr::Output(op, outputs, args, slot) => {
                (Node::op(op.clone(), *outputs, add_all(args, egraph, rule)), Some(*slot))
            }
        };
        egraph.analysis.given = match self {
            Expr::Typed(_, ty, _) => Some(vec![ty.clone()]),
            Expr::Class(_) | Expr::Absent | Expr::Op(..) | Expr::Output(..) => None,
        };
        let id = insert(node, egraph, rule);
        egraph.analysis.given = None;
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
