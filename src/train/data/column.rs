//! One input of a data set: rows out of an array, in the element type that the model takes.

use anyhow::{Result, bail};
use half::{bf16, f16};
use mqc_ir::{DType, Tensor};
use rayon::prelude::*;

use super::samples::{Classes, Input};

/// Rows that are checked at once.
const BLOCK: usize = 1024;

/// An input and its array, which has a row for every sample.
#[derive(Clone)]
pub struct Column {
    pub input: Input,
    array: Tensor,
    change: Change,
}

/// How elements become those of the model.
#[derive(Clone, Copy)]
enum Change {
    /// They are.
    None,
    Float,
    /// Integers that may be signed, of so many bytes.
    Integer {
        signed: bool,
        size: usize,
    },
}

impl Column {
    /// # Errors
    /// An array of another shape, or elements that do not become the input's without loss.
    pub fn new(input: Input, array: Tensor) -> Result<Column> {
        let name = &input.name;
        match array.shape() {
            [_, row @ ..] if row == input.shape => {}
            found => bail!(
                "data of input {name} has shape {found:?}; expected samples on the first axis and then {:?}",
                input.shape
            ),
        }
        let (found, expected) = (array.dtype(), input.dtype);
        let Some(change) = change(found, expected) else {
            bail!("data of input {name} has elements of type {found}, the model expects {expected}");
        };
        Ok(Column { input, array, change })
    }

    /// Number of samples.
    pub fn rows(&self) -> usize {
        self.array.shape().first().copied().unwrap_or(0)
    }

    /// The array as it was given.
    pub fn array(&self) -> &Tensor {
        &self.array
    }

    /// Appends the elements of a sample.
    ///
    /// # Errors
    /// A value that the model's type cannot hold.
    pub fn append(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let size = self.array.bytes().len() / self.rows().max(1);
        let bytes = &self.array.bytes()[row * size..][..size];
        match self.change {
            Change::None => out.extend_from_slice(bytes),
            Change::Float => {
                out.extend(floats(self.array.dtype(), bytes).flat_map(|v| (v as f32).to_le_bytes()))
            }
            Change::Integer { signed, size } => {
                for element in bytes.chunks_exact(size) {
                    let value = integer(signed, element);
                    match self.input.dtype {
                        DType::I32 => out.extend(self.fit::<i32>(row, value)?.to_le_bytes()),
                        _ => out.extend(self.fit::<i64>(row, value)?.to_le_bytes()),
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks for NaN and infinities, and for labels out of range, in all samples.
    ///
    /// # Errors
    /// The first sample that has one.
    pub fn check(&self) -> Result<()> {
        if !self.input.dtype.is_float() && self.input.classes.is_none() && matches!(self.change, Change::None)
        {
            return Ok(());
        }
        let check_block = |block: usize| -> Result<()> {
            let mut bytes = vec![];
            for row in (block * BLOCK..self.rows()).take(BLOCK) {
                bytes.clear();
                self.append(row, &mut bytes)?;
                self.check_row(row, &bytes)?;
            }
            Ok(())
        };
        let blocks = (0..self.rows().div_ceil(BLOCK)).into_par_iter();
        blocks.find_map_first(|block| check_block(block).err()).map_or(Ok(()), Err)
    }

    fn check_row(&self, row: usize, bytes: &[u8]) -> Result<()> {
        let (name, dtype) = (&self.input.name, self.input.dtype);
        if let Some((place, value)) = floats(dtype, bytes).enumerate().find(|(_, v)| !v.is_finite()) {
            bail!("data of input {name} holds {value} in sample {row} at element {place}");
        }
        let Some(Classes { count, ignore }) = self.input.classes else { return Ok(()) };
        let size = dtype.byte_len(1).unwrap_or(1);
        for label in bytes.chunks_exact(size).map(|element| integer(is_signed(dtype), element)) {
            let is_ignored = ignore.is_some_and(|ignore| i128::from(ignore) == label);
            if !is_ignored && !(0..i128::from(count)).contains(&label) {
                bail!("label {label} of sample {row} in {name} is out of range; expected 0 to {}", count - 1);
            }
        }
        Ok(())
    }

    fn fit<T: TryFrom<i128>>(&self, row: usize, value: i128) -> Result<T> {
        let (name, dtype) = (&self.input.name, self.input.dtype);
        let Ok(value) = T::try_from(value) else {
            bail!("value {value} of sample {row} of input {name} does not fit into {dtype}");
        };
        Ok(value)
    }
}

/// Changes without loss, and those that NumPy users expect: f64 becomes f32, and i64 becomes i32 where it fits.
fn change(found: DType, expected: DType) -> Option<Change> {
    let is_integer = integer_size(found).is_some();
    match expected {
        _ if found == expected && (found.is_float() || is_integer || found == DType::Bool) => {
            Some(Change::None)
        }
        DType::F32 if matches!(found, DType::F64 | DType::F16 | DType::Bf16) => Some(Change::Float),
        DType::I64 | DType::I32 => {
            integer_size(found).map(|size| Change::Integer { signed: is_signed(found), size })
        }
        _ => None,
    }
}

fn integer_size(dtype: DType) -> Option<usize> {
    let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let unsigned = matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64);
    dtype.byte_len(1).filter(|_| signed || unsigned)
}

fn is_signed(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64)
}

fn integer(signed: bool, element: &[u8]) -> i128 {
    let is_negative = signed && element.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if is_negative { 0xff } else { 0 }; 16];
    wide[..element.len()].copy_from_slice(element);
    i128::from_le_bytes(wide)
}

/// The elements of a float type; nothing for others.
fn floats(dtype: DType, bytes: &[u8]) -> Box<dyn Iterator<Item = f64> + '_> {
    match dtype {
        DType::F64 => Box::new(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b))),
        DType::F32 => Box::new(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into())),
        DType::F16 => Box::new(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).into())),
        DType::Bf16 => Box::new(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).into())),
        _ => Box::new(std::iter::empty()),
    }
}
