//! The elements of a tensor, whichever field or file holds them.

use super::Resolver;
use crate::{
    Error,
    proto::{DataLocation, DataType, TensorProto},
};
use bytes::Bytes;

/// The element type of a tensor.
///
/// # Errors
/// It is absent or unknown.
pub fn element_type(tensor: &TensorProto) -> Result<DataType, Error> {
    let error = || Error::DataType { tensor: tensor.name().to_owned(), found: tensor.data_type() };
    match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Undefined) | Err(_) => Err(error()),
        Ok(data_type) => Ok(data_type),
    }
}

/// The number of elements: the product of the dims, 1 for a scalar.
///
/// # Errors
/// A dim is negative, or the product is over `u64::MAX`.
pub fn element_count(tensor: &TensorProto) -> Result<u64, Error> {
    let sizes: Option<Vec<u64>> = tensor.dims.iter().map(|&dim| u64::try_from(dim).ok()).collect();
    let count = sizes.and_then(|sizes| match sizes.contains(&0) {
        true => Some(0),
        false => sizes.iter().try_fold(1u64, |count, &size| count.checked_mul(size)),
    });
    count.ok_or_else(|| dims_error(tensor))
}

/// The elements of `tensor`, little-endian, packed and row-major (see [`DataType`]). `raw_data` and external
/// data are shared, not copied, and not looked at; typed fields are converted. The memory has no alignment.
///
/// # Errors
/// The type is unknown or `STRING`; the data does not fit the type and dims or lies in the wrong field;
/// external data cannot be resolved.
pub fn tensor_bytes(tensor: &TensorProto, resolver: &Resolver) -> Result<Bytes, Error> {
    let data_type = element_type(tensor)?;
    if data_type == DataType::String {
        return Err(Error::Kind { tensor: tensor.name().to_owned(), found: data_type, expected: "numbers" });
    }
    let elements = element_count(tensor)?;
    let needed = data_type.byte_size(elements).ok_or_else(|| dims_error(tensor))?;
    match location(tensor)? {
        DataLocation::External => resolver.bytes(tensor, needed),
        DataLocation::Default => inline_bytes(tensor, data_type, elements, needed),
    }
}

/// The elements of a tensor of `STRING`.
///
/// # Errors
/// The type is another; `string_data` does not fit the dims, is not alone, or has an element that is not
/// UTF-8.
pub fn tensor_strings(tensor: &TensorProto) -> Result<Vec<&str>, Error> {
    let data_type = element_type(tensor)?;
    if data_type != DataType::String {
        return Err(Error::Kind { tensor: tensor.name().to_owned(), found: data_type, expected: "STRING" });
    }
    let elements = element_count(tensor)?;
    let inline = location(tensor)? == DataLocation::Default;
    if !inline || !matches!(filled(tensor).as_slice(), [] | [Field::String]) {
        return Err(field_error(tensor, data_type, Field::String));
    }
    check_length(tensor, data_type, Field::String, tensor.string_data.len(), elements)?;
    let text = |(index, bytes)| {
        std::str::from_utf8(bytes).map_err(|source| Error::Utf8 {
            tensor: tensor.name().to_owned(),
            index,
            source,
        })
    };
    tensor.string_data.iter().map(|bytes| bytes.as_ref()).enumerate().map(text).collect()
}

/// The fields of `TensorProto` that hold elements.
#[derive(Clone, Copy, PartialEq)]
enum Field {
    Float,
    Int32,
    String,
    Int64,
    Raw,
    Double,
    Uint64,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Float => "float_data",
            Self::Int32 => "int32_data",
            Self::String => "string_data",
            Self::Int64 => "int64_data",
            Self::Raw => "raw_data",
            Self::Double => "double_data",
            Self::Uint64 => "uint64_data",
        }
    }

    /// The typed field of a type.
    fn of(data_type: DataType) -> Self {
        use DataType::*;
        match data_type {
            Float | Complex64 => Self::Float,
            Double | Complex128 => Self::Double,
            Int64 => Self::Int64,
            Uint32 | Uint64 => Self::Uint64,
            Undefined | String => Self::String,
            Int32 | Int16 | Uint16 | Int8 | Uint8 | Bool | Float16 | Bfloat16 | Float8e4m3fn
            | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz | Float8e8m0 | Float6e2m3 | Float6e3m2 | Int4
            | Uint4 | Float4e2m1 | Int2 | Uint2 => Self::Int32,
        }
    }
}

/// The data fields that are not empty.
fn filled(tensor: &TensorProto) -> Vec<Field> {
    let lengths = [
        (Field::Float, tensor.float_data.len()),
        (Field::Int32, tensor.int32_data.len()),
        (Field::String, tensor.string_data.len()),
        (Field::Int64, tensor.int64_data.len()),
        (Field::Raw, tensor.raw_data().len()),
        (Field::Double, tensor.double_data.len()),
        (Field::Uint64, tensor.uint64_data.len()),
    ];
    lengths.into_iter().filter(|&(_, length)| length > 0).map(|(field, _)| field).collect()
}

fn location(tensor: &TensorProto) -> Result<DataLocation, Error> {
    let name = || tensor.name().to_owned();
    if tensor.segment.is_some() {
        return Err(Error::Segment { tensor: name() });
    }
    let found = tensor.data_location.unwrap_or(0);
    DataLocation::try_from(found).map_err(|_| Error::DataLocation { tensor: name(), found })
}

fn inline_bytes(
    tensor: &TensorProto,
    data_type: DataType,
    elements: u64,
    needed: u64,
) -> Result<Bytes, Error> {
    let typed = Field::of(data_type);
    let length = |field, found, expected| check_length(tensor, data_type, field, found, expected);
    match filled(tensor).as_slice() {
        [] if needed == 0 => Ok(Bytes::new()),
        [Field::Raw] => {
            length(Field::Raw, tensor.raw_data().len(), needed)?;
            Ok(tensor.raw_data.clone().unwrap_or_default())
        }
        [field] if *field == typed => match typed {
            Field::Float => {
                length(typed, tensor.float_data.len(), needed / 4)?;
                Ok(little_endian(&tensor.float_data, |value| value.to_le_bytes()))
            }
            Field::Double => {
                length(typed, tensor.double_data.len(), needed / 8)?;
                Ok(little_endian(&tensor.double_data, |value| value.to_le_bytes()))
            }
            Field::Int64 => {
                length(typed, tensor.int64_data.len(), elements)?;
                Ok(little_endian(&tensor.int64_data, |value| value.to_le_bytes()))
            }
            Field::Uint64 => {
                length(typed, tensor.uint64_data.len(), elements)?;
                uint64_bytes(tensor, data_type)
            }
            Field::Int32 => {
                let packed = matches!(data_type.bits(), Some(2 | 4));
                length(typed, tensor.int32_data.len(), if packed { needed } else { elements })?;
                int32_bytes(tensor, data_type)
            }
            Field::String | Field::Raw => Err(field_error(tensor, data_type, typed)),
        },
        [..] => Err(field_error(tensor, data_type, typed)),
    }
}

fn little_endian<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
    let mut out = Vec::with_capacity(values.len() * N);
    for &value in values {
        out.extend_from_slice(&bytes(value));
    }
    out.into()
}

fn uint64_bytes(tensor: &TensorProto, data_type: DataType) -> Result<Bytes, Error> {
    if data_type == DataType::Uint64 {
        return Ok(little_endian(&tensor.uint64_data, |value| value.to_le_bytes()));
    }
    if let Some(index) = tensor.uint64_data.iter().position(|&value| value > u64::from(u32::MAX)) {
        let found = i128::from(tensor.uint64_data[index]);
        return Err(value_error(tensor, data_type, Field::Uint64, index, found));
    }
    Ok(little_endian(&tensor.uint64_data, |value| (value as u32).to_le_bytes()))
}

/// `int32_data` as elements of `data_type`; its length has been checked.
fn int32_bytes(tensor: &TensorProto, data_type: DataType) -> Result<Bytes, Error> {
    use DataType::*;
    let (range, width) = match data_type {
        Int32 => (i32::MIN..=i32::MAX, 4),
        Int16 => (-0x8000..=0x7fff, 2),
        Uint16 | Float16 | Bfloat16 => (0..=0xffff, 2),
        Int8 => (-0x80..=0x7f, 1),
        // Two or four elements; some writers extend the sign of the last one.
        Int4 | Int2 => (-0x80..=0xff, 1),
        Uint8 | Uint4 | Uint2 | Float4e2m1 | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz
        | Float8e8m0 => (0..=0xff, 1),
        Float6e2m3 | Float6e3m2 => (0..=0x3f, 1),
        Bool => (0..=1, 1),
        Undefined | String | Float | Double | Complex64 | Complex128 | Int64 | Uint32 | Uint64 => {
            return Err(field_error(tensor, data_type, Field::of(data_type)));
        }
    };
    if let Some(index) = tensor.int32_data.iter().position(|value| !range.contains(value)) {
        let found = i128::from(tensor.int32_data[index]);
        return Err(value_error(tensor, data_type, Field::Int32, index, found));
    }
    let mut bytes = Vec::with_capacity(tensor.int32_data.len() * width);
    for value in &tensor.int32_data {
        bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    Ok(if data_type.bits() == Some(6) { pack6(&bytes).into() } else { bytes.into() })
}

/// Packs 6-bit values, four in three bytes, low bits first.
fn pack6(values: &[u8]) -> Vec<u8> {
    let pack = |group: &[u8]| {
        let bits = group.iter().rev().fold(0u32, |bits, &value| bits << 6 | u32::from(value));
        bits.to_le_bytes().into_iter().take((6 * group.len()).div_ceil(8))
    };
    values.chunks(4).flat_map(pack).collect()
}

fn check_length(
    tensor: &TensorProto,
    data_type: DataType,
    field: Field,
    found: usize,
    expected: u64,
) -> Result<(), Error> {
    if found as u64 == expected {
        return Ok(());
    }
    Err(Error::DataLength {
        tensor: tensor.name().to_owned(),
        data_type,
        dims: tensor.dims.clone(),
        field: field.name(),
        unit: if field == Field::Raw { "bytes" } else { "entries" },
        found: found as u64,
        expected,
    })
}

fn field_error(tensor: &TensorProto, data_type: DataType, expected: Field) -> Error {
    let mut found: Vec<_> = filled(tensor).into_iter().map(Field::name).collect();
    if tensor.data_location() == DataLocation::External {
        found.push("external_data");
    }
    if found.is_empty() {
        found.push("no field");
    }
    let (tensor, found) = (tensor.name().to_owned(), found.join(", "));
    Error::DataField { tensor, data_type, found, expected: expected.name() }
}

fn value_error(tensor: &TensorProto, data_type: DataType, field: Field, index: usize, found: i128) -> Error {
    Error::Value { tensor: tensor.name().to_owned(), field: field.name(), index, found, data_type }
}

fn dims_error(tensor: &TensorProto) -> Error {
    Error::Dims { tensor: tensor.name().to_owned(), dims: tensor.dims.clone() }
}

#[cfg(test)]
mod tests;
