//! Rules of convolutions: both gradients are convolutions again.

use mqc_ir::op::{AutoPad, Window};
use mqc_ir::{Op, Value};

use super::Cotangents;
use super::layout::{reversed, spread};
use super::site::Site;
use crate::{Builder, Error};

/// One spatial axis of a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slide {
    pub size: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    /// Before and behind the input, as the operation states them.
    pub pads: (usize, usize),
}

impl Slide {
    /// Elements from the first to the last that a window sees.
    pub fn extent(&self) -> usize {
        self.kernel.saturating_sub(1) * self.dilation + 1
    }
}

/// The window of an operation over an input `[B, C, ..]` with an output `[B, M, ..]`, axis by axis.
pub(super) fn slides(window: &Window, kernel: &[usize], input: &[usize], output: &[usize]) -> Vec<Slide> {
    let n = kernel.len();
    let at = |list: &[i64], i: usize, default: usize| {
        list.get(i).and_then(|v| usize::try_from(*v).ok()).unwrap_or(default)
    };
    (0..n)
        .map(|i| {
            let mut slide = Slide {
                size: input[i + 2],
                output: output[i + 2],
                kernel: kernel[i],
                stride: at(&window.strides, i, 1),
                dilation: at(&window.dilations, i, 1),
                pads: (at(&window.pads, i, 0), at(&window.pads, n + i, 0)),
            };
            let covered = slide.output.saturating_sub(1) * slide.stride + slide.extent();
            let missing = covered.saturating_sub(slide.size);
            slide.pads = match window.auto_pad {
                AutoPad::Notset => slide.pads,
                AutoPad::Valid => (0, 0),
                AutoPad::SameUpper => (missing / 2, missing - missing / 2),
                AutoPad::SameLower => (missing - missing / 2, missing / 2),
            };
            slide
        })
        .collect()
}

pub(super) fn conv(b: &mut Builder, site: &Site, window: &Window) -> Cotangents {
    let (x, w, dy) = (site.x(b, 0)?, site.x(b, 1)?, site.dy(b)?);
    let (xs, ws, ys) = (b.shape(x)?, b.shape(w)?, b.shape(dy)?);
    let group = usize::try_from(window.group).unwrap_or(0).max(1);
    let slides = slides(window, &ws[2..], &xs, &ys);
    let dx = match site.wants(0) {
        true => {
            let kernel = turned_kernel(b, w, group)?;
            Some(spread_back(b, dy, kernel, group, &slides)?)
        }
        false => None,
    };
    let dw = if site.wants(1) { Some(of_weight(b, x, dy, group, &ws, &slides)?) } else { None };
    let axes: Vec<usize> = (0..ys.len()).filter(|&i| i != 1).collect();
    let db = site.when(2, || b.sum(dy, &axes, false))?;
    Ok(vec![dx, dw, db])
}

/// [M, C / g, ..] -> [C, M / g, ..] with the spatial axes in reverse.
fn turned_kernel(b: &mut Builder, w: Value, group: usize) -> Result<Value, Error> {
    let shape = b.shape(w)?;
    let spatial: Vec<usize> = (2..shape.len()).filter(|&i| shape[i] > 1).collect();
    let w = reversed(b, w, &spatial)?;
    if group == 1 {
        let perm: Vec<usize> = [1, 0].into_iter().chain(2..shape.len()).collect();
        return b.transpose(w, &perm);
    }
    let (outputs, inputs) = (shape[0] / group, shape[1]);
    let mut split = vec![group, outputs, inputs];
    split.extend(&shape[2..]);
    let w = b.reshape(w, &split)?;
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.len()).collect();
    let w = b.transpose(w, &perm)?;
    let mut joined = vec![group * inputs, outputs];
    joined.extend(&shape[2..]);
    b.reshape(w, &joined)
}

/// Spreads the cotangent of a window's outputs over its inputs: a convolution of it, its elements a stride apart, with
/// the kernel in reverse.
pub(super) fn spread_back(
    b: &mut Builder,
    dy: Value,
    kernel: Value,
    group: usize,
    slides: &[Slide],
) -> Result<Value, Error> {
    let mut spaced = dy;
    let (mut before, mut after) = (vec![], vec![]);
    for (i, slide) in slides.iter().enumerate() {
        spaced = spread(b, spaced, i + 2, slide.stride)?;
        let margin = slide.extent() - 1;
        // Windows that start further out than a kernel reaches see padding only.
        let mut length = (slide.output.max(1) - 1) * slide.stride + 1;
        let front = slide.pads.0.saturating_sub(margin).min(length);
        length -= front;
        let lead = margin.saturating_sub(slide.pads.0);
        let needed = slide.size + margin - lead;
        if front > 0 || needed < length {
            length = length.min(needed);
            spaced = b.slice(spaced, i + 2, front, length)?;
        }
        before.push(lead as i64);
        after.push((needed - length) as i64);
    }
    let window = Window {
        dilations: slides.iter().map(|s| s.dilation as i64).collect(),
        group: if group == 1 { 0 } else { group as i64 },
        kernel_shape: slides.iter().map(|s| s.kernel as i64).collect(),
        pads: before.into_iter().chain(after).collect(),
        ..Window::default()
    };
    b.op(Op::Conv(window), &[spaced, kernel])
}

/// The gradient of the kernel: the input convolved with the cotangent, batch and channels exchanged; strides become
/// dilations and the other way round.
fn of_weight(
    b: &mut Builder,
    x: Value,
    dy: Value,
    group: usize,
    ws: &[usize],
    slides: &[Slide],
) -> Result<Value, Error> {
    let kernel = channels_first(b, dy, 1)?;
    let mut inputs = channels_first(b, x, group)?;
    let (mut before, mut after) = (vec![], vec![]);
    for (i, slide) in slides.iter().enumerate() {
        // What the windows reach: padding behind the input, or an input whose end no window sees.
        let covered = (slide.output.max(1) - 1) * slide.stride + slide.extent();
        let seen = covered.saturating_sub(slide.pads.0);
        if (1..slide.size).contains(&seen) {
            inputs = b.slice(inputs, i + 2, 0, seen)?;
        }
        before.push(slide.pads.0 as i64);
        after.push(seen.saturating_sub(slide.size) as i64);
    }
    let window = Window {
        dilations: slides.iter().map(|s| s.stride as i64).collect(),
        group: if group == 1 { 0 } else { group as i64 },
        kernel_shape: slides.iter().map(|s| s.output as i64).collect(),
        pads: before.into_iter().chain(after).collect(),
        strides: slides.iter().map(|s| s.dilation as i64).collect(),
        ..Window::default()
    };
    let mut dw = b.op(Op::Conv(window), &[inputs, kernel])?;
    for (i, size) in ws.iter().enumerate().skip(2) {
        if b.shape(dw)?[i] != *size {
            dw = b.slice(dw, i, 0, *size)?;
        }
    }
    let perm: Vec<usize> = [1, 0].into_iter().chain(2..ws.len()).collect();
    b.transpose(dw, &perm)
}

/// `[B, C, ..]` -> `[C / g, g B, ..]`.
fn channels_first(b: &mut Builder, x: Value, group: usize) -> Result<Value, Error> {
    let shape = b.shape(x)?;
    if group == 1 {
        let perm: Vec<usize> = [1, 0].into_iter().chain(2..shape.len()).collect();
        return b.transpose(x, &perm);
    }
    let (batch, channels) = (shape[0], shape[1] / group);
    let mut split = vec![batch, group, channels];
    split.extend(&shape[2..]);
    let x = b.reshape(x, &split)?;
    let perm: Vec<usize> = [2, 1, 0].into_iter().chain(3..split.len()).collect();
    let x = b.transpose(x, &perm)?;
    let mut joined = vec![channels, group * batch];
    joined.extend(&shape[2..]);
    b.reshape(x, &joined)
}
