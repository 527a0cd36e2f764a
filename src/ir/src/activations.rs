//! How a product reads its activations.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quant::ParseError;

/// How the activations of a product with a quantized weight are rounded before they are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Activations {
    /// Not at all.
    F32,
    /// To 16-bit integers with one scale a token: as exact as 8-bit weights can show, at integer speed.
    #[default]
    Int16,
    /// To 8-bit integers with one scale a token.
    Int8,
    /// To 8-bit integers with one scale for so many activations of a token, a multiple of 32.
    Int8Group(u32),
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activations::F32 => f.write_str("f32"),
            Activations::Int16 => f.write_str("int16"),
            Activations::Int8 => f.write_str("int8"),
            Activations::Int8Group(size) => write!(f, "int8:{size}"),
        }
    }
}

impl FromStr for Activations {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Activations, ParseError> {
        let expected = "f32, int16, int8 or int8:GROUP with a multiple of 32";
        match text {
            "f32" => Ok(Activations::F32),
            "int16" => Ok(Activations::Int16),
            "int8" => Ok(Activations::Int8),
            _ => {
                let size = text.strip_prefix("int8:").and_then(|size| size.parse::<u32>().ok());
                match size {
                    Some(size) if size > 0 && size.is_multiple_of(32) => Ok(Activations::Int8Group(size)),
                    _ => Err(ParseError::new(expected, text)),
                }
            }
        }
    }
}

impl TryFrom<String> for Activations {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Activations, ParseError> {
        text.parse()
    }
}

impl From<Activations> for String {
    fn from(activations: Activations) -> String {
        activations.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back() {
        for a in [Activations::F32, Activations::Int16, Activations::Int8, Activations::Int8Group(64)] {
            assert_eq!(a.to_string().parse(), Ok(a));
        }
        for bad in ["", "int4", "int8:", "int8:0", "int8:33", "int8:-32", "INT8"] {
            assert!(bad.parse::<Activations>().is_err(), "{bad}");
        }
    }
}
