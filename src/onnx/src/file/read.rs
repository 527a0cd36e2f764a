//! Mapping and decoding a model, and saying what is wrong with a file that is none.

use super::Resolver;
use crate::{Error, proto::ModelProto};
use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::path::{Path, PathBuf};
use std::{fs, fs::File, io};

/// A model and where it came from.
#[derive(Debug)]
pub struct LoadedModel {
    /// Its `raw_data` shares the mapping of the file.
    pub model: ModelProto,
    /// Finds external data, in the folder of the model.
    pub resolver: Resolver,
    /// The path that was read.
    pub path: PathBuf,
}

/// Reads the model at `path`. The file is mapped, not copied: inline weights stay on disk until they are
/// touched.
///
/// # Errors
/// A file that is missing, empty, truncated, damaged or no ONNX model. External data is not looked at.
pub fn read(path: &Path) -> Result<LoadedModel, Error> {
    let model = decode(map(path)?, path)?;
    Ok(LoadedModel { model, resolver: Resolver::new(parent(path))?, path: path.to_owned() })
}

/// Decodes a model; its `bytes` fields share the memory of `bytes`. `path` is named in errors.
pub fn decode(bytes: Bytes, path: &Path) -> Result<ModelProto, Error> {
    let path = path.to_owned();
    if bytes.is_empty() {
        return Err(Error::Empty { path });
    }
    let not_onnx =
        |path, found: &'static str| Error::NotOnnx { path, found: known_format(&bytes).unwrap_or(found) };
    let model = match ModelProto::decode(bytes.clone()) {
        Ok(model) => model,
        Err(source) => {
            return Err(match top_level(&bytes) {
                TopLevel::Truncated { field, needed } => {
                    Error::Truncated { path, field, needed, found: bytes.len() as u64 }
                }
                TopLevel::Whole => Error::Decode { path, source },
                TopLevel::Foreign => not_onnx(path, "its first fields are not those of a model"),
            });
        }
    };
    if model.graph.is_none() {
        return Err(not_onnx(path, "it has no graph"));
    }
    match model.ir_version {
        None => Err(not_onnx(path, "it has no ir_version")),
        // Operator sets came with IR version 3; models before it mean version 1.
        Some(3..) if model.opset_import.is_empty() => Err(not_onnx(path, "it has no opset_import")),
        Some(_) => Ok(model),
    }
}

/// Maps the file at `path`; an empty file gives empty bytes.
///
/// # Errors
/// The path cannot be opened or is no regular file.
pub fn map(path: &Path) -> Result<Bytes, Error> {
    let error = |source| Error::Read { path: path.to_owned(), source };
    // Asked before opening: opening a pipe waits for its writer.
    let metadata = fs::metadata(path).map_err(error)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
        return Err(Error::NotAFile { path: path.to_owned(), found });
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    Ok(Bytes::from_owner(map_file(&File::open(path).map_err(error)?).map_err(error)?))
}

#[allow(unsafe_code, reason = "mapping a file is unsafe: another process could change it")]
fn map_file(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is private and read-only, and this crate replaces files by renaming, never in
    // place. A process that rewrites the file meanwhile changes numbers or ends this process; every read is
    // bounds-checked.
    unsafe { memmap2::MmapOptions::new().map_copy_read_only(file) }
}

/// The folder of a file: "." for a bare name.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// What the fields of the outermost message say about a file that does not decode.
enum TopLevel {
    /// A model whose field `field` claims to end at byte `needed`, behind the end of the file.
    Truncated { field: &'static str, needed: u64 },
    /// Every field of the outermost message is there: the fault is inside one.
    Whole,
    /// Not the fields of a model.
    Foreign,
}

fn top_level(bytes: &Bytes) -> TopLevel {
    let mut rest = bytes.clone();
    let mut known = 0u32;
    while rest.has_remaining() {
        let Some((field, expected)) =
            decode_key(&mut rest).ok().and_then(|(tag, wire)| model_field(tag, wire))
        else {
            return if known > 0 { TopLevel::Whole } else { TopLevel::Foreign };
        };
        let truncated = |needed| match known {
            // One field alone may be chance.
            0 => TopLevel::Foreign,
            1.. => TopLevel::Truncated { field, needed },
        };
        let Ok(value) = decode_varint(&mut rest) else { return truncated(bytes.len() as u64 + 1) };
        if expected == WireType::LengthDelimited {
            match usize::try_from(value) {
                Ok(length) if length <= rest.remaining() => rest.advance(length),
                Ok(_) | Err(_) => {
                    return truncated(value.saturating_add((bytes.len() - rest.remaining()) as u64));
                }
            }
        }
        known += 1;
    }
    TopLevel::Whole
}

/// Name and wire type of a field of `ModelProto`, if the tag and the wire type agree.
fn model_field(tag: u32, wire: WireType) -> Option<(&'static str, WireType)> {
    let (name, expected) = match tag {
        1 => ("ir_version", WireType::Varint),
        2 => ("producer_name", WireType::LengthDelimited),
        3 => ("producer_version", WireType::LengthDelimited),
        4 => ("domain", WireType::LengthDelimited),
        5 => ("model_version", WireType::Varint),
        6 => ("doc_string", WireType::LengthDelimited),
        7 => ("graph", WireType::LengthDelimited),
        8 => ("opset_import", WireType::LengthDelimited),
        14 => ("metadata_props", WireType::LengthDelimited),
        20 => ("training_info", WireType::LengthDelimited),
        25 => ("functions", WireType::LengthDelimited),
        26 => ("configuration", WireType::LengthDelimited),
        _ => return None,
    };
    (wire == expected).then_some((name, expected))
}

/// Formats that are often taken for a model.
fn known_format(bytes: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 7] = [
        (b"version https://git-lfs", "it is a Git LFS pointer; fetch the file itself"),
        (&[0x1f, 0x8b], "it is gzip data; unpack it first"),
        (b"PK\x03\x04", "it is a zip archive (perhaps a PyTorch checkpoint); export the model to ONNX"),
        (&[0x80, 0x02], "it is a Python pickle; export the model to ONNX"),
        (b"\x89HDF", "it is HDF5 data (perhaps Keras); convert the model to ONNX"),
        (b"\x93NUMPY", "it is a NumPy array"),
        (b"GGUF", "it is GGUF data; export the model to ONNX"),
    ];
    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(name);
    }
    if bytes.get(4..8) == Some(b"ORTM".as_slice()) {
        return Some("it is in the ORT format; use the .onnx file that it was made from");
    }
    if bytes.get(4..8) == Some(b"TFL3".as_slice()) {
        return Some("it is a TensorFlow Lite model; convert it to ONNX");
    }
    if bytes.get(8..10) == Some(b"{\"".as_slice()) {
        return Some("it is in the safetensors format; export the model to ONNX");
    }
    let head = &bytes[..bytes.len().min(64)];
    head.iter().all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()).then_some("it is text")
}

#[cfg(test)]
mod tests;
