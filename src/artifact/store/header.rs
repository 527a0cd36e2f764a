//! The safetensors header, written and strictly read: a length, a JSON object, spaces up to a multiple of 64 bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use mqc_ir::{DType, dtype, tensor::element_count};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};

use super::HEADER;
use crate::artifact::error::{Error, Result};

const FORMAT: &str = "mqc";
const VERSION: u32 = 2;

/// Bytes of the length in front of the JSON.
const PREFIX: usize = 8;

/// What the data section's start is a multiple of.
const ALIGNMENT: usize = 64;

/// The longest JSON that safetensors readers accept.
const MAX_JSON: usize = 100_000_000;

/// A tensor of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the store.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Offset of its first byte from the start of the file.
    pub start: u64,
    /// Its size in bytes.
    pub len: u64,
}

impl TensorInfo {
    /// Offset of the byte after its last.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// The tensors of a store in file order, without gaps between them.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) tensors: Vec<TensorInfo>,
    index: BTreeMap<String, usize>,
    /// Bytes before the data.
    pub(super) header_len: usize,
}

impl Table {
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    pub(super) fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.position(name).map(|i| &self.tensors[i])
    }

    /// Size of the whole file.
    pub(super) fn file_len(&self) -> u64 {
        self.tensors.last().map_or(self.header_len as u64, TensorInfo::end)
    }
}

/// Lays out tensors one after the other. Returns the table and the header's bytes.
pub(super) fn encode(tensors: Vec<(String, DType, Vec<usize>)>) -> Result<(Table, Vec<u8>)> {
    let refused = |name: &str, message: String| Error::Layout { name: name.to_string(), message };
    let mut infos = Vec::with_capacity(tensors.len());
    let mut index = BTreeMap::new();
    let mut start = 0u64;
    for (name, dtype, shape) in tensors {
        if name == HEADER {
            return Err(refused(&name, "safetensors reserves this name; rename the tensor".into()));
        }
        if safetensors_name(dtype).is_none() {
            return Err(refused(&name, format!("safetensors has no element type {dtype}")));
        }
        let len = element_count(&shape).and_then(|n| dtype.byte_len(n)).map(|len| len as u64);
        let next = len.and_then(|len| start.checked_add(len));
        let (Some(len), Some(next)) = (len, next) else {
            return Err(refused(&name, format!("its shape {shape:?} is too large to address")));
        };
        if index.insert(name.clone(), infos.len()).is_some() {
            return Err(refused(&name, "two tensors have this name; rename one".into()));
        }
        infos.push(TensorInfo { name, dtype, shape, start, len });
        start = next;
    }
    let json = to_json(&infos).map_err(|e| refused(HEADER, e.to_string()))?;
    if json.len() > MAX_JSON - ALIGNMENT {
        return Err(refused(HEADER, format!("{} bytes of header are more than {MAX_JSON}", json.len())));
    }
    let header_len = (PREFIX + json.len()).next_multiple_of(ALIGNMENT);
    let mut header = ((header_len - PREFIX) as u64).to_le_bytes().to_vec();
    header.extend(json);
    header.resize(header_len, b' ');
    for info in &mut infos {
        info.start += header_len as u64;
    }
    Ok((Table { tensors: infos, index, header_len }, header))
}

/// `tensors` have offsets from the start of the data.
fn to_json(tensors: &[TensorInfo]) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry(HEADER, &Metadata { format: FORMAT.into(), version: VERSION.to_string() })?;
    for info in tensors {
        let entry = Entry {
            dtype: safetensors_name(info.dtype).unwrap_or_default().to_string(),
            shape: info.shape.clone(),
            data_offsets: [info.start, info.end()],
        };
        map.serialize_entry(&info.name, &entry)?;
    }
    map.end()?;
    Ok(json)
}

/// Reads the header at the front of `file`. The data may reach past the end of `file`: it may have been cut.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Table> {
    let field = |field: &str, expected: &str, found: String| Error::field(path, field, expected, found);
    let Some((length, rest)) = file.split_first_chunk::<PREFIX>() else {
        return Err(field("header length", "8 bytes", format!("a file of {} bytes", file.len())));
    };
    let claimed = u64::from_le_bytes(*length);
    let json = usize::try_from(claimed).ok().filter(|n| *n <= MAX_JSON).and_then(|n| rest.get(..n));
    let Some(json) = json else {
        return Err(field(
            "header length",
            &format!("at most the {} bytes that follow", rest.len()),
            claimed.to_string(),
        ));
    };
    let header_len = PREFIX + json.len();
    if !header_len.is_multiple_of(ALIGNMENT) {
        return Err(field("header length", "data that starts at a multiple of 64", header_len.to_string()));
    }
    let header: Header = serde_json::from_slice(json).map_err(Error::json(path))?;
    check_metadata(path, header.metadata)?;

    let mut index = BTreeMap::new();
    let mut tensors: Vec<TensorInfo> = Vec::with_capacity(header.tensors.len());
    for (name, entry) in header.tensors {
        let field = |what: &str, expected: &str, found: String| {
            Error::field(path, format!("tensor {name:?}: {what}"), expected, found)
        };
        let Some(dtype) = dtype::ALL.into_iter().find(|d| safetensors_name(*d) == Some(entry.dtype.as_str()))
        else {
            return Err(field("dtype", "an element type of safetensors", entry.dtype));
        };
        let start = tensors.last().map_or(header_len as u64, TensorInfo::end);
        let [from, to] = entry.data_offsets;
        if from != start - header_len as u64 {
            let expected = format!("to start where the tensor before ends, at {}", start - header_len as u64);
            return Err(field("data_offsets", &expected, from.to_string()));
        }
        let needed = element_count(&entry.shape).and_then(|n| dtype.byte_len(n)).map(|n| n as u64);
        let Some(len) = to.checked_sub(from).filter(|len| Some(*len) == needed) else {
            let expected = format!("the {needed:?} bytes of {} {:?}", entry.dtype, entry.shape);
            return Err(field("data_offsets", &expected, format!("{from} to {to}")));
        };
        if start.checked_add(len).is_none() || !start.is_multiple_of(dtype.byte_len(1).unwrap_or(1) as u64) {
            return Err(field(
                "data_offsets",
                "a start aligned to the element size",
                format!("{from} to {to}"),
            ));
        }
        if index.insert(name.clone(), tensors.len()).is_some() {
            return Err(field("name", "each name once", "it twice".into()));
        }
        tensors.push(TensorInfo { name, dtype, shape: entry.shape, start, len });
    }
    Ok(Table { tensors, index, header_len })
}

fn check_metadata(path: &Path, metadata: Option<Metadata>) -> Result<()> {
    let Some(metadata) = metadata.filter(|m| m.format == FORMAT) else {
        return Err(Error::field(
            path,
            "__metadata__.format",
            "\"mqc\": a store that mqc wrote",
            "another safetensors file",
        ));
    };
    match metadata.version.parse::<u32>() {
        Ok(1..=VERSION) => Ok(()),
        Ok(newer) if newer > VERSION => {
            Err(Error::NewerVersion { path: path.to_path_buf(), found: metadata.version, supported: VERSION })
        }
        _ => Err(Error::field(path, "__metadata__.version", format!("1 to {VERSION}"), metadata.version)),
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Metadata {
    format: String,
    version: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The JSON object in file order; a map type would hide a name that is there twice.
struct Header {
    metadata: Option<Metadata>,
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Header, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { metadata: None, tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name != HEADER {
                        header.tensors.push((name, map.next_value()?));
                    } else if header.metadata.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(HEADER));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// The name of an element type in safetensors; `None` for those that it lacks or packs into parts of a byte.
pub(super) fn safetensors_name(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F64 => Some("F64"),
        DType::F32 => Some("F32"),
        DType::F16 => Some("F16"),
        DType::Bf16 => Some("BF16"),
        DType::I64 => Some("I64"),
        DType::I32 => Some("I32"),
        DType::I16 => Some("I16"),
        DType::I8 => Some("I8"),
        DType::U64 => Some("U64"),
        DType::U32 => Some("U32"),
        DType::U16 => Some("U16"),
        DType::U8 => Some("U8"),
        DType::Bool => Some("BOOL"),
        DType::F8E4M3FN => Some("F8_E4M3"),
        DType::F8E4M3FNUZ => Some("F8_E4M3FNUZ"),
        DType::F8E5M2 => Some("F8_E5M2"),
        DType::F8E5M2FNUZ => Some("F8_E5M2FNUZ"),
        DType::F8E8M0 => Some("F8_E8M0"),
        DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::F6E2M3
        | DType::F6E3M2
        | DType::F4E2M1
        | DType::String
        | DType::C64
        | DType::C128 => None,
    }
}
