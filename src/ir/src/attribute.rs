//! Attributes of nodes that are kept verbatim ([`crate::Op::Opaque`]).

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::de::{self, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

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

// Finite values are written as their shortest decimal where that survives the way through f64; JSON has no infinities
// or NaN payloads, so those are `bits:` strings.
impl Serialize for F32 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.0.is_finite() {
            return serializer.serialize_str(&format!("bits:{:08x}", self.0.to_bits()));
        }
        match self.0.to_string().parse::<f64>() {
            Ok(value) if value as f32 == self.0 => serializer.serialize_f64(value),
            _ => serializer.serialize_f64(f64::from(self.0)),
        }
    }
}

impl<'de> Deserialize<'de> for F32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(F32Visitor)
    }
}

struct F32Visitor;

impl Visitor<'_> for F32Visitor {
    type Value = F32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or \"bits:\" and 8 hex digits")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<F32, E> {
        Ok(F32(value as f32))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<F32, E> {
        Ok(F32(value as f32))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<F32, E> {
        Ok(F32(value as f32))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<F32, E> {
        text.strip_prefix("bits:")
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .map(|bits| F32(f32::from_bits(bits)))
            .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// The value of an attribute. Graphs are not here: they are the node's [`crate::Subgraph`]s.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
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
    Reference {
        name: String,
        kind: i32,
    },
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or a list of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.as_bytes().to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Text, A::Error> {
        let mut text = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            text.push(byte);
        }
        Ok(Text(text))
    }
}

/// A sparse tensor: the values that are not zero, their indices, the dense shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseTensor {
    /// Values, `[NNZ]`.
    pub values: Tensor,
    /// Linear indices `[NNZ]` or coordinates `[NNZ, rank]`, i64.
    pub indices: Tensor,
    /// Dense shape.
    pub shape: Vec<i64>,
}
