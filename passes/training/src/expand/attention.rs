//! Attention without a cache.

use mqc_ir::op::{Opaque, Unary};
use mqc_ir::{DType, Op, Tensor, Value};

use super::composite::Call;
use super::operators::{float, int};
use super::rotary;
use crate::{Builder, Error};

/// What is added to the score of a key that a query does not see. Two of them do not overflow.
const MASKED: f32 = f32::MIN / 2.0;

/// One attention of queries `[B, H, S, D]` over keys `[B, H', T, D]` and values `[B, H', T, E]`; H is a multiple of H'.
struct Attend {
    query: Value,
    key: Value,
    value: Value,
    scale: f32,
    /// Added to the scores; broadcasts to `[B, H, S, T]`.
    bias: Option<Value>,
    /// Queries do not see later keys, nor those `window` or more before.
    causal: bool,
    window: Option<usize>,
    softcap: f32,
}

/// `[B, S, H D]` -> `[B, H, S, D]`.
pub(super) fn heads(b: &mut Builder, call: &Call, x: Value, count: usize) -> Result<Value, Error> {
    let shape = b.shape(x)?;
    let [batch, length, hidden] = *shape.as_slice() else {
        return Err(call.no(b, format!("an input has shape {shape:?}; expected [batch, tokens, hidden]")));
    };
    if count == 0 || hidden % count != 0 {
        return Err(call.no(b, format!("{hidden} elements do not divide into {count} heads")));
    }
    let split = b.reshape(x, &[batch, length, count, hidden / count])?;
    b.transpose(split, &[0, 2, 1, 3])
}

/// `[B, H, S, D]` -> `[B, S, H D]`.
pub(super) fn joined(b: &mut Builder, x: Value) -> Result<Value, Error> {
    let shape = b.shape(x)?;
    let tokens = b.transpose(x, &[0, 2, 1, 3])?;
    b.reshape(tokens, &[shape[0], shape[2], shape[1] * shape[3]])
}

/// softmax(scale Q K^T + bias) V, `[B, H, S, E]`.
fn attend(b: &mut Builder, call: &Call, a: &Attend) -> Result<Value, Error> {
    let (qs, ks, vs) = (b.shape(a.query)?, b.shape(a.key)?, b.shape(a.value)?);
    let (&[batch, count, length, size], &[_, groups, keys, _], &[_, _, _, width]) =
        (qs.as_slice(), ks.as_slice(), vs.as_slice())
    else {
        return Err(call.no(b, "queries, keys and values do not have heads"));
    };
    if groups == 0 || count % groups != 0 {
        return Err(call.no(b, format!("{count} heads of queries do not divide into {groups} of keys")));
    }
    let scale = if a.scale == 0.0 { 1.0 / (size as f32).sqrt() } else { a.scale };
    // Heads that share keys are rows of one product.
    let rows = count / groups * length;
    let query = b.scale(a.query, scale)?;
    let query = b.reshape(query, &[batch, groups, rows, size])?;
    let key = b.transpose_last(a.key)?;
    let scores = b.matmul(query, key)?;
    let mut scores = b.reshape(scores, &[batch, count, length, keys])?;
    if a.softcap != 0.0 {
        if a.bias.is_some() {
            return Err(call.no(b, "runtimes disagree on the order of softcap and mask"));
        }
        let small = b.scale(scores, 1.0 / a.softcap)?;
        let bent = b.unary(Unary::Tanh, small)?;
        scores = b.scale(bent, a.softcap)?;
    }
    if let Some(bias) = a.bias {
        scores = b.add(scores, bias)?;
    }
    if a.causal {
        let mask = causal(b, length, keys, a.window)?;
        scores = b.add(scores, mask)?;
    }
    let shares = b.op(Op::Softmax { axis: -1, flatten: false }, &[scores])?;
    let shares = b.reshape(shares, &[batch, groups, rows, keys])?;
    let y = b.matmul(shares, a.value)?;
    b.reshape(y, &[batch, count, length, width])
}

/// `[S, T]`: 0 where a query sees a key.
fn causal(b: &mut Builder, length: usize, keys: usize, window: Option<usize>) -> Result<Value, Error> {
    let seen = |i: usize, j: usize| j <= i && window.is_none_or(|w| i - j < w);
    let mask: Vec<f32> = (0..length * keys)
        .map(|n| if seen(n / keys.max(1), n % keys.max(1)) { 0.0 } else { MASKED })
        .collect();
    Ok(b.constant(Tensor::from_f32(vec![length, keys], &mask)?))
}

/// What a mask of 1 and 0, or true and false, adds to scores.
fn hiding(b: &mut Builder, mask: Value, hidden: f32) -> Result<Value, Error> {
    let seen = if b.dtype(mask)? == DType::Bool { mask } else { b.cast(mask, DType::Bool)? };
    let (zero, hidden) = (b.scalar(0.0), b.scalar(hidden));
    b.select(seen, zero, hidden)
}

fn refuse(b: &Builder, call: &Call, op: &Opaque, attributes: &[(&str, i64)]) -> Result<(), Error> {
    match attributes.iter().find(|(name, expected)| int(op, name, *expected) != *expected) {
        Some((name, expected)) => {
            let found = int(op, name, *expected);
            Err(call.no(b, format!("its attribute {name} is {found}; only {expected} has an expansion")))
        }
        None => Ok(()),
    }
}

/// A cache is refused unless it is empty.
fn no_cache(b: &Builder, call: &Call, slots: &[usize]) -> Result<(), Error> {
    for slot in slots {
        if let Some(past) = call.operand(*slot)
            && b.shape(past)?.iter().product::<usize>() > 0
        {
            return Err(call.no(b, format!("operand {slot} is a cache; training graphs have none")));
        }
    }
    Ok(())
}

fn absent(b: &Builder, call: &Call, slots: &[usize]) -> Result<(), Error> {
    match slots.iter().find(|slot| call.operand(**slot).is_some()) {
        Some(slot) => Err(call.no(b, format!("operand {slot} has no expansion"))),
        None => Ok(()),
    }
}

fn head_count(b: &Builder, call: &Call, op: &Opaque, name: &str) -> Result<usize, Error> {
    let count = usize::try_from(int(op, name, 0)).unwrap_or(0);
    if count == 0 { Err(call.no(b, format!("its attribute {name} is missing"))) } else { Ok(count) }
}

/// ONNX: Q, K, V, attn_mask?, past_key?, past_value?, nonpad_kv_seqlen?.
pub(super) fn onnx(b: &mut Builder, call: &Call, op: &Opaque) -> Result<Vec<Value>, Error> {
    no_cache(b, call, &[4, 5])?;
    absent(b, call, &[6])?;
    let (q, k, v) = (call.x(b, 0)?, call.x(b, 1)?, call.x(b, 2)?);
    let flat = b.shape(q)?.len() == 3;
    let split = |b: &mut Builder, x: Value, name: &str| {
        if b.shape(x)?.len() == 4 {
            return Ok(x);
        }
        let count = head_count(b, call, op, name)?;
        heads(b, call, x, count)
    };
    let query = split(b, q, "q_num_heads")?;
    let key = split(b, k, "kv_num_heads")?;
    let value = split(b, v, "kv_num_heads")?;
    let bias = match call.operand(3) {
        Some(mask) if b.dtype(mask)?.is_float() => Some(mask),
        Some(mask) => Some(hiding(b, mask, MASKED)?),
        None => None,
    };
    let causal = int(op, "is_causal", 0) != 0;
    let (scale, softcap) = (float(op, "scale", 0.0), float(op, "softcap", 0.0));
    let y = attend(b, call, &Attend { query, key, value, scale, bias, causal, window: None, softcap })?;
    let y = if flat { joined(b, y)? } else { y };
    Ok(vec![y, key, value])
}

/// onnxruntime: query, key, value, bias?, key_padding_mask?, attention_bias?, past_key?, past_value?, ..
pub(super) fn multi_head(b: &mut Builder, call: &Call, op: &Opaque) -> Result<Vec<Value>, Error> {
    no_cache(b, call, &[6, 7])?;
    absent(b, call, &[9])?;
    let count = head_count(b, call, op, "num_heads")?;
    let mut parts = [call.x(b, 0)?, call.x(b, 1)?, call.x(b, 2)?];
    if let Some(bias) = call.operand(3) {
        let mut start = 0;
        for part in &mut parts {
            let size = b.shape(*part)?.last().copied().unwrap_or(0);
            let own = b.slice(bias, 0, start, size)?;
            *part = b.add(*part, own)?;
            start += size;
        }
    }
    let split = |b: &mut Builder, x: Value| {
        if b.shape(x)?.len() == 4 { Ok(x) } else { heads(b, call, x, count) }
    };
    let (query, key, value) = (split(b, parts[0])?, split(b, parts[1])?, split(b, parts[2])?);
    let bias = both_masks(b, call, op, 4, 5)?;
    let causal = int(op, "unidirectional", 0) != 0;
    let scale = float(op, "scale", 0.0);
    let y = attend(b, call, &Attend { query, key, value, scale, bias, causal, window: None, softcap: 0.0 })?;
    Ok(vec![joined(b, y)?, key, value])
}

/// A mask of the keys, `[B, T]` or `[B, S, T]`, and what is added to the scores.
fn both_masks(
    b: &mut Builder,
    call: &Call,
    op: &Opaque,
    mask: usize,
    bias: usize,
) -> Result<Option<Value>, Error> {
    let mask = match call.operand(mask) {
        Some(mask) => {
            let shape = b.shape(mask)?;
            let wide = match *shape.as_slice() {
                [batch, keys] => [batch, 1, 1, keys],
                [batch, length, keys] => [batch, 1, length, keys],
                _ => return Err(call.no(b, format!("its mask has shape {shape:?}; expected [batch, keys]"))),
            };
            let added = hiding(b, mask, float(op, "mask_filter_value", -10000.0))?;
            Some(b.reshape(added, &wide)?)
        }
        None => None,
    };
    match (mask, call.operand(bias)) {
        (Some(mask), Some(bias)) => b.add(mask, bias).map(Some),
        (mask, bias) => Ok(mask.or(bias)),
    }
}

/// onnxruntime: input, weights, bias?, mask_index?, past?, attention_bias?, past_sequence_length?.
pub(super) fn microsoft(b: &mut Builder, call: &Call, op: &Opaque) -> Result<Vec<Value>, Error> {
    refuse(b, call, op, &[("do_rotary", 0), ("past_present_share_buffer", 0)])?;
    no_cache(b, call, &[4])?;
    let count = head_count(b, call, op, "num_heads")?;
    let (x, weights) = (call.x(b, 0)?, call.x(b, 1)?);
    let mut all = b.matmul(x, weights)?;
    if let Some(bias) = call.operand(2) {
        all = b.add(all, bias)?;
    }
    let width = b.shape(all)?.last().copied().unwrap_or(0);
    let sizes = match op.attributes.get("qkv_hidden_sizes") {
        Some(mqc_ir::Attribute::Ints(sizes)) => {
            sizes.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect()
        }
        Some(_) | None => vec![width / 3; 3],
    };
    if sizes.len() != 3 || sizes.iter().sum::<usize>() != width {
        return Err(call.no(b, format!("sizes {sizes:?} do not make up {width} columns of weights")));
    }
    let mut parts = vec![];
    let mut start = 0;
    for size in sizes {
        let part = b.slice(all, 2, start, size)?;
        parts.push(heads(b, call, part, count)?);
        start += size;
    }
    let bias = both_masks(b, call, op, 3, 5)?;
    let causal = int(op, "unidirectional", 0) != 0;
    let (query, key, value) = (parts[0], parts[1], parts[2]);
    let scale = float(op, "scale", 0.0);
    let y = attend(b, call, &Attend { query, key, value, scale, bias, causal, window: None, softcap: 0.0 })?;
    Ok(vec![joined(b, y)?])
}

/// onnxruntime: query, key?, value?, past_key?, past_value?, seqlens_k, total_sequence_length, cos_cache?, sin_cache?,
/// position_ids?, attention_bias?, head_sink?. Sequences are taken to be full: padding at their end is seen by nothing
/// before it.
pub(super) fn group_query(b: &mut Builder, call: &Call, op: &Opaque) -> Result<Vec<Value>, Error> {
    refuse(b, call, op, &[("smooth_softmax", 0), ("qk_output", 0)])?;
    no_cache(b, call, &[3, 4])?;
    absent(b, call, &[11])?;
    let (count, groups) = (head_count(b, call, op, "num_heads")?, head_count(b, call, op, "kv_num_heads")?);
    let packed = call.x(b, 0)?;
    let parts = match (call.operand(1), call.operand(2)) {
        (Some(key), Some(value)) => [packed, key, value],
        (Some(_) | None, Some(_) | None) => {
            let width = b.shape(packed)?.last().copied().unwrap_or(0);
            let size = width / (count + 2 * groups);
            let query = b.slice(packed, 2, 0, count * size)?;
            let key = b.slice(packed, 2, count * size, groups * size)?;
            [query, key, b.slice(packed, 2, (count + groups) * size, groups * size)?]
        }
    };
    let mut query = heads(b, call, parts[0], count)?;
    let mut key = heads(b, call, parts[1], groups)?;
    let value = heads(b, call, parts[2], groups)?;
    if int(op, "do_rotary", 0) != 0 {
        let length = b.shape(query)?[2];
        let angles = |b: &mut Builder, slot: usize| {
            let cache = call.x(b, slot)?;
            match call.operand(9) {
                Some(positions) => rotary::at_positions(b, cache, positions),
                None => {
                    let rows = b.slice(cache, 0, 0, length)?;
                    rotary::for_heads(b, rows)
                }
            }
        };
        let (cos, sin) = (angles(b, 7)?, angles(b, 8)?);
        let interleaved = int(op, "rotary_interleaved", 0) != 0;
        query = rotary::rotate(b, call, query, cos, sin, interleaved)?;
        key = rotary::rotate(b, call, key, cos, sin, interleaved)?;
    }
    let attend_to = Attend {
        query,
        key,
        value,
        scale: float(op, "scale", 0.0),
        bias: call.operand(10),
        causal: true,
        window: usize::try_from(int(op, "local_window_size", -1)).ok(),
        softcap: float(op, "softcap", 0.0),
    };
    let y = attend(b, call, &attend_to)?;
    Ok(vec![joined(b, y)?, key, value])
}
