//! Adds nodes to a graph one by one, each with its type inferred at once.
//!
//! All shapes are fixed. Names of new values begin with the builder's scope.

use mqc_ir::infer::infer_node;
use mqc_ir::op::{Binary, Compare, Reduction, Unary};
use mqc_ir::{DType, Dim, Graph, Node, Op, Tensor, Type, Value, ValueInfo, text};

use crate::Error;

/// See the module.
pub struct Builder<'g> {
    /// The graph that grows.
    pub graph: &'g mut Graph,
    scope: String,
}

impl<'g> Builder<'g> {
    /// A builder whose values are called `scope/..`.
    pub fn new(graph: &'g mut Graph, scope: impl Into<String>) -> Builder<'g> {
        Builder { graph, scope: scope.into() }
    }

    /// From now on values are called `scope/..`.
    pub fn set_scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// The sizes of a value.
    ///
    /// # Errors
    /// One of them is not known.
    pub fn shape(&self, value: Value) -> Result<Vec<usize>, Error> {
        let ty = self.graph.ty(value);
        let sizes = ty.shape().and_then(|dims| {
            dims.iter().map(|d| d.size().and_then(|n| usize::try_from(n).ok())).collect::<Option<Vec<_>>>()
        });
        sizes.ok_or_else(|| self.not_static(value, "a tensor whose sizes are all known"))
    }

    /// The element type of a value.
    ///
    /// # Errors
    /// It is not known.
    pub fn dtype(&self, value: Value) -> Result<DType, Error> {
        self.graph.ty(value).dtype().ok_or_else(|| self.not_static(value, "a tensor of known element type"))
    }

    fn not_static(&self, value: Value, expected: &'static str) -> Error {
        let name = self.graph.info(value).map(|i| i.name.clone()).unwrap_or_default();
        Error::NotStatic { value: name, found: self.graph.ty(value).to_string(), expected }
    }

    /// A node with one output.
    ///
    /// # Errors
    /// Operands that the operation cannot take.
    pub fn op(&mut self, op: Op, operands: &[Value]) -> Result<Value, Error> {
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        Ok(self.node(op, &operands, 1)?[0])
    }

    /// A node with `outputs` outputs; operands may be absent.
    ///
    /// # Errors
    /// Operands that the operation cannot take.
    pub fn node(&mut self, op: Op, operands: &[Option<Value>], outputs: usize) -> Result<Vec<Value>, Error> {
        let name = self.graph.numbered_name(&format!("{}/{}", self.scope, text::mnemonic(&op)));
        let named = |slot| if slot == 0 { name.clone() } else { format!("{name}/{slot}") };
        let infos = (0..outputs).map(|slot| ValueInfo { name: named(slot), ty: Type::Unknown }).collect();
        let id = self.graph.insert(Node::new(op, name.clone(), infos), operands)?;
        infer_node(self.graph, id)?;
        Ok((0..outputs).map(|slot| Value { node: id, slot }).collect())
    }

    /// A constant.
    pub fn constant(&mut self, tensor: Tensor) -> Value {
        let name = self.graph.numbered_name(&format!("{}/constant", self.scope));
        self.graph.add_weight(name, tensor)
    }

    /// A constant f32 scalar.
    pub fn scalar(&mut self, value: f32) -> Value {
        self.constant(Tensor::f32_scalar(value))
    }

    /// A constant vector of integers: a shape, axes.
    pub fn ints(&mut self, values: &[i64]) -> Value {
        self.constant(Tensor::i64_vector(values))
    }

    /// Zeros of a shape.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn zeros(&mut self, shape: &[usize]) -> Result<Value, Error> {
        let zero = self.scalar(0.0);
        self.expand(zero, shape)
    }

    /// One operand, elementwise.
    pub fn unary(&mut self, kind: Unary, x: Value) -> Result<Value, Error> {
        self.op(Op::Unary(kind), &[x])
    }

    /// Two operands, broadcasting.
    pub fn binary(&mut self, kind: Binary, a: Value, b: Value) -> Result<Value, Error> {
        self.op(Op::Binary(kind), &[a, b])
    }

    /// a + b, broadcasting.
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value, Error> {
        self.binary(Binary::Add, a, b)
    }

    /// a - b, broadcasting.
    pub fn sub(&mut self, a: Value, b: Value) -> Result<Value, Error> {
        self.binary(Binary::Sub, a, b)
    }

    /// a b, broadcasting.
    pub fn mul(&mut self, a: Value, b: Value) -> Result<Value, Error> {
        self.binary(Binary::Mul, a, b)
    }

    /// a / b, broadcasting.
    pub fn div(&mut self, a: Value, b: Value) -> Result<Value, Error> {
        self.binary(Binary::Div, a, b)
    }

    /// The sum of some values, at least one, broadcasting.
    ///
    /// # Errors
    /// There is none; shapes that do not fit.
    pub fn sum_of(&mut self, values: &[Value]) -> Result<Value, Error> {
        let mut values = values.iter().copied();
        let first = values.next().ok_or_else(|| Error::invalid("sum", "", "has no terms"))?;
        values.try_fold(first, |sum, value| self.add(sum, value))
    }

    /// a + b of products with the same matrix on the left, possibly transposed, as the product of that and a sum; none
    /// where they are not that.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add_products(&mut self, a: Value, b: Value) -> Result<Option<Value>, Error> {
        let factors = |value: Value| {
            let is = self.graph.node(value.node).is_some_and(|n| n.op == Op::MatMul);
            let (left, right) = (self.graph.operand(value.node, 0)?, self.graph.operand(value.node, 1)?);
            let turned = match self.graph.node(left.node).map(|n| &n.op) {
                Some(Op::Transpose { perm }) => (self.graph.operand(left.node, 0)?, perm.clone()),
                _ => (left, None),
            };
            is.then_some((left, turned, right))
        };
        match (factors(a), factors(b)) {
            (Some((left, same, x)), Some((_, other, y)))
                if same == other && self.shape(x)?.len() == 2 && self.shape(x)? == self.shape(y)? =>
            {
                let sum = self.add(x, y)?;
                self.matmul(left, sum).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// -x.
    pub fn neg(&mut self, x: Value) -> Result<Value, Error> {
        self.unary(Unary::Neg, x)
    }

    /// x + number.
    pub fn add_scalar(&mut self, x: Value, number: f32) -> Result<Value, Error> {
        let number = self.scalar(number);
        self.add(x, number)
    }

    /// x * number.
    pub fn scale(&mut self, x: Value, number: f32) -> Result<Value, Error> {
        let number = self.scalar(number);
        self.mul(x, number)
    }

    /// A comparison, broadcasting.
    pub fn compare(&mut self, kind: Compare, a: Value, b: Value) -> Result<Value, Error> {
        self.op(Op::Compare(kind), &[a, b])
    }

    /// `yes` where the condition holds, `no` elsewhere.
    pub fn select(&mut self, condition: Value, yes: Value, no: Value) -> Result<Value, Error> {
        self.op(Op::Select, &[condition, yes, no])
    }

    /// Another element type.
    pub fn cast(&mut self, x: Value, to: DType) -> Result<Value, Error> {
        self.op(Op::Cast { to, saturate: true }, &[x])
    }

    /// A reduction over `axes` (from the front, not empty).
    pub fn reduce(
        &mut self,
        kind: Reduction,
        x: Value,
        axes: &[usize],
        keepdims: bool,
    ) -> Result<Value, Error> {
        let axes: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
        let axes = self.ints(&axes);
        let op = Op::Reduce { kind, axes: None, keepdims, noop_with_empty_axes: false };
        self.op(op, &[x, axes])
    }

    /// The sum over `axes`; `x` itself when there are none.
    pub fn sum(&mut self, x: Value, axes: &[usize], keepdims: bool) -> Result<Value, Error> {
        if axes.is_empty() { Ok(x) } else { self.reduce(Reduction::Sum, x, axes, keepdims) }
    }

    /// The sum of all elements, a scalar.
    pub fn sum_all(&mut self, x: Value) -> Result<Value, Error> {
        let axes: Vec<usize> = (0..self.shape(x)?.len()).collect();
        self.sum(x, &axes, false)
    }

    /// Sums a cotangent of the shape that `target` was broadcast to back to `target`'s own shape.
    pub fn sum_to(&mut self, x: Value, target: &[usize]) -> Result<Value, Error> {
        let shape = self.shape(x)?;
        if shape == target {
            return Ok(x);
        }
        let lead = shape.len().saturating_sub(target.len());
        let axes: Vec<usize> =
            (0..shape.len()).filter(|&i| i < lead || (target[i - lead] == 1 && shape[i] != 1)).collect();
        let sum = self.sum(x, &axes, true)?;
        self.reshape(sum, target)
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, x: Value, shape: &[usize]) -> Result<Value, Error> {
        if self.shape(x)? == shape {
            return Ok(x);
        }
        let sizes: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let sizes = self.ints(&sizes);
        // With `allowzero`, sizes of 0 mean what they say.
        self.op(Op::Reshape { allowzero: true }, &[x, sizes])
    }

    /// Broadcast to a shape.
    pub fn expand(&mut self, x: Value, shape: &[usize]) -> Result<Value, Error> {
        if self.shape(x)? == shape {
            return Ok(x);
        }
        let sizes: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let sizes = self.ints(&sizes);
        self.op(Op::Expand, &[x, sizes])
    }

    /// Axis i of the result is axis `perm[i]` of x.
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Result<Value, Error> {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        self.op(Op::Transpose { perm: Some(perm.iter().map(|&p| p as i64).collect()) }, &[x])
    }

    /// The last two axes exchanged.
    pub fn transpose_last(&mut self, x: Value) -> Result<Value, Error> {
        let mut perm: Vec<usize> = (0..self.shape(x)?.len()).collect();
        let rank = perm.len();
        if rank >= 2 {
            perm.swap(rank - 1, rank - 2);
        }
        self.transpose(x, &perm)
    }

    /// The product of the last two axes, the others broadcast.
    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value, Error> {
        self.op(Op::MatMul, &[a, b])
    }

    /// The parts `[start, start + length)` of an axis.
    pub fn slice(&mut self, x: Value, axis: usize, start: usize, length: usize) -> Result<Value, Error> {
        let (start, end) = (start as i64, (start + length) as i64);
        let operands = [self.ints(&[start]), self.ints(&[end]), self.ints(&[axis as i64])];
        self.op(Op::Slice, &[x, operands[0], operands[1], operands[2]])
    }

    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, dtype: DType, shape: &[usize]) -> Value {
        let dims = shape.iter().map(|&n| Dim::Size(n as u64)).collect();
        self.graph.add_input(name, Type::tensor(dtype, dims))
    }
}
