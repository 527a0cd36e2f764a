//! Constants: `TensorProto` to and from [`Tensor`].

use std::path::Path;

use mqc_ir::{DType, SparseTensor, Tensor};
use prost::Message;

use crate::Error;
use crate::file::{Resolver, element_type, map, tensor_bytes, tensor_strings};
use crate::proto::{DataType, SparseTensorProto, TensorProto};

/// The element type of the IR; `None` for `Undefined`.
pub fn dtype(data_type: DataType) -> Option<DType> {
    Some(match data_type {
        DataType::Undefined => return None,
        DataType::Float6e2m3 => DType::F6E2M3,
        DataType::Float6e3m2 => DType::F6E3M2,
        DataType::Float => DType::F32,
        DataType::Uint8 => DType::U8,
        DataType::Int8 => DType::I8,
        DataType::Uint16 => DType::U16,
        DataType::Int16 => DType::I16,
        DataType::Int32 => DType::I32,
        DataType::Int64 => DType::I64,
        DataType::String => DType::String,
        DataType::Bool => DType::Bool,
        DataType::Float16 => DType::F16,
        DataType::Double => DType::F64,
        DataType::Uint32 => DType::U32,
        DataType::Uint64 => DType::U64,
        DataType::Complex64 => DType::C64,
        DataType::Complex128 => DType::C128,
        DataType::Bfloat16 => DType::Bf16,
        DataType::Float8e4m3fn => DType::F8E4M3FN,
        DataType::Float8e4m3fnuz => DType::F8E4M3FNUZ,
        DataType::Float8e5m2 => DType::F8E5M2,
        DataType::Float8e5m2fnuz => DType::F8E5M2FNUZ,
        DataType::Uint4 => DType::U4,
        DataType::Int4 => DType::I4,
        DataType::Float4e2m1 => DType::F4E2M1,
        DataType::Float8e8m0 => DType::F8E8M0,
        DataType::Uint2 => DType::U2,
        DataType::Int2 => DType::I2,
    })
}

/// The element type of ONNX.
pub fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::F32 => DataType::Float,
        DType::U8 => DataType::Uint8,
        DType::I8 => DataType::Int8,
        DType::U16 => DataType::Uint16,
        DType::I16 => DataType::Int16,
        DType::I32 => DataType::Int32,
        DType::I64 => DataType::Int64,
        DType::String => DataType::String,
        DType::Bool => DataType::Bool,
        DType::F16 => DataType::Float16,
        DType::F64 => DataType::Double,
        DType::U32 => DataType::Uint32,
        DType::U64 => DataType::Uint64,
        DType::C64 => DataType::Complex64,
        DType::C128 => DataType::Complex128,
        DType::Bf16 => DataType::Bfloat16,
        DType::F8E4M3FN => DataType::Float8e4m3fn,
        DType::F8E4M3FNUZ => DataType::Float8e4m3fnuz,
        DType::F8E5M2 => DataType::Float8e5m2,
        DType::F8E5M2FNUZ => DataType::Float8e5m2fnuz,
        DType::U4 => DataType::Uint4,
        DType::I4 => DataType::Int4,
        DType::F6E2M3 => DataType::Float6e2m3,
        DType::F6E3M2 => DataType::Float6e3m2,
        DType::F4E2M1 => DataType::Float4e2m1,
        DType::F8E8M0 => DataType::Float8e8m0,
        DType::U2 => DataType::Uint2,
        DType::I2 => DataType::Int2,
    }
}

/// Name, if it has one, and constant of a file that is one `TensorProto`.
///
/// # Errors
/// The file cannot be read or is no tensor.
pub fn read_file(path: &Path) -> Result<(Option<String>, Tensor), Error> {
    let proto = TensorProto::decode(map(path)?)
        .map_err(|source| Error::DecodeTensor { path: path.to_owned(), source })?;
    let tensor = read(&proto, &Resolver::in_memory())?;
    Ok((proto.name, tensor))
}

/// The constant that a tensor is. Its bytes are shared with the message or the mapped external file.
///
/// # Errors
/// The tensor is malformed or its external data cannot be resolved.
pub fn read(tensor: &TensorProto, resolver: &Resolver) -> Result<Tensor, Error> {
    let data_type = element_type(tensor)?;
    let found =
        || Error::Kind { tensor: tensor.name().to_owned(), found: data_type, expected: "a type of ONNX" };
    let dtype = dtype(data_type).ok_or_else(found)?;
    let shape = shape(tensor)?;
    if dtype == DType::String {
        tensor_strings(tensor)?;
        return Ok(Tensor::strings(shape, tensor.string_data.clone())?);
    }
    Ok(Tensor::new(dtype, shape, tensor_bytes(tensor, resolver)?)?)
}

fn shape(tensor: &TensorProto) -> Result<Vec<usize>, Error> {
    let sizes: Result<_, _> = tensor.dims.iter().map(|&size| usize::try_from(size)).collect();
    sizes.map_err(|_| Error::Dims { tensor: tensor.name().to_owned(), dims: tensor.dims.clone() })
}

/// The message of a constant, its bytes shared.
pub fn write(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = header(name, tensor);
    match tensor.as_strings() {
        Some(strings) => proto.string_data = strings.to_vec(),
        None => proto.raw_data = Some(tensor.bytes().clone()),
    }
    proto
}

/// The message of a constant without its data.
pub fn header(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: (!name.is_empty()).then(|| name.to_owned()),
        data_type: Some(data_type(tensor.dtype()) as i32),
        dims: tensor.shape().iter().map(|&size| size as i64).collect(),
        ..TensorProto::default()
    }
}

/// The sparse constant that a message holds.
///
/// # Errors
/// Values or indices are absent or malformed.
pub fn read_sparse(sparse: &SparseTensorProto, resolver: &Resolver) -> Result<SparseTensor, Error> {
    let part = |part: &Option<TensorProto>, missing| match part {
        Some(tensor) => read(tensor, resolver),
        None => {
            let tensor = sparse.values.as_ref().map_or("", |values| values.name()).to_owned();
            Err(Error::SparsePart { tensor, missing })
        }
    };
    Ok(SparseTensor {
        values: part(&sparse.values, "values")?,
        indices: part(&sparse.indices, "indices")?,
        shape: sparse.dims.clone(),
    })
}

/// The message of a sparse constant.
pub fn write_sparse(sparse: &SparseTensor) -> SparseTensorProto {
    SparseTensorProto {
        values: Some(write("", &sparse.values)),
        indices: Some(write("", &sparse.indices)),
        dims: sparse.shape.clone(),
    }
}
