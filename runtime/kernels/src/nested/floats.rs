//! Resident f32 values: owned, or shared with the bytes they were read from.

use bytes::Bytes;

use super::error::NestedError;

/// An immutable array of f32; cloning shares it.
#[derive(Debug, Clone)]
pub struct Floats {
    /// Whole, aligned, native-endian values.
    bytes: Bytes,
}

impl Floats {
    /// Values read from little-endian bytes; shared without a copy where alignment and byte order allow it.
    ///
    /// # Errors
    /// The length is not a multiple of 4.
    pub fn from_le_bytes(bytes: Bytes) -> Result<Floats, NestedError> {
        let (values, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            let expected = 4 * values.len();
            return Err(NestedError::Length {
                what: "f32 values".into(),
                unit: "bytes",
                expected,
                found: bytes.len(),
            });
        }
        if cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, f32>(&bytes).is_ok() {
            return Ok(Floats { bytes });
        }
        Ok(values.iter().map(|&value| f32::from_le_bytes(value)).collect::<Vec<f32>>().into())
    }

    /// The values.
    pub fn as_slice(&self) -> &[f32] {
        bytemuck::cast_slice(&self.bytes)
    }
}

impl From<Vec<f32>> for Floats {
    fn from(values: Vec<f32>) -> Floats {
        struct Owner(Vec<f32>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Floats { bytes: Bytes::from_owner(Owner(values)) }
    }
}

impl PartialEq for Floats {
    fn eq(&self, other: &Floats) -> bool {
        self.as_slice() == other.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_at_any_alignment() {
        let values = [1.5f32, -2.0, 3e-9];
        let mut bytes = vec![0; 3];
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        for skip in 0..4 {
            let mut shifted = vec![0; skip];
            shifted.extend(&bytes[3..]);
            assert_eq!(Floats::from_le_bytes(Bytes::from(shifted).slice(skip..)).unwrap().as_slice(), values);
        }
        assert_eq!(Floats::from(values.to_vec()).as_slice(), values);
        assert_eq!(Floats::from(vec![]).as_slice(), [0f32; 0]);
        assert_eq!(Floats::from_le_bytes(Bytes::new()).unwrap().as_slice(), [0f32; 0]);
    }

    #[test]
    fn half_a_value_is_an_error() {
        let error = Floats::from_le_bytes(Bytes::from_static(&[0; 6])).unwrap_err();
        assert_eq!(error.to_string(), "f32 values: expected 4 bytes, found 6");
    }
}
