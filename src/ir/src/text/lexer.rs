//! Tokens of the text form, and a cursor over them that knows where it is.

use std::str::Utf8Error;

use crate::Error;

/// How deep types, attributes and subgraphs may nest: more than a protobuf message can.
const MAX_DEPTH: usize = 64;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A keyword, mnemonic or plain name: letters, digits, `_`, `.`, `/`, not starting with a digit.
    Word(&'a str),
    /// A value, without its `%`.
    Value(&'a str),
    /// A number as written; `-inf` too.
    Number(&'a str),
    /// A quoted byte string, unescaped.
    Text(Vec<u8>),
    /// Punctuation.
    Sign(&'static str),
    /// The end of the text.
    End,
}

impl Token<'_> {
    fn describe(&self) -> String {
        match self {
            Token::Word(word) | Token::Number(word) => format!("`{word}`"),
            Token::Value(id) => format!("`%{id}`"),
            Token::Text(bytes) => format!("the string {}", quote(bytes)),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end of the text".to_owned(),
        }
    }
}

const SIGNS: [&str; 13] = ["->", "(", ")", "[", "]", "{", "}", ",", ":", "=", "@", "?", "*"];

/// Whether a name needs no quotes.
pub(super) fn is_word(name: &str) -> bool {
    name.starts_with(|c: char| is_word_char(c) && !c.is_ascii_digit()) && name.chars().all(is_word_char)
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/')
}

/// A name as written: bare when it is a word, else quoted.
pub(super) fn name(name: &str) -> String {
    if is_word(name) && name != "_" { name.to_owned() } else { quote(name.as_bytes()) }
}

/// A quoted string: UTF-8 as it is, control characters and other bytes escaped.
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    c.encode_utf8(&mut utf8).bytes().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out.push('"');
    out
}

/// One token of look-ahead over a text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    /// Where the token starts, in bytes.
    start: usize,
    /// Where the text after the token starts, in bytes.
    rest: usize,
    token: Token<'a>,
    starts_line: bool,
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Result<Cursor<'a>, Error> {
        let mut cursor = Cursor { text, start: 0, rest: 0, token: Token::End, starts_line: true, depth: 0 };
        cursor.next()?;
        Ok(cursor)
    }

    /// The current token.
    pub fn token(&self) -> &Token<'a> {
        &self.token
    }

    /// Whether the current token is the first of its line.
    pub fn starts_line(&self) -> bool {
        self.starts_line
    }

    /// Where the current token starts, for [`Cursor::error_at`].
    pub fn place(&self) -> usize {
        self.start
    }

    /// An error at the current token.
    pub fn error(&self, message: impl Into<String>) -> Error {
        self.error_at(self.start, message)
    }

    /// An error at a place.
    pub fn error_at(&self, place: usize, message: impl Into<String>) -> Error {
        let before = &self.text[..place];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Error::Text { line, column, message: message.into() }
    }

    /// The error that something else was expected here.
    pub fn expected(&self, what: &str) -> Error {
        self.error(format!("expected {what}, found {}", self.token.describe()))
    }

    /// Goes one level deeper, until [`Cursor::leave`]. Error when the text nests too deep for the stack.
    pub fn enter(&mut self) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.depth += 1;
        Ok(())
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Runs `read` one level deeper.
    pub fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.enter()?;
        let result = read(self)?;
        self.leave();
        Ok(result)
    }

    /// Takes the current token and reads the next.
    pub fn next(&mut self) -> Result<Token<'a>, Error> {
        let text = self.text;
        let before = self.rest;
        loop {
            let rest = &text[self.rest..];
            let trimmed = rest.trim_start();
            self.rest += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                break;
            }
            self.rest += trimmed.find('\n').unwrap_or(trimmed.len());
        }
        self.start = self.rest;
        self.starts_line = before == 0 || text[before..self.start].contains('\n');
        let next = self.lex(&text[self.start..])?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn lex(&mut self, text: &'a str) -> Result<Token<'a>, Error> {
        let Some(first) = text.chars().next() else { return Ok(Token::End) };
        let run = |from: usize| text[from..].find(|c| !is_word_char(c)).map_or(text.len(), |n| from + n);
        let (token, length) = if let Some(sign) = SIGNS.iter().find(|sign| text.starts_with(**sign)) {
            (Token::Sign(sign), sign.len())
        } else if first == '%' {
            let end = run(1);
            let id = &text[1..end];
            if !is_word(id) && (id.is_empty() || !id.bytes().all(|b| b.is_ascii_digit())) {
                return Err(self.error("a value is `%` and a number or a name that starts with a letter"));
            }
            (Token::Value(id), end)
        } else if first == '"' {
            self.string(text)?
        } else if first == '-' || first.is_ascii_digit() {
            let end = number_end(text);
            let number = &text[..end];
            if number.parse::<f64>().is_err() {
                return Err(self.error(format!("`{number}` is not a number")));
            }
            (Token::Number(number), end)
        } else if is_word_char(first) {
            (Token::Word(&text[..run(0)]), run(0))
        } else {
            return Err(self
                .error(format!("{first:?} does not start anything; quote names that are not plain words")));
        };
        self.rest = self.start + length;
        Ok(token)
    }

    fn string(&self, text: &str) -> Result<(Token<'a>, usize), Error> {
        let bytes = text.as_bytes();
        let mut out = Vec::new();
        let mut at = 1;
        loop {
            let (byte, length) = match &bytes[at..] {
                [] | [b'\n', ..] => return Err(self.error("this string has no closing quote on its line")),
                [b'"', ..] => return Ok((Token::Text(out), at + 1)),
                [b'\\', b'n', ..] => (b'\n', 2),
                [b'\\', b'r', ..] => (b'\r', 2),
                [b'\\', b't', ..] => (b'\t', 2),
                [b'\\', c @ (b'"' | b'\\'), ..] => (*c, 2),
                [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    (hex_digit(*high) << 4 | hex_digit(*low), 4)
                }
                [b'\\', ..] => {
                    return Err(self.error_at(
                        self.start + at,
                        "escapes are \\n \\r \\t \\\" \\\\ and \\x with two hex digits",
                    ));
                }
                [c, ..] => (*c, 1),
            };
            out.push(byte);
            at += length;
        }
    }

    /// Whether the token is this sign.
    pub fn at(&self, sign: &str) -> bool {
        matches!(self.token, Token::Sign(s) if s == sign)
    }

    /// Takes the sign when it is there.
    pub fn eat(&mut self, sign: &str) -> Result<bool, Error> {
        let found = self.at(sign);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    /// Takes the sign. `context` completes "expected `,` ".
    pub fn expect(&mut self, sign: &str, context: &str) -> Result<(), Error> {
        if self.eat(sign)? { Ok(()) } else { Err(self.expected(&format!("`{sign}` {context}"))) }
    }

    /// Takes the keyword when it is there.
    pub fn eat_word(&mut self, word: &str) -> Result<bool, Error> {
        let found = self.token == Token::Word(word);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    /// Takes a bare or quoted name.
    pub fn name(&mut self, what: &str) -> Result<String, Error> {
        let place = self.start;
        match self.token.clone() {
            Token::Word(word) => {
                self.next()?;
                Ok(word.to_owned())
            }
            Token::Text(bytes) => {
                self.next()?;
                String::from_utf8(bytes).map_err(|e| self.not_utf8(place, e.utf8_error()))
            }
            Token::Value(_) | Token::Number(_) | Token::Sign(_) | Token::End => Err(self.expected(what)),
        }
    }

    /// Takes an integer.
    pub fn integer<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, Error> {
        let Token::Number(number) = self.token else { return Err(self.expected(what)) };
        let value = number.parse().map_err(|_| self.error(format!("expected {what}, found {number}")))?;
        self.next()?;
        Ok(value)
    }

    /// Takes `item, item, .. close`.
    pub fn list<T>(
        &mut self,
        close: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        while !self.eat(close)? {
            if !items.is_empty() {
                self.expect(",", &format!("or `{close}`"))?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn not_utf8(&self, place: usize, error: Utf8Error) -> Error {
        self.error_at(place, format!("this string must be UTF-8: {error}"))
    }
}

fn number_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut end = 1;
    while let Some(c) = bytes.get(end) {
        let exponent_sign = matches!(c, b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E');
        if !(c.is_ascii_alphanumeric() || *c == b'.' || *c == b'_' || exponent_sign) {
            break;
        }
        end += 1;
    }
    end
}

pub(super) fn hex_digit(c: u8) -> u8 {
    match c {
        b'0'..=b'9' => c - b'0',
        b'a'..=b'f' => c - b'a' + 10,
        b'A'..=b'F' => c - b'A' + 10,
        _ => 0,
    }
}
