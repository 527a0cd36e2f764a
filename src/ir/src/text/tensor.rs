//! Constants in the text form: their elements when they are small, else a hash by which the tensor is found again.

use super::lexer::{Cursor, Token, hex_digit, quote};
use super::{Resolve, types};
use crate::tensor::element_count;
use crate::{DType, Error, Tensor, Type};

/// Constants of more bytes are printed as a hash. A string counts as its bytes and 8 more.
const INLINE_BYTES: usize = 64;

/// How many elements the `random` constants of one text may have together.
const RANDOM_ELEMENTS: usize = 1 << 28;

/// 64-bit FNV-1a of the packed bytes; of a string tensor: of each string's length (8 bytes, little-endian) and bytes.
pub fn hash(tensor: &Tensor) -> u64 {
    let fnv = |hash: u64, bytes: &[u8]| {
        bytes.iter().fold(hash, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    match tensor.as_strings() {
        None => fnv(OFFSET, tensor.bytes()),
        Some(strings) => {
            strings.iter().fold(OFFSET, |hash, s| fnv(fnv(hash, &(s.len() as u64).to_le_bytes()), s))
        }
    }
}

/// What stands after `=`, and a comment.
pub(super) fn write(tensor: &Tensor) -> String {
    let size = match tensor.as_strings() {
        None => tensor.bytes().len(),
        Some(strings) => strings.iter().map(|s| s.len().saturating_add(8)).sum(),
    };
    if size > INLINE_BYTES {
        return format!("hash \"{:016x}\"", hash(tensor));
    }
    match elements(tensor) {
        Some(items) if tensor.shape().is_empty() => items.concat(),
        Some(items) => format!("[{}]", items.join(", ")),
        None => format!("hex \"{}\"", tensor.bytes().iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// Whether [`write`] names a tensor of this size instead of listing it.
pub(super) fn is_named(written: &str) -> bool {
    written.starts_with("hash ")
}

/// The elements as literals, when the text form has literals that keep every bit of them.
fn elements(tensor: &Tensor) -> Option<Vec<String>> {
    if let Some(strings) = tensor.as_strings() {
        return Some(strings.iter().map(|s| quote(s)).collect());
    }
    let dtype = tensor.dtype();
    let bytes = tensor.bytes();
    match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32_literal(f32::from_le_bytes(*b))).collect(),
        DType::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64_literal(f64::from_le_bytes(*b))).collect(),
        DType::Bool => bytes.iter().map(|b| bool_literal(*b)).collect(),
        _ => {
            let (size, signed) = integer(dtype)?;
            Some(bytes.chunks(size).map(|b| from_le_bytes(b, signed).to_string()).collect())
        }
    }
}

fn f32_literal(value: f32) -> Option<String> {
    (!value.is_nan()).then(|| format!("{value:?}"))
}

fn f64_literal(value: f64) -> Option<String> {
    (!value.is_nan()).then(|| format!("{value:?}"))
}

fn bool_literal(byte: u8) -> Option<String> {
    match byte {
        0 => Some("false".to_owned()),
        1 => Some("true".to_owned()),
        _ => None,
    }
}

/// Bytes of an element and whether it has a sign, for integers of whole bytes.
fn integer(dtype: DType) -> Option<(usize, bool)> {
    Some(match dtype {
        DType::I64 => (8, true),
        DType::I32 => (4, true),
        DType::I16 => (2, true),
        DType::I8 => (1, true),
        DType::U64 => (8, false),
        DType::U32 => (4, false),
        DType::U16 => (2, false),
        DType::U8 => (1, false),
        DType::F64
        | DType::F32
        | DType::F16
        | DType::Bf16
        | DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::Bool
        | DType::String
        | DType::C64
        | DType::C128
        | DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        | DType::F6E2M3
        | DType::F6E3M2
        | DType::F4E2M1 => return None,
    })
}

fn from_le_bytes(bytes: &[u8], signed: bool) -> i128 {
    let value = bytes.iter().rev().fold(0i128, |value, b| value << 8 | i128::from(*b));
    let half = 1i128 << (8 * bytes.len() - 1);
    if signed && value >= half { value - 2 * half } else { value }
}

/// Reads constants of one text.
pub(super) struct Constants<'a> {
    pub resolve: &'a dyn Resolve,
    random_elements: usize,
}

impl<'a> Constants<'a> {
    pub fn new(resolve: &'a dyn Resolve) -> Constants<'a> {
        Constants { resolve, random_elements: 0 }
    }

    /// What follows `=`; `declared` is the type written before it.
    pub fn parse(&mut self, cursor: &mut Cursor, declared: &Type) -> Result<Constant, Error> {
        let place = cursor.place();
        let is_type = matches!(*cursor.token(), Token::Word(word) if DType::from_name(word).is_some());
        let ty = if is_type { Type::Tensor(types::tensor(cursor)?) } else { declared.clone() };
        let Some((dtype, shape)) = known(&ty) else {
            let message =
                format!("the elements of a constant need a tensor type with all sizes known, found `{ty}`");
            return Err(cursor.error_at(place, message));
        };
        let place = cursor.place();
        let tensor = if cursor.eat_word("hash")? {
            return Ok(Constant::Named { ty, hash: Some(hash_value(cursor)?), place });
        } else if cursor.eat_word("random")? {
            self.random(cursor, dtype, shape, place)
        } else if cursor.eat_word("hex")? {
            let bytes = hex(cursor)?;
            Tensor::new(dtype, shape, bytes.into())
        } else {
            let items = if cursor.eat("[")? {
                cursor.list("]", |cursor| element(cursor, dtype))?
            } else {
                vec![element(cursor, dtype)?]
            };
            match dtype {
                DType::String => Tensor::strings(shape, items.into_iter().map(Into::into).collect()),
                _ => Tensor::new(dtype, shape, items.concat().into()),
            }
        };
        match tensor {
            Ok(tensor) => Ok(Constant::Inline(tensor)),
            Err(text @ Error::Text { .. }) => Err(text),
            Err(size) => Err(cursor.error_at(place, size.to_string())),
        }
    }

    /// Finds a tensor by its name.
    pub fn find(
        &self,
        cursor: &Cursor,
        name: &str,
        ty: &Type,
        wanted: Option<u64>,
        at: usize,
    ) -> Result<Tensor, Error> {
        let named = self.resolve.tensors(name);
        if named.is_empty() {
            return Err(cursor.error_at(at, format!("there is no tensor named {name:?} beside the text")));
        }
        let fitting: Vec<_> = named.into_iter().filter(|t| ty.compatible(&Type::of(t))).collect();
        if fitting.is_empty() {
            return Err(cursor.error_at(at, format!("no tensor named {name:?} has the type {ty}")));
        }
        let right = fitting.into_iter().find(|t| wanted.is_none_or(|wanted| hash(t) == wanted));
        right.ok_or_else(|| {
            let message = format!(
                "the tensor named {name:?} has other contents than hash {:016x}",
                wanted.unwrap_or(0)
            );
            cursor.error_at(at, message)
        })
    }

    fn random(
        &mut self,
        cursor: &mut Cursor,
        dtype: DType,
        shape: Vec<usize>,
        at: usize,
    ) -> Result<Tensor, Error> {
        cursor.expect("(", "and a seed after `random`")?;
        let seed = cursor.integer("a seed of 64 bits")?;
        cursor.expect(")", "after the seed")?;
        if dtype != DType::F32 {
            return Err(cursor.error_at(at, format!("random constants are f32, found {dtype}")));
        }
        let count = element_count(&shape).filter(|n| *n <= RANDOM_ELEMENTS - self.random_elements);
        let Some(count) = count else {
            let message =
                format!("the random constants of a text have at most {RANDOM_ELEMENTS} elements together");
            return Err(cursor.error_at(at, message));
        };
        self.random_elements += count;
        Tensor::from_f32(shape, &random(seed, count))
    }
}

/// What a constant's text says.
pub(super) enum Constant {
    /// The tensor itself.
    Inline(Tensor),
    /// A tensor of this type and hash, to be found by name.
    Named { ty: Type, hash: Option<u64>, place: usize },
}

/// `count` numbers in [-1, 1): the upper 24 bits of splitmix64 (Steele, Lea, Flood 2014) started at `seed`, times
/// 2^-23, minus 1.
fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn known(ty: &Type) -> Option<(DType, Vec<usize>)> {
    let sizes = ty.shape()?.iter().map(|d| usize::try_from(d.size()?).ok());
    Some((ty.dtype()?, sizes.collect::<Option<_>>()?))
}

fn hash_value(cursor: &mut Cursor) -> Result<u64, Error> {
    let what = "a hash of 16 hex digits in quotes";
    let Token::Text(digits) = cursor.token() else { return Err(cursor.expected(what)) };
    if digits.len() != 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(cursor.expected(what));
    }
    let hash = digits.iter().fold(0, |hash, d| hash << 4 | u64::from(hex_digit(*d)));
    cursor.next()?;
    Ok(hash)
}

fn hex(cursor: &mut Cursor) -> Result<Vec<u8>, Error> {
    let what = "an even number of hex digits in quotes";
    let Token::Text(digits) = cursor.token() else { return Err(cursor.expected(what)) };
    if digits.len() % 2 != 0 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(cursor.expected(what));
    }
    let bytes =
        digits.as_chunks::<2>().0.iter().map(|[high, low]| hex_digit(*high) << 4 | hex_digit(*low)).collect();
    cursor.next()?;
    Ok(bytes)
}

/// The packed bytes of one element; of a string the string.
fn element(cursor: &mut Cursor, dtype: DType) -> Result<Vec<u8>, Error> {
    let what = format!("an element of type {dtype}");
    let text = match cursor.token() {
        Token::Number(text) | Token::Word(text) => *text,
        Token::Text(bytes) if dtype == DType::String => {
            let bytes = bytes.clone();
            cursor.next()?;
            return Ok(bytes);
        }
        _ => return Err(cursor.expected(&what)),
    };
    let bytes = match dtype {
        DType::F32 => text.parse::<f32>().ok().map(|v| v.to_le_bytes().to_vec()),
        DType::F64 => text.parse::<f64>().ok().map(|v| v.to_le_bytes().to_vec()),
        DType::Bool => text.parse::<bool>().ok().map(|v| vec![u8::from(v)]),
        _ => match integer(dtype) {
            Some((size, signed)) => text.parse::<i128>().ok().and_then(|v| to_le_bytes(v, size, signed)),
            None => return Err(cursor.expected(&format!("`hex \"..\"`: {dtype} has no literals"))),
        },
    };
    let bytes = bytes.ok_or_else(|| cursor.expected(&what))?;
    cursor.next()?;
    Ok(bytes)
}

fn to_le_bytes(value: i128, size: usize, signed: bool) -> Option<Vec<u8>> {
    let span = 1i128 << (8 * size);
    let range = if signed { -span / 2..span / 2 } else { 0..span };
    range.contains(&value).then(|| value.to_le_bytes()[..size].to_vec())
}
