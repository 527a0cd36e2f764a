//! `TensorProto.DataType`: the element types and their packed sizes.

use std::fmt;

/// The element type of a tensor. The numbers are those of `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum DataType {
    /// Not set; no tensor may have it.
    Undefined = 0,
    /// IEEE 754 binary32.
    Float = 1,
    /// Unsigned 8-bit integer.
    Uint8 = 2,
    /// Signed 8-bit integer.
    Int8 = 3,
    /// Unsigned 16-bit integer.
    Uint16 = 4,
    /// Signed 16-bit integer.
    Int16 = 5,
    /// Signed 32-bit integer.
    Int32 = 6,
    /// Signed 64-bit integer.
    Int64 = 7,
    /// UTF-8 text; has no fixed size.
    String = 8,
    /// One byte, 0 or 1.
    Bool = 9,
    /// IEEE 754 binary16.
    Float16 = 10,
    /// IEEE 754 binary64.
    Double = 11,
    /// Unsigned 32-bit integer.
    Uint32 = 12,
    /// Unsigned 64-bit integer.
    Uint64 = 13,
    /// Two binary32: real, imaginary.
    Complex64 = 14,
    /// Two binary64: real, imaginary.
    Complex128 = 15,
    /// The upper half of a binary32.
    Bfloat16 = 16,
    /// 8-bit float, 4 exponent and 3 mantissa bits; NaN, no infinity.
    Float8e4m3fn = 17,
    /// The same; NaN, no infinity, no negative zero.
    Float8e4m3fnuz = 18,
    /// 8-bit float, 5 exponent and 2 mantissa bits; NaN and infinity.
    Float8e5m2 = 19,
    /// The same; NaN, no infinity, no negative zero.
    Float8e5m2fnuz = 20,
    /// Unsigned 4-bit integer, two a byte, low bits first.
    Uint4 = 21,
    /// Signed 4-bit integer, two a byte, low bits first.
    Int4 = 22,
    /// 4-bit float, 2 exponent and 1 mantissa bits, two a byte, low bits first.
    Float4e2m1 = 23,
    /// 8-bit exponent: the scale of the MX formats.
    Float8e8m0 = 24,
    /// Unsigned 2-bit integer, four a byte, low bits first.
    Uint2 = 25,
    /// Signed 2-bit integer, four a byte, low bits first.
    Int2 = 26,
    /// 6-bit float, 2 exponent and 3 mantissa bits, four in three bytes, low bits first.
    Float6e2m3 = 27,
    /// 6-bit float, 3 exponent and 2 mantissa bits, four in three bytes, low bits first.
    Float6e3m2 = 28,
}

impl DataType {
    /// Bits of one element, packed; `None` for `Undefined` and `String`, which have no fixed size.
    pub fn bits(self) -> Option<u8> {
        match self {
            Self::Undefined | Self::String => None,
            Self::Uint2 | Self::Int2 => Some(2),
            Self::Uint4 | Self::Int4 | Self::Float4e2m1 => Some(4),
            Self::Float6e2m3 | Self::Float6e3m2 => Some(6),
            Self::Uint8
            | Self::Int8
            | Self::Bool
            | Self::Float8e4m3fn
            | Self::Float8e4m3fnuz
            | Self::Float8e5m2
            | Self::Float8e5m2fnuz
            | Self::Float8e8m0 => Some(8),
            Self::Uint16 | Self::Int16 | Self::Float16 | Self::Bfloat16 => Some(16),
            Self::Float | Self::Int32 | Self::Uint32 => Some(32),
            Self::Double | Self::Int64 | Self::Uint64 | Self::Complex64 => Some(64),
            Self::Complex128 => Some(128),
        }
    }

    /// Bytes of `elements` elements, packed and rounded up to a whole byte; `None` for a type without a fixed
    /// size and for a size over `u64::MAX`.
    pub fn byte_size(self, elements: u64) -> Option<u64> {
        let bits = u128::from(self.bits()?) * u128::from(elements);
        u64::try_from(bits.div_ceil(8)).ok()
    }
}

/// The name that ONNX uses, e.g. `FLOAT8E4M3FN`.
impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_uppercase())
    }
}
