//! Scaled dot-product attention as one operator of the CPU session, which never stores the scores.
//!
//! Before: `%s = mat_mul %q, %k`, `%t = mul %s, 0.125`, `%m = add %t, %mask`, `%p = softmax %m`, `%y = mat_mul %p, %v`
//!
//! After:  `%a = opaque %q1, %k1, %v1, %mask {domain = ai.mqc, op_type = Attention}`, `%y = transpose %a`, where `%q1`,
//! `%k1`, `%v1` and `%a` have positions before heads, as the products around attention do: the transposes cancel.
//!
//! Heads of keys and values that several heads of queries share are not repeated.

use egg::Id;
use mqc_ir::{Attribute, DType, Dim, F32, Op, Type};

use super::layout::{is_reshape, transpose};
use super::{Needs, Rule, one, session_op};
use crate::view::same_dims;
use crate::{Expr, View, recognize};

/// See the module.
pub const ATTENTION: Rule = Rule {
    name: "attention",
    about: "softmax(scale q k^T + mask) v -> Attention(q, k, v, mask), keys and values not repeated",
    needs: Needs::Session,
    root: |op| *op == Op::MatMul,
    apply: |view, root| one(root, attention(view, root)),
};

/// Heads and positions change places.
const SWAP: [usize; 4] = [0, 2, 1, 3];

fn attention(view: View, root: Id) -> Option<Expr> {
    let found = recognize::attention(view, root)?;
    let operands = [found.queries, found.keys, found.values];
    let fits = |id: &Id| view.rank(*id) == Some(4) && view.dtype(*id) == Some(DType::F32);
    if !operands.iter().all(fits) || found.mask.is_some_and(|mask| view.dtype(mask) != Some(DType::F32)) {
        return None;
    }
    // All agree in the sequence and the heads: nothing broadcasts.
    let outer = |id: Id| view.shape(id).map(|dims| &dims[..2]);
    let (queries, keys) = (outer(found.queries)?, outer(found.keys)?);
    if !same_dims(queries, outer(root)?)
        || !same_dims(queries, keys)
        || !same_dims(queries, outer(found.values)?)
        || queries[1].size().is_none()
    {
        return None;
    }
    let [batch, heads, rows, size] = view.shape(root)? else { return None };
    let (rows_of, keys_of) = (view.shape(found.queries)?, view.shape(found.keys)?);
    let positions = [&keys_of[3], &view.shape(found.values)?[2]];
    let same = |a: &Dim, b: &Dim| a == b && *a != Dim::Unknown;
    if !same(&rows_of[2], rows) || !same(positions[0], positions[1]) || !same(&rows_of[3], &keys_of[2]) {
        return None;
    }
    let (keys, values) = match (repeated_keys(view, found.keys), repeated(view, found.values)) {
        (Some((keys, few)), Some((values, same))) if few == same => {
            (transpose(Expr::Class(keys), &SWAP), transpose(Expr::Class(values), &SWAP))
        }
        _ => (transpose(Expr::Class(found.keys), &[0, 3, 1, 2]), transpose(Expr::Class(found.values), &SWAP)),
    };
    let mut args = vec![transpose(Expr::Class(found.queries), &SWAP), keys, values];
    args.extend(found.mask.map(Expr::Class));
    let op = session_op("Attention", &[("scale", Attribute::Float(F32(found.scale as f32)))]);
    let shape = vec![batch.clone(), rows.clone(), heads.clone(), size.clone()];
    Some(transpose(Expr::Typed(op, Type::tensor(DType::F32, shape), args), &SWAP))
}

/// The keys before they were repeated, [batch, heads, positions, size], and how many heads they have; the class is their
/// transpose.
fn repeated_keys(view: View, id: Id) -> Option<(Id, u64)> {
    view.ops(id).find_map(|(op, args)| match op {
        Op::Transpose { perm: Some(perm) } if perm[..] == [0, 1, 3, 2] => repeated(view, *args.first()?),
        _ => None,
    })
}

/// What a class repeats head by head, and how many heads that has.
fn repeated(view: View, id: Id) -> Option<(Id, u64)> {
    let [batch, _, positions, size] = view.shape(id)? else { return None };
    let reshaped =
        view.ops(id).filter(|(op, _)| is_reshape(op)).filter_map(|(_, args)| args.first().copied());
    reshaped.into_iter().find_map(|many| {
        let [b, few, times, n, k] = view.shape(many)? else { return None };
        let (few, _) = few.size().zip(times.size())?;
        let same = |found: &[Dim; 3]| same_dims(found, &[batch.clone(), positions.clone(), size.clone()]);
        if !same(&[b.clone(), n.clone(), k.clone()]) {
            return None;
        }
        view.ops(many).find_map(|(op, args)| {
            let one = *args.first()?;
            let repeats = args.get(1).and_then(|repeats| view.ints(*repeats));
            match op {
                Op::Tile if matches!(repeats?[..], [1, 1, _, 1, 1]) => {}
                Op::Expand => {}
                _ => return None,
            }
            let [b, heads, single, n, k] = view.shape(one)? else { return None };
            if heads.size() != Some(few)
                || single.size() != Some(1)
                || !same(&[b.clone(), n.clone(), k.clone()])
            {
                return None;
            }
            view.ops(one).filter(|(op, _)| is_reshape(op)).find_map(|(_, args)| {
                let of = *args.first()?;
                let [b, heads, n, k] = view.shape(of)? else { return None };
                (heads.size() == Some(few) && same(&[b.clone(), n.clone(), k.clone()])).then_some((of, few))
            })
        })
    })
}
