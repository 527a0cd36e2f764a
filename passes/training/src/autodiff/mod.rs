//! Gradients as graph transformations: a rule for every operation, and the walk that joins them.
//!
//! Cotangents of values that are broadcast stay small as long as they can: what a map holds has a shape that broadcasts
//! to that of its value. Elementwise rules take and give such cotangents; all others are given them in full.

mod convolution;
mod elementwise;
mod index;
mod layout;
mod normalization;
mod pool;
mod product;
mod reduce;
mod rules;
mod site;

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::op::Reduction;
use mqc_ir::{NodeId, Value};
use rules::{Rule, rule};
use site::Site;
pub(crate) use site::{axis, no_gradient};

use crate::expand::expand;
use crate::{Builder, Error};

/// What a rule gives: the cotangent of each operand, where it is wanted and something flows.
type Cotangents = Result<Vec<Option<Value>>, Error>;

/// Cotangents of `wrt` for given cotangents of some values, each of the shape of its value; `None` where nothing flows.
///
/// `wrt` are leaves: nothing flows past them. Nothing flows through `stops`, integers, booleans and strings. A given
/// cotangent may have any shape that broadcasts to that of its value, so a scalar 1 serves for a loss. Only what lies
/// between `wrt` and the values that have cotangents is differentiated. Composites without a rule of their own are
/// replaced by their expansion.
///
/// # Errors
/// An operation on the way that has no gradient, sizes that are not known, a given cotangent that does not fit.
pub fn vjp(
    b: &mut Builder,
    seeds: &[(Value, Value)],
    wrt: &[Value],
    stops: &[Value],
) -> Result<Vec<Option<Value>>, Error> {
    let order = b.graph.order()?;
    let active = active(b, &order, wrt, stops);
    let mut sums = BTreeMap::new();
    for (value, cotangent) in seeds {
        let shape = b.shape(*value)?;
        let given = b.shape(*cotangent)?;
        if !fits(&given, &shape) {
            let name = b.graph.info(*value).map(|i| i.name.clone()).unwrap_or_default();
            let message = format!("has shape {given:?}, which does not broadcast to {shape:?}");
            return Err(Error::invalid("the cotangent of", name, message));
        }
        if active.contains(value) {
            collect(b, &mut sums, *value, *cotangent)?;
        }
    }
    let leaves: BTreeSet<Value> = wrt.iter().copied().collect();
    for id in order.into_iter().rev() {
        back(b, id, &active, &leaves, &mut sums)?;
    }
    wrt.iter()
        .map(|value| match sums.get(value) {
            Some(sum) => {
                let shape = b.shape(*value)?;
                b.expand(*sum, &shape).map(Some)
            }
            None => Ok(None),
        })
        .collect()
}

/// The values that depend on `wrt` in a way that can have a gradient.
fn active(b: &Builder, order: &[NodeId], wrt: &[Value], stops: &[Value]) -> BTreeSet<Value> {
    let stops: BTreeSet<Value> = stops.iter().copied().collect();
    let mut active: BTreeSet<Value> = wrt.iter().copied().filter(|v| !stops.contains(v)).collect();
    for id in order {
        let Some(node) = b.graph.node(*id) else { continue };
        let depends = b.graph.operands(*id).iter().flatten().any(|v| active.contains(v));
        if !depends || matches!(rule(&node.op), Rule::Zero) {
            continue;
        }
        for slot in 0..node.outputs.len() {
            let value = Value { node: *id, slot };
            // A type that is no tensor may hold floats; the operation that takes it apart says whether it can.
            let real = b.graph.ty(value).dtype().is_none_or(mqc_ir::DType::is_float);
            if real && !stops.contains(&value) {
                active.insert(value);
            }
        }
    }
    active
}

/// Hands the cotangents of a node's outputs to its operands.
fn back(
    b: &mut Builder,
    id: NodeId,
    active: &BTreeSet<Value>,
    leaves: &BTreeSet<Value>,
    sums: &mut BTreeMap<Value, Value>,
) -> Result<(), Error> {
    let Some(node) = b.graph.node(id) else { return Ok(()) };
    let (op, outputs) = (node.op.clone(), node.outputs.len());
    let values = (0..outputs).map(|slot| Value { node: id, slot });
    let dys: Vec<_> = values.map(|v| sums.get(&v).copied().filter(|_| !leaves.contains(&v))).collect();
    let operands = b.graph.operands(id);
    let wanted: Vec<bool> = operands.iter().map(|v| v.is_some_and(|v| active.contains(&v))).collect();
    if dys.iter().all(Option::is_none) || !wanted.contains(&true) {
        return Ok(());
    }
    let mut site = Site { id, operands: operands.clone(), wanted, dys };
    let (cotangents, elementwise) = match rule(&op) {
        Rule::Zero => return Ok(()),
        Rule::Missing(reason) => return Err(site.no(b, reason)),
        Rule::Elementwise(rule) => (rule(b, &site)?, true),
        Rule::Own(rule) => {
            site.fill(b)?;
            (rule(b, &site)?, false)
        }
        Rule::Expand => {
            site.fill(b)?;
            (through_expansion(b, &site)?, false)
        }
    };
    for (slot, cotangent) in cotangents.into_iter().enumerate() {
        let (Some(cotangent), Some(operand)) = (cotangent, site.operand(slot)) else { continue };
        let from = if elementwise { b.shape(site.y())? } else { b.shape(cotangent)? };
        let to = b.shape(operand)?;
        let cotangent = narrow(b, cotangent, &from, &to)?;
        collect(b, sums, operand, cotangent)?;
    }
    Ok(())
}

/// Differentiates what computes the same, and lets it take the node's place.
fn through_expansion(b: &mut Builder, site: &Site) -> Cotangents {
    let Some(values) = expand(b, site.id)? else {
        return Err(site.no(b, "it has neither a rule nor an expansion"));
    };
    let mut seeds = vec![];
    for (slot, value) in values.into_iter().enumerate() {
        let old = Value { node: site.id, slot };
        b.graph.replace_uses(old, value)?;
        seeds.extend(site.dys.get(slot).copied().flatten().map(|dy| (value, dy)));
    }
    let wrt: Vec<Value> = (0..site.operands.len())
        .filter_map(|slot| site.operand(slot).filter(|_| site.wants(slot)))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let found = within(b, &seeds, &wrt)?;
    // An operand that stands in two places has one cotangent.
    let mut left: BTreeMap<Value, Value> =
        wrt.into_iter().zip(found).filter_map(|(v, c)| Some((v, c?))).collect();
    Ok((0..site.operands.len()).map(|slot| left.remove(&site.operand(slot)?)).collect())
}

/// As [`vjp`] for a part of the graph that lies between `wrt` and the values of `seeds`, without a walk over all of it.
fn within(b: &mut Builder, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>, Error> {
    let leaves: BTreeSet<Value> = wrt.iter().copied().collect();
    let mut order = vec![];
    let mut seen = BTreeSet::new();
    // Operands first: a node is listed when it is met the second time.
    let mut stack: Vec<(NodeId, bool)> = seeds.iter().map(|(v, _)| (v.node, false)).collect();
    while let Some((id, listed)) = stack.pop() {
        if listed {
            order.push(id);
        } else if seen.insert(id) {
            stack.push((id, true));
            let operands = b.graph.operands(id);
            stack.extend(operands.iter().flatten().filter(|v| !leaves.contains(v)).map(|v| (v.node, false)));
        }
    }
    let active = active(b, &order, wrt, &[]);
    let mut sums = BTreeMap::new();
    for (value, cotangent) in seeds.iter().filter(|(v, _)| active.contains(v)) {
        collect(b, &mut sums, *value, *cotangent)?;
    }
    for id in order.into_iter().rev() {
        back(b, id, &active, &leaves, &mut sums)?;
    }
    Ok(wrt.iter().map(|v| sums.get(v).copied()).collect())
}

/// Adds a contribution to the cotangent of a value.
fn collect(
    b: &mut Builder,
    sums: &mut BTreeMap<Value, Value>,
    value: Value,
    cotangent: Value,
) -> Result<(), Error> {
    let sum = match sums.get(&value) {
        Some(sum) => b.add(*sum, cotangent)?,
        None => cotangent,
    };
    sums.insert(value, sum);
    Ok(())
}

/// Whether `small` broadcasts to `large` without changing it.
fn fits(small: &[usize], large: &[usize]) -> bool {
    let lead = large.len().checked_sub(small.len());
    lead.is_some_and(|lead| small.iter().zip(&large[lead..]).all(|(s, l)| *s == 1 || s == l))
}

/// Sums the cotangent of something of shape `from`, which may be given smaller where it repeats, over the axes along
/// which an operand of shape `to` was repeated. The result broadcasts to `to`.
fn narrow(b: &mut Builder, cotangent: Value, from: &[usize], to: &[usize]) -> Result<Value, Error> {
    let shape = b.shape(cotangent)?;
    let at = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(from.len()).map(|i| shape[i]);
    let repeated = (0..from.len()).filter(|&i| at(to, i).unwrap_or(1) == 1 && from[i] != 1);
    let (mut axes, mut times) = (vec![], 1);
    for i in repeated {
        match (i + shape.len()).checked_sub(from.len()) {
            Some(own) if shape[own] != 1 => axes.push(own),
            Some(_) | None => times *= from[i],
        }
    }
    let lead = shape.len().saturating_sub(to.len());
    let mut sum = cotangent;
    if lead > 0 && axes.iter().copied().eq(0..lead) {
        sum = b.sum(sum, &axes, false)?;
    } else {
        sum = b.sum(sum, &axes, true)?;
        let kept = b.shape(sum)?;
        sum = b.reshape(sum, kept.get(lead..).unwrap_or_default())?;
    }
    if times == 1 { Ok(sum) } else { b.scale(sum, times as f32) }
}

/// Sums over axes that stay with size 1.
fn sum_kept(b: &mut Builder, x: Value, axes: &[usize]) -> Result<Value, Error> {
    b.sum(x, axes, true)
}

/// Means over axes that stay with size 1.
fn mean_kept(b: &mut Builder, x: Value, axes: &[usize]) -> Result<Value, Error> {
    if axes.is_empty() { Ok(x) } else { b.reduce(Reduction::Mean, x, axes, true) }
}
