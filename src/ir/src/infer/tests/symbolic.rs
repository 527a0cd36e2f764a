//! Expressions against plain integer arithmetic.

use proptest::prelude::*;

use crate::Dim;
use crate::infer::symbolic::Expr;

const NAMES: [&str; 4] = ["a", "b", "seq len", "2*a"];

fn symbol(name: &str) -> Expr {
    Expr::of(&Dim::Symbol(name.into())).unwrap()
}

/// An expression and its value for the sizes.
fn expressions() -> impl Strategy<Value = (Expr, i64, [i64; 3])> {
    let leaf = |sizes: [i64; 3]| {
        prop_oneof![
            (0..3usize).prop_map(move |i| (symbol(NAMES[i]), sizes[i])),
            (-9i64..9).prop_map(|c| (Expr::from(c), c)),
        ]
    };
    prop::array::uniform3(0i64..30).prop_flat_map(move |sizes| {
        let tree = leaf(sizes).prop_recursive(4, 12, 2, |inner| {
            (inner.clone(), inner, 0..6usize, 1i64..6).prop_map(|((x, n), (y, m), kind, d)| {
                let divisor = Expr::from(d);
                let (expr, value) = match kind {
                    0 => (x.add(&y), n + m),
                    1 => (x.sub(&y), n - m),
                    2 => (x.mul(&y), n * m),
                    3 => (x.floor_div(&divisor), n.div_euclid(d)),
                    4 => (x.lesser(&y), n.min(m)),
                    _ => (x.greater(&y), n.max(m)),
                };
                expr.map_or((x, n), |e| (e, value))
            })
        });
        tree.prop_map(move |(e, v)| (e, v, sizes))
    })
}

fn at(sizes: [i64; 3]) -> impl Fn(&str) -> Option<i64> {
    move |name| NAMES.iter().position(|n| *n == name).and_then(|i| sizes.get(i).copied())
}

proptest! {
    #[test]
    fn arithmetic_is_that_of_integers((expr, value, sizes) in expressions()) {
        prop_assert_eq!(expr.evaluate(&at(sizes)), Some(value), "{}", expr);
        let bounds = expr.bounds();
        prop_assert!(bounds.low.is_none_or(|low| low <= value), "{} {:?}", expr, bounds);
        prop_assert!(bounds.high.is_none_or(|high| high >= value), "{} {:?}", expr, bounds);
    }

    #[test]
    fn a_text_is_read_as_what_was_printed((expr, _, _) in expressions()) {
        if let Dim::Symbol(text) = expr.dim() {
            prop_assert_eq!(Expr::of(&Dim::Symbol(text)), Some(expr));
        }
    }

    #[test]
    fn any_text_is_a_symbol(text in "(\\PC|[a-c0-9()\"*+ -]){0,40}") {
        let dim = Dim::Symbol(text.as_str().into());
        prop_assert_eq!(Expr::of(&dim).unwrap().dim(), dim);
    }

    #[test]
    fn products_divide_exactly((x, _, _) in expressions(), (y, _, _) in expressions()) {
        if let Some(product) = x.mul(&y).filter(|_| y.constant() != Some(0)) {
            prop_assert_eq!(product.div_exact(&y), Some(x));
        }
    }
}

#[test]
fn texts_are_canonical() {
    let (a, b) = (symbol("b"), symbol("seq len"));
    let sum = a.add(&b).unwrap().mul(&a.sub(&b).unwrap()).unwrap().add(&Expr::from(-3)).unwrap();
    assert_eq!(sum.to_string(), "b^2 - \"seq len\"^2 - 3");
    let other = Expr::from(-3).sub(&b.mul(&b).unwrap()).unwrap().add(&a.mul(&a).unwrap()).unwrap();
    assert_eq!(sum, other);
}

#[test]
fn rounded_quotients_nest_into_one() {
    let mut size = symbol("h");
    for _ in 0..5 {
        size = size.ceil_div(&Expr::from(2)).unwrap();
    }
    assert_eq!(size.to_string(), "floor((h + 31) / 32)");
}

#[test]
fn a_text_that_looks_like_a_number_or_a_sum_is_no_number() {
    let five = symbol("5");
    assert_eq!(five.constant(), None);
    assert_eq!(five.add(&Expr::from(1)).unwrap().to_string(), "\"5\" + 1");
    // Not canonical, so it is a name.
    assert_eq!(symbol("a+b").mul(&Expr::from(2)).unwrap().to_string(), "2*\"a+b\"");
    assert_eq!(symbol("b + a").dim(), Dim::Symbol("b + a".into()));
}

#[test]
fn expressions_stay_small() {
    let mut sum = Expr::from(1);
    let mut grown = Some(sum.clone());
    for i in 0..40 {
        sum = symbol(&format!("s{i}"));
        grown = grown.and_then(|g| g.add(&sum));
    }
    assert_eq!(grown, None);
    let mut deep = Some(symbol("x"));
    for _ in 0..200 {
        deep = deep.and_then(|d| d.lesser(&symbol("y"))).and_then(|d| d.mul(&symbol("z")));
    }
    assert_eq!(deep, None);
    assert_eq!(Expr::from(i64::MAX).add(&Expr::from(1)), None);
    assert_eq!(Expr::from(i64::MIN).floor_div(&Expr::from(-1)), None);
    assert_eq!(symbol("x").floor_div(&Expr::from(0)), None);
}
