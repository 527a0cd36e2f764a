//! Attention over past and new keys and values becomes one node whose cache stays in the session.
//!
//! Before: `%k = concat %past_k, %new_k {axis = 2}`, `%t = transpose %k {perm = [0, 1, 3, 2]}`, `%s = mat_mul %q, %t`,
//! `%p = softmax %s {axis = -1}`, `%v = concat %past_v, %new_v {axis = 2}`, `%y = mat_mul %p, %v`, results `%y, %k, %v`
//!
//! After:  `%y = opaque %q, %new_k, %new_v {domain = ai.mqc, op_type = CachedAttention}`, result `%y`
//!
//! The inputs with past keys and values go, and the results that hold both. Where only their sizes are asked for, the
//! number of past positions comes from a new input `[past]` whose elements do not matter.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::infer::known_integers;
use mqc_ir::op::{Binary, Opaque};
use mqc_ir::{Attribute, DType, Dim, F32, Graph, Node, NodeId, Op, Tensor, Text, Type, Value, ValueInfo};

use super::DOMAIN;
use super::pattern::{Attention, Cached, attention};
use crate::{Context, Error, Pass};

/// See the module.
pub const CACHE_ATTENTION: Pass = Pass {
    name: "cache-attention",
    about: "attention over past and new keys and values keeps them in the session (CPU session only)",
    run,
};

/// The input whose size is the number of past positions, `u8 [past]`.
pub const PAST_POSITIONS: &str = "mqc.past_positions";

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    let known = known_integers(graph);
    let found: Vec<Attention> =
        graph.order()?.into_iter().filter_map(|id| attention(graph, id, &known)).collect();
    let mut taken = BTreeSet::new();
    for attention in found {
        // The same cache read by two layers stays as it is.
        let fresh = [&attention.keys, &attention.values].iter().all(|c| !taken.contains(&c.past));
        if fresh && context.rewrite() {
            taken.extend([attention.keys.past, attention.values.past]);
            rewrite(graph, &attention)?;
        }
    }
    graph.erase_dead();
    let unused: BTreeSet<NodeId> =
        taken.iter().filter(|past| graph.users(**past).is_empty()).map(|past| past.node).collect();
    graph.retain_inputs(|_, id| !unused.contains(&id));
    graph.erase_dead();
    Ok(())
}

fn rewrite(graph: &mut Graph, found: &Attention) -> Result<(), Error> {
    let Attention { queries, mask, scale, keys, values, result } = found;
    let name = graph.info(keys.past).map(|i| i.name.clone()).unwrap_or_default();
    let int = |value: u64| Attribute::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let attributes = BTreeMap::from([
        ("cache".to_owned(), Attribute::String(Text(name.into_bytes()))),
        ("kv_heads".to_owned(), int(keys.heads)),
        ("key_size".to_owned(), int(keys.size)),
        ("value_size".to_owned(), int(values.size)),
        ("scale".to_owned(), Attribute::Float(F32(*scale))),
    ]);
    let op = Op::Opaque(Opaque {
        domain: DOMAIN.to_owned(),
        op_type: "CachedAttention".to_owned(),
        overload: String::new(),
        attributes,
    });
    let label = graph.label(result.node);
    let info =
        ValueInfo { name: graph.fresh_name(&format!("{label}/cached")), ty: graph.ty(*result).clone() };
    let mut operands = vec![Some(*queries), Some(keys.new), Some(values.new)];
    operands.extend(mask.map(Some));
    let node = graph.insert(Node::new(op, info.name.clone(), vec![info]), &operands)?;
    graph.replace_uses(*result, Value { node, slot: 0 })?;
    for cached in [keys, values] {
        let kept = graph.outputs().iter().filter(|o| o.value != cached.present).cloned().collect();
        graph.set_outputs(kept);
        replace_sizes(graph, cached)?;
    }
    Ok(())
}

/// Makes every Shape of the past and of past and new together out of the sizes that are left.
fn replace_sizes(graph: &mut Graph, cached: &Cached) -> Result<(), Error> {
    for (source, is_present) in [(cached.past, false), (cached.present, true)] {
        for (user, _) in graph.users(source) {
            let Some(Op::Shape { start, end }) = graph.node(user).map(|n| n.op.clone()) else { continue };
            let mut length = past_length(graph)?;
            if is_present {
                let new = Op::Shape { start: 2, end: Some(3) };
                let new = graph.apply(new, "mqc.new_length", &[cached.new])?;
                length = graph.apply(Op::Binary(Binary::Add), "mqc.length", &[length, new])?;
            }
            let constant = |graph: &mut Graph, size: u64| {
                let tensor = Tensor::i64_vector(&[i64::try_from(size).unwrap_or(i64::MAX)]);
                graph.add_weight(graph.fresh_name("mqc.size"), tensor)
            };
            let sizes =
                [constant(graph, 1), constant(graph, cached.heads), length, constant(graph, cached.size)];
            let index = |at: i64| (if at < 0 { at + 4 } else { at }).clamp(0, 4) as usize;
            let sizes = sizes.get(index(start)..index(end.unwrap_or(4))).unwrap_or(&[]);
            if sizes.is_empty() {
                continue;
            }
            let shape = graph.apply(Op::Concat { axis: 0 }, "mqc.cache_shape", sizes)?;
            graph.replace_uses(Value { node: user, slot: 0 }, shape)?;
        }
    }
    Ok(())
}

/// The number of past positions, i64 `[1]`.
fn past_length(graph: &mut Graph) -> Result<Value, Error> {
    let named =
        |graph: &Graph, id: &NodeId| graph.node(*id)?.outputs.first().map(|o| o.name == PAST_POSITIONS);
    let known = graph.inputs().iter().find(|id| named(graph, id) == Some(true)).copied();
    let carrier = match known {
        Some(node) => Value { node, slot: 0 },
        None => graph.add_input(PAST_POSITIONS, Type::tensor(DType::U8, vec![Dim::Unknown])),
    };
    Ok(graph.apply(Op::Shape { start: 0, end: None }, "mqc.past_length", &[carrier])?)
}
