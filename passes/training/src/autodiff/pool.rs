//! Rules of poolings.

use mqc_ir::op::{ScatterReduction, Window};
use mqc_ir::{Op, Tensor, Type, Value, ValueInfo};

use super::Cotangents;
use super::convolution::{Slide, slides, spread_back};
use super::reduce::extremes;
use super::site::Site;
use crate::{Builder, Error};

fn kernel(window: &Window) -> Vec<usize> {
    window.kernel_shape.iter().map(|&k| usize::try_from(k).unwrap_or(0)).collect()
}

/// The first greatest element of each window has the cotangent; the node itself gets an output that says which it is.
pub(super) fn max_pool(b: &mut Builder, site: &Site, window: &Window, storage_order: i64) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    if storage_order != 0 && window.kernel_shape.len() > 1 {
        return Err(site.no(b, "its indices count column by column; expected storage_order 0"));
    }
    let shape = b.shape(x)?;
    let (count, windows) = (shape.iter().product(), b.shape(dy)?.iter().product());
    let indices = indices(b, site)?;
    let indices = b.reshape(indices, &[windows])?;
    let dy = b.reshape(dy, &[windows])?;
    let zeros = b.zeros(&[count])?;
    let op = Op::ScatterElements { axis: 0, reduction: ScatterReduction::Add };
    let dx = b.op(op, &[zeros, indices, dy])?;
    Ok(vec![Some(b.reshape(dx, &shape)?)])
}

fn indices(b: &mut Builder, site: &Site) -> Result<Value, Error> {
    let name = b.graph.info(site.y()).map(|i| i.name.clone()).unwrap_or_default();
    let name = b.graph.numbered_name(&format!("{name}/indices"));
    if let Some(node) = b.graph.node_mut(site.id) {
        match node.outputs.get_mut(1) {
            Some(output) if output.name.is_empty() => output.name = name,
            Some(_) => {}
            None => node.outputs.push(ValueInfo { name, ty: Type::Unknown }),
        }
    }
    mqc_ir::infer::infer_node(b.graph, site.id)?;
    Ok(Value { node: site.id, slot: 1 })
}

/// Each element has the cotangents of the windows that see it, each divided by the elements that its window counts.
pub(super) fn average_pool(b: &mut Builder, site: &Site, window: &Window, count_pads: bool) -> Cotangents {
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    let (shape, pooled) = (b.shape(x)?, b.shape(dy)?);
    let kernel = kernel(window);
    let slides = slides(window, &kernel, &shape, &pooled);
    let weights = inverse_counts(&slides, count_pads);
    let weights = match weights.split_first() {
        Some((first, rest)) if rest.iter().all(|w| w == first) => b.scalar(*first),
        Some(_) | None => b.constant(Tensor::from_f32(pooled[2..].to_vec(), &weights)?),
    };
    let dy = b.mul(dy, weights)?;
    // Every channel of every image is one of its own.
    let planes = shape[0] * shape[1];
    let mut single = pooled;
    single.splice(..2, [planes, 1]);
    let dy = b.reshape(dy, &single)?;
    let mut ones = vec![1, 1];
    ones.extend(kernel);
    let ones = b.constant(Tensor::from_f32(ones.clone(), &vec![1.0; ones.iter().product()])?);
    let dx = spread_back(b, dy, ones, 1, &slides)?;
    Ok(vec![Some(b.reshape(dx, &shape)?)])
}

/// For each window, in order, 1 by the number of elements that it averages.
fn inverse_counts(slides: &[Slide], count_pads: bool) -> Vec<f32> {
    let counts = |slide: &Slide| -> Vec<f32> {
        let pads = if count_pads { slide.pads } else { (0, 0) };
        let seen = |at: usize| {
            let taps = (0..slide.kernel).map(|tap| at * slide.stride + tap * slide.dilation);
            // Positions from the beginning of the padding in front.
            let (low, high) = (slide.pads.0 - pads.0, slide.pads.0 + slide.size + pads.1);
            taps.filter(|place| (low..high).contains(place)).count() as f32
        };
        (0..slide.output).map(seen).collect()
    };
    let mut weights = vec![1.0];
    for slide in slides {
        let counts = counts(slide);
        weights = weights.iter().flat_map(|w| counts.iter().map(move |c| w / c)).collect();
    }
    weights
}

/// The axes that a global pooling runs over, and how many elements they have.
fn spatial(b: &Builder, site: &Site) -> Result<(Vec<usize>, usize), Error> {
    let shape = b.shape(site.x(b, 0)?)?;
    Ok(((2..shape.len()).collect(), shape.iter().skip(2).product()))
}

pub(super) fn global_average_pool(b: &mut Builder, site: &Site) -> Cotangents {
    let (_, count) = spatial(b, site)?;
    let dy = site.dy(b)?;
    Ok(vec![Some(b.scale(dy, 1.0 / count as f32)?)])
}

/// Elements that are equally great share the cotangent.
pub(super) fn global_max_pool(b: &mut Builder, site: &Site) -> Cotangents {
    let (axes, _) = spatial(b, site)?;
    let (x, dy) = (site.x(b, 0)?, site.dy(b)?);
    Ok(vec![Some(extremes(b, x, site.y(), dy, &axes)?)])
}
