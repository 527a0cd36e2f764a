//! npy arrays as tensors over bytes that are already there, mapped or not.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use mqc_ir::Tensor;
use mqc_ir::tensor::element_count;

use crate::data::numpy_dtype;

/// The array of a whole npy file; the elements are not copied.
///
/// # Errors
/// Not an npy file, elements that are no little-endian numbers, Fortran order, a file that was cut.
pub fn parse(file: &Bytes) -> Result<Tensor> {
    let mut rest: &[u8] = file;
    let header = npyz::NpyHeader::from_reader(&mut rest).context("not an npy file")?;
    let npyz::DType::Plain(ty) = header.dtype() else { bail!("structured arrays are not tensors") };
    let text = ty.to_string();
    let text = text.trim_matches('\'');
    let Some(dtype) = numpy_dtype(text) else {
        bail!("elements of NumPy type {text} are not supported (little-endian numbers and bool are)");
    };
    let shape = header.shape().iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>()?;
    if header.order() == npyz::Order::Fortran && shape.len() > 1 {
        bail!("the array is in Fortran order; write it with numpy.ascontiguousarray");
    }
    let length = element_count(&shape).and_then(|n| dtype.byte_len(n)).context("the shape is too large")?;
    if rest.len() < length {
        bail!("the array is cut short: {length} bytes expected, {} found", rest.len());
    }
    let start = file.len() - rest.len();
    Ok(Tensor::new(dtype, shape, file.slice(start..start + length))?)
}
