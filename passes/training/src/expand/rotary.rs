//! Rotary position embeddings.

use mqc_ir::op::Opaque;
use mqc_ir::{DType, Op, Value};

use super::attention::{heads, joined};
use super::composite::Call;
use super::operators::int;
use crate::{Builder, Error};

/// ONNX: x, cos_cache, sin_cache, position_ids?. Caches hold positions, or without position ids a row for each token.
pub(super) fn onnx(b: &mut Builder, call: &Call, op: &Opaque) -> Result<Vec<Value>, Error> {
    let (cos, sin) = (call.x(b, 1)?, call.x(b, 2)?);
    let angles = match call.operand(3) {
        Some(positions) => (at_positions(b, cos, positions)?, at_positions(b, sin, positions)?),
        None => (for_heads(b, cos)?, for_heads(b, sin)?),
    };
    embed(b, call, op, angles)
}

/// onnxruntime: x, position_ids, cos_cache, sin_cache.
pub(super) fn microsoft(b: &mut Builder, call: &Call, op: &Opaque) -> Result<Vec<Value>, Error> {
    if int(op, "is_packed_batching", 0) != 0 {
        return Err(call.no(b, "its batch is packed (is_packed_batching)"));
    }
    let (x, mut positions) = (call.x(b, 0)?, call.x(b, 1)?);
    let shape = b.shape(x)?;
    if b.shape(positions)?.len() < 2 {
        // One position: that of the first token.
        let length = shape[shape.len().saturating_sub(2)] as i64;
        let steps = b.ints(&(0..length).collect::<Vec<_>>());
        let first =
            if b.dtype(positions)? == DType::I64 { positions } else { b.cast(positions, DType::I64)? };
        positions = b.add(first, steps)?;
    }
    let (cos, sin) = (call.x(b, 2)?, call.x(b, 3)?);
    let angles = (at_positions(b, cos, positions)?, at_positions(b, sin, positions)?);
    embed(b, call, op, angles)
}

fn embed(b: &mut Builder, call: &Call, op: &Opaque, (cos, sin): (Value, Value)) -> Result<Vec<Value>, Error> {
    let x = call.x(b, 0)?;
    let shape = b.shape(x)?;
    let interleaved = int(op, "interleaved", 0) != 0;
    let [.., hidden] = shape.as_slice() else { return Err(call.no(b, "its input is a scalar")) };
    match shape.len() {
        4 => Ok(vec![rotate(b, call, x, cos, sin, interleaved)?]),
        3 => {
            let size = 2 * b.shape(cos)?.last().copied().unwrap_or(0);
            let count = match usize::try_from(int(op, "num_heads", 0)).unwrap_or(0) {
                0 => hidden.checked_div(size).unwrap_or(0),
                count => count,
            };
            let split = heads(b, call, x, count)?;
            let turned = rotate(b, call, split, cos, sin, interleaved)?;
            Ok(vec![joined(b, turned)?])
        }
        rank => Err(call.no(b, format!("its input has rank {rank}; expected 3 or 4"))),
    }
}

/// Rows of a cache `[positions, R / 2]` -> `[B or 1, 1, S, R / 2]`.
pub(super) fn at_positions(b: &mut Builder, cache: Value, positions: Value) -> Result<Value, Error> {
    let rows = b.op(Op::Gather { axis: 0 }, &[cache, positions])?;
    for_heads(b, rows)
}

/// `[B, S, R / 2]` or `[S, R / 2]` -> `[B or 1, 1, S, R / 2]`.
pub(super) fn for_heads(b: &mut Builder, rows: Value) -> Result<Value, Error> {
    let mut shape = b.shape(rows)?;
    while shape.len() < 3 {
        shape.insert(0, 1);
    }
    shape.insert(1, 1);
    b.reshape(rows, &shape)
}

/// Turns pairs of the first R elements of every head of x `[B, H, S, D]`: element i with i + R / 2, or neighbours.
pub(super) fn rotate(
    b: &mut Builder,
    call: &Call,
    x: Value,
    cos: Value,
    sin: Value,
    interleaved: bool,
) -> Result<Value, Error> {
    let shape = b.shape(x)?;
    let half = b.shape(cos)?.last().copied().unwrap_or(0);
    let size = shape[3];
    if 2 * half > size {
        return Err(call.no(b, format!("it turns {} elements of heads of {size}", 2 * half)));
    }
    let turned = if 2 * half == size { x } else { b.slice(x, 3, 0, 2 * half)? };
    let pairs = [shape[0], shape[1], shape[2], half, 2];
    let single = [shape[0], shape[1], shape[2], half];
    let (first, second) = if interleaved {
        let pairs = b.reshape(turned, &pairs)?;
        let (first, second) = (b.slice(pairs, 4, 0, 1)?, b.slice(pairs, 4, 1, 1)?);
        (b.reshape(first, &single)?, b.reshape(second, &single)?)
    } else {
        (b.slice(turned, 3, 0, half)?, b.slice(turned, 3, half, half)?)
    };
    let (a, c) = (b.mul(first, cos)?, b.mul(second, sin)?);
    let real = b.sub(a, c)?;
    let (a, c) = (b.mul(first, sin)?, b.mul(second, cos)?);
    let imaginary = b.add(a, c)?;
    let mut parts = if interleaved {
        let mut column = single.to_vec();
        column.push(1);
        let (real, imaginary) = (b.reshape(real, &column)?, b.reshape(imaginary, &column)?);
        let both = b.op(Op::Concat { axis: 4 }, &[real, imaginary])?;
        vec![b.reshape(both, &[shape[0], shape[1], shape[2], 2 * half])?]
    } else {
        vec![real, imaginary]
    };
    if 2 * half < size {
        parts.push(b.slice(x, 3, 2 * half, size - 2 * half)?);
    }
    if parts.len() == 1 { Ok(parts[0]) } else { b.op(Op::Concat { axis: 3 }, &parts) }
}
