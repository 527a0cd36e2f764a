//! What a fused pass does with each block of elements.

use mqc_ir::op::Compare;

use crate::Kind;
use crate::lower::task::{Combine, Func};
use crate::view::Root;

/// A register: a block of elements, or one element for each row of the block.
pub(crate) type Register = usize;

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operand {
    Register(Register),
    /// The elements of a load that lie in memory as they are wanted.
    Memory(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Code {
    /// Reads the elements of a load.
    Load(usize),
    Apply(Func),
    /// Compares the integers of two loads.
    CompareInts(Compare, usize, usize),
    /// Repeats the element of each row.
    Spread,
    /// Combines every row.
    Combine(Combine),
}

impl Code {
    /// How many operands it reads.
    pub fn operands(&self) -> usize {
        match self {
            Code::Load(_) | Code::CompareInts(..) => 0,
            Code::Spread | Code::Combine(_) => 1,
            Code::Apply(func) => match func {
                Func::Copy | Func::NotZero | Func::Not | Func::Unary(_) | Func::Map(_) => 1,
                Func::Binary(_) | Func::Compare(_) | Func::Max | Func::Min | Func::Within { .. } => 2,
                Func::Select
                | Func::MulAdd
                | Func::MulSub
                | Func::WithinProduct { .. }
                | Func::EqualProduct
                | Func::SliceMulAdd { .. }
                | Func::RootAdd
                | Func::MulDiv => 3,
            },
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub code: Code,
    pub to: Register,
    pub from: [Operand; 3],
    /// Whether it works on one element a row.
    pub row: bool,
    /// The store that it writes to instead of its register.
    pub into: Option<usize>,
}

/// How a load finds its elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pattern {
    /// One element for all.
    Splat,
    /// One behind the other.
    Dense,
    /// So many, over and over.
    Repeat(usize),
    Strided(Vec<usize>, Vec<isize>),
    /// Rows of `width`, of which only `low..high` are there, one behind the other; the rest is 0.
    Window {
        width: usize,
        low: usize,
        high: usize,
    },
}

/// A register that holds the element of a load, or its inverse, during the whole pass.
#[derive(Clone, Debug)]
pub(crate) struct Splat {
    pub register: Register,
    pub load: usize,
    pub inverse: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub root: Root,
    pub start: usize,
    pub pattern: Pattern,
    pub kind: Kind,
    /// Whether it is one element a row.
    pub row: bool,
    /// The store that writes to the same memory.
    pub in_place: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub root: Root,
    pub from: Operand,
    pub row: bool,
    pub kind: Kind,
    /// Whether an instruction writes to it.
    pub written: bool,
}

/// A reduction that ends after the pass: of every column, or of all elements.
#[derive(Clone, Debug)]
pub(crate) struct Total {
    pub root: Root,
    pub from: Operand,
    /// What the elements are multiplied by.
    pub times: Option<Operand>,
    pub row: bool,
    pub combine: Combine,
    pub columns: bool,
}

impl Total {
    pub fn operands_mut(&mut self) -> impl Iterator<Item = &mut Operand> {
        std::iter::once(&mut self.from).chain(&mut self.times)
    }
}

/// One pass over `n` elements in rows of `d`.
#[derive(Clone, Debug)]
pub(crate) struct Fused {
    pub n: usize,
    pub d: usize,
    /// Elements of a block: whole rows.
    pub block: usize,
    pub loads: Vec<Load>,
    pub instructions: Vec<Instruction>,
    pub stores: Vec<Store>,
    pub totals: Vec<Total>,
    pub registers: usize,
    /// Registers that hold one value during the whole pass.
    pub constants: Vec<(Register, f64)>,
    pub splats: Vec<Splat>,
    /// Those of these registers that are wanted as blocks; the others are read as one value.
    pub repeated: Vec<Register>,
}

impl Fused {
    /// What is read when all instructions have run.
    pub fn ends(&self) -> Vec<Operand> {
        let totals = self.totals.iter().flat_map(|t| std::iter::once(t.from).chain(t.times));
        self.stores.iter().map(|s| s.from).chain(totals).collect()
    }

    /// Values that it reads.
    pub fn reads(&self) -> Vec<Root> {
        self.loads.iter().map(|l| l.root).collect()
    }

    /// Values that it writes.
    pub fn writes(&self) -> Vec<Root> {
        self.stores.iter().map(|s| s.root).chain(self.totals.iter().map(|t| t.root)).collect()
    }
}
