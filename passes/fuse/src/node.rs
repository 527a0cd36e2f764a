//! The language of the e-graph: an operation of the IR and the classes of its operands.

use std::mem;

use egg::{Id, Language};
use mqc_ir::Op;
use smallvec::SmallVec;

/// The e-graph.
pub type EGraph = egg::EGraph<Node, crate::Facts>;

/// What an e-node is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Head {
    /// An operation of the IR.
    Op(Op),
    /// A value from outside of the region, by number.
    Leaf(usize),
    /// One output of its only operand, a node with several.
    Output(usize),
    /// An optional operand that is not there.
    Absent,
}

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// What it is.
    pub head: Head,
    /// How many outputs it has; its class is that of its output only when there is one.
    pub outputs: usize,
    /// The classes of its operands.
    pub args: SmallVec<[Id; 4]>,
}

impl Node {
    /// A value from outside.
    pub fn leaf(number: usize) -> Node {
        Node { head: Head::Leaf(number), outputs: 1, args: SmallVec::new() }
    }

    /// An operand that is not there.
    pub fn absent() -> Node {
        Node { head: Head::Absent, outputs: 0, args: SmallVec::new() }
    }

    /// An operation.
    pub fn op(op: Op, outputs: usize, args: impl IntoIterator<Item = Id>) -> Node {
        Node { head: Head::Op(op), outputs, args: args.into_iter().collect() }
    }

    /// One output of a node with several.
    pub fn output(slot: usize, of: Id) -> Node {
        Node { head: Head::Output(slot), outputs: 1, args: SmallVec::from_slice(&[of]) }
    }

    /// The operation, when it is one.
    pub fn as_op(&self) -> Option<&Op> {
        match &self.head {
            Head::Op(op) => Some(op),
            Head::Leaf(_) | Head::Output(_) | Head::Absent => None,
        }
    }
}

/// What e-nodes of one kind share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An operation, attributes aside.
    Op(mem::Discriminant<Op>),
    /// Anything else.
    Other(mem::Discriminant<Head>),
}

impl Language for Node {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        match &self.head {
            Head::Op(op) => Kind::Op(mem::discriminant(op)),
            head @ (Head::Leaf(_) | Head::Output(_) | Head::Absent) => Kind::Other(mem::discriminant(head)),
        }
    }

    fn matches(&self, other: &Node) -> bool {
        self.head == other.head && self.outputs == other.outputs && self.args.len() == other.args.len()
    }

    fn children(&self) -> &[Id] {
        &self.args
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}
