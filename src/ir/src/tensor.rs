//! Constant tensors: typed, shaped, immutable bytes that are shared, often mapped from a file.

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{DType, Error, Text};

/// A constant: element type, shape, and packed little-endian elements (ONNX `raw_data` order), or strings.
///
/// Cloning is cheap: the elements are reference counted and may be a slice of a mapped file.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Data {
    Packed(Bytes),
    Strings(Vec<Bytes>),
}

impl Tensor {
    /// A tensor over packed bytes. Error when their number is not what dtype and shape need.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor, Error> {
        let needed = element_count(&shape).and_then(|n| dtype.byte_len(n));
        if needed != Some(bytes.len()) {
            return Err(Error::TensorSize { dtype, shape, needed, found: bytes.len() });
        }
        Ok(Tensor { dtype, shape, data: Data::Packed(bytes) })
    }

    /// A string tensor. Error when the number of strings is not what the shape needs.
    pub fn strings(shape: Vec<usize>, strings: Vec<Bytes>) -> Result<Tensor, Error> {
        let needed = element_count(&shape);
        if needed != Some(strings.len()) {
            return Err(Error::TensorSize { dtype: DType::String, shape, needed, found: strings.len() });
        }
        Ok(Tensor { dtype: DType::String, shape, data: Data::Strings(strings) })
    }

    /// An f32 tensor. Error when `values` and `shape` disagree.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Tensor, Error> {
        Tensor::new(DType::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An i64 tensor. Error when `values` and `shape` disagree.
    pub fn from_i64(shape: Vec<usize>, values: &[i64]) -> Result<Tensor, Error> {
        Tensor::new(DType::I64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An i64 vector.
    pub fn i64_vector(values: &[i64]) -> Tensor {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { dtype: DType::I64, shape: vec![values.len()], data: Data::Packed(bytes) }
    }

    /// An i64 scalar.
    pub fn i64_scalar(value: i64) -> Tensor {
        let data = Data::Packed(Bytes::copy_from_slice(&value.to_le_bytes()));
        Tensor { dtype: DType::I64, shape: vec![], data }
    }

    /// An f32 scalar.
    pub fn f32_scalar(value: f32) -> Tensor {
        let data = Data::Packed(Bytes::copy_from_slice(&value.to_le_bytes()));
        Tensor { dtype: DType::F32, shape: vec![], data }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The packed elements; empty for strings.
    pub fn bytes(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.data {
            Data::Packed(bytes) => bytes,
            Data::Strings(_) => &NONE,
        }
    }

    /// The strings, when this is a string tensor.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Packed(_) => None,
            Data::Strings(s) => Some(s),
        }
    }

    /// The elements as i64, when they are 32- or 64-bit signed integers.
    pub fn to_i64_vec(&self) -> Option<Vec<i64>> {
        let bytes = self.bytes();
        match self.dtype {
            DType::I64 => Some(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            DType::I32 => {
                Some(bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect())
            }
            _ => None,
        }
    }

    /// The elements as f32, when they are floats of 16 to 64 bits (f64 is rounded).
    pub fn to_f32_vec(&self) -> Option<Vec<f32>> {
        let bytes = self.bytes();
        match self.dtype {
            DType::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            DType::F64 => {
                Some(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect())
            }
            DType::F16 => {
                Some(bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect())
            }
            DType::Bf16 => Some(
                bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            ),
            _ => None,
        }
    }

    /// The same elements under another shape. Error when the counts differ.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Tensor, Error> {
        match &self.data {
            Data::Packed(bytes) => Tensor::new(self.dtype, shape, bytes.clone()),
            Data::Strings(strings) => Tensor::strings(shape, strings.clone()),
        }
    }
}

/// The number of elements of a shape; `None` on overflow.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.data == other.data
    }
}

impl Eq for Tensor {}

impl PartialOrd for Tensor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Tensor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.dtype, &self.shape, &self.data).cmp(&(other.dtype, &other.shape, &other.data))
    }
}

// Equal tensors have equal prefixes; hashing whole weights would read whole models.
impl Hash for Tensor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.dtype.hash(state);
        self.shape.hash(state);
        self.bytes()[..self.bytes().len().min(256)].hash(state);
    }
}

// In texts a tensor is its type and its bytes in hexadecimal; string tensors list their strings.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorText {
    dtype: DType,
    shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hex: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    strings: Vec<Text>,
}

impl Serialize for Tensor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let strings = self.as_strings().unwrap_or_default();
        TensorText {
            dtype: self.dtype,
            shape: self.shape.clone(),
            hex: self.bytes().iter().map(|b| format!("{b:02x}")).collect(),
            strings: strings.iter().map(|s| Text(s.to_vec())).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tensor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = TensorText::deserialize(deserializer)?;
        if text.dtype == DType::String {
            let strings = text.strings.into_iter().map(|s| s.0.into()).collect();
            return Tensor::strings(text.shape, strings).map_err(D::Error::custom);
        }
        let digits: Option<Vec<u32>> = text.hex.chars().map(|c| c.to_digit(16)).collect();
        let digits =
            digits.ok_or_else(|| D::Error::custom("a tensor's hex has a character that is no digit"))?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(D::Error::custom("a tensor's hex has an odd number of digits"));
        }
        let bytes = pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect();
        Tensor::new(text.dtype, text.shape, bytes).map_err(D::Error::custom)
    }
}
