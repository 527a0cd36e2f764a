//! Tensors between bytes and tract.

use tract_onnx::prelude::{DatumType, Tensor};

use super::CpuError;

/// Copies little-endian elements into a tensor of `shape`.
///
/// # Errors
/// [`CpuError::BadConstant`] if the bytes do not fill the shape exactly, or tract holds no such elements as bytes.
pub fn tensor_from_bytes(name: &str, dtype: DatumType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, CpuError> {
    let bad = |reason: String| CpuError::BadConstant { name: name.to_owned(), reason };
    if !(dtype.is_number() || dtype == DatumType::Bool) {
        return Err(bad(format!("elements of type {dtype:?} have no byte form")));
    }
    let wanted = shape.iter().try_fold(dtype.size_of(), |size, &dim| size.checked_mul(dim));
    if wanted != Some(bytes.len()) {
        return Err(bad(format!("{} bytes found for {dtype:?} of shape {shape:?}", bytes.len())));
    }
    let mut tensor = Tensor::zero_dt(dtype, shape).map_err(|error| bad(format!("{error:#}")))?;
    if dtype == DatumType::Bool {
        tensor.as_bytes_mut().iter_mut().zip(bytes).for_each(|(to, from)| *to = u8::from(*from != 0));
    } else {
        tensor.as_bytes_mut().copy_from_slice(bytes);
    }
    Ok(tensor)
}

/// The ONNX element type code of a tract element type, if ONNX has one.
pub(super) fn onnx_type(dtype: DatumType) -> Option<i32> {
    const CODES: [(DatumType, i32); 13] = [
        (DatumType::F32, 1),
        (DatumType::U8, 2),
        (DatumType::I8, 3),
        (DatumType::U16, 4),
        (DatumType::I16, 5),
        (DatumType::I32, 6),
        (DatumType::I64, 7),
        (DatumType::String, 8),
        (DatumType::Bool, 9),
        (DatumType::F16, 10),
        (DatumType::F64, 11),
        (DatumType::U32, 12),
        (DatumType::U64, 13),
    ];
    CODES.iter().find(|(known, _)| *known == dtype).map(|(_, code)| *code)
}
