//! The canonical text of expressions: `2*batch*seq - floor((seq + 1) / 2)`. Names that are no identifiers are quoted.

use std::fmt;

use super::{Atom, Expr, MAX_TEXT};

/// Nesting that the parser follows.
const MAX_DEPTH: usize = 16;

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (i, (monomial, coefficient)) in self.0.iter().rev().enumerate() {
            f.write_str(match (i, *coefficient < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            })?;
            let mut factors = Vec::with_capacity(monomial.0.len() + 1);
            if coefficient.unsigned_abs() != 1 || monomial.is_unit() {
                factors.push(coefficient.unsigned_abs().to_string());
            }
            for (atom, power) in &monomial.0 {
                factors.push(if *power == 1 { atom.to_string() } else { format!("{atom}^{power}") });
            }
            f.write_str(&factors.join("*"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Name(name) if is_identifier(name) => f.write_str(name),
            Atom::Name(name) => write!(f, "\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")),
            Atom::Floor(n, d) => write!(f, "floor({} / {})", grouped(n), grouped(d)),
            Atom::Min(a, b) => write!(f, "min({a}, {b})"),
            Atom::Max(a, b) => write!(f, "max({a}, {b})"),
        }
    }
}

fn grouped(expr: &Expr) -> String {
    if expr.0.len() > 1 { format!("({expr})") } else { expr.to_string() }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// Reads what [`Expr`] prints; `None` for anything else.
pub(super) fn parse(text: &str) -> Option<Expr> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let mut parser = Parser { rest: text, depth: 0 };
    let expr = parser.sum()?;
    parser.rest.is_empty().then_some(expr)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take(&mut self, accepts: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !accepts(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn sum(&mut self) -> Option<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let negative = self.eat("-");
        let first = self.term()?;
        let mut sum = if negative { Expr::default().sub(&first)? } else { first };
        loop {
            if self.eat(" + ") {
                sum = sum.add(&self.term()?)?;
            } else if self.eat(" - ") {
                sum = sum.sub(&self.term()?)?;
            } else {
                self.depth -= 1;
                return Some(sum);
            }
        }
    }

    fn term(&mut self) -> Option<Expr> {
        let mut product = self.factor()?;
        while self.eat("*") {
            product = product.mul(&self.factor()?)?;
        }
        Some(product)
    }

    fn factor(&mut self) -> Option<Expr> {
        let digits = self.take(|c| c.is_ascii_digit());
        if !digits.is_empty() {
            return digits.parse().ok().map(|n: i64| Expr::from(n));
        }
        let base = if self.eat("\"") { self.quoted()? } else { self.named()? };
        if !self.eat("^") {
            return Some(base);
        }
        let power: usize = self.take(|c| c.is_ascii_digit()).parse().ok().filter(|p| *p <= MAX_DEPTH)?;
        (0..power).try_fold(Expr::from(1), |product, _| product.mul(&base))
    }

    fn quoted(&mut self) -> Option<Expr> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(Expr::atom(Atom::Name(name.into())));
                }
                '\\' => name.push(chars.next()?.1),
                c => name.push(c),
            }
        }
        None
    }

    fn named(&mut self) -> Option<Expr> {
        let name = self.take(is_name_char);
        if !self.eat("(") {
            return is_identifier(name).then(|| Expr::atom(Atom::Name(name.into())));
        }
        let a = self.argument()?;
        let result = match name {
            "floor" if self.eat(" / ") => a.floor_div(&self.argument()?),
            "min" if self.eat(", ") => a.lesser(&self.argument()?),
            "max" if self.eat(", ") => a.greater(&self.argument()?),
            _ => None,
        };
        result.filter(|_| self.eat(")"))
    }

    fn argument(&mut self) -> Option<Expr> {
        if !self.eat("(") {
            return self.sum();
        }
        self.sum().filter(|_| self.eat(")"))
    }
}
