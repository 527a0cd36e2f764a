//! Types in the text form: `f32[batch, 16]`, `tensor`, `sequence(f32)`, `?`. Also how types appear in JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lexer::{Cursor, Token, name};
use crate::{DType, Dim, Error, TensorType, Type};

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Size(n) => write!(f, "{n}"),
            Dim::Symbol(symbol) => f.write_str(&name(symbol)),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.map_or("tensor", DType::name))?;
        let Some(shape) = &self.shape else { return Ok(()) };
        let dims: Vec<_> = shape.iter().map(Dim::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(tensor) => tensor.fmt(f),
            Type::Sparse(tensor) => write!(f, "sparse({tensor})"),
            Type::Sequence(element) => write!(f, "sequence({element})"),
            Type::Optional(element) => write!(f, "optional({element})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Foreign { domain, name: foreign } => {
                write!(f, "foreign({}, {})", name(domain), name(foreign))
            }
            Type::Unknown => f.write_str("?"),
        }
    }
}

impl FromStr for Type {
    type Err = Error;

    fn from_str(text: &str) -> Result<Type, Error> {
        let mut cursor = Cursor::new(text)?;
        let ty = parse(&mut cursor)?;
        match cursor.token() {
            Token::End => Ok(ty),
            _ => Err(cursor.expected("the end of the type")),
        }
    }
}

impl Serialize for Type {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Type, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

pub(super) fn parse(cursor: &mut Cursor) -> Result<Type, Error> {
    if cursor.eat("?")? {
        return Ok(Type::Unknown);
    }
    let Token::Word(word) = *cursor.token() else { return Err(cursor.expected("a type")) };
    cursor.nested(|cursor| {
        let ty = match word {
            "sparse" => {
                open(cursor)?;
                Type::Sparse(tensor(cursor)?)
            }
            "sequence" => {
                open(cursor)?;
                Type::Sequence(Box::new(parse(cursor)?))
            }
            "optional" => {
                open(cursor)?;
                Type::Optional(Box::new(parse(cursor)?))
            }
            "map" => {
                open(cursor)?;
                let key = dtype(cursor)?;
                cursor.expect(",", "between key and value type")?;
                Type::Map(key, Box::new(parse(cursor)?))
            }
            "foreign" => {
                open(cursor)?;
                let domain = cursor.name("the domain of the type")?;
                cursor.expect(",", "between domain and name")?;
                Type::Foreign { domain, name: cursor.name("the name of the type")? }
            }
            _ => return Ok(Type::Tensor(tensor(cursor)?)),
        };
        cursor.expect(")", "at the end of the type")?;
        Ok(ty)
    })
}

fn open(cursor: &mut Cursor) -> Result<(), Error> {
    cursor.next()?;
    cursor.expect("(", "after the kind of type")
}

pub(super) fn tensor(cursor: &mut Cursor) -> Result<TensorType, Error> {
    let dtype = if cursor.eat_word("tensor")? { None } else { Some(dtype(cursor)?) };
    let shape = if cursor.eat("[")? { Some(cursor.list("]", dim)?) } else { None };
    Ok(TensorType { dtype, shape })
}

fn dtype(cursor: &mut Cursor) -> Result<DType, Error> {
    let Token::Word(word) = *cursor.token() else { return Err(cursor.expected("an element type")) };
    let names = crate::dtype::ALL.map(DType::name);
    let dtype = DType::from_name(word)
        .ok_or_else(|| cursor.error(format!("there is no type `{word}`{}", super::near(word, &names))))?;
    cursor.next()?;
    Ok(dtype)
}

fn dim(cursor: &mut Cursor) -> Result<Dim, Error> {
    if cursor.eat("?")? {
        return Ok(Dim::Unknown);
    }
    match cursor.token() {
        Token::Number(_) => Ok(Dim::Size(cursor.integer("a size")?)),
        _ => Ok(Dim::Symbol(cursor.name("a size, a symbol or `?`")?.into())),
    }
}
