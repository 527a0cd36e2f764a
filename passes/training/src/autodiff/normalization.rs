//! Rules of softmax and of the normalizations, over what the forward pass has computed.

use mqc_ir::op::{ScatterReduction, Unary};
use mqc_ir::{Op, Type, Value, ValueInfo};

use super::index::added_to_zeros;
use super::site::{Site, axis};
use super::{Cotangents, mean_kept, sum_kept, through_expansion};
use crate::{Builder, Error};

/// The axes that a softmax runs over.
fn axes(b: &Builder, site: &Site, at: i64, flatten: bool) -> Result<Vec<usize>, Error> {
    let rank = b.shape(site.y())?.len();
    // Behind the last axis there is nothing: one class.
    let first = if flatten && at == rank as i64 { Some(rank) } else { axis(at, rank) };
    let first = first.ok_or_else(|| site.no(b, "its axis is out of range"))?;
    Ok(if flatten { (first..rank).collect() } else { vec![first] })
}

/// y (dy - sum(y dy)).
pub(super) fn softmax(b: &mut Builder, site: &Site, at: i64, flatten: bool) -> Cotangents {
    let (y, dy) = (site.y(), site.dy(b)?);
    let axes = axes(b, site, at, flatten)?;
    let weighted = b.mul(y, dy)?;
    let mean = sum_kept(b, weighted, &axes)?;
    let rest = b.sub(dy, mean)?;
    Ok(vec![Some(b.mul(y, rest)?)])
}

/// dy - exp(y) sum(dy). Where dy holds one label a row, as under a cross-entropy, the labels are added at the end.
pub(super) fn log_softmax(b: &mut Builder, site: &Site, at: i64, flatten: bool) -> Cotangents {
    let (y, dy) = (site.y(), site.dy(b)?);
    let axes = axes(b, site, at, flatten)?;
    let softmax = b.unary(Unary::Exp, y)?;
    if let [at] = axes.as_slice()
        && let Some((indices, updates)) = added_to_zeros(b, dy, *at)
    {
        let sum = match b.shape(updates)?[*at] {
            1 => updates,
            _ => sum_kept(b, updates, &axes)?,
        };
        let less = b.neg(sum)?;
        let others = b.mul(softmax, less)?;
        let op = Op::ScatterElements { axis: *at as i64, reduction: ScatterReduction::Add };
        return Ok(vec![Some(b.op(op, &[others, indices, updates])?)]);
    }
    let sum = sum_kept(b, dy, &axes)?;
    let others = b.mul(softmax, sum)?;
    Ok(vec![Some(b.sub(dy, others)?)])
}

/// Mean and inverse deviation of the rows come from the node itself, which gets these outputs.
pub(super) fn layer_normalization(b: &mut Builder, site: &Site, at: i64) -> Cotangents {
    if site.dys.iter().skip(1).any(Option::is_some) {
        return through_expansion(b, site);
    }
    let (x, scale, dy) = (site.x(b, 0)?, site.x(b, 1)?, site.dy(b)?);
    let rank = b.shape(x)?.len();
    let first = axis(at, rank).ok_or_else(|| site.no(b, "its axis is out of range"))?;
    let axes: Vec<usize> = (first..rank).collect();
    let bias = site.when(2, || Ok(dy))?;
    if !site.wants(0) && !site.wants(1) {
        return Ok(vec![None, None, bias]);
    }
    let (mean, inverse) = moments(b, site)?;
    let centred = b.sub(x, mean)?;
    let normal = b.mul(centred, inverse)?;
    let gain = site.when(1, || b.mul(dy, normal))?;
    let input = site.when(0, || {
        let g = b.mul(dy, scale)?;
        let mean = mean_kept(b, g, &axes)?;
        let along = b.mul(g, normal)?;
        let along = mean_kept(b, along, &axes)?;
        let along = b.mul(normal, along)?;
        let rest = b.sub(g, mean)?;
        let rest = b.sub(rest, along)?;
        b.mul(rest, inverse)
    })?;
    Ok(vec![input, gain, bias])
}

fn moments(b: &mut Builder, site: &Site) -> Result<(Value, Value), Error> {
    let name = b.graph.info(site.y()).map(|i| i.name.clone()).unwrap_or_default();
    let names = ["mean", "inverse_deviation"].map(|what| b.graph.numbered_name(&format!("{name}/{what}")));
    if let Some(node) = b.graph.node_mut(site.id) {
        for (slot, fresh) in (1..).zip(names) {
            match node.outputs.get_mut(slot) {
                Some(output) if output.name.is_empty() => output.name = fresh,
                Some(_) => {}
                None => node.outputs.push(ValueInfo { name: fresh, ty: Type::Unknown }),
            }
        }
    }
    mqc_ir::infer::infer_node(b.graph, site.id)?;
    let dtype = b.dtype(site.y())?;
    let as_input = |b: &mut Builder, slot: usize| {
        let value = Value { node: site.id, slot };
        if b.dtype(value)? == dtype { Ok(value) } else { b.cast(value, dtype) }
    };
    Ok((as_input(b, 1)?, as_input(b, 2)?))
}

pub(super) fn rms_normalization(b: &mut Builder, site: &Site, at: i64, epsilon: f32) -> Cotangents {
    let (x, scale, dy) = (site.x(b, 0)?, site.x(b, 1)?, site.dy(b)?);
    let rank = b.shape(x)?.len();
    let first = axis(at, rank).ok_or_else(|| site.no(b, "its axis is out of range"))?;
    let axes: Vec<usize> = (first..rank).collect();
    let square = b.mul(x, x)?;
    let mean = mean_kept(b, square, &axes)?;
    let mean = b.add_scalar(mean, epsilon)?;
    let root = b.unary(Unary::Sqrt, mean)?;
    let inverse = b.unary(Unary::Reciprocal, root)?;
    let normal = b.mul(x, inverse)?;
    let gain = site.when(1, || b.mul(dy, normal))?;
    let input = site.when(0, || {
        let g = b.mul(dy, scale)?;
        let along = b.mul(g, normal)?;
        let along = mean_kept(b, along, &axes)?;
        let along = b.mul(normal, along)?;
        let rest = b.sub(g, along)?;
        b.mul(rest, inverse)
    })?;
    Ok(vec![input, gain])
}

/// The inference form: mean and variance are operands like scale and bias.
pub(super) fn batch_normalization(b: &mut Builder, site: &Site, epsilon: f32) -> Cotangents {
    if site.dys.iter().skip(1).any(Option::is_some) {
        return Err(site.no(b, "its running statistics are not differentiated"));
    }
    let dy = site.dy(b)?;
    let (x, scale) = (site.x(b, 0)?, site.x(b, 1)?);
    let (mean, variance) = (site.x(b, 3)?, site.x(b, 4)?);
    let shape = b.shape(x)?;
    let channels = b.shape(scale)?;
    let others: Vec<usize> = (0..shape.len()).filter(|&i| i != 1).collect();
    let mut wide = vec![1; shape.len()];
    if let (Some(place), Some(count)) = (wide.get_mut(1), shape.get(1)) {
        *place = *count;
    }
    let variance = b.add_scalar(variance, epsilon)?;
    let root = b.unary(Unary::Sqrt, variance)?;
    let inverse = b.unary(Unary::Reciprocal, root)?;
    let gain = b.mul(scale, inverse)?;
    let input = site.when(0, || {
        let gain = b.reshape(gain, &wide)?;
        b.mul(dy, gain)
    })?;
    let total = if site.wants(2) || site.wants(3) {
        let sum = b.sum(dy, &others, true)?;
        Some(b.reshape(sum, &channels)?)
    } else {
        None
    };
    let along = if site.wants(1) || site.wants(4) {
        let mean = b.reshape(mean, &wide)?;
        let centred = b.sub(x, mean)?;
        let along = b.mul(dy, centred)?;
        let sum = b.sum(along, &others, true)?;
        Some(b.reshape(sum, &channels)?)
    } else {
        None
    };
    let of_scale = along.filter(|_| site.wants(1)).map(|along| b.mul(along, inverse)).transpose()?;
    let of_mean = match total.filter(|_| site.wants(3)) {
        Some(total) => {
            let less = b.mul(total, gain)?;
            Some(b.neg(less)?)
        }
        None => None,
    };
    let of_variance = match along.filter(|_| site.wants(4)) {
        Some(along) => {
            let slope = b.div(gain, variance)?;
            let slope = b.scale(slope, -0.5)?;
            Some(b.mul(along, slope)?)
        }
        None => None,
    };
    Ok(vec![input, of_scale, total.filter(|_| site.wants(2)), of_mean, of_variance])
}
