//! Operations in the text form: a mnemonic and attributes. Both come from the operation's serde form, so that an
//! operation that is added prints and parses without a line here.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde_json::{Map, Number, Value as Json};

use super::lexer::{Cursor, Token, is_word, name, quote};
use super::near;
use crate::op::{Binary, Compare, Unary, Variadic};
use crate::{Error, Op, Tensor};

pub(super) const WEIGHT: &str = "weight";
pub(super) const CONSTANT: &str = "constant";

/// The mnemonic of an operation and its attributes as JSON (without a constant's tensor).
pub(crate) fn parts(op: &Op) -> (String, Map<String, Json>) {
    if let Op::Weight(_) = op {
        return (WEIGHT.to_owned(), Map::new());
    }
    if let Op::Constant(_) = op {
        return (CONSTANT.to_owned(), Map::new());
    }
    // Units are `"mat_mul"`, families `{"unary": "relu"}`, all others `{"softmax": {"axis": 1}}`.
    match serde_json::to_value(op) {
        Ok(Json::String(mnemonic)) => (mnemonic, Map::new()),
        Ok(Json::Object(tagged)) => match tagged.into_iter().next() {
            Some((_, Json::String(mnemonic))) => (mnemonic, Map::new()),
            Some((mnemonic, Json::Object(attributes))) => (mnemonic, attributes),
            Some((mnemonic, _)) => (mnemonic, Map::new()),
            None => (String::new(), Map::new()),
        },
        Ok(_) | Err(_) => (String::new(), Map::new()),
    }
}

/// ` {axis = 1, mode = round}`; empty when there are no attributes.
pub(super) fn write(attributes: &Map<String, Json>) -> String {
    if attributes.is_empty() { String::new() } else { format!(" {}", object(attributes)) }
}

fn object(attributes: &Map<String, Json>) -> String {
    let mut sorted: Vec<_> = attributes.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    let items: Vec<_> =
        sorted.into_iter().map(|(key, value)| format!("{} = {}", name(key), json(value))).collect();
    format!("{{{}}}", items.join(", "))
}

fn json(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(b) => b.to_string(),
        Json::Number(n) => match n.as_f64() {
            Some(float) if n.is_f64() => format!("{float:?}"),
            Some(_) | None => n.to_string(),
        },
        Json::String(s) if is_word(s) && !matches!(s.as_str(), "true" | "false" | "null") => s.clone(),
        Json::String(s) => quote(s.as_bytes()),
        Json::Array(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(", ")),
        Json::Object(fields) => object(fields),
    }
}

/// Attributes as written, and where each name stands.
#[derive(Default)]
pub(super) struct Attributes {
    values: Map<String, Json>,
    keys: Vec<(String, usize)>,
}

impl Attributes {
    fn refuse(&self, cursor: &Cursor, mnemonic: &str) -> Result<(), Error> {
        match self.keys.first() {
            None => Ok(()),
            Some((key, place)) => {
                Err(cursor.error_at(*place, format!("{mnemonic} has no attributes, found `{key}`")))
            }
        }
    }
}

/// Reads `{key = value, ..}` when it is there.
pub(super) fn attributes(cursor: &mut Cursor) -> Result<Attributes, Error> {
    let mut found = Attributes::default();
    if cursor.at("{") {
        let keys = &mut found.keys;
        found.values = cursor.nested(|cursor| parse_object(cursor, keys))?;
    }
    Ok(found)
}

fn parse_object(cursor: &mut Cursor, keys: &mut Vec<(String, usize)>) -> Result<Map<String, Json>, Error> {
    cursor.expect("{", "before attributes")?;
    let mut fields = Map::new();
    cursor.list("}", |cursor| {
        let place = cursor.place();
        let key = cursor.name("the name of an attribute")?;
        cursor.expect("=", "after the attribute's name")?;
        let value = parse_json(cursor, keys)?;
        keys.push((key.clone(), place));
        match fields.insert(key.clone(), value) {
            None => Ok(()),
            Some(_) => Err(cursor.error_at(place, format!("attribute `{key}` is given twice"))),
        }
    })?;
    Ok(fields)
}

fn parse_json(cursor: &mut Cursor, keys: &mut Vec<(String, usize)>) -> Result<Json, Error> {
    let value = match *cursor.token() {
        Token::Number(number) => {
            let integer =
                number.parse::<i64>().map(Number::from).or_else(|_| number.parse::<u64>().map(Number::from));
            let float = || if number.contains(['.', 'e', 'E']) { number.parse().ok() } else { None };
            let number = integer.ok().or_else(|| float().and_then(Number::from_f64));
            Json::Number(number.ok_or_else(|| cursor.error("this number has no 64-bit form"))?)
        }
        Token::Word("true") => Json::Bool(true),
        Token::Word("false") => Json::Bool(false),
        Token::Word("null") => Json::Null,
        Token::Sign("{") => return Ok(Json::Object(cursor.nested(|cursor| parse_object(cursor, keys))?)),
        Token::Sign("[") => {
            cursor.next()?;
            let items = cursor.nested(|cursor| cursor.list("]", |cursor| parse_json(cursor, keys)))?;
            return Ok(Json::Array(items));
        }
        _ => return Ok(Json::String(cursor.name("the value of an attribute")?)),
    };
    cursor.next()?;
    Ok(value)
}

/// The operation of a mnemonic at `place` with its attributes; constants are not made here.
pub(super) fn build(
    cursor: &Cursor,
    mnemonic: &str,
    place: usize,
    attributes: &Attributes,
) -> Result<Op, Error> {
    let fail = |message: String| {
        let message = message.replace("field", "attribute");
        let culprit = attributes
            .keys
            .iter()
            .find(|(key, _)| message.starts_with(&format!("unknown attribute `{key}`")));
        cursor.error_at(culprit.map_or(place, |(_, place)| *place), format!("{mnemonic}: {message}"))
    };
    for family in FAMILIES {
        if (family.members)().contains(&mnemonic) {
            attributes.refuse(cursor, mnemonic)?;
            let tagged = Map::from_iter([(family.tag.to_owned(), Json::String(mnemonic.to_owned()))]);
            return serde_json::from_value(Json::Object(tagged)).map_err(|e| fail(e.to_string()));
        }
    }
    if !plain_mnemonics().contains(&mnemonic) {
        let near = near(mnemonic, &mnemonics());
        return Err(cursor.error_at(place, format!("there is no operation `{mnemonic}`{near}")));
    }
    if let Ok(op) = serde_json::from_value::<Op>(Json::String(mnemonic.to_owned())) {
        attributes.refuse(cursor, mnemonic)?;
        return Ok(op);
    }
    let tagged = Map::from_iter([(mnemonic.to_owned(), Json::Object(attributes.values.clone()))]);
    serde_json::from_value(Json::Object(tagged)).map_err(|e| fail(e.to_string()))
}

/// The constant of a mnemonic.
pub(super) fn constant(
    cursor: &Cursor,
    mnemonic: &str,
    attributes: &Attributes,
    tensor: Tensor,
) -> Result<Op, Error> {
    attributes.refuse(cursor, mnemonic)?;
    Ok(if mnemonic == WEIGHT { Op::Weight(tensor) } else { Op::Constant(tensor) })
}

struct Family {
    tag: &'static str,
    members: fn() -> &'static [&'static str],
}

/// The operations that print as what they hold.
const FAMILIES: [Family; 4] = [
    Family { tag: "unary", members: variants::<Unary> },
    Family { tag: "binary", members: variants::<Binary> },
    Family { tag: "compare", members: variants::<Compare> },
    Family { tag: "variadic", members: variants::<Variadic> },
];

fn plain_mnemonics() -> Vec<&'static str> {
    variants::<Op>().iter().copied().filter(|name| FAMILIES.iter().all(|f| f.tag != *name)).collect()
}

/// Every mnemonic.
pub fn mnemonics() -> Vec<&'static str> {
    let families = FAMILIES.iter().flat_map(|f| (f.members)().iter().copied());
    [WEIGHT, CONSTANT].into_iter().chain(plain_mnemonics()).chain(families).collect()
}

/// The names of an enum's variants, as serde knows them.
fn variants<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut names = Names(&[]);
    // Always an error: there is nothing to read, the names are taken on the way.
    drop(T::deserialize(&mut names));
    names.0
}

struct Names(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut Names {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not an enum"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0 = variants;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
