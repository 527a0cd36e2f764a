//! Inputs and outputs of a run: npz, npy and ONNX tensor files, or random numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use mqc_ir::tensor::element_count;
use mqc_ir::{DType, Dim, Graph, Tensor, Type, Value};
use npyz::WriterBuilder;
use npyz::npz::{NpzArchive, NpzWriter};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The inputs that a graph must be given: name and type, in order.
pub fn required_inputs(graph: &Graph) -> Vec<(String, Type)> {
    let inputs = graph.inputs().iter().map(|&node| Value { node, slot: 0 });
    inputs
        .filter(|v| graph.constant(*v).is_none())
        .filter_map(|v| graph.info(v))
        .map(|i| (i.name.clone(), i.ty.clone()))
        .collect()
}

/// Reads named tensors from files: `x.npz`, or `NAME=x.npy`, `NAME=x.pb`; a lone npy or pb goes to the only input.
pub fn read_inputs(arguments: &[String], graph: &Graph) -> Result<Tensors> {
    let inputs = required_inputs(graph);
    let mut tensors = Tensors::new();
    for argument in arguments {
        let (name, path) = match argument.split_once('=') {
            Some((name, path)) if !Path::new(argument).exists() => (Some(name.to_owned()), path),
            Some(_) | None => (None, argument.as_str()),
        };
        let context = || format!("cannot read input {path}");
        if path.ends_with(".npz") {
            tensors.extend(read_npz(Path::new(path)).with_context(context)?);
            continue;
        }
        let (own_name, tensor) = read_single(Path::new(path)).with_context(context)?;
        let own_name = own_name.filter(|own| inputs.iter().any(|(n, _)| n == own));
        let name = match (name.or(own_name), inputs.as_slice()) {
            (Some(name), _) => name,
            (None, [(only, _)]) => only.clone(),
            (None, _) => bail!("{path} does not say which input it is; write NAME={path}"),
        };
        tensors.insert(name, tensor);
    }
    // Files of test data hold labels too.
    tensors.retain(|name, _| inputs.iter().any(|(n, _)| n == name));
    for (name, ty) in &inputs {
        let Some(tensor) = tensors.get(name) else {
            let all: Vec<_> = inputs.iter().map(|(n, _)| n.as_str()).collect();
            bail!("input {name} is missing; the model takes {}", all.join(", "));
        };
        let converted = convert(tensor, ty).with_context(|| format!("input {name}"))?;
        tensors.insert(name.clone(), converted);
    }
    Ok(tensors)
}

/// Lossless changes of type that NumPy users expect: other integers become the model's, f64 becomes f32.
fn convert(tensor: &Tensor, ty: &Type) -> Result<Tensor> {
    let Some(expected) = ty.dtype().filter(|d| *d != tensor.dtype()) else { return Ok(tensor.clone()) };
    let found = tensor.dtype();
    let bytes = match (found, expected) {
        (DType::F64, DType::F32) => {
            tensor.to_f32_vec().unwrap_or_default().iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        (DType::I32, DType::I64) => {
            tensor.to_i64_vec().unwrap_or_default().iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        (DType::I64, DType::I32) => {
            let narrow: Result<Vec<i32>, _> =
                tensor.to_i64_vec().unwrap_or_default().into_iter().map(i32::try_from).collect();
            narrow.context("a value does not fit into int32")?.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        _ => bail!("elements are {found}, the model expects {expected}"),
    };
    Ok(Tensor::new(expected, tensor.shape().to_vec(), bytes)?)
}

/// Random inputs: floats in [-1, 1), integers 0 or 1 (ids and masks that every model accepts); unknown sizes are
/// `sizes` by name, or `default_size`.
pub fn random_inputs(
    graph: &Graph,
    seed: u64,
    sizes: &BTreeMap<String, u64>,
    default_size: u64,
) -> Result<Tensors> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    for (name, ty) in required_inputs(graph) {
        let (Some(dtype), Some(dims)) = (ty.dtype(), ty.shape()) else {
            bail!("input {name} has no declared type and rank; give it with --input {name}=FILE.npy");
        };
        let size = |dim: &Dim| match dim {
            Dim::Size(n) => *n,
            Dim::Symbol(symbol) => sizes.get(&**symbol).copied().unwrap_or(default_size),
            Dim::Unknown => default_size,
        };
        let shape: Vec<usize> = dims.iter().map(|d| size(d) as usize).collect();
        let count = element_count(&shape).filter(|n| *n <= 1 << 30);
        let Some(count) = count else { bail!("input {name} of shape {shape:?} is too large") };
        let bytes: Vec<u8> = match dtype {
            DType::F32 => (0..count).flat_map(|_| rng.random_range(-1.0f32..1.0).to_le_bytes()).collect(),
            DType::F64 => (0..count).flat_map(|_| rng.random_range(-1.0f64..1.0).to_le_bytes()).collect(),
            DType::F16 => (0..count)
                .flat_map(|_| half::f16::from_f32(rng.random_range(-1.0f32..1.0)).to_le_bytes())
                .collect(),
            DType::I64 => (0..count).flat_map(|_| rng.random_range(0..2i64).to_le_bytes()).collect(),
            DType::I32 => (0..count).flat_map(|_| rng.random_range(0..2i32).to_le_bytes()).collect(),
            DType::Bool | DType::U8 | DType::I8 => (0..count).map(|_| rng.random_range(0..2u8)).collect(),
            other => bail!(
                "no random values of type {other} for input {name}; give it with --input {name}=FILE.npy"
            ),
        };
        tensors.insert(name, Tensor::new(dtype, shape, bytes.into())?);
    }
    Ok(tensors)
}

/// All arrays of an npz file.
pub fn read_npz(path: &Path) -> Result<Tensors> {
    let mut archive = NpzArchive::new(BufReader::new(File::open(path)?)).context("not an npz file")?;
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut tensors = Tensors::new();
    for name in names {
        let file = archive.by_name(&name)?.with_context(|| format!("array {name} is gone"))?;
        tensors.insert(name.clone(), read_npy(file).with_context(|| format!("array {name}"))?);
    }
    Ok(tensors)
}

/// One npy or ONNX TensorProto file; the latter may carry a name.
fn read_single(path: &Path) -> Result<(Option<String>, Tensor)> {
    if path.extension().is_some_and(|e| e == "npy") {
        let file = npyz::NpyFile::new(BufReader::new(File::open(path)?)).context("not an npy file")?;
        return Ok((None, read_npy(file)?));
    }
    if path.extension().is_some_and(|e| e == "pb") {
        let (name, tensor) = mqc_onnx::tensors::read_file(path)?;
        return Ok((name.filter(|n| !n.is_empty()), tensor));
    }
    bail!("expected a file ending in .npz, .npy or .pb");
}

/// The element type that NumPy calls so.
pub(crate) fn numpy_dtype(numpy: &str) -> Option<DType> {
    Some(match numpy {
        "<f8" => DType::F64,
        "<f4" => DType::F32,
        "<f2" => DType::F16,
        "<i8" => DType::I64,
        "<i4" => DType::I32,
        "<i2" => DType::I16,
        "|i1" => DType::I8,
        "<u8" => DType::U64,
        "<u4" => DType::U32,
        "<u2" => DType::U16,
        "|u1" => DType::U8,
        "|b1" => DType::Bool,
        _ => return None,
    })
}

fn read_npy<R: Read>(file: npyz::NpyFile<R>) -> Result<Tensor> {
    let npyz::DType::Plain(ty) = file.dtype() else { bail!("structured arrays are not tensors") };
    let text = ty.to_string();
    let numpy = text.trim_matches('\'');
    let dtype = numpy_dtype(numpy).with_context(|| {
        format!("elements of NumPy type {numpy} are not supported (little-endian numbers and bool are)")
    })?;
    let shape = file.shape().iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>()?;
    let length = element_count(&shape).and_then(|n| dtype.byte_len(n)).context("the shape is too large")?;
    let fortran = file.order() == npyz::Order::Fortran && shape.len() > 1;
    let mut bytes = vec![];
    // Not allocated up front: the header may claim anything.
    file.into_inner().take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() != length {
        bail!("the array is cut short: {length} bytes expected, {} found", bytes.len());
    }
    let bytes = if fortran {
        to_c_order(&bytes, &shape, length / element_count(&shape).unwrap_or(1).max(1))
    } else {
        bytes
    };
    Ok(Tensor::new(dtype, shape, bytes.into())?)
}

fn to_c_order(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0usize; shape.len()];
    for _ in 0..bytes.len() / size.max(1) {
        let place = index.iter().zip(shape).rev().fold(0, |place, (i, d)| place * d + i);
        out.extend_from_slice(&bytes[place * size..][..size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Writes tensors to an npz file: beside its place first, then renamed.
pub fn write_npz(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    let mut archive = NpzWriter::new(BufWriter::new(file));
    for (name, tensor) in tensors {
        let ty: &str = match tensor.dtype() {
            DType::F64 => "<f8",
            DType::F32 => "<f4",
            DType::F16 => "<f2",
            DType::I64 => "<i8",
            DType::I32 => "<i4",
            DType::I16 => "<i2",
            DType::I8 => "|i1",
            DType::U64 => "<u8",
            DType::U32 => "<u4",
            DType::U16 => "<u2",
            DType::U8 => "|u1",
            DType::Bool => "|b1",
            other => bail!("output {name} of type {other} has no NumPy type"),
        };
        let shape: Vec<u64> = tensor.shape().iter().map(|&d| d as u64).collect();
        let writer = archive
            .array::<u8>(name, Default::default())?
            .dtype(npyz::DType::new_scalar(ty.parse()?))
            .shape(&shape)
            .write_header_only()?;
        writer.write_all(tensor.bytes())?;
    }
    let writer = archive.zip_writer().finish()?;
    let file = writer.into_inner().map_err(|e| e.into_error())?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
