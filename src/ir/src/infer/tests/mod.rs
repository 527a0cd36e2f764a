//! Tests of inference: hand-derived types per group of operations, and symbols against numbers.

mod arithmetic;
mod control;
mod elementwise;
mod errors;
mod nested;
mod opaque;
mod properties;
mod shapes;
mod symbolic;
mod windows;

use super::infer;
use super::site::show;
use crate::op::Opaque;
use crate::{Attribute, DType, Dim, Error, Graph, Node, Op, Tensor, Type, Value, ValueInfo};

/// A graph under test.
#[derive(Default)]
struct Model(Graph);

impl Model {
    /// An f32 input of a shape like `batch 3 ?`.
    fn x(&mut self, shape: &str) -> Value {
        self.input(DType::F32, shape)
    }

    fn input(&mut self, dtype: DType, shape: &str) -> Value {
        self.0.add_input(format!("x{}", self.0.len()), Type::tensor(dtype, dims(shape)))
    }

    fn ints(&mut self, values: &[i64]) -> Value {
        self.constant(Tensor::i64_vector(values))
    }

    fn int(&mut self, value: i64) -> Value {
        self.constant(Tensor::i64_scalar(value))
    }

    fn constant(&mut self, tensor: Tensor) -> Value {
        self.apply(Op::Constant(tensor), &[])
    }

    fn apply(&mut self, op: Op, operands: &[Value]) -> Value {
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        self.node(op, &operands, 1)[0]
    }

    fn node(&mut self, op: Op, operands: &[Option<Value>], outputs: usize) -> Vec<Value> {
        let info = |i| ValueInfo { name: format!("v{}_{i}", self.0.len()), ty: Type::Unknown };
        let node = Node::new(op, format!("n{}", self.0.len()), (0..outputs).map(info).collect());
        let node = self.0.insert(node, operands).unwrap();
        (0..outputs).map(|slot| Value { node, slot }).collect()
    }

    fn infer(&mut self) {
        infer(&mut self.0).unwrap();
    }

    /// The type of a value: `f32[batch, 3]`, `?` where unknown.
    fn ty(&self, value: Value) -> String {
        text(self.0.ty(value))
    }

    /// Infers, and the type of a value.
    fn inferred(&mut self, value: Value) -> String {
        self.infer();
        self.ty(value)
    }

    /// The messages of all errors.
    fn errors(&mut self) -> Vec<String> {
        infer(&mut self.0).unwrap_err().iter().map(Error::to_string).collect()
    }
}

fn text(ty: &Type) -> String {
    let dtype = ty.dtype().map_or("?", DType::name);
    format!("{dtype}{}", ty.shape().map_or("[*]".to_owned(), show))
}

fn dims(text: &str) -> Vec<Dim> {
    text.split_whitespace()
        .map(|d| match (d, d.parse()) {
            ("?", _) => Dim::Unknown,
            (_, Ok(size)) => Dim::Size(size),
            (name, Err(_)) => Dim::Symbol(name.into()),
        })
        .collect()
}

fn opaque(op_type: &str, attributes: &[(&str, Attribute)]) -> Op {
    Op::Opaque(Opaque {
        domain: String::new(),
        op_type: op_type.to_owned(),
        overload: String::new(),
        attributes: attributes.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
    })
}
