//! Named arrays from npz, npy and safetensors files. They stay in their files (mapped), except in a compressed npz.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use mqc_ir::{DType, Tensor};
use npyz::npz::{NpzArchive, array_name_from_file_name};
use safetensors::{Dtype, SafeTensors};

use super::{map::map, npy};
use crate::data::{Tensors, read_npz};

/// What an npy file starts with.
const NPY: &[u8] = b"\x93NUMPY";

/// Reads files: `x.npz`, `x.safetensors`, `NAME=x.npy`; a lone npy is `only`, the model's only input, if it has one.
///
/// # Errors
/// A file that cannot be read; two arrays of one name; an array without a name.
pub fn read(arguments: &[String], only: Option<&str>) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    for argument in arguments {
        let (name, path) = match argument.split_once('=') {
            Some((name, path)) if !Path::new(argument).exists() => (Some(name), path),
            Some(_) | None => (None, argument.as_str()),
        };
        let file = Path::new(path);
        let context = || format!("cannot read data {path}");
        let found: Vec<(String, Tensor)> = match file.extension().and_then(|e| e.to_str()) {
            Some("npz") => npz(file).with_context(context)?,
            Some("safetensors") => safetensors(&map(file)?).with_context(context)?,
            Some("npy") => {
                let Some(name) = name.or(only) else {
                    bail!("{path} does not say which input it is; write NAME={path}");
                };
                vec![(name.to_owned(), npy::parse(&map(file)?).with_context(context)?)]
            }
            _ => bail!("{path} is no data file; expected one ending in .npz, .npy or .safetensors"),
        };
        for (name, tensor) in found {
            if tensors.insert(name.clone(), tensor).is_some() {
                bail!("array {name} is in two data files, the second is {path}");
            }
        }
    }
    Ok(tensors)
}

/// The arrays of an npz file: slices of the mapped file where all are stored as they are.
fn npz(path: &Path) -> Result<Vec<(String, Tensor)>> {
    match stored_arrays(&map(path)?)? {
        Some(arrays) => Ok(arrays),
        None => Ok(read_npz(path)?.into_iter().collect()),
    }
}

fn stored_arrays(file: &Bytes) -> Result<Option<Vec<(String, Tensor)>>> {
    let mut archive = NpzArchive::new(Cursor::new(file)).context("not an npz file")?;
    let zip = archive.zip_archive();
    let mut arrays = vec![];
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).context("not an npz file")?;
        let Some(name) = array_name_from_file_name(entry.name()) else { continue };
        let (start, length) = (usize::try_from(entry.data_start())?, usize::try_from(entry.size())?);
        let stored = start.checked_add(length).filter(|end| *end <= file.len());
        let stored = stored.map(|end| file.slice(start..end)).filter(|bytes| bytes.starts_with(NPY));
        let Some(bytes) = stored.filter(|_| entry.compressed_size() == entry.size()) else { return Ok(None) };
        match npy::parse(&bytes) {
            Ok(tensor) => arrays.push((name.to_owned(), tensor)),
            // The other reader turns Fortran order, or says what is wrong.
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(arrays))
}

/// The tensors of a safetensors file, as slices of it.
///
/// # Errors
/// Not a safetensors file; an element type that tensors do not have.
pub fn safetensors(file: &Bytes) -> Result<Vec<(String, Tensor)>> {
    let tensors = SafeTensors::deserialize(file).context("not a safetensors file")?;
    let mut named = vec![];
    for (name, view) in tensors.iter() {
        let Some(dtype) = dtype(view.dtype()) else {
            bail!("tensor {name} has elements of type {:?}, which are not supported", view.dtype());
        };
        let tensor = Tensor::new(dtype, view.shape().to_vec(), file.slice_ref(view.data()));
        named.push((name.to_owned(), tensor.with_context(|| format!("tensor {name}"))?));
    }
    named.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(named)
}

fn dtype(dtype: Dtype) -> Option<DType> {
    TYPES.iter().find(|(theirs, _)| *theirs == dtype).map(|(_, ours)| *ours)
}

/// The element type in a safetensors file.
pub fn safetensors_dtype(dtype: DType) -> Option<Dtype> {
    TYPES.iter().find(|(_, ours)| *ours == dtype).map(|(theirs, _)| *theirs)
}

const TYPES: [(Dtype, DType); 13] = [
    (Dtype::F64, DType::F64),
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::Bf16),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::I16, DType::I16),
    (Dtype::I8, DType::I8),
    (Dtype::U64, DType::U64),
    (Dtype::U32, DType::U32),
    (Dtype::U16, DType::U16),
    (Dtype::U8, DType::U8),
    (Dtype::BOOL, DType::Bool),
];
