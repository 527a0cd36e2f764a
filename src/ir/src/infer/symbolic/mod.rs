//! Sizes as polynomials over the symbols of a model, in one canonical form.
//!
//! Symbols are sizes, so they are never negative. What is not a polynomial (a rounded quotient, a minimum, a maximum)
//! is an atom. Everything is bounded: an operation whose result would be too large, or overflows, is `None`.

mod text;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Dim;

/// More terms than this and nothing is known.
const MAX_TERMS: usize = 16;
/// More atoms than this, nested ones included, and nothing is known.
const MAX_WEIGHT: usize = 48;
/// A derived size with a longer text is unknown.
const MAX_TEXT: usize = 512;

/// A factor that is not split further.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    Name(Arc<str>),
    Floor(Box<Expr>, Box<Expr>),
    Min(Box<Expr>, Box<Expr>),
    Max(Box<Expr>, Box<Expr>),
}

/// A product of powers of atoms, sorted by atom. None is the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Monomial(Vec<(Atom, u32)>);

/// A polynomial with integer coefficients: terms that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expr(BTreeMap<Monomial, i64>);

impl Monomial {
    fn degree(&self) -> u64 {
        self.0.iter().map(|(_, power)| u64::from(*power)).sum()
    }

    fn is_unit(&self) -> bool {
        self.0.is_empty()
    }

    fn mul(&self, other: &Monomial) -> Option<Monomial> {
        let mut powers: BTreeMap<&Atom, u32> = BTreeMap::new();
        for (atom, power) in self.0.iter().chain(&other.0) {
            let sum = powers.entry(atom).or_default();
            *sum = sum.checked_add(*power)?;
        }
        Some(Monomial(powers.into_iter().map(|(a, p)| (a.clone(), p)).collect()))
    }

    fn div(&self, other: &Monomial) -> Option<Monomial> {
        let mut powers: BTreeMap<&Atom, u32> = self.0.iter().map(|(a, p)| (a, *p)).collect();
        for (atom, power) in &other.0 {
            let left = powers.get_mut(atom)?;
            *left = left.checked_sub(*power)?;
        }
        Some(Monomial(powers.into_iter().filter(|(_, p)| *p > 0).map(|(a, p)| (a.clone(), p)).collect()))
    }

    fn bounds(&self) -> Bounds {
        let mut product = Bounds { low: Some(1), high: Some(1) };
        for (atom, power) in &self.0 {
            let bounds = atom.bounds();
            if self.degree() == 1 {
                return bounds;
            }
            if bounds.low.is_none_or(|low| low < 0) {
                return Bounds::default();
            }
            let times = |a: Option<i64>, b: Option<i64>| a?.checked_mul(b?.checked_pow(*power)?);
            product = Bounds { low: times(product.low, bounds.low), high: times(product.high, bounds.high) };
        }
        Bounds { low: product.low.or(Some(0)), high: product.high }
    }
}

// Graded lexicographic: an order that multiplication keeps, so that exact division ends.
impl Ord for Monomial {
    fn cmp(&self, other: &Self) -> Ordering {
        let factors = || {
            let pairs = self.0.iter().zip(&other.0);
            let mut orders = pairs.map(|((a, p), (b, q))| b.cmp(a).then(p.cmp(q)));
            orders.find(|o| o.is_ne()).unwrap_or(self.0.len().cmp(&other.0.len()))
        };
        self.degree().cmp(&other.degree()).then_with(factors)
    }
}

impl PartialOrd for Monomial {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The least and the greatest value for any sizes of the symbols, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The value is not below.
    pub low: Option<i64>,
    /// The value is not above.
    pub high: Option<i64>,
}

impl Atom {
    fn weight(&self) -> usize {
        match self {
            Atom::Name(_) => 1,
            Atom::Floor(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => 1 + a.weight() + b.weight(),
        }
    }

    fn bounds(&self) -> Bounds {
        let either = |a: Option<i64>, b: Option<i64>, pick: fn(i64, i64) -> i64| match (a, b) {
            (Some(a), Some(b)) => Some(pick(a, b)),
            (a, b) => a.or(b),
        };
        let both = |a: Option<i64>, b: Option<i64>, pick: fn(i64, i64) -> i64| Some(pick(a?, b?));
        match self {
            Atom::Name(_) => Bounds { low: Some(0), high: None },
            Atom::Floor(n, d) => {
                let n = n.bounds();
                match d.constant() {
                    Some(d) if d > 0 => {
                        Bounds { low: n.low.map(|v| v.div_euclid(d)), high: n.high.map(|v| v.div_euclid(d)) }
                    }
                    _ if n.low.is_some_and(|v| v >= 0) && d.is_non_negative() => {
                        Bounds { low: Some(0), high: n.high }
                    }
                    _ => Bounds::default(),
                }
            }
            Atom::Min(a, b) => {
                let (a, b) = (a.bounds(), b.bounds());
                Bounds { low: both(a.low, b.low, i64::min), high: either(a.high, b.high, i64::min) }
            }
            Atom::Max(a, b) => {
                let (a, b) = (a.bounds(), b.bounds());
                Bounds { low: either(a.low, b.low, i64::max), high: both(a.high, b.high, i64::max) }
            }
        }
    }

    fn evaluate(&self, size: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        match self {
            Atom::Name(name) => size(name),
            Atom::Floor(n, d) => floor(n.evaluate(size)?, d.evaluate(size)?),
            Atom::Min(a, b) => Some(a.evaluate(size)?.min(b.evaluate(size)?)),
            Atom::Max(a, b) => Some(a.evaluate(size)?.max(b.evaluate(size)?)),
        }
    }
}

fn floor(n: i64, d: i64) -> Option<i64> {
    if d > 0 { n.checked_div_euclid(d) } else { n.checked_neg()?.checked_div_euclid(d.checked_neg()?) }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl From<i64> for Expr {
    fn from(value: i64) -> Expr {
        Expr(if value == 0 { BTreeMap::new() } else { BTreeMap::from([(Monomial::default(), value)]) })
    }
}

impl Expr {
    /// The size of a dimension; `None` when it is unknown. A text that is the canonical form of an expression is that
    /// expression, any other text is the name of a symbol.
    pub fn of(dim: &Dim) -> Option<Expr> {
        match dim {
            Dim::Size(n) => i64::try_from(*n).ok().map(Expr::from),
            Dim::Symbol(text) => {
                let parsed = text::parse(text).filter(|e| e.constant().is_none() && *e.text() == **text);
                Some(parsed.unwrap_or_else(|| Expr::atom(Atom::Name(text.clone()))))
            }
            Dim::Unknown => None,
        }
    }

    /// The dimension of this size. Negative constants, which are no sizes, and very long texts are unknown.
    pub fn dim(&self) -> Dim {
        match self.constant() {
            Some(value) => u64::try_from(value).map_or(Dim::Unknown, Dim::Size),
            None => match self.single_name() {
                Some(name) => Dim::Symbol(name.clone()),
                None => Some(self.to_string())
                    .filter(|t| t.len() <= MAX_TEXT)
                    .map_or(Dim::Unknown, |t| Dim::Symbol(t.into())),
            },
        }
    }

    fn text(&self) -> Arc<str> {
        self.single_name().cloned().unwrap_or_else(|| self.to_string().into())
    }

    fn single_name(&self) -> Option<&Arc<str>> {
        match self.single_atom()? {
            Atom::Name(name) => Some(name),
            Atom::Floor(..) | Atom::Min(..) | Atom::Max(..) => None,
        }
    }

    fn single_atom(&self) -> Option<&Atom> {
        let (monomial, coefficient) = self.0.first_key_value().filter(|_| self.0.len() == 1)?;
        match monomial.0.as_slice() {
            [(atom, 1)] if *coefficient == 1 => Some(atom),
            _ => None,
        }
    }

    fn atom(atom: Atom) -> Expr {
        Expr(BTreeMap::from([(Monomial(vec![(atom, 1)]), 1)]))
    }

    /// The value, when it does not depend on symbols.
    pub fn constant(&self) -> Option<i64> {
        match self.0.first_key_value() {
            None => Some(0),
            Some((monomial, value)) => (self.0.len() == 1 && monomial.is_unit()).then_some(*value),
        }
    }

    /// The value for given sizes of the symbols; `None` when one is missing, or on overflow or division by zero.
    pub fn evaluate(&self, size: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut sum = 0i64;
        for (monomial, coefficient) in &self.0 {
            let mut product = *coefficient;
            for (atom, power) in &monomial.0 {
                product = product.checked_mul(atom.evaluate(size)?.checked_pow(*power)?)?;
            }
            sum = sum.checked_add(product)?;
        }
        Some(sum)
    }

    /// Between which values this lies.
    pub fn bounds(&self) -> Bounds {
        let mut sum = Bounds { low: Some(0), high: Some(0) };
        for (monomial, coefficient) in &self.0 {
            let b = monomial.bounds();
            let (low, high) = if *coefficient > 0 { (b.low, b.high) } else { (b.high, b.low) };
            let add =
                |sum: Option<i64>, bound: Option<i64>| sum?.checked_add(bound?.checked_mul(*coefficient)?);
            sum = Bounds { low: add(sum.low, low), high: add(sum.high, high) };
        }
        sum
    }

    /// Whether this is at least zero, whatever the symbols are.
    pub fn is_non_negative(&self) -> bool {
        self.bounds().low.is_some_and(|low| low >= 0)
    }

    /// Whether this is the lesser of `other` and something that is at least 1.
    pub fn is_limited(&self, other: &Expr) -> bool {
        match self.single_atom() {
            Some(Atom::Min(a, b)) => {
                let at_least_one = |e: &Expr| e.bounds().low.is_some_and(|low| low >= 1);
                (**a == *other && at_least_one(b)) || (**b == *other && at_least_one(a))
            }
            Some(Atom::Name(_) | Atom::Floor(..) | Atom::Max(..)) | None => false,
        }
    }

    fn weight(&self) -> usize {
        self.0.keys().flat_map(|m| &m.0).map(|(atom, _)| atom.weight()).sum()
    }

    fn bounded(self) -> Option<Expr> {
        (self.0.len() <= MAX_TERMS && self.weight() <= MAX_WEIGHT).then_some(self)
    }

    fn add_term(&mut self, monomial: Monomial, coefficient: i64) -> Option<()> {
        let sum = self.0.get(&monomial).copied().unwrap_or(0).checked_add(coefficient)?;
        if sum == 0 {
            self.0.remove(&monomial);
        } else {
            self.0.insert(monomial, sum);
        }
        Some(())
    }

    /// The sum.
    pub fn add(&self, other: &Expr) -> Option<Expr> {
        let mut sum = self.clone();
        for (monomial, coefficient) in &other.0 {
            sum.add_term(monomial.clone(), *coefficient)?;
        }
        sum.bounded()
    }

    /// The difference.
    pub fn sub(&self, other: &Expr) -> Option<Expr> {
        self.add(&other.mul(&Expr::from(-1))?)
    }

    /// The product.
    pub fn mul(&self, other: &Expr) -> Option<Expr> {
        let mut product = Expr::default();
        for (a, x) in &self.0 {
            for (b, y) in &other.0 {
                product.add_term(a.mul(b)?, x.checked_mul(*y)?)?;
            }
        }
        product.bounded()
    }

    /// The quotient, when the division leaves nothing. The divisor is taken not to be zero.
    pub fn div_exact(&self, divisor: &Expr) -> Option<Expr> {
        let (lead, by) = divisor.0.last_key_value()?;
        let (mut rest, mut quotient) = (self.clone(), Expr::default());
        while let Some((monomial, coefficient)) = rest.0.last_key_value() {
            if coefficient.checked_rem(*by)? != 0 || quotient.0.len() == MAX_TERMS {
                return None;
            }
            let term = Expr(BTreeMap::from([(monomial.div(lead)?, coefficient.checked_div(*by)?)]));
            rest = rest.sub(&divisor.mul(&term)?)?;
            quotient = quotient.add(&term)?;
        }
        Some(quotient)
    }

    /// The quotient rounded down. The divisor is taken not to be zero; a constant one must be positive.
    pub fn floor_div(&self, divisor: &Expr) -> Option<Expr> {
        if let Some(quotient) = self.div_exact(divisor) {
            return Some(quotient);
        }
        match divisor.constant() {
            Some(divisor) => self.floor_div_constant(divisor),
            None => Expr::atom(Atom::Floor(Box::new(self.clone()), Box::new(divisor.clone()))).bounded(),
        }
    }

    // floor((d q + r) / d) = q + floor(r / d); floor((g a + b) / (g d)) = floor((a + floor(b / g)) / d);
    // floor((floor(a / c) + b) / d) = floor((a + c b) / (c d)).
    fn floor_div_constant(&self, divisor: i64) -> Option<Expr> {
        if divisor <= 0 {
            return None;
        }
        let (mut whole, mut rest, mut offset) = (Expr::default(), Expr::default(), 0);
        let mut common = divisor;
        for (monomial, coefficient) in &self.0 {
            whole.add_term_if(monomial, coefficient.div_euclid(divisor))?;
            let left = coefficient.rem_euclid(divisor);
            if monomial.is_unit() {
                offset = left;
            } else {
                rest.add_term_if(monomial, left)?;
                common = gcd(common, left);
            }
        }
        if rest == Expr::default() {
            return whole.bounded();
        }
        let divisor = divisor / common;
        rest.0.values_mut().for_each(|c| *c /= common);
        let offset = Expr::from(offset / common);
        if let Some(Atom::Floor(inner, by)) = rest.single_atom()
            && let Some(by) = by.constant()
        {
            let numerator = inner.add(&offset.mul(&Expr::from(by))?)?;
            return whole.add(&numerator.floor_div(&Expr::from(by.checked_mul(divisor)?))?);
        }
        let numerator = rest.add(&offset)?;
        if divisor == 1 {
            return whole.add(&numerator);
        }
        whole.add(&Expr::atom(Atom::Floor(Box::new(numerator), Box::new(Expr::from(divisor)))))
    }

    fn add_term_if(&mut self, monomial: &Monomial, coefficient: i64) -> Option<()> {
        if coefficient == 0 { Some(()) } else { self.add_term(monomial.clone(), coefficient) }
    }

    /// The quotient rounded up, as [`Expr::floor_div`].
    pub fn ceil_div(&self, divisor: &Expr) -> Option<Expr> {
        self.add(divisor)?.sub(&Expr::from(1))?.floor_div(divisor)
    }

    /// The lesser.
    pub fn lesser(&self, other: &Expr) -> Option<Expr> {
        let Bounds { low, high } = self.sub(other)?.bounds();
        if high.is_some_and(|v| v <= 0) {
            return Some(self.clone());
        }
        if low.is_some_and(|v| v >= 0) {
            return Some(other.clone());
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        Expr::atom(Atom::Min(Box::new(a.clone()), Box::new(b.clone()))).bounded()
    }

    /// The greater.
    pub fn greater(&self, other: &Expr) -> Option<Expr> {
        let Bounds { low, high } = self.sub(other)?.bounds();
        if low.is_some_and(|v| v >= 0) {
            return Some(self.clone());
        }
        if high.is_some_and(|v| v <= 0) {
            return Some(other.clone());
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        Expr::atom(Atom::Max(Box::new(a.clone()), Box::new(b.clone()))).bounded()
    }
}

/// The product of sizes; `None` when one is unknown or the product too large.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Option<Expr> {
    dims.into_iter().try_fold(Expr::from(1), |p, d| p.mul(&Expr::of(d)?))
}
