//! Random graphs over matrices of a few shapes that fit each other.

use mqc_ir::graph::Output;
use mqc_ir::op::{Binary, Compare, GeluKind, PadMode, Reduction, Unary, Variadic};
use mqc_ir::quant::{SliceMode, Width};
use mqc_ir::{DType, Dim, F32, Graph, Op, Tensor, Type, Value};
use mqc_step::{Array, Real};
use proptest::prelude::*;

/// Kinds of nodes.
pub const KINDS: u8 = 29;

/// A graph over matrices of a few shapes that fit each other.
pub struct Random {
    pub graph: Graph,
    pub values: Vec<(Value, Vec<usize>)>,
    pub inputs: Vec<Vec<usize>>,
    count: usize,
}

pub fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|d| Dim::Size(*d as u64)).collect()
}

impl Random {
    pub fn new(rows: usize, cols: usize) -> Random {
        let mut random = Random { graph: Graph::new("random"), values: vec![], inputs: vec![], count: 0 };
        for shape in [vec![rows, cols], vec![rows, cols], vec![cols], vec![rows, 1], vec![cols, rows], vec![]]
        {
            let value = random
                .graph
                .add_input(format!("x{}", random.inputs.len()), Type::tensor(DType::F32, dims(&shape)));
            random.values.push((value, shape.clone()));
            random.inputs.push(shape);
        }
        random
    }

    pub fn apply(&mut self, op: Op, operands: &[Value], shape: Vec<usize>) {
        self.count += 1;
        let value = self.graph.apply(op, &format!("v{}", self.count), operands).unwrap();
        self.values.push((value, shape));
    }

    pub fn constant(&mut self, tensor: Tensor) -> Value {
        self.count += 1;
        self.graph.apply(Op::Constant(tensor), &format!("c{}", self.count), &[]).unwrap()
    }

    /// One more node, chosen by numbers.
    pub fn grow(&mut self, kind: u8, a: usize, b: usize) {
        let (x, shape) = self.values[a % self.values.len()].clone();
        let (y, other) = self.values[b % self.values.len()].clone();
        let rank = shape.len();
        let both: Option<Vec<usize>> = {
            let rank = shape.len().max(other.len());
            let get = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
            (0..rank)
                .map(|i| match (get(&shape, i), get(&other, i)) {
                    (1, d) | (d, 1) => Some(d),
                    (p, q) if p == q => Some(p),
                    _ => None,
                })
                .collect()
        };
        match (kind % KINDS, both) {
            (0, _) => self.apply(Op::Unary(Unary::Tanh), &[x], shape),
            (1, _) => self.apply(Op::Unary(Unary::Sigmoid), &[x], shape),
            (2, _) => self.apply(Op::Unary(Unary::Relu), &[x], shape),
            (3, _) => self.apply(Op::Gelu { approximate: GeluKind::Tanh }, &[x], shape),
            (4, _) => self.apply(Op::Gelu { approximate: GeluKind::Erf }, &[x], shape),
            (5, _) => {
                self.apply(Op::Unary(Unary::Tanh), &[x], shape.clone());
                let bounded = self.values[self.values.len() - 1].0;
                self.apply(Op::Unary(Unary::Exp), &[bounded], shape);
            }
            (6 | 7, Some(to)) => self.apply(Op::Binary(Binary::Add), &[x, y], to),
            (8, Some(to)) => self.apply(Op::Binary(Binary::Sub), &[x, y], to),
            (9 | 10, Some(to)) => {
                self.apply(Op::Binary(Binary::Mul), &[x, y], to.clone());
                let product = self.values[self.values.len() - 1].0;
                self.apply(Op::Unary(Unary::Softsign), &[product], to);
            }
            (11, Some(to)) => {
                self.apply(Op::Unary(Unary::Sigmoid), &[y], other);
                let positive = self.values[self.values.len() - 1].0;
                self.apply(Op::Binary(Binary::Div), &[x, positive], to);
            }
            (12, Some(to)) => self.apply(Op::Variadic(Variadic::Max), &[x, y], to),
            (13, Some(to)) => {
                self.apply(Op::Compare(Compare::Less), &[x, y], to.clone());
                let (less, _) = self.values.pop().unwrap();
                self.apply(Op::Select, &[less, x, y], to);
            }
            (14, _) if rank == 2 => {
                let op = |kind| Op::Reduce {
                    kind,
                    axes: Some(vec![1]),
                    keepdims: true,
                    noop_with_empty_axes: false,
                };
                let kind = [Reduction::Mean, Reduction::Max, Reduction::LogSumExp, Reduction::L2][b % 4];
                self.apply(op(kind), &[x], vec![shape[0], 1]);
            }
            (15, _) if rank == 2 => {
                let op = |kind| Op::Reduce {
                    kind,
                    axes: Some(vec![0]),
                    keepdims: false,
                    noop_with_empty_axes: false,
                };
                let kind = [Reduction::Mean, Reduction::Min, Reduction::SumSquare][b % 3];
                self.apply(op(kind), &[x], vec![shape[1]]);
            }
            (16, _) => {
                let op = |kind| Op::Reduce { kind, axes: None, keepdims: false, noop_with_empty_axes: false };
                self.apply(op([Reduction::Mean, Reduction::Max][b % 2]), &[x], vec![]);
            }
            (17, _) if rank == 2 => {
                self.apply(Op::Transpose { perm: None }, &[x], vec![shape[1], shape[0]]);
            }
            (18, _) if rank == 2 && other.len() == 2 && shape[1] == other[0] => {
                self.apply(Op::MatMul, &[x, y], vec![shape[0], other[1]]);
                let product = self.values[self.values.len() - 1].0;
                self.apply(Op::Unary(Unary::Tanh), &[product], vec![shape[0], other[1]]);
            }
            (19, _) if rank == 2 => self.apply(Op::Softmax { axis: 1, flatten: false }, &[x], shape),
            (20, _) if rank == 2 => self.apply(Op::LogSoftmax { axis: 0, flatten: false }, &[x], shape),
            (21, _) if rank == 2 => {
                let scale = self.values[2].0;
                if self.values[2].1[0] == shape[1] {
                    let op = Op::LayerNormalization { axis: -1, epsilon: F32(1e-3), stash_type: 1 };
                    self.apply(op, &[x, scale], shape);
                }
            }
            (22, _) if rank == 2 && shape[1] > 1 => {
                let (start, end, axes) =
                    (Tensor::i64_vector(&[1]), Tensor::i64_vector(&[9999]), Tensor::i64_vector(&[1]));
                let [start, end, axes] = [start, end, axes].map(|t| self.constant(t));
                self.apply(Op::Slice, &[x, start, end, axes], vec![shape[0], shape[1] - 1]);
                let cut = self.values.pop().unwrap().0;
                let pads = self.constant(Tensor::i64_vector(&[0, 1, 0, 0]));
                self.apply(Op::Pad { mode: PadMode::Constant }, &[cut, pads], shape);
            }
            (23, _) if rank == 2 => {
                let flat = self.constant(Tensor::i64_vector(&[-1]));
                self.apply(Op::Reshape { allowzero: false }, &[x, flat], vec![shape[0] * shape[1]]);
                let flat = self.values.pop().unwrap().0;
                let back = self.constant(Tensor::i64_vector(&[shape[0] as i64, shape[1] as i64]));
                self.apply(Op::Unary(Unary::Neg), &[flat], vec![shape[0] * shape[1]]);
                let flat = self.values.pop().unwrap().0;
                self.apply(Op::Reshape { allowzero: false }, &[flat, back], shape);
            }
            (24, _) => {
                let width = Width::new((b % 8 + 1) as u8).unwrap();
                // Far from the steps of the function, whatever the last digit.
                self.apply(Op::Unary(Unary::Tanh), &[x], shape.clone());
                let bounded = self.values.pop().unwrap().0;
                self.apply(Op::Unary(Unary::Round), &[bounded], shape.clone());
                let whole = self.values.pop().unwrap().0;
                self.apply(Op::FakeSlice { width, mode: SliceMode::Midpoint }, &[whole], shape);
                let level = self.values.pop().unwrap();
                self.values.push(level);
            }
            (25, _) if rank == 2 => {
                self.apply(Op::Concat { axis: 0 }, &[x, x], vec![2 * shape[0], shape[1]]);
                let (joined, _) = self.values.pop().unwrap();
                let op = Op::Reduce {
                    kind: Reduction::Mean,
                    axes: Some(vec![0]),
                    keepdims: true,
                    noop_with_empty_axes: false,
                };
                self.apply(op, &[joined], vec![1, shape[1]]);
            }
            // The gradient of what is held within bounds.
            (26, Some(to)) => {
                let [low, high, zero] = [-0.6, 0.5, 0.0].map(|v| self.constant(Tensor::f32_scalar(v)));
                self.apply(Op::Compare(Compare::Less), &[x, low], shape.clone());
                let below = self.values.pop().unwrap().0;
                self.apply(Op::Compare(Compare::Greater), &[x, high], shape.clone());
                let above = self.values.pop().unwrap().0;
                self.apply(Op::Binary(Binary::Or), &[below, above], shape);
                let outside = self.values.pop().unwrap().0;
                self.apply(Op::Select, &[outside, zero, y], to);
            }
            // Sums of products.
            (27, Some(to)) if to.len() == 2 => {
                self.apply(Op::Binary(Binary::Mul), &[x, y], to.clone());
                let product = self.values.pop().unwrap().0;
                let axes = [Some(vec![0]), Some(vec![1]), None][b % 3].clone();
                let shape = [vec![to[1]], vec![to[0]], vec![]][b % 3].clone();
                let op =
                    Op::Reduce { kind: Reduction::Sum, axes, keepdims: false, noop_with_empty_axes: false };
                self.apply(op, &[product], shape.clone());
                let sum = self.values.pop().unwrap().0;
                self.apply(Op::Unary(Unary::Softsign), &[sum], shape);
            }
            // A row for every row, as a bias or a gain is.
            (28, _) if rank == 2 && shape[1] == self.values[2].1[0] => {
                let row = self.values[2].0;
                let kind = [Binary::Add, Binary::Sub, Binary::Mul][b % 3];
                self.apply(Op::Binary(kind), &[x, row], shape);
            }
            _ => {}
        }
    }

    pub fn finish(&mut self, wanted: &[usize]) {
        let last = self.values.len() - 1;
        let mut places: Vec<usize> = wanted.iter().map(|w| w % self.values.len()).chain([last]).collect();
        places.sort_unstable();
        places.dedup();
        let output =
            |i: usize| Output { value: self.values[i].0, name: format!("y{i}"), declared: Type::Unknown };
        self.graph.set_outputs(places.into_iter().map(output).collect());
    }
}

pub fn data<T: Real>(shape: &[usize], seed: usize) -> Array<T> {
    let value = |i: usize| T::of(((i * 7919 + seed * 104_729) % 2003) as f64 / 500.0 - 2.0);
    Array::real(shape.to_vec(), (0..shape.iter().product()).map(value).collect()).unwrap()
}

pub fn close<T: Real>(
    found: &[Array<T>],
    expected: &[Array<T>],
    tolerance: f64,
) -> Result<(), TestCaseError> {
    for (o, (x, y)) in found.iter().zip(expected).enumerate() {
        prop_assert_eq!(x.shape(), y.shape());
        for (i, (a, b)) in x.as_real().unwrap().iter().zip(y.as_real().unwrap()).enumerate() {
            let (a, b) = (a.f64(), b.f64());
            let near = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * (1.0 + b.abs());
            prop_assert!(near, "output {} element {}: found {}, expected {}", o, i, a, b);
        }
    }
    Ok(())
}

/// Sizes, nodes (kind and operands), outputs.
pub type Plan = (usize, usize, Vec<(u8, usize, usize)>, Vec<usize>);

pub fn graphs() -> impl Strategy<Value = Plan> {
    let node = (any::<u8>(), 0usize..64, 0usize..64);
    let size = prop_oneof![6 => 1usize..9, 2 => 30usize..200, 1 => Just(512)];
    (size.clone(), size, prop::collection::vec(node, 1..40), prop::collection::vec(0usize..64, 0..4))
}
