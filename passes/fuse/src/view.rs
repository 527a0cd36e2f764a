//! How rules read the e-graph: operations of a class, constants, types, and products and sums however they are spelled.

use egg::Id;
use mqc_ir::op::{Binary, Unary, Variadic};
use mqc_ir::{DType, Dim, Op, Tensor, Type};
use smallvec::SmallVec;

use crate::facts::Fact;
use crate::node::{EGraph, Head, Node};
use crate::region::StoredLeaves;

/// Nested products and sums are followed so deep.
const DEPTH: usize = 4;

/// Factors or terms beyond this are no pattern of ours.
const PARTS: usize = 5;

/// Readings of one class; more are not looked at.
const READINGS: usize = 48;

/// An e-graph to be read.
#[derive(Clone, Copy)]
pub struct View<'a>(pub(crate) &'a EGraph);

/// The classes of the operands of an operation.
pub type Args = SmallVec<[Id; 4]>;

/// A factor of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Factor {
    /// The value.
    Of(Id),
    /// One over the value.
    Over(Id),
}

/// A product of values and a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// The number.
    pub number: f64,
    /// The values.
    pub factors: SmallVec<[Factor; 5]>,
}

/// A sum of values and a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    /// The number.
    pub number: f64,
    /// The values that are added.
    pub plus: SmallVec<[Id; 4]>,
    /// The values that are subtracted.
    pub minus: SmallVec<[Id; 4]>,
}

impl<'a> View<'a> {
    /// The canonical name of a class.
    pub fn find(self, id: Id) -> Id {
        self.0.find(id)
    }

    /// What is known of a class.
    pub fn fact(self, id: Id) -> &'a Fact {
        &self.0[id].data
    }

    fn nodes(self, id: Id) -> &'a [Node] {
        &self.0[id].nodes
    }

    /// The operations with one output that compute a class.
    pub fn ops(self, id: Id) -> impl Iterator<Item = (&'a Op, Args)> {
        self.nodes(id).iter().filter(|n| n.outputs == 1).filter_map(move |n| Some((n.as_op()?, self.args(n))))
    }

    /// The operations with several outputs of which a class is one: operation, number of outputs, operands, which.
    pub fn outputs(self, id: Id) -> impl Iterator<Item = (&'a Op, usize, Args, usize)> {
        self.nodes(id).iter().flat_map(move |node| {
            let (slot, of) = match (&node.head, node.args.first()) {
                (Head::Output(slot), Some(of)) => (*slot, self.nodes(*of)),
                (Head::Output(_) | Head::Op(_) | Head::Leaf(_) | Head::Absent, _) => (0, [].as_slice()),
            };
            of.iter().filter_map(move |n| Some((n.as_op()?, n.outputs, self.args(n), slot)))
        })
    }

    fn args(self, node: &Node) -> Args {
        node.args.iter().map(|id| self.find(*id)).collect()
    }

    /// The classes that have an operand in a class.
    pub fn users(self, id: Id) -> Vec<Id> {
        let mut users: Vec<Id> = self.0[id].parents().map(|user| self.find(user)).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Whether an operand is absent.
    pub fn is_absent(self, id: Id) -> bool {
        self.nodes(id).iter().any(|n| n.head == Head::Absent)
    }

    /// Whether a class depends on constants only.
    pub fn is_constant(self, id: Id) -> bool {
        self.fact(id).constant && !self.is_absent(id)
    }

    /// The type of the one output of a class.
    pub fn ty(self, id: Id) -> &'a Type {
        static UNKNOWN: Type = Type::Unknown;
        self.fact(id).types.first().unwrap_or(&UNKNOWN)
    }

    /// The element type.
    pub fn dtype(self, id: Id) -> Option<DType> {
        self.ty(id).dtype()
    }

    /// The dimensions, when the rank is known.
    pub fn shape(self, id: Id) -> Option<&'a [Dim]> {
        self.ty(id).shape()
    }

    /// The number of dimensions.
    pub fn rank(self, id: Id) -> Option<usize> {
        self.ty(id).rank()
    }

    /// The size of the last dimension.
    pub fn last(self, id: Id) -> Option<u64> {
        self.shape(id)?.last()?.size()
    }

    /// Whether two classes have the same shape for sure.
    pub fn same_shape(self, a: Id, b: Id) -> bool {
        self.shape(a).zip(self.shape(b)).is_some_and(|(a, b)| same_dims(a, b))
    }

    /// Whether the elements are of a type that computes as a real number.
    pub fn is_float(self, id: Id) -> bool {
        self.dtype(id).is_some_and(DType::is_float)
    }

    /// The elements of a small constant.
    pub fn tensor(self, id: Id) -> Option<&'a Tensor> {
        self.fact(id).tensor.as_ref()
    }

    /// The float that a constant of one element is.
    pub fn number(self, id: Id) -> Option<f64> {
        let tensor = self.tensor(id).filter(|t| t.len() == 1)?;
        Some(f64::from(*tensor.to_f32_vec()?.first()?))
    }

    /// The integers that a constant is.
    pub fn ints(self, id: Id) -> Option<Vec<i64>> {
        self.tensor(id)?.to_i64_vec()
    }

    /// The bit planes of a class of codes.
    pub(crate) fn stored(self, id: Id) -> Option<&'a StoredLeaves> {
        self.nodes(id).iter().find_map(|node| match &node.head {
            Head::Leaf(number) => self.0.analysis.stored.get(number),
            Head::Op(_) | Head::Output(_) | Head::Absent => None,
        })
    }

    /// The class of a leaf.
    pub(crate) fn leaf(self, number: usize) -> Option<Id> {
        self.0.lookup(Node::leaf(number))
    }

    /// What a function of one operand is applied to in a class.
    pub fn unary(self, id: Id, kind: Unary) -> Option<Id> {
        self.ops(id).find_map(|(op, args)| (*op == Op::Unary(kind)).then(|| args.first().copied()).flatten())
    }

    /// All ways to read a class as a product, itself first.
    pub fn products(self, id: Id) -> Vec<Product> {
        self.products_to(id, DEPTH)
    }

    fn products_to(self, id: Id, depth: usize) -> Vec<Product> {
        let id = self.find(id);
        if let Some(number) = self.number(id) {
            return vec![Product { number, factors: SmallVec::new() }];
        }
        let mut readings = vec![Product { number: 1.0, factors: SmallVec::from_slice(&[Factor::Of(id)]) }];
        if depth == 0 {
            return readings;
        }
        for (op, args) in self.ops(id) {
            let found = match (op, args.as_slice()) {
                (Op::Binary(Binary::Mul), &[a, b]) => {
                    times(&self.products_to(a, depth - 1), &self.products_to(b, depth - 1))
                }
                (Op::Binary(Binary::Div), &[a, b]) => {
                    let over = match self.number(b) {
                        Some(number) => Product { number: 1.0 / number, factors: SmallVec::new() },
                        None => Product { number: 1.0, factors: SmallVec::from_slice(&[Factor::Over(b)]) },
                    };
                    times(&self.products_to(a, depth - 1), &[over])
                }
                (Op::Binary(Binary::Pow), &[a, exponent]) => match self.number(exponent) {
                    Some(2.0) => power(&self.products_to(a, depth - 1), 2),
                    Some(3.0) => power(&self.products_to(a, depth - 1), 3),
                    Some(_) | None => vec![],
                },
                (Op::Unary(Unary::Neg), &[a]) => self
                    .products_to(a, depth - 1)
                    .into_iter()
                    .map(|p| Product { number: -p.number, ..p })
                    .collect(),
                (Op::Unary(Unary::Reciprocal), &[a]) => {
                    vec![Product { number: 1.0, factors: SmallVec::from_slice(&[Factor::Over(a)]) }]
                }
                _ => vec![],
            };
            readings.extend(found.into_iter().filter(|p| p.factors.len() <= PARTS));
            readings.truncate(READINGS);
        }
        readings
    }

    /// All ways to read a class as a sum, itself first.
    pub fn sums(self, id: Id) -> Vec<Sum> {
        self.sums_to(id, DEPTH)
    }

    fn sums_to(self, id: Id, depth: usize) -> Vec<Sum> {
        let id = self.find(id);
        if let Some(number) = self.number(id) {
            return vec![Sum { number, plus: SmallVec::new(), minus: SmallVec::new() }];
        }
        let mut readings =
            vec![Sum { number: 0.0, plus: SmallVec::from_slice(&[id]), minus: SmallVec::new() }];
        if depth == 0 {
            return readings;
        }
        for (op, args) in self.ops(id) {
            let (left, right, sign) = match (op, args.as_slice()) {
                (Op::Binary(Binary::Add) | Op::Variadic(Variadic::Sum), &[a, b]) => (a, b, 1.0),
                (Op::Binary(Binary::Sub), &[a, b]) => (a, b, -1.0),
                _ => continue,
            };
            for a in &self.sums_to(left, depth - 1) {
                for b in self.sums_to(right, depth - 1) {
                    let (more, less) = if sign > 0.0 { (b.plus, b.minus) } else { (b.minus, b.plus) };
                    let sum = Sum {
                        number: a.number + sign * b.number,
                        plus: a.plus.iter().copied().chain(more).collect(),
                        minus: a.minus.iter().copied().chain(less).collect(),
                    };
                    if sum.plus.len() + sum.minus.len() <= PARTS && readings.len() < READINGS {
                        readings.push(sum);
                    }
                }
            }
        }
        readings
    }
}

fn times(left: &[Product], right: &[Product]) -> Vec<Product> {
    let pair = |a: &Product, b: &Product| Product {
        number: a.number * b.number,
        factors: a.factors.iter().chain(&b.factors).copied().collect(),
    };
    left.iter().flat_map(|a| right.iter().map(move |b| pair(a, b))).take(READINGS).collect()
}

fn power(of: &[Product], exponent: usize) -> Vec<Product> {
    let repeat = |p: &Product| Product {
        number: p.number.powi(exponent as i32),
        factors: std::iter::repeat_n(&p.factors, exponent).flat_map(|f| f.iter().copied()).collect(),
    };
    of.iter().map(repeat).collect()
}

impl Product {
    /// Whether the factors are just these, in any order.
    pub fn is_of(&self, factors: &[Factor]) -> bool {
        let mut left: SmallVec<[Factor; 5]> = self.factors.clone();
        left.len() == factors.len()
            && factors.iter().all(|factor| match left.iter().position(|f| f == factor) {
                Some(place) => {
                    left.remove(place);
                    true
                }
                None => false,
            })
    }

    /// Every factor that is a value, with the others.
    pub fn splits(&self) -> impl Iterator<Item = (Id, Product)> + '_ {
        self.factors.iter().enumerate().filter_map(|(place, factor)| {
            let mut factors = self.factors.clone();
            factors.remove(place);
            match factor {
                Factor::Of(id) => Some((*id, Product { number: self.number, factors })),
                Factor::Over(_) => None,
            }
        })
    }
}

impl Sum {
    /// The value, when this is a number and one value that is added.
    pub fn shifted(&self) -> Option<(f64, Id)> {
        match (self.plus.as_slice(), self.minus.as_slice()) {
            (&[id], []) => Some((self.number, id)),
            _ => None,
        }
    }
}

/// Equal up to the rounding of constants in f32 texts.
pub fn about(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 2e-6 * expected.abs()
}

/// Whether two lists of dimensions are the same sizes for sure.
pub fn same_dims(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b && *a != Dim::Unknown)
}
