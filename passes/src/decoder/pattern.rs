//! Recognizing attention over past and new keys and values in the spellings of exporters.
//!
//! `softmax(scale * q . transpose(K) + mask) . V` with `K = Concat(past key, new key)` on axis 2 and V alike. The
//! scale is any number of multiplications or divisions by a scalar, on the scores, on q or on K. Heads that several
//! queries share are repeated by Unsqueeze, Tile or Expand, and Reshape, or there is one for all.

use std::collections::BTreeMap;

use mqc_ir::op::Binary;
use mqc_ir::{Dim, Graph, NodeId, Op, Type, Value};

/// Attention of one layer.
#[derive(Debug, PartialEq)]
pub(super) struct Attention {
    /// The queries, `[batch, heads, positions, key size]`.
    pub queries: Value,
    /// Added to the scores.
    pub mask: Option<Value>,
    /// Factor of the scores.
    pub scale: f32,
    pub keys: Cached,
    pub values: Cached,
    /// What the node computes.
    pub result: Value,
}

/// Keys or values.
#[derive(Debug, PartialEq)]
pub(super) struct Cached {
    /// The input with those of the positions so far, `[batch, heads, past, size]`.
    pub past: Value,
    /// Those of the new positions.
    pub new: Value,
    /// Both, a result of the graph.
    pub present: Value,
    pub heads: u64,
    pub size: u64,
}

/// The scores before the softmax.
struct Scores {
    queries: Value,
    keys: Value,
    scale: f32,
    mask: Option<Value>,
}

/// Integers that are known, see [`mqc_ir::infer::known_integers`].
pub(super) type Known = BTreeMap<Value, Vec<i64>>;

/// The attention whose softmax is the node.
pub(super) fn attention(graph: &Graph, softmax: NodeId, known: &Known) -> Option<Attention> {
    let Op::Softmax { axis: -1 | 3, .. } = graph.node(softmax)?.op else { return None };
    let (product, slot) = only_user(graph, Value { node: softmax, slot: 0 })?;
    if slot != 0 || graph.node(product)?.op != Op::MatMul {
        return None;
    }
    let scores = scores(graph, graph.operand(softmax, 0)?)?;
    let Some([_, heads, _, _]) = graph.ty(scores.queries).shape() else { return None };
    let heads = heads.size()?;
    let keys = cached(graph, scores.keys, heads, known)?;
    let values = cached(graph, graph.operand(product, 1)?, heads, known)?;
    let result = Value { node: product, slot: 0 };
    (keys.heads == values.heads && keys.past != values.past).then_some(Attention {
        queries: scores.queries,
        mask: scores.mask,
        scale: scores.scale,
        keys,
        values,
        result,
    })
}

fn scores(graph: &Graph, value: Value) -> Option<Scores> {
    only_user(graph, value)?;
    match &graph.node(value.node)?.op {
        Op::MatMul => {
            let (queries, query_scale) = unscaled(graph, graph.operand(value.node, 0)?);
            let (keys, outer_scale) = unscaled(graph, graph.operand(value.node, 1)?);
            let Op::Transpose { perm: Some(perm) } = &graph.node(keys.node)?.op else { return None };
            only_user(graph, keys)?;
            let (keys, inner_scale) = unscaled(graph, graph.operand(keys.node, 0)?);
            let scale = query_scale * outer_scale * inner_scale;
            (perm[..] == [0, 1, 3, 2]).then_some(Scores { queries, keys, scale, mask: None })
        }
        Op::Binary(Binary::Mul | Binary::Div) => {
            let (inner, scale) = factor(graph, value)?;
            let inner = scores(graph, inner)?;
            inner.mask.is_none().then_some(Scores { scale: inner.scale * scale, ..inner })
        }
        Op::Binary(Binary::Add) => {
            let (a, b) = (graph.operand(value.node, 0)?, graph.operand(value.node, 1)?);
            let (inner, mask) = match scores(graph, a) {
                Some(inner) => (inner, b),
                None => (scores(graph, b)?, a),
            };
            inner.mask.is_none().then_some(Scores { mask: Some(mask), ..inner })
        }
        _ => None,
    }
}

/// The value without multiplications and divisions by scalars, and their product.
fn unscaled(graph: &Graph, mut value: Value) -> (Value, f32) {
    let mut scale = 1.0;
    while let Some((inner, factor)) = only_user(graph, value).and_then(|_| factor(graph, value)) {
        (value, scale) = (inner, scale * factor);
    }
    (value, scale)
}

/// What the node multiplies by a scalar, and the scalar.
fn factor(graph: &Graph, value: Value) -> Option<(Value, f32)> {
    let (a, b) = (graph.operand(value.node, 0)?, graph.operand(value.node, 1)?);
    match graph.node(value.node)?.op {
        Op::Binary(Binary::Mul) => match scalar(graph, b) {
            Some(factor) => Some((a, factor)),
            None => Some((b, scalar(graph, a)?)),
        },
        Op::Binary(Binary::Div) => Some((a, 1.0 / scalar(graph, b)?)),
        _ => None,
    }
}

fn scalar(graph: &Graph, value: Value) -> Option<f32> {
    let tensor = graph.constant(value)?;
    let small = tensor.len() == 1 && tensor.shape().len() <= 4;
    if !small || !tensor.dtype().is_float() { None } else { tensor.to_f32_vec()?.first().copied() }
}

/// The keys or values of `heads` query heads: past and new ones, each head repeated as often as needed.
fn cached(graph: &Graph, value: Value, heads: u64, known: &Known) -> Option<Cached> {
    let (present, repeats) = match repeated(graph, value, known) {
        Some((present, repeats)) => (present, Some(repeats)),
        None => (value, None),
    };
    let Op::Concat { axis: 2 | -2 } = graph.node(present.node)?.op else { return None };
    let operands = graph.operands(present.node);
    let [Some(past), Some(new)] = operands[..] else { return None };
    if graph.node(past.node)?.op != Op::Input
        || graph.outputs().iter().filter(|o| o.value == present).count() != 1
    {
        return None;
    }
    let Type::Tensor(ty) = graph.ty(past) else { return None };
    let [_, Dim::Size(shared), _, size] = ty.shape.as_deref()? else { return None };
    let size = size.size().or_else(|| graph.ty(new).shape()?.get(3)?.size())?;
    if !ty.dtype?.is_float()
        || (repeats.unwrap_or(1) * shared != heads && (*shared != 1 || repeats.is_some()))
    {
        return None;
    }
    // Past and present may serve for their sizes besides.
    let is_shape =
        |(user, _): &(NodeId, usize)| matches!(graph.node(*user).map(|n| &n.op), Some(Op::Shape { .. }));
    let others = |value| graph.users(value).iter().filter(|user| !is_shape(user)).count();
    (others(past) == 1 && others(present) == 1 && !graph.is_output(past)).then_some(Cached {
        past,
        new,
        present,
        heads: *shared,
        size,
    })
}

/// The value whose heads are repeated, and how often: `[b, h, n, d] -> [b, h, 1, n, d] -> [b, h, r, n, d] -> [b, h r, n, d]`.
fn repeated(graph: &Graph, value: Value, known: &Known) -> Option<(Value, u64)> {
    let Op::Reshape { .. } = graph.node(value.node)?.op else { return None };
    let tiled = graph.operand(value.node, 0)?;
    let unsqueezed = graph.operand(tiled.node, 0)?;
    let Op::Unsqueeze { axes } = &graph.node(unsqueezed.node)?.op else { return None };
    let axes = axes.clone().or_else(|| known.get(&graph.operand(unsqueezed.node, 1)?).cloned())?;
    let Some([_, shared, repeats, _, _]) = graph.ty(tiled).shape() else { return None };
    let (shared, repeats) = (shared.size()?, repeats.size()?);
    let only_heads = match graph.node(tiled.node)?.op {
        Op::Tile => {
            known.get(&graph.operand(tiled.node, 1)?)?[..] == [1, 1, i64::try_from(repeats).ok()?, 1, 1]
        }
        // Sizes of 1 that are expanded besides would not fit the new keys.
        Op::Expand => true,
        _ => false,
    };
    let Some([_, heads, _, _]) = graph.ty(value).shape() else { return None };
    let single = [value, tiled, unsqueezed].iter().all(|v| only_user(graph, *v).is_some());
    let present = graph.operand(unsqueezed.node, 0)?;
    (single && only_heads && matches!(axes[..], [2 | -3]) && heads.size() == Some(shared * repeats))
        .then_some((present, repeats))
}

/// The only user of a value that is no result of the graph.
fn only_user(graph: &Graph, value: Value) -> Option<(NodeId, usize)> {
    match graph.users(value)[..] {
        [user] if !graph.is_output(value) => Some(user),
        _ => None,
    }
}
