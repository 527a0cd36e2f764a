//! Dense tensors as they enter and leave a program.

use bytes_of::{le, signed};
use mqc_ir::{DType, Tensor};

use crate::{Error, Real};

/// How elements are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Floats of any declared type, as T.
    Real,
    /// Integers of any declared type, as i64.
    Int,
    /// Booleans.
    Bool,
}

impl Kind {
    /// How values of an element type are held; `None` for strings and complex numbers.
    pub fn of(dtype: DType) -> Option<Kind> {
        match dtype {
            DType::Bool => Some(Kind::Bool),
            DType::String | DType::C64 | DType::C128 => None,
            dtype if dtype.is_float() => Some(Kind::Real),
            _ => Some(Kind::Int),
        }
    }

    /// Bytes of an element.
    pub(crate) fn size<T>(self) -> usize {
        match self {
            Kind::Real => size_of::<T>(),
            Kind::Int => size_of::<i64>(),
            Kind::Bool => 1,
        }
    }
}

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "documented on Kind")]
pub enum Data<T> {
    Real(Vec<T>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
}

impl<T: Real> Data<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Real(v) => v.len(),
            Data::Int(v) => v.len(),
            Data::Bool(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How they are held.
    pub fn kind(&self) -> Kind {
        match self {
            Data::Real(_) => Kind::Real,
            Data::Int(_) => Kind::Int,
            Data::Bool(_) => Kind::Bool,
        }
    }

    pub(crate) fn slice(&self) -> Slice<'_, T> {
        match self {
            Data::Real(v) => Slice::Real(v),
            Data::Int(v) => Slice::Int(v),
            Data::Bool(v) => Slice::Bool(v),
        }
    }
}

/// Borrowed [`Data`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slice<'a, T> {
    Real(&'a [T]),
    Int(&'a [i64]),
    Bool(&'a [bool]),
}

/// The same computation on elements of each kind.
macro_rules! each_kind {
    ($slice:expr, $values:ident => $result:expr) => {
        match $slice {
            crate::array::Slice::Real($values) => crate::array::Data::Real($result),
            crate::array::Slice::Int($values) => crate::array::Data::Int($result),
            crate::array::Slice::Bool($values) => crate::array::Data::Bool($result),
        }
    };
}
pub(crate) use each_kind;

impl<T: Real> Slice<'_, T> {
    pub fn len(&self) -> usize {
        match self {
            Slice::Real(v) => v.len(),
            Slice::Int(v) => v.len(),
            Slice::Bool(v) => v.len(),
        }
    }

    pub fn owned(&self) -> Data<T> {
        each_kind!(*self, v => v.to_vec())
    }
}

/// A dense tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    shape: Vec<usize>,
    data: Data<T>,
}

impl<T: Real> Array<T> {
    /// Elements under a shape. Error when their numbers differ.
    pub fn new(shape: Vec<usize>, data: Data<T>) -> Result<Array<T>, Error> {
        let needed = mqc_ir::tensor::element_count(&shape);
        if needed != Some(data.len()) {
            return Err(Error::Array(format!(
                "shape {shape:?} needs {} elements, found {}",
                needed.map_or("uncountably many".to_owned(), |n| n.to_string()),
                data.len()
            )));
        }
        Ok(Array { shape, data })
    }

    /// Elements whose number is that of the shape.
    pub(crate) fn of(shape: Vec<usize>, data: Data<T>) -> Array<T> {
        Array { shape, data }
    }

    /// Floats. Error when their number is not that of the shape.
    pub fn real(shape: Vec<usize>, values: Vec<T>) -> Result<Array<T>, Error> {
        Array::new(shape, Data::Real(values))
    }

    /// Integers. Error when their number is not that of the shape.
    pub fn int(shape: Vec<usize>, values: Vec<i64>) -> Result<Array<T>, Error> {
        Array::new(shape, Data::Int(values))
    }

    /// Booleans. Error when their number is not that of the shape.
    pub fn bool(shape: Vec<usize>, values: Vec<bool>) -> Result<Array<T>, Error> {
        Array::new(shape, Data::Bool(values))
    }

    /// The elements of a tensor. Error for strings, complex numbers, and floats below 16 or integers below 8 bits.
    pub fn from_tensor(tensor: &Tensor) -> Result<Array<T>, Error> {
        let b: &[u8] = tensor.bytes();
        let data = match tensor.dtype() {
            DType::F64 => Data::Real(le(b, |b| T::of(f64::from_le_bytes(b)))),
            DType::F32 | DType::F16 | DType::Bf16 => {
                let values = tensor.to_f32_vec().unwrap_or_default();
                Data::Real(values.into_iter().map(|v| T::of(f64::from(v))).collect())
            }
            DType::I64 => Data::Int(le(b, i64::from_le_bytes)),
            DType::U64 => {
                let values: Vec<u64> = le(b, u64::from_le_bytes);
                let values: Result<Vec<i64>, _> = values.into_iter().map(i64::try_from).collect();
                Data::Int(values.map_err(|_| Error::Array("a u64 above the largest i64".to_owned()))?)
            }
            DType::I32 => Data::Int(le(b, |b| i64::from(i32::from_le_bytes(b)))),
            DType::U32 => Data::Int(le(b, |b| i64::from(u32::from_le_bytes(b)))),
            DType::I16 => Data::Int(le(b, |b| i64::from(i16::from_le_bytes(b)))),
            DType::U16 => Data::Int(le(b, |b| i64::from(u16::from_le_bytes(b)))),
            DType::I8 => Data::Int(b.iter().map(|b| i64::from(*b as i8)).collect()),
            DType::U8 => Data::Int(b.iter().map(|b| i64::from(*b)).collect()),
            DType::I4 => Data::Int(signed(b, 4, tensor.len(), true)),
            DType::U4 => Data::Int(signed(b, 4, tensor.len(), false)),
            DType::I2 => Data::Int(signed(b, 2, tensor.len(), true)),
            DType::U2 => Data::Int(signed(b, 2, tensor.len(), false)),
            DType::Bool => Data::Bool(b.iter().map(|b| *b != 0).collect()),
            dtype @ (DType::String
            | DType::C64
            | DType::C128
            | DType::F8E4M3FN
            | DType::F8E4M3FNUZ
            | DType::F8E5M2
            | DType::F8E5M2FNUZ
            | DType::F8E8M0
            | DType::F6E2M3
            | DType::F6E3M2
            | DType::F4E2M1) => {
                return Err(Error::Array(format!("elements of type {dtype} are not computed with")));
            }
        };
        Array::new(tensor.shape().to_vec(), data)
    }

    /// A tensor of the element type: floats are rounded to it. Error when the array holds another kind, an integer
    /// does not fit, or the type is none that [`Array::from_tensor`] reads in whole bytes.
    pub fn to_tensor(&self, dtype: DType) -> Result<Tensor, Error> {
        let other = |found| Error::Array(format!("{found} elements do not make a tensor of {dtype}"));
        let bytes: Vec<u8> = match &self.data {
            Data::Real(v) => match dtype {
                DType::F64 => v.iter().flat_map(|v| v.f64().to_le_bytes()).collect(),
                DType::F32 => v.iter().flat_map(|v| (v.f64() as f32).to_le_bytes()).collect(),
                DType::F16 => v.iter().flat_map(|v| half::f16::from_f64(v.f64()).to_le_bytes()).collect(),
                DType::Bf16 => v.iter().flat_map(|v| half::bf16::from_f64(v.f64()).to_le_bytes()).collect(),
                _ => return Err(other("float")),
            },
            Data::Int(v) => {
                let bytes = match dtype {
                    DType::I64 => Some(v.iter().flat_map(|v| v.to_le_bytes()).collect()),
                    DType::U64 => bytes_of::narrow(v, u64::to_le_bytes),
                    DType::I32 => bytes_of::narrow(v, i32::to_le_bytes),
                    DType::U32 => bytes_of::narrow(v, u32::to_le_bytes),
                    DType::I16 => bytes_of::narrow(v, i16::to_le_bytes),
                    DType::U16 => bytes_of::narrow(v, u16::to_le_bytes),
                    DType::I8 => bytes_of::narrow(v, i8::to_le_bytes),
                    DType::U8 => bytes_of::narrow(v, u8::to_le_bytes),
                    _ => return Err(other("integer")),
                };
                bytes.ok_or_else(|| Error::Array(format!("an integer does not fit {dtype}")))?
            }
            Data::Bool(v) if dtype == DType::Bool => v.iter().map(|v| u8::from(*v)).collect(),
            Data::Bool(_) => return Err(other("bool")),
        };
        Ok(Tensor::new(dtype, self.shape.clone(), bytes.into())?)
    }

    /// The sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &Data<T> {
        &self.data
    }

    /// The elements, owned.
    pub fn into_data(self) -> Data<T> {
        self.data
    }

    /// The elements when they are floats.
    pub fn as_real(&self) -> Option<&[T]> {
        match &self.data {
            Data::Real(v) => Some(v),
            Data::Int(_) | Data::Bool(_) => None,
        }
    }

    /// The elements when they are integers.
    pub fn as_int(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Int(v) => Some(v),
            Data::Real(_) | Data::Bool(_) => None,
        }
    }

    /// The elements when they are booleans.
    pub fn as_bool(&self) -> Option<&[bool]> {
        match &self.data {
            Data::Bool(v) => Some(v),
            Data::Real(_) | Data::Int(_) => None,
        }
    }
}

mod bytes_of {
    pub fn le<const N: usize, V>(bytes: &[u8], read: impl Fn([u8; N]) -> V) -> Vec<V> {
        bytes.as_chunks::<N>().0.iter().map(|b| read(*b)).collect()
    }

    /// Packed integers of 2 or 4 bits, the first in the low bits.
    pub fn signed(bytes: &[u8], bits: usize, len: usize, signed: bool) -> Vec<i64> {
        let all = bytes.iter().flat_map(|b| {
            (0..8 / bits).map(move |i| {
                let code = i64::from(b >> (i * bits)) & ((1 << bits) - 1);
                if signed && code >> (bits - 1) == 1 { code - (1 << bits) } else { code }
            })
        });
        all.take(len).collect()
    }

    pub fn narrow<I: TryFrom<i64>, const N: usize>(
        values: &[i64],
        bytes: fn(I) -> [u8; N],
    ) -> Option<Vec<u8>> {
        let mut all = Vec::with_capacity(values.len() * N);
        for value in values {
            all.extend(bytes(I::try_from(*value).ok()?));
        }
        Some(all)
    }
}
