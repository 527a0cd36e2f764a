//! If, Loop and Scan: types into their bodies and out of them.

use super::opaque::{int, ints};
use super::site::{Site, axis, tensor};
use crate::op::Opaque;
use crate::{DType, Dim, Graph, TensorType, Type};

/// What two types have in common.
fn join(a: &Type, b: &Type) -> Type {
    let (Type::Tensor(x), Type::Tensor(y)) = (a, b) else {
        return if a == b { a.clone() } else { Type::Unknown };
    };
    let dim = |(a, b): (&Dim, &Dim)| if a == b { a.clone() } else { Dim::Unknown };
    let shape = match (&x.shape, &y.shape) {
        (Some(x), Some(y)) if x.len() == y.len() => Some(x.iter().zip(y).map(dim).collect()),
        (Some(_) | None, _) => None,
    };
    tensor(x.dtype.filter(|d| y.dtype == Some(*d)), shape)
}

/// A type of which only the element type is kept.
fn any_shape(ty: &Type) -> Type {
    match ty {
        Type::Tensor(t) => tensor(t.dtype, None),
        Type::Sparse(_)
        | Type::Sequence(_)
        | Type::Optional(_)
        | Type::Map(..)
        | Type::Foreign { .. }
        | Type::Unknown => ty.clone(),
    }
}

fn results(graph: &Graph) -> Vec<Type> {
    graph.outputs().iter().map(|o| graph.ty(o.value).clone()).collect()
}

/// Whether the body of this name can run: the branch of an If that is known not to be taken cannot.
pub(super) fn is_live(site: &Site, op: &Opaque, attribute: &str) -> bool {
    let is_if = op.domain.is_empty() && op.op_type == "If";
    let taken = site.ints(0).filter(|_| is_if).and_then(|c| c.constants()?.first().map(|c| *c != 0));
    match taken {
        Some(true) => attribute == "then_branch",
        Some(false) => attribute == "else_branch",
        None => true,
    }
}

/// What both branches give, or the one that is known to be taken.
pub(super) fn if_outputs(site: &Site, op: &Opaque) -> Vec<Type> {
    let bodies = site.node.subgraphs.iter().filter(|s| is_live(site, op, &s.attribute));
    let branches: Vec<_> = bodies.map(|s| results(&s.graph)).collect();
    let Some((first, rest)) = branches.split_first() else {
        return vec![];
    };
    let merged = |i: usize| {
        rest.iter().fold(first[i].clone(), |ty, branch| join(&ty, branch.get(i).unwrap_or(&Type::Unknown)))
    };
    (0..first.len()).map(merged).collect()
}

/// Iteration number, condition, carried values: their shapes may change from one iteration to the next.
pub(super) fn loop_inputs(site: &Site, count: usize) -> Vec<Type> {
    let fixed = [Type::tensor(DType::I64, vec![]), Type::tensor(DType::Bool, vec![])];
    fixed.into_iter().chain((2..count.max(2)).map(|slot| any_shape(site.ty(slot)))).collect()
}

/// Carried values, then one value per iteration stacked.
pub(super) fn loop_outputs(site: &Site) -> Vec<Type> {
    let Some(body) = site.node.subgraphs.first() else {
        return vec![];
    };
    let carried = body.graph.inputs().len().saturating_sub(body.captures.len() + 2);
    let types = results(&body.graph);
    let output = |(i, ty): (usize, &Type)| {
        // With no iteration the initial value is the result.
        if i < carried { join(site.ty(i + 2), ty) } else { stacked(ty, &Dim::Unknown, 0) }
    };
    types.iter().skip(1).enumerate().map(output).collect()
}

fn scanned(op: &Opaque) -> usize {
    int(op, "num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

fn listed(op: &Opaque, name: &str, i: usize) -> i64 {
    ints(op, name).and_then(|list| list.get(i).copied()).unwrap_or(0)
}

/// State values, then one slice of each scanned operand.
pub(super) fn scan_inputs(site: &Site, op: &Opaque, count: usize) -> Vec<Type> {
    let states = count.saturating_sub(scanned(op));
    let input = |slot: usize| {
        if slot < states {
            return any_shape(site.ty(slot));
        }
        let Type::Tensor(TensorType { dtype, shape: Some(shape) }) = site.ty(slot) else {
            return any_shape(site.ty(slot));
        };
        let at = axis(listed(op, "scan_input_axes", slot - states), shape.len());
        tensor(*dtype, at.ok().map(|at| [&shape[..at], &shape[at + 1..]].concat()))
    };
    (0..count).map(input).collect()
}

/// State values, then one value per step stacked.
pub(super) fn scan_outputs(site: &Site, op: &Opaque) -> Vec<Type> {
    let Some(body) = site.node.subgraphs.first() else {
        return vec![];
    };
    let inputs = body.graph.inputs().len().saturating_sub(body.captures.len());
    let states = inputs.saturating_sub(scanned(op));
    let steps = site.ty(states).shape().and_then(|shape| {
        let at = axis(listed(op, "scan_input_axes", 0), shape.len()).ok()?;
        Some(shape[at].clone())
    });
    let steps = steps.filter(|_| states < inputs).unwrap_or(Dim::Unknown);
    let output = |(i, ty): (usize, &Type)| match i.checked_sub(states) {
        None => join(site.ty(i), ty),
        Some(i) => stacked(ty, &steps, listed(op, "scan_output_axes", i)),
    };
    results(&body.graph).iter().enumerate().map(output).collect()
}

/// Tensors of one type joined along a new axis.
fn stacked(ty: &Type, count: &Dim, at: i64) -> Type {
    let Type::Tensor(TensorType { dtype, shape }) = ty else {
        return Type::Unknown;
    };
    let shape = shape.as_ref().and_then(|shape| {
        let at = axis(at, shape.len() + 1).ok()?;
        Some([&shape[..at], std::slice::from_ref(count), &shape[at..]].concat())
    });
    tensor(*dtype, shape)
}
