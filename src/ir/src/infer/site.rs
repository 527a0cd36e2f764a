//! One node as inference sees it: operand types, integer operands that are known, and checks on them.

use std::collections::BTreeMap;

use super::symbolic::Expr;
use crate::{DType, Dim, Graph, Node, Operands, TensorType, Type, Value};

/// What a rule gives: types of the outputs, or what is wrong with the node.
pub(super) type Inferred<T = Vec<Type>> = Result<T, String>;

/// A shape of which perhaps not even the rank is known.
pub(super) type Shape = Option<Vec<Dim>>;

/// Integer tensors longer than this are not followed element by element.
pub(super) const MAX_ITEMS: usize = 64;

/// A small integer or bool tensor, element by element in row-major order as far as known; true is 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ints {
    pub shape: Vec<usize>,
    pub items: Vec<Option<Expr>>,
}

impl Ints {
    pub fn constants(&self) -> Option<Vec<i64>> {
        self.items.iter().map(|e| e.as_ref()?.constant()).collect()
    }
}

/// The integer values that are known.
pub(super) type Known = BTreeMap<Value, Ints>;

pub(super) struct Site<'a> {
    pub graph: &'a Graph,
    pub node: &'a Node,
    pub operands: Operands,
    pub known: &'a Known,
}

impl<'a> Site<'a> {
    pub fn value(&self, slot: usize) -> Option<Value> {
        self.operands.get(slot).copied().flatten()
    }

    /// The type of an operand; unknown when it is absent.
    pub fn ty(&self, slot: usize) -> &'a Type {
        static UNKNOWN: Type = Type::Unknown;
        self.value(slot).map_or(&UNKNOWN, |v| self.graph.ty(v))
    }

    /// An operand that must be there and be a dense tensor.
    pub fn tensor(&self, slot: usize, role: &str) -> Inferred<TensorType> {
        self.optional(slot, role)?.ok_or_else(|| {
            format!("operand {slot} ({role}) is missing, found {} operands", self.operands.len())
        })
    }

    /// An operand that must be a dense tensor when it is there.
    pub fn optional(&self, slot: usize, role: &str) -> Inferred<Option<TensorType>> {
        let Some(value) = self.value(slot) else {
            return Ok(None);
        };
        let kind = match self.graph.ty(value) {
            Type::Tensor(t) => return Ok(Some(t.clone())),
            Type::Unknown => return Ok(Some(TensorType::default())),
            Type::Sparse(_) => "a sparse tensor",
            Type::Sequence(_) => "a sequence",
            Type::Optional(_) => "an optional",
            Type::Map(..) => "a map",
            Type::Foreign { .. } => "a value of a foreign type",
        };
        Err(format!("operand {slot} ({role}) is {kind}, expected a tensor"))
    }

    /// The elements of an integer operand; each unknown where only the length is known.
    pub fn ints(&self, slot: usize) -> Option<Ints> {
        let value = self.value(slot)?;
        self.known.get(&value).cloned().or_else(|| {
            let ty = self.graph.ty(value);
            let integer = ty.dtype().is_some_and(|d| is_integer(d) || d == DType::Bool);
            let shape = super::values::sizes(ty).filter(|_| integer)?;
            Some(Ints { items: vec![None; shape.iter().product()], shape })
        })
    }

    /// The elements of an integer operand that must be a vector.
    pub fn vector(&self, slot: usize, role: &str) -> Inferred<Option<Vec<Option<Expr>>>> {
        let operand = self.tensor(slot, role)?;
        need(operand.dtype, |d| matches!(d, DType::I64 | DType::I32), role, "i64")?;
        match &operand.shape {
            Some(shape) if shape.len() != 1 => {
                Err(format!("{role} has shape {}, expected a vector", show(shape)))
            }
            _ => Ok(self.ints(slot).map(|i| i.items)),
        }
    }

    /// The elements of an integer operand of any length, when all are constants.
    pub fn constants(&self, slot: usize) -> Option<Vec<i64>> {
        let value = self.value(slot)?;
        match self.known.get(&value) {
            Some(ints) => ints.constants(),
            None => self.graph.constant(value).and_then(|t| t.to_i64_vec()),
        }
    }
}

/// A dense tensor.
pub(super) fn tensor(dtype: Option<DType>, shape: Shape) -> Type {
    Type::Tensor(TensorType { dtype, shape })
}

/// The types of a node with one output, a dense tensor.
pub(super) fn one(dtype: Option<DType>, shape: Shape) -> Inferred {
    Ok(vec![tensor(dtype, shape)])
}

/// A shape of which only the rank is known.
pub(super) fn unknown(rank: usize) -> Vec<Dim> {
    vec![Dim::Unknown; rank]
}

/// The dimension of an expression that may be unknown. Error when it is negative.
pub(super) fn dim(size: Option<Expr>) -> Inferred<Dim> {
    let Some(size) = size else {
        return Ok(Dim::Unknown);
    };
    match size.constant() {
        Some(n) if n < 0 => Err(format!("a dimension would be {n}, expected zero or more")),
        _ => Ok(size.dim()),
    }
}

/// `[batch, 3, ?]`.
pub(super) fn show(shape: &[Dim]) -> String {
    let dims: Vec<_> = shape.iter().map(show_dim).collect();
    format!("[{}]", dims.join(", "))
}

pub(super) fn show_dim(dim: &Dim) -> String {
    match dim {
        Dim::Size(n) => n.to_string(),
        Dim::Symbol(name) => name.to_string(),
        Dim::Unknown => "?".to_owned(),
    }
}

/// The place of an axis that may count from the end.
pub(super) fn axis(axis: i64, rank: usize) -> Inferred<usize> {
    let place = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    place
        .and_then(|a| usize::try_from(a).ok())
        .filter(|a| *a < rank)
        .ok_or_else(|| format!("axis is {axis}, expected -{rank} to {} for rank {rank}", rank as i64 - 1))
}

/// The places of axes that must differ.
pub(super) fn axes(list: &[i64], rank: usize) -> Inferred<Vec<usize>> {
    let mut places = Vec::with_capacity(list.len().min(rank));
    for a in list {
        let place = axis(*a, rank)?;
        if places.contains(&place) {
            return Err(format!("axes are {list:?}, expected different axes"));
        }
        places.push(place);
    }
    Ok(places)
}

/// Error when an element type is known and not accepted.
pub(super) fn need(
    dtype: Option<DType>,
    accepts: fn(DType) -> bool,
    role: &str,
    expected: &str,
) -> Inferred<()> {
    match dtype {
        Some(found) if !accepts(found) => Err(format!("{role} has type {found}, expected {expected}")),
        _ => Ok(()),
    }
}

/// The element type that operands share. Error when two are known and differ.
pub(super) fn same(dtypes: &[Option<DType>]) -> Inferred<Option<DType>> {
    let mut known = dtypes.iter().flatten();
    let first = known.next().copied();
    match known.find(|d| Some(**d) != first) {
        Some(other) => {
            let first = first.map_or("unknown", DType::name);
            Err(format!("operands have types {first} and {other}, expected one type"))
        }
        None => Ok(first),
    }
}

/// One size for two dimensions that must be equal: the better known.
pub(super) fn unify(a: &Dim, b: &Dim, what: &str) -> Inferred<Dim> {
    match (a, b) {
        (Dim::Size(x), Dim::Size(y)) if x != y => {
            Err(format!("{what}: found {x} and {y}, expected equal sizes"))
        }
        (Dim::Size(_), _) | (Dim::Symbol(_), Dim::Symbol(_) | Dim::Unknown) => Ok(a.clone()),
        (Dim::Symbol(_) | Dim::Unknown, _) => Ok(b.clone()),
    }
}

pub(super) fn is_integer(dtype: DType) -> bool {
    !dtype.is_float() && !matches!(dtype, DType::Bool | DType::String | DType::C64 | DType::C128)
}

pub(super) fn is_numeric(dtype: DType) -> bool {
    !matches!(dtype, DType::Bool | DType::String)
}
