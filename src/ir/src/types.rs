//! Types of values: tensors with symbolic shapes, sequences, optionals, maps.

use std::sync::Arc;

use crate::{DType, Tensor};

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A known size.
    Size(u64),
    /// A named size: any text, equal names are equal sizes.
    Symbol(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// The size, when known.
    pub fn size(&self) -> Option<u64> {
        match self {
            Dim::Size(n) => Some(*n),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }

    /// Whether the two can be the same size.
    pub fn compatible(&self, other: &Dim) -> bool {
        match (self, other) {
            (Dim::Size(a), Dim::Size(b)) => a == b,
            (Dim::Symbol(_) | Dim::Unknown, _) | (_, Dim::Symbol(_) | Dim::Unknown) => true,
        }
    }
}

/// Element type and shape of a tensor, each possibly unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: Option<DType>,
    /// Dimensions; `None` when not even the rank is known.
    pub shape: Option<Vec<Dim>>,
}

/// The type of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sparse tensor.
    Sparse(TensorType),
    /// A sequence of values of one type.
    Sequence(Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
    /// A map.
    Map(DType, Box<Type>),
    /// A type that only its domain understands.
    Foreign {
        /// Domain of the type.
        domain: String,
        /// Name within the domain.
        name: String,
    },
    /// Nothing is known.
    #[default]
    Unknown,
}

impl Type {
    /// A tensor type with all known.
    pub fn tensor(dtype: DType, shape: Vec<Dim>) -> Type {
        Type::Tensor(TensorType { dtype: Some(dtype), shape: Some(shape) })
    }

    /// The type of a constant.
    pub fn of(tensor: &Tensor) -> Type {
        Type::tensor(tensor.dtype(), tensor.shape().iter().map(|&d| Dim::Size(d as u64)).collect())
    }

    /// The element type of a dense tensor, when known.
    pub fn dtype(&self) -> Option<DType> {
        self.as_tensor()?.dtype
    }

    /// The shape of a dense tensor, when the rank is known.
    pub fn shape(&self) -> Option<&[Dim]> {
        self.as_tensor()?.shape.as_deref()
    }

    /// The rank of a dense tensor, when known.
    pub fn rank(&self) -> Option<usize> {
        Some(self.shape()?.len())
    }

    fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            Type::Sparse(_)
            | Type::Sequence(_)
            | Type::Optional(_)
            | Type::Map(..)
            | Type::Foreign { .. }
            | Type::Unknown => None,
        }
    }

    /// Whether one value can be of both types: what is known on both sides agrees.
    pub fn compatible(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Unknown, _) | (_, Type::Unknown) => true,
            (Type::Tensor(a), Type::Tensor(b)) | (Type::Sparse(a), Type::Sparse(b)) => {
                let dtypes = match (a.dtype, b.dtype) {
                    (Some(a), Some(b)) => a == b,
                    (None, _) | (_, None) => true,
                };
                let shapes = match (&a.shape, &b.shape) {
                    (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.compatible(b)),
                    (None, _) | (_, None) => true,
                };
                dtypes && shapes
            }
            (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
                a.compatible(b)
            }
            (Type::Map(ka, va), Type::Map(kb, vb)) => ka == kb && va.compatible(vb),
            (a, b) => a == b,
        }
    }
}
