//! Many elements combined to one, always in the same order.

use crate::Real;
use crate::lower::task::Combine;

/// The first value of a reduction.
pub(super) fn neutral<T: Real>(combine: Combine) -> T {
    match combine {
        Combine::Sum => T::ZERO,
        Combine::Prod => T::ONE,
        Combine::Max => T::of(f64::NEG_INFINITY),
        Combine::Min => T::of(f64::INFINITY),
    }
}

#[inline(always)]
pub(super) fn greater<T: Real>(a: T, b: T) -> T {
    if a > b || is_nan(a) { a } else { b }
}

#[inline(always)]
pub(super) fn lesser<T: Real>(a: T, b: T) -> T {
    if a < b || is_nan(a) { a } else { b }
}

#[inline(always)]
#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
pub(super) fn is_nan<T: Real>(a: T) -> bool {
    a != a
}

#[inline(always)]
pub(super) fn flag<T: Real>(b: bool) -> T {
    if b { T::ONE } else { T::ZERO }
}

#[inline(always)]
pub(super) fn pair<T: Real>(combine: Combine, a: T, b: T) -> T {
    match combine {
        Combine::Sum => a + b,
        Combine::Prod => a * b,
        Combine::Max => greater(a, b),
        Combine::Min => lesser(a, b),
    }
}

/// All elements combined, always in the same order.
#[inline(always)]
pub(super) fn combined<T: Real>(combine: Combine, values: &[T]) -> T {
    match combine {
        Combine::Sum => lanes(values, T::ZERO, |a, b| a + b),
        Combine::Prod => lanes(values, T::ONE, |a, b| a * b),
        Combine::Max => lanes(values, neutral(combine), greater),
        Combine::Min => lanes(values, neutral(combine), lesser),
    }
}

const LANES: usize = 32;

#[inline(always)]
fn lanes<T: Real>(values: &[T], first: T, f: impl Fn(T, T) -> T) -> T {
    let mut all = [first; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        into(&mut all, chunk, &f);
    }
    into(&mut all, rest, &f);
    folded(all, f)
}

/// The sum of products.
#[inline(always)]
pub(super) fn product<T: Real>(a: &[T], b: &[T]) -> T {
    let mut all = [T::ZERO; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        add_products(&mut all, a, b);
    }
    add_products(&mut all, a_rest, b_rest);
    folded(all, |a, b| a + b)
}

#[inline(always)]
fn folded<T: Real>(mut all: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            all[i] = f(all[i], all[i + width]);
        }
    }
    all[0]
}

#[inline(always)]
pub(super) fn add_products<T: Real>(to: &mut [T], a: &[T], b: &[T]) {
    for (to, (a, b)) in to.iter_mut().zip(a.iter().zip(b)) {
        *to += *a * *b;
    }
}

#[inline(always)]
pub(super) fn into<T: Real>(to: &mut [T], a: &[T], f: impl Fn(T, T) -> T) {
    for (to, a) in to.iter_mut().zip(a) {
        *to = f(*to, *a);
    }
}

/// Adds elements to one sum, and their products with others to another.
#[inline(always)]
pub(super) fn add_both<T: Real>(sum: &mut [T], product: &mut [T], a: &[T], b: &[T]) {
    for ((sum, product), (a, b)) in sum.iter_mut().zip(product).zip(a.iter().zip(b)) {
        *sum += *a;
        *product += *a * *b;
    }
}

/// The greatest and the least elements.
#[inline(always)]
pub(super) fn extremes<T: Real>(most: &mut [T], least: &mut [T], values: &[T]) {
    for ((most, least), value) in most.iter_mut().zip(least).zip(values) {
        *most = greater(*most, *value);
        *least = lesser(*least, *value);
    }
}
