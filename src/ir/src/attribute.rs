//! Attributes of nodes that are kept verbatim ([`crate::Op::Opaque`]).

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::{Tensor, Type};

/// A 32-bit float compared, ordered and hashed by its bits, so that operations are plain data.
#[derive(Clone, Copy, Debug)]
pub struct F32(pub f32);

impl PartialEq for F32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for F32 {}

impl PartialOrd for F32 {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for F32 {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Hash for F32 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

// Finite values are written as their shortest decimal; JSON has no infinities or NaN payloads, so those are `bits:` strings.
impl Serialize for F32 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_string().parse::<f64>() {
            Ok(value) if self.0.is_finite() => serializer.serialize_f64(value),
            _ => serializer.serialize_str(&format!("bits:{:08x}", self.0.to_bits())),
        }
    }
}

impl<'de> Deserialize<'de> for F32 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(f64),
            Bits(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(value) => Ok(F32(value as f32)),
            Form::Bits(text) => text
                .strip_prefix("bits:")
                .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                .map(|bits| F32(f32::from_bits(bits)))
                .ok_or_else(|| serde::de::Error::custom(format!("expected a number, found {text:?}"))),
        }
    }
}

/// The value of an attribute. Graphs are not here: they are the node's [`crate::Subgraph`]s.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum Attribute {
    Int(i64),
    Float(F32),
    String(Text),
    Tensor(Tensor),
    SparseTensor(SparseTensor),
    Type(Type),
    Ints(Vec<i64>),
    Floats(Vec<F32>),
    Strings(Vec<Text>),
    Tensors(Vec<Tensor>),
    SparseTensors(Vec<SparseTensor>),
    Types(Vec<Type>),
    /// Inside a local function: the attribute of the calling node with this name.
    Reference { name: String, kind: i32 },
}

/// A byte string, usually UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(Text(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes(bytes) => bytes,
        }))
    }
}

/// A sparse tensor: the values that are not zero, their indices, the dense shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SparseTensor {
    /// Values, [NNZ].
    pub values: Tensor,
    /// Linear indices [NNZ] or coordinates [NNZ, rank], i64.
    pub indices: Tensor,
    /// Dense shape.
    pub shape: Vec<i64>,
}
