//! Several products of one value with constant weights become one product, split afterwards.
//!
//! Before: `%q = mat_mul %x, %wq`, `%k = mat_mul %x, %wk`
//!
//! After:  `%w = concat %wq, %wk {axis = 1}`, `%qk = mat_mul %x, %w`, `%q, %k = split %qk, [8, 4] {axis = -1}`
//!
//! Biases of all of them are joined as well.

use egg::Id;
use mqc_ir::Op;
use mqc_ir::op::{Binary, Nested};

use super::{Needs, Rule};
use crate::view::Args;
use crate::{Expr, View};

/// See the module.
pub const MERGE_PRODUCTS: Rule = Rule {
    name: "merge-products",
    about: "x a, x b, .. with constant weights -> split(x [a b ..])",
    needs: Needs::Opset(13),
    root: |op| *op == Op::MatMul,
    apply: merge_products,
};

/// See the module.
pub const MERGE_NESTED_PRODUCTS: Rule = Rule {
    name: "merge-nested-products",
    about: "nested products of one value, read at one width -> split(one nested product)",
    needs: Needs::Opset(13),
    root: |op| matches!(op, Op::NestedMatMul(_)),
    apply: merge_nested,
};

/// A product that can be merged.
struct Member<'a> {
    class: Id,
    op: &'a Op,
    args: Args,
    /// Columns of the result.
    size: i64,
}

fn merge_products(view: View, root: Id) -> Vec<(Id, Expr)> {
    let joined = |x: Id, members: &[Member]| {
        let weights: Vec<Id> = members.iter().filter_map(|m| m.args.get(1).copied()).collect();
        Expr::Op(Op::MatMul, vec![Expr::Class(x), concat(&weights, 1)])
    };
    groups(view, root, is_product)
        .into_iter()
        .flat_map(|(x, members)| split(view, &members, joined(x, &members)))
        .collect()
}

/// A product with a constant matrix that was not joined.
fn is_product(view: View, op: &Op, args: &Args) -> bool {
    match args.as_slice() {
        &[x, w] => {
            *op == Op::MatMul
                && view.is_constant(w)
                && !view.is_constant(x)
                && view.rank(w) == Some(2)
                && !is_joined(view, w)
        }
        _ => false,
    }
}

fn merge_nested(view: View, root: Id) -> Vec<(Id, Expr)> {
    let alike = |m: &Member| reading(view, m).map(|(nested, width)| (nested, width, m.args.len()));
    let mut found = vec![];
    for (x, all) in groups(view, root, is_nested) {
        // Those that are read like the root.
        let Some(wanted) = all.iter().find(|m| m.class == root).and_then(alike) else { continue };
        let members: Vec<Member> = all.into_iter().filter(|m| alike(m).as_ref() == Some(&wanted)).collect();
        if members.len() >= 2 {
            let joined = join_nested(x, &members, &wanted.0);
            found.extend(split(view, &members, joined));
        }
    }
    found
}

/// A nested product of constant planes that were not joined.
fn is_nested(view: View, op: &Op, args: &Args) -> bool {
    matches!(op, Op::NestedMatMul(_))
        && args.iter().skip(1).all(|id| view.is_constant(*id))
        && args.get(4).is_some_and(|plane| !is_joined(view, *plane))
}

fn join_nested(x: Id, members: &[Member], nested: &Nested) -> Expr {
    let layers: Vec<&str> =
        members.iter().filter_map(|m| nested_of(m.op)).map(|n| n.layer.as_str()).collect();
    let op = Op::NestedMatMul(Nested { layer: layers.join("+"), ..nested.clone() });
    let column = |slot: usize| members.iter().filter_map(|m| m.args.get(slot).copied()).collect::<Vec<_>>();
    let rows = if nested.map_widths.is_empty() { 0 } else { 1 };
    let width = column(1).first().map_or(Expr::Absent, |width| Expr::Class(*width));
    let mut args = vec![Expr::Class(x), width, concat(&column(2), rows), concat(&column(3), rows)];
    let operands = members.first().map_or(0, |m| m.args.len());
    args.extend((4..operands).map(|slot| concat(&column(slot), 0)));
    Expr::Op(op, args)
}

/// How the weight of a nested product is read, its name aside, and at which width.
fn reading(view: View, member: &Member) -> Option<(Nested, Vec<i64>)> {
    let nested = nested_of(member.op)?;
    Some((Nested { layer: String::new(), ..nested.clone() }, view.ints(*member.args.get(1)?)?))
}

fn nested_of(op: &Op) -> Option<&Nested> {
    match op {
        Op::NestedMatMul(nested) => Some(nested),
        _ => None,
    }
}

/// For every value that the root multiplies, the products of it, in the order of their weights, where there are two.
fn groups<'a>(view: View<'a>, root: Id, fits: fn(View, &Op, &Args) -> bool) -> Vec<(Id, Vec<Member<'a>>)> {
    let products = |class: Id| {
        let size = view.last(class).and_then(|n| i64::try_from(n).ok());
        let products = view.ops(class).filter(move |(op, args)| fits(view, op, args));
        products.filter_map(move |(op, args)| Some(Member { class, op, args, size: size? }))
    };
    let mut values: Vec<Id> = products(root).filter_map(|m| m.args.first().copied()).collect();
    values.dedup();
    let of = |x: Id| {
        let users = view.users(x).into_iter();
        let mut members: Vec<Member> =
            users.filter_map(|user| products(user).find(|m| m.args.first() == Some(&x))).collect();
        members.sort_by(|a, b| a.args.cmp(&b.args));
        (x, members)
    };
    values.into_iter().map(of).filter(|(_, members)| members.len() >= 2).collect()
}

/// Whether a weight is one that was joined.
fn is_joined(view: View, id: Id) -> bool {
    view.ops(id).any(|(op, _)| matches!(op, Op::Concat { .. }))
}

fn concat(classes: &[Id], axis: i64) -> Expr {
    Expr::Op(Op::Concat { axis }, classes.iter().copied().map(Expr::Class).collect())
}

/// Every product is a part of the joined one; so are the products with their biases, where all have one.
fn split(view: View, members: &[Member], joined: Expr) -> Vec<(Id, Expr)> {
    let sizes: Vec<i64> = members.iter().map(|m| m.size).collect();
    let parts = |of: Expr, classes: Vec<Id>| {
        let args = vec![of, Expr::ints(&sizes)];
        let op = Op::Split { axis: -1, sizes: None, num_outputs: None };
        let part = move |(slot, id)| (id, Expr::Output(op.clone(), sizes.len(), args.clone(), slot));
        classes.into_iter().enumerate().map(part).collect::<Vec<_>>()
    };
    let biased: Option<Vec<(Id, Id)>> = members.iter().map(|m| biased(view, m)).collect();
    let mut found = parts.clone()(joined.clone(), members.iter().map(|m| m.class).collect());
    if let Some(biased) = biased {
        let (classes, biases): (Vec<Id>, Vec<Id>) = biased.into_iter().unzip();
        let sum = Expr::Op(Op::Binary(Binary::Add), vec![joined, concat(&biases, 0)]);
        found.extend(parts(sum, classes));
    }
    found
}

/// The sum of a product and a constant vector.
fn biased(view: View, member: &Member) -> Option<(Id, Id)> {
    view.users(member.class).into_iter().find_map(|user| {
        view.ops(user).find_map(|(op, args)| match (op, args.as_slice()) {
            (Op::Binary(Binary::Add), &[a, b]) => {
                let bias = if a == member.class { b } else { a };
                let fits = view.is_constant(bias)
                    && view.rank(bias) == Some(1)
                    && view.last(bias).and_then(|n| i64::try_from(n).ok()) == Some(member.size);
                fits.then_some((user, bias))
            }
            _ => None,
        })
    })
}
