//! Tensors between the IR and tract.

use bytes::Bytes;
use mqc_ir::{DType, Tensor};
use tract_onnx::prelude::DatumType;

use super::{CpuError, TractTensor};

/// Element types that tract computes with: ours, tract's, and the ONNX code.
const TYPES: [(DType, DatumType, i32); 13] = [
    (DType::F32, DatumType::F32, 1),
    (DType::U8, DatumType::U8, 2),
    (DType::I8, DatumType::I8, 3),
    (DType::U16, DatumType::U16, 4),
    (DType::I16, DatumType::I16, 5),
    (DType::I32, DatumType::I32, 6),
    (DType::I64, DatumType::I64, 7),
    (DType::String, DatumType::String, 8),
    (DType::Bool, DatumType::Bool, 9),
    (DType::F16, DatumType::F16, 10),
    (DType::F64, DatumType::F64, 11),
    (DType::U32, DatumType::U32, 12),
    (DType::U64, DatumType::U64, 13),
];

/// The ONNX code of a tract element type, if it is one that ONNX has.
pub(super) fn onnx_type(dtype: DatumType) -> Option<i32> {
    TYPES.iter().find(|(_, tract, _)| *tract == dtype).map(|(_, _, code)| *code)
}

/// Copies a tensor into tract's memory. `name` is for the error.
///
/// # Errors
/// [`CpuError::BadTensor`] for an element type that tract does not compute with, or strings that are not
/// UTF-8.
pub fn tensor_to_tract(name: &str, tensor: &Tensor) -> Result<TractTensor, CpuError> {
    let bad = |reason: String| CpuError::BadTensor { name: name.to_owned(), reason };
    let (_, dtype, _) = TYPES
        .iter()
        .find(|(ours, _, _)| *ours == tensor.dtype())
        .ok_or_else(|| bad(format!("elements of type {} do not run on the CPU session", tensor.dtype())))?;
    if let Some(strings) = tensor.as_strings() {
        let strings =
            strings.iter().map(|text| String::from_utf8(text.to_vec())).collect::<Result<Vec<_>, _>>();
        let strings = strings.map_err(|error| bad(error.to_string()))?;
        let strings = tract_onnx::prelude::tract_ndarray::ArrayD::from_shape_vec(tensor.shape(), strings);
        return strings.map(TractTensor::from).map_err(|error| bad(error.to_string()));
    }
    let mut copy = TractTensor::zero_dt(*dtype, tensor.shape()).map_err(|error| bad(format!("{error:#}")))?;
    match tensor.dtype() {
        DType::Bool => copy
            .as_bytes_mut()
            .iter_mut()
            .zip(tensor.bytes())
            .for_each(|(to, from)| *to = u8::from(*from != 0)),
        _ => copy.as_bytes_mut().copy_from_slice(tensor.bytes()),
    }
    Ok(copy)
}

/// Copies a tensor out of tract's memory. `name` is for the error.
///
/// # Errors
/// [`CpuError::BadTensor`] for an element type that ONNX does not have.
pub fn tensor_from_tract(name: &str, tensor: &TractTensor) -> Result<Tensor, CpuError> {
    let bad = |reason: String| CpuError::BadTensor { name: name.to_owned(), reason };
    let (dtype, _, _) = TYPES
        .iter()
        .find(|(_, tract, _)| *tract == tensor.datum_type())
        .ok_or_else(|| bad(format!("elements of type {:?} are not of an ONNX type", tensor.datum_type())))?;
    let shape = tensor.shape().to_vec();
    if *dtype == DType::String {
        let strings =
            tensor.try_as_plain_ram().and_then(|view| view.as_slice::<String>().map(<[String]>::to_vec));
        let strings = strings.map_err(|error| bad(format!("{error:#}")))?;
        let strings = strings.into_iter().map(Bytes::from).collect();
        return Tensor::strings(shape, strings).map_err(|error| bad(error.to_string()));
    }
    Tensor::new(*dtype, shape, Bytes::copy_from_slice(tensor.as_bytes()))
        .map_err(|error| bad(error.to_string()))
}
