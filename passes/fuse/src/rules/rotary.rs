//! Rotary embedding as one operator of the CPU session.
//!
//! Before: `%a, %b = halves of %x`, `%r = concat (neg %b), %a`, `%y = add (mul %x, %cos), (mul %r, %sin)`
//!
//! After:  `%x1 = transpose %x`, `%y1 = opaque %x1, %cos, %sin {domain = ai.mqc, op_type = Rotary}`, `%y = transpose %y1`,
//! where `%x1` and `%y1` have positions before heads: the transposes cancel with those around it.

use egg::Id;
use mqc_ir::op::Binary;
use mqc_ir::{DType, Dim, Op, Type};

use super::layout::transpose;
use super::{Needs, Rule, one, session_op};
use crate::{Expr, View, recognize};

/// See the module.
pub const ROTARY: Rule = Rule {
    name: "rotary",
    about: "x cos + concat(-x2, x1) sin -> Rotary(x, cos, sin), for cos and sin that all heads share",
    needs: Needs::Session,
    root: |op| *op == Op::Binary(Binary::Add),
    apply: |view, root| one(root, rotary(view, root)),
};

fn rotary(view: View, root: Id) -> Option<Expr> {
    let found = recognize::rotary(view, root)?;
    let [batch, heads, positions, size] = view.shape(root)? else { return None };
    let is_f32 = [found.x, found.cos, found.sin].iter().all(|id| view.dtype(*id) == Some(DType::F32));
    if !is_f32 || !view.same_shape(found.x, root) || size.size().is_none_or(|size| size % 2 != 0) {
        return None;
    }
    // One angle for every position, or one for every position of every sequence.
    let fits = |id: Id| {
        let [outer @ .., n, k] = view.shape(id)? else { return None };
        let alone = |dim: &Dim| dim.size() == Some(1);
        let outer = match outer {
            [] => true,
            [one] => alone(one),
            [b, one] => alone(one) && (alone(b) || b == batch),
            _ => false,
        };
        (outer && n == positions && *n != Dim::Unknown && k == size).then_some(())
    };
    fits(found.cos)?;
    fits(found.sin)?;
    let shape = vec![batch.clone(), positions.clone(), heads.clone(), size.clone()];
    let swap = [0, 2, 1, 3];
    let args = vec![transpose(Expr::Class(found.x), &swap), Expr::Class(found.cos), Expr::Class(found.sin)];
    let op = session_op("Rotary", &[]);
    Some(transpose(Expr::Typed(op, Type::tensor(DType::F32, shape), args), &swap))
}
