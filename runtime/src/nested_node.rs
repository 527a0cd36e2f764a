//! Reads the weight of a nested node out of the constants that are its operands.

use mqc_ir::op::Nested;
use mqc_ir::{DType, Graph, NodeId, Op, Tensor};

use crate::Error;
use crate::nested::{AffineMap, Floats, NestedWeight};

/// What a nested node says of its weight, and the operand slot of its first bit plane; `None` for other nodes.
pub fn nested_parts(op: &Op) -> Option<(&Nested, usize)> {
    match op {
        Op::NestedMatMul(nested) | Op::NestedGather(nested) => Some((nested, 4)),
        Op::NestedConv { nested, .. } => Some((nested, 5)),
        _ => None,
    }
}

/// What a nested node says of its weight, to change it; `None` for other nodes.
pub fn nested_mut(op: &mut Op) -> Option<&mut Nested> {
    match op {
        Op::NestedMatMul(nested) | Op::NestedGather(nested) | Op::NestedConv { nested, .. } => Some(nested),
        _ => None,
    }
}

/// The weight of a nested node; `None` for other nodes. Planes are shared with the graph, not copied.
///
/// # Errors
/// If scale, zero or a plane is not a constant, or they do not fit together.
pub fn nested_weight(graph: &Graph, id: NodeId) -> Result<Option<NestedWeight>, Error> {
    let Some((nested, first_plane)) = graph.node(id).and_then(|n| nested_parts(&n.op)) else {
        return Ok(None);
    };
    let malformed = |message: String| Error::Layer { layer: nested.layer.clone(), message };
    let operands = graph.operands(id);
    let constant = |slot: usize, what: &str| -> Result<&Tensor, Error> {
        let value = operands.get(slot).copied().flatten();
        value.and_then(|v| graph.constant(v)).ok_or_else(|| malformed(format!("{what} is not a constant")))
    };
    let planes = (first_plane..operands.len())
        .map(|slot| constant(slot, &format!("plane {}", slot - first_plane)))
        .collect::<Result<Vec<_>, _>>()?;
    let rows = planes.first().and_then(|p| p.shape().first().copied());
    let rows =
        rows.ok_or_else(|| malformed("the node has no bit planes, expected u8 [N, ceil(K / 8)]".to_owned()))?;
    // One for all widths, then one for each of those that have their own.
    let maps = |slot: usize, what: &str| -> Result<Vec<Floats>, Error> {
        let (tensor, count) = (constant(slot, what)?, 1 + nested.map_widths.len());
        let (found, bytes) = (tensor.dtype(), tensor.bytes());
        if found != DType::F32 || !bytes.len().is_multiple_of(count) {
            let shape = tensor.shape();
            return Err(malformed(format!("{what} is {found} {shape:?}, expected f32 of {count} maps")));
        }
        let map = bytes.len() / count;
        let floats = (0..count).map(|i| Floats::from_le_bytes(bytes.slice(i * map..(i + 1) * map)));
        floats.collect::<Result<_, _>>().map_err(|e| malformed(format!("{what}: {e}")))
    };
    let (scale, zero) = (maps(2, "scale")?, maps(3, "zero")?);
    let mut maps = scale.into_iter().zip(zero).map(|(scale, zero)| AffineMap { scale, zero });
    let map = maps.next().ok_or_else(|| malformed("the node has no scale".to_owned()))?;
    let per_width = nested.map_widths.iter().copied().zip(maps).collect();
    let planes = planes.iter().map(|p| p.bytes().clone()).collect();
    let cols =
        usize::try_from(nested.cols).map_err(|_| malformed(format!("{} columns do not fit", nested.cols)))?;
    NestedWeight::new((rows, cols), nested.grouping, nested.mode, planes, map, per_width)
        .map(Some)
        .map_err(|e| malformed(format!("{e} (node {})", graph.label(id))))
}
