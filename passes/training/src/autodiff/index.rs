//! Rules of gathers and scatters.

use mqc_ir::op::ScatterReduction;
use mqc_ir::{DType, Op, Tensor, Value};

use super::Cotangents;
use super::layout::zeros_around;
use super::site::{Site, axis};
use crate::{Builder, Error};

const ADD: ScatterReduction = ScatterReduction::Add;

/// Rows of a table: they are added where they were taken.
pub(super) fn gather(b: &mut Builder, site: &Site, at: i64) -> Cotangents {
    let dy = site.dy(b)?;
    let shape = b.shape(site.x(b, 0)?)?;
    let at = axis(at, shape.len()).ok_or_else(|| site.no(b, "its axis is out of range"))?;
    let constant = site.operand(1).and_then(|v| b.graph.constant(v)).filter(|t| t.len() == 1);
    let single = constant.and_then(|t| axis(*t.to_i64_vec()?.first()?, shape[at]));
    if let Some(place) = single {
        let mut part = shape.clone();
        part[at] = 1;
        let dy = b.reshape(dy, &part)?;
        let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
        before[at] = place;
        after[at] = shape[at] - place - 1;
        return Ok(vec![Some(zeros_around(b, dy, &before, &after)?)]);
    }
    let indices = site.indices(b, 1)?;
    Ok(vec![Some(add_rows(b, dy, indices, at, shape[at])?)])
}

/// Adds slices to zeros: those of `dy` along the axes at `at`, as many as the indices have, go where they say, along
/// one axis of `size`.
pub(super) fn add_rows(
    b: &mut Builder,
    dy: Value,
    indices: Value,
    at: usize,
    size: usize,
) -> Result<Value, Error> {
    let shape = b.shape(dy)?;
    let mut places = b.shape(indices)?;
    let count = places.len();
    // The axes of the indices in front.
    let perm: Vec<usize> = (at..at + count).chain(0..at).chain(at + count..shape.len()).collect();
    let rows = b.transpose(dy, &perm)?;
    let mut table = vec![size];
    table.extend(shape[..at].iter().chain(&shape[at + count..]));
    let zeros = b.zeros(&table)?;
    places.push(1);
    let vectors = b.reshape(indices, &places)?;
    let sum = b.op(Op::ScatterNd { reduction: ADD }, &[zeros, vectors, rows])?;
    let back: Vec<usize> = (1..=at).chain([0]).chain(at + 1..table.len()).collect();
    b.transpose(sum, &back)
}

pub(super) fn gather_elements(b: &mut Builder, site: &Site, at: i64) -> Cotangents {
    let (dy, indices) = (site.dy(b)?, site.x(b, 1)?);
    let shape = b.shape(site.x(b, 0)?)?;
    let zeros = b.zeros(&shape)?;
    let op = Op::ScatterElements { axis: at, reduction: ADD };
    Ok(vec![Some(b.op(op, &[zeros, indices, dy])?)])
}

pub(super) fn gather_nd(b: &mut Builder, site: &Site, batch_dims: i64) -> Cotangents {
    let dy = site.dy(b)?;
    let shape = b.shape(site.x(b, 0)?)?;
    let mut vectors = site.indices(b, 1)?;
    let batch = usize::try_from(batch_dims).unwrap_or(0);
    if batch > 0 {
        vectors = with_batch(b, vectors, batch)?;
    }
    let zeros = b.zeros(&shape)?;
    Ok(vec![Some(b.op(Op::ScatterNd { reduction: ADD }, &[zeros, vectors, dy])?)])
}

/// Index vectors that begin with their own coordinates along the first `batch` axes.
fn with_batch(b: &mut Builder, vectors: Value, batch: usize) -> Result<Value, Error> {
    let mut shape = b.shape(vectors)?;
    shape.pop();
    let count: usize = shape.iter().product();
    let mut places = Vec::with_capacity(count * batch);
    for i in 0..count {
        let mut rest = i;
        let mut own = vec![0; shape.len()];
        for (place, size) in own.iter_mut().zip(&shape).rev() {
            *place = (rest % size) as i64;
            rest /= size;
        }
        places.extend_from_slice(&own[..batch]);
    }
    shape.push(batch);
    let axis = shape.len() as i64 - 1;
    let places = b.constant(Tensor::from_i64(shape, &places)?);
    b.op(Op::Concat { axis }, &[places, vectors])
}

/// Elements that an update replaced have no cotangent. Where several updates meet, each has it.
pub(super) fn scatter_elements(b: &mut Builder, site: &Site, at: i64, replaces: bool) -> Cotangents {
    let (dy, indices) = (site.dy(b)?, site.x(b, 1)?);
    let shape = b.shape(indices)?;
    let data = site.when(0, || {
        if !replaces {
            return Ok(dy);
        }
        let zeros = b.zeros(&shape)?;
        let op = Op::ScatterElements { axis: at, reduction: ScatterReduction::None };
        b.op(op, &[dy, indices, zeros])
    })?;
    let updates = site.when(2, || b.op(Op::GatherElements { axis: at }, &[dy, indices]))?;
    Ok(vec![data, None, updates])
}

/// As [`scatter_elements`].
pub(super) fn scatter_nd(b: &mut Builder, site: &Site, replaces: bool) -> Cotangents {
    let (dy, vectors) = (site.dy(b)?, site.indices(b, 1)?);
    let shape = b.shape(site.x(b, 2)?)?;
    let data = site.when(0, || {
        if !replaces {
            return Ok(dy);
        }
        let zeros = b.zeros(&shape)?;
        b.op(Op::ScatterNd { reduction: ScatterReduction::None }, &[dy, vectors, zeros])
    })?;
    let updates = site.when(2, || b.op(Op::GatherNd { batch_dims: 0 }, &[dy, vectors]))?;
    Ok(vec![data, None, updates])
}

/// What was added to zeros one element to a place along an axis: the indices and updates of such a cotangent.
pub(super) fn added_to_zeros(b: &Builder, cotangent: Value, at: usize) -> Option<(Value, Value)> {
    let node = b.graph.node(cotangent.node)?;
    let Op::ScatterElements { axis: along, reduction: ADD } = node.op else { return None };
    let shape = b.shape(cotangent).ok()?;
    let operands = b.graph.operands(cotangent.node);
    let [Some(data), Some(indices), Some(updates)] = operands.as_slice() else { return None };
    let source = match b.graph.node(data.node).map(|n| &n.op) {
        Some(Op::Expand) => b.graph.operand(data.node, 0)?,
        Some(_) | None => *data,
    };
    let zeros = b.graph.constant(source).filter(|t| t.dtype() == DType::F32)?;
    let is_zero = zeros.bytes().iter().all(|byte| *byte == 0);
    // Indices that cover the other axes: each row has its own.
    let places = b.shape(*indices).ok()?;
    let covers = (0..shape.len()).all(|i| i == at || places[i] == shape[i]);
    (is_zero && covers && axis(along, shape.len()) == Some(at)).then_some((*indices, *updates))
}
