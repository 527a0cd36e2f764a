//! Types of values: `TypeProto` to and from [`Type`].
//!
//! A negative size, which some exporters write for "dynamic", is an unknown size. A size of 0 is taken at its word: the
//! tensor is empty.

use mqc_ir::{DType, Dim, TensorType, Type};

use crate::proto::{
    self, DataType, Dimension, DimensionValue, MapType, OpaqueType, OptionalType, SequenceType,
    SparseTensorType, TensorShapeProto, TypeProto, TypeValue,
};
use crate::{Error, tensors};

/// The type that a message states, as far as it does. `value` is named in errors.
///
/// # Errors
/// An element type that does not exist or that the IR does not have.
pub fn read(message: Option<&TypeProto>, value: &str) -> Result<Type, Error> {
    let tensor = |elem_type: Option<i32>, shape: &Option<TensorShapeProto>| {
        Ok::<_, Error>(TensorType { dtype: element(elem_type, value)?, shape: shape.as_ref().map(dims) })
    };
    let nested =
        |elem_type: &Option<Box<TypeProto>>| Ok::<_, Error>(Box::new(read(elem_type.as_deref(), value)?));
    Ok(match message.and_then(|message| message.value.as_ref()) {
        None => Type::Unknown,
        Some(TypeValue::TensorType(t)) => Type::Tensor(tensor(t.elem_type, &t.shape)?),
        Some(TypeValue::SparseTensorType(t)) => Type::Sparse(tensor(t.elem_type, &t.shape)?),
        Some(TypeValue::SequenceType(t)) => Type::Sequence(nested(&t.elem_type)?),
        Some(TypeValue::OptionalType(t)) => Type::Optional(nested(&t.elem_type)?),
        Some(TypeValue::MapType(t)) => {
            let key = element(t.key_type, value)?.ok_or_else(|| bad(value, 0))?;
            Type::Map(key, nested(&t.value_type)?)
        }
        Some(TypeValue::OpaqueType(t)) => {
            Type::Foreign { domain: t.domain().to_owned(), name: t.name().to_owned() }
        }
    })
}

fn element(number: Option<i32>, value: &str) -> Result<Option<DType>, Error> {
    let number = number.unwrap_or(0);
    match DataType::try_from(number) {
        Ok(DataType::Undefined) => Ok(None),
        Ok(data_type) => tensors::dtype(data_type).map(Some).ok_or_else(|| bad(value, number)),
        Err(_) => Err(bad(value, number)),
    }
}

fn bad(value: &str, found: i32) -> Error {
    Error::ElementType { value: value.to_owned(), found }
}

fn dims(shape: &TensorShapeProto) -> Vec<Dim> {
    let dim = |dim: &Dimension| match &dim.value {
        Some(DimensionValue::DimValue(size)) => u64::try_from(*size).map_or(Dim::Unknown, Dim::Size),
        Some(DimensionValue::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.as_str().into()),
        Some(DimensionValue::DimParam(_)) | None => Dim::Unknown,
    };
    shape.dim.iter().map(dim).collect()
}

/// The message of a type; `None` when nothing is known.
pub fn write(ty: &Type) -> Option<TypeProto> {
    let nested = |ty: &Type| write(ty).map(Box::new);
    let value = match ty {
        Type::Unknown => return None,
        Type::Tensor(t) => {
            TypeValue::TensorType(proto::TensorType { elem_type: number(t.dtype), shape: shape(t) })
        }
        Type::Sparse(t) => {
            TypeValue::SparseTensorType(SparseTensorType { elem_type: number(t.dtype), shape: shape(t) })
        }
        Type::Sequence(element) => {
            TypeValue::SequenceType(Box::new(SequenceType { elem_type: nested(element) }))
        }
        Type::Optional(element) => {
            TypeValue::OptionalType(Box::new(OptionalType { elem_type: nested(element) }))
        }
        Type::Map(key, value) => {
            TypeValue::MapType(Box::new(MapType { key_type: number(Some(*key)), value_type: nested(value) }))
        }
        Type::Foreign { domain, name } => {
            let text = |text: &String| (!text.is_empty()).then(|| text.clone());
            TypeValue::OpaqueType(OpaqueType { domain: text(domain), name: text(name) })
        }
    };
    Some(TypeProto { value: Some(value), denotation: None })
}

fn number(dtype: Option<DType>) -> Option<i32> {
    dtype.map(|dtype| tensors::data_type(dtype) as i32)
}

fn shape(ty: &TensorType) -> Option<TensorShapeProto> {
    let dim = |dim: &Dim| Dimension {
        value: match dim {
            Dim::Size(size) => Some(DimensionValue::DimValue(i64::try_from(*size).unwrap_or(i64::MAX))),
            Dim::Symbol(name) => Some(DimensionValue::DimParam(name.to_string())),
            Dim::Unknown => None,
        },
        denotation: None,
    };
    Some(TensorShapeProto { dim: ty.shape.as_ref()?.iter().map(dim).collect() })
}
