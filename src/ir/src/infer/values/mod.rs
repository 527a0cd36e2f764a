//! Shape arithmetic: the elements of small integer tensors, computed with symbols.

mod arithmetic;
mod layout;

use arithmetic::{binary, cast, compare, unary};
use layout::{spread, take, transpose};

use super::reshape::shape_range;
use super::site::{Ints, MAX_ITEMS, Site, axes, axis, is_integer};
use super::symbolic::{Expr, product};
use crate::op::{Reduction, Variadic};
use crate::{DType, Dim, Op, Tensor, Type};

type Item = Option<Expr>;

/// The integer elements of each output that is a small integer tensor; `None` where nothing is known.
/// `types` are the inferred types of the outputs.
pub(super) fn evaluate(site: &Site, types: &[Type]) -> Vec<Option<Ints>> {
    let integer = types.first().and_then(Type::dtype).is_some_and(|d| is_integer(d) || d == DType::Bool);
    if !integer {
        return vec![];
    }
    let output = |(slot, ty)| {
        let shape = sizes(ty)?;
        let items = output(site, slot, types, &shape)?;
        let fits = items.len() == shape.iter().product::<usize>() && items.iter().any(Option::is_some);
        fits.then_some(Ints { shape, items })
    };
    types.iter().enumerate().map(output).collect()
}

/// The sizes of a tensor of few elements.
pub(super) fn sizes(ty: &Type) -> Option<Vec<usize>> {
    let sizes: Vec<usize> =
        ty.shape()?.iter().map(|d| usize::try_from(d.size()?).ok()).collect::<Option<_>>()?;
    let count = sizes.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    (count <= MAX_ITEMS).then_some(sizes)
}

/// The elements of one output, which has `shape`.
fn output(site: &Site, slot: usize, types: &[Type], shape: &[usize]) -> Option<Vec<Item>> {
    let op = &site.node.op;
    // Only Split has integer elements that are known behind its first output.
    if slot > 0 && !matches!(op, Op::Split { .. }) {
        return None;
    }
    match op {
        Op::Weight(t) | Op::Constant(t) => constant(t),
        Op::Identity
        | Op::Dropout { .. }
        | Op::Reshape { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. } => Some(site.ints(0)?.items),
        Op::Transpose { perm } => transpose(&site.ints(0)?, perm, shape),
        Op::Cast { to, .. } => Some(map(&site.ints(0)?, |item| cast(item, *to))),
        Op::Shape { start, end } => {
            let dims = site.ty(0).shape()?;
            Some(dims[shape_range(dims.len(), *start, *end)].iter().map(Expr::of).collect())
        }
        Op::Size => Some(vec![product(site.ty(0).shape()?)]),
        Op::Gather { axis } => gather(site, *axis),
        Op::Slice => slice(site),
        Op::Split { axis, .. } => split(site, *axis, slot, types),
        Op::Concat { .. } if shape.len() == 1 => {
            let parts = (0..site.operands.len()).map(|slot| site.ints(slot)).collect::<Option<Vec<_>>>()?;
            Some(parts.into_iter().flat_map(|p| p.items).collect())
        }
        Op::Unary(kind) => Some(map(&site.ints(0)?, |item| unary(*kind, item))),
        Op::Binary(kind) => zip(site, shape, |a, b| binary(*kind, a, b)),
        Op::Compare(kind) => zip(site, shape, |a, b| compare(*kind, a, b)),
        Op::Variadic(kind) => {
            let pick: fn(&Expr, &Expr) -> Item = match kind {
                Variadic::Max => Expr::greater,
                Variadic::Min => Expr::lesser,
                Variadic::Mean | Variadic::Sum => return None,
            };
            let operand = |slot| spread(&site.ints(slot)?, shape);
            (1..site.operands.len()).try_fold(operand(0)?, |all, slot| {
                let pairs = all.into_iter().zip(operand(slot)?);
                Some(pairs.map(|(a, b)| pick(&a?, &b?)).collect())
            })
        }
        Op::Select => select(site, shape),
        Op::Reduce { kind, .. } => reduce(site, *kind),
        Op::ConstantOfShape { value } => {
            let item = constant(value.as_ref()?)?.into_iter().next()?;
            Some(vec![item; shape.iter().product()])
        }
        Op::Expand => spread(&site.ints(0)?, shape),
        Op::Range => {
            let (start, step) = (site.constants(0)?, site.constants(2)?);
            let value =
                |i: usize| start.first()?.checked_add(step.first()?.checked_mul(i as i64)?).map(Expr::from);
            Some((0..shape.iter().product()).map(value).collect())
        }
        Op::Input
        | Op::Concat { .. }
        | Op::Clip
        | Op::LeakyRelu { .. }
        | Op::Elu { .. }
        | Op::HardSigmoid { .. }
        | Op::Pad { .. }
        | Op::GatherElements { .. }
        | Op::GatherNd { .. }
        | Op::ScatterElements { .. }
        | Op::ScatterNd { .. }
        | Op::Tile
        | Op::MatMul
        | Op::Conv(_)
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalAveragePool
        | Op::GlobalMaxPool
        | Op::Gemm { .. }
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Gelu { .. }
        | Op::BatchNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::RmsNormalization { .. }
        | Op::NestedQuantize(_)
        | Op::SliceBits { .. }
        | Op::FakeSlice { .. }
        | Op::Dequantize { .. }
        | Op::NestedMatMul(_)
        | Op::NestedConv { .. }
        | Op::NestedGather(_)
        | Op::Opaque(_) => None,
    }
}

fn constant(tensor: &Tensor) -> Option<Vec<Item>> {
    if tensor.len() > MAX_ITEMS {
        return None;
    }
    let values = match tensor.dtype() {
        DType::Bool => tensor.bytes().iter().map(|b| i64::from(*b != 0)).collect(),
        _ => tensor.to_i64_vec()?,
    };
    Some(values.into_iter().map(|v| Some(Expr::from(v))).collect())
}

fn map(data: &Ints, f: impl Fn(&Expr) -> Item) -> Vec<Item> {
    data.items.iter().map(|item| f(item.as_ref()?)).collect()
}

fn zip(site: &Site, shape: &[usize], combine: impl Fn(&Expr, &Expr) -> Item) -> Option<Vec<Item>> {
    let (a, b) = (spread(&site.ints(0)?, shape)?, spread(&site.ints(1)?, shape)?);
    Some(a.into_iter().zip(b).map(|(a, b)| combine(&a?, &b?)).collect())
}

fn select(site: &Site, shape: &[usize]) -> Option<Vec<Item>> {
    let [condition, yes, no] = [0, 1, 2].map(|slot| spread(&site.ints(slot)?, shape));
    let pick = |((condition, yes), no): ((Item, Item), Item)| match condition.and_then(|c| c.constant()) {
        Some(0) => no,
        Some(_) => yes,
        None => yes.filter(|y| no.as_ref() == Some(y)),
    };
    Some(condition?.into_iter().zip(yes?).zip(no?).map(pick).collect())
}

fn gather(site: &Site, at: i64) -> Option<Vec<Item>> {
    let (data, indices) = (site.ints(0)?, site.constants(1)?);
    let at = axis(at, data.shape.len()).ok()?;
    let len = data.shape[at];
    let place = |i: &i64| axis(*i, len).ok();
    let places = indices.iter().map(place).collect::<Option<Vec<_>>>()?;
    Some(take(&data, at, &places)?.items)
}

fn slice(site: &Site) -> Option<Vec<Item>> {
    let data = site.ints(0)?;
    let (starts, ends) = (site.constants(1)?, site.constants(2)?);
    let places = match site.value(3) {
        Some(_) => axes(&site.constants(3)?, data.shape.len()).ok()?,
        None => (0..starts.len()).collect(),
    };
    let steps = if site.value(4).is_some() { site.constants(4)? } else { vec![1; starts.len()] };
    let mut sliced = data;
    for (i, axis) in places.into_iter().enumerate() {
        let len = i64::try_from(*sliced.shape.get(axis)?).ok()?;
        let kept = walk(len, *starts.get(i)?, *ends.get(i)?, *steps.get(i)?);
        sliced = take(&sliced, axis, &kept)?;
    }
    Some(sliced.items)
}

/// The places `start..end` by `step` within 0 and `len`, as ONNX clamps the bounds.
fn walk(len: i64, start: i64, end: i64, step: i64) -> Vec<usize> {
    let place = |i: i64, low: i64, high: i64| {
        (if i < 0 { i.saturating_add(len) } else { i }).clamp(low, high.max(low))
    };
    let (mut at, end) = if step > 0 {
        (place(start, 0, len), place(end, 0, len))
    } else {
        (place(start, 0, len - 1), place(end, -1, len - 1))
    };
    let mut places = vec![];
    while at < len && ((step > 0 && at < end) || (step < 0 && at > end)) {
        places.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    places
}

fn split(site: &Site, at: i64, slot: usize, types: &[Type]) -> Option<Vec<Item>> {
    let data = site.ints(0)?;
    let at = axis(at, data.shape.len()).ok()?;
    let size = |ty: &Type| ty.shape()?.get(at).and_then(Dim::size).and_then(|n| usize::try_from(n).ok());
    let before = types[..slot].iter().try_fold(0usize, |sum, ty| sum.checked_add(size(ty)?))?;
    let end = before.checked_add(size(types.get(slot)?)?).filter(|end| *end <= data.shape[at])?;
    let places: Vec<_> = (before..end).collect();
    Some(take(&data, at, &places)?.items)
}

/// Reduction of a vector to one element.
fn reduce(site: &Site, kind: Reduction) -> Option<Vec<Item>> {
    let data = site.ints(0).filter(|d| d.shape.len() == 1)?;
    let items = data.items.into_iter().collect::<Option<Vec<_>>>()?;
    let combine: fn(&Expr, &Expr) -> Item = match kind {
        Reduction::Sum => Expr::add,
        Reduction::Prod => Expr::mul,
        Reduction::Max => Expr::greater,
        Reduction::Min => Expr::lesser,
        Reduction::L1
        | Reduction::L2
        | Reduction::LogSum
        | Reduction::LogSumExp
        | Reduction::Mean
        | Reduction::SumSquare => return None,
    };
    let (first, rest) = items.split_first()?;
    Some(vec![rest.iter().try_fold(first.clone(), |all, item| combine(&all, item))])
}
