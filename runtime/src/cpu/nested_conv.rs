//! Convolution with a nested weight: im2col and a product, or a direct loop when every channel is its own
//! group.

use mqc_kernels::cpu::{Epilogue, KernelError, Layout, MatMul, Threads};
use tract_onnx::tract_hir::internal::{TDim, TVec, ToDim};

use super::Resident;
use crate::nested::NestedError;

/// Elements of an im2col tile at most.
const TILE: usize = 1 << 20;

/// ONNX `pads` and `auto_pad`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// Zeros before and after each spatial axis.
    Explicit { begin: Vec<usize>, end: Vec<usize> },
    /// As many as give ceil(input / stride) outputs, the odd one after.
    SameUpper,
    /// As many as give ceil(input / stride) outputs, the odd one before.
    SameLower,
}

/// The attributes of an ONNX Conv with 1 to 3 spatial axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvGeometry {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
    group: usize,
}

impl ConvGeometry {
    /// Checks that all attributes agree on 1 to 3 spatial axes and that nothing is zero.
    ///
    /// # Errors
    /// Which attribute is wrong.
    pub fn new(
        kernel: Vec<usize>,
        strides: Vec<usize>,
        dilations: Vec<usize>,
        padding: Padding,
        group: usize,
    ) -> Result<Self, String> {
        let axes = kernel.len();
        if !(1..=3).contains(&axes) {
            return Err(format!("kernel_shape {kernel:?} has {axes} spatial axes, expected 1 to 3"));
        }
        for (name, values) in [("kernel_shape", &kernel), ("strides", &strides), ("dilations", &dilations)] {
            if values.len() != axes || values.contains(&0) {
                return Err(format!("{name} is {values:?}, expected {axes} positive integers"));
            }
        }
        if let Padding::Explicit { begin, end } = &padding
            && (begin.len() != axes || end.len() != axes)
        {
            return Err(format!("pads has {} values, expected {}", begin.len() + end.len(), 2 * axes));
        }
        if group == 0 {
            return Err("group is 0".to_owned());
        }
        Ok(Self { kernel, strides, dilations, padding, group })
    }

    /// Spatial axes.
    pub fn axes(&self) -> usize {
        self.kernel.len()
    }

    /// The shape `[B, M, spatial...]` of the output for an input `[B, C, spatial...]` and M output channels.
    ///
    /// # Errors
    /// If the rank is wrong or the kernel does not fit into the padded input.
    pub fn output_shape(&self, input: &[TDim], channels: usize) -> Result<TVec<TDim>, String> {
        if input.len() != self.axes() + 2 {
            return Err(format!("the input has rank {}, expected {}", input.len(), self.axes() + 2));
        }
        let mut shape: TVec<TDim> = [input[0].clone(), channels.to_dim()].into_iter().collect();
        for axis in 0..self.axes() {
            let dim = input[axis + 2].clone();
            let stride = self.strides[axis] as u64;
            shape.push(match &self.padding {
                Padding::SameUpper | Padding::SameLower => dim.div_ceil(stride),
                Padding::Explicit { begin, end } => {
                    let padded = dim + (begin[axis] + end[axis]).to_dim();
                    let reach = self.reach(axis);
                    if padded.to_i64().is_ok_and(|padded| padded < reach as i64) {
                        return Err(format!(
                            "the kernel spans {reach} on spatial axis {axis}, the input {padded}"
                        ));
                    }
                    (padded - reach.to_dim()) / stride + 1
                }
            });
        }
        Ok(shape)
    }

    /// Input positions that one window spans.
    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    fn pad_before(&self, axis: usize, input: usize, output: usize) -> usize {
        let total =
            ((output.saturating_sub(1)) * self.strides[axis] + self.reach(axis)).saturating_sub(input);
        match &self.padding {
            Padding::Explicit { begin, .. } => begin[axis],
            Padding::SameUpper => total / 2,
            Padding::SameLower => total.div_ceil(2),
        }
    }

    /// The same convolution on three spatial axes, for one input size.
    fn windows(&self, input: &[usize], output: &[usize]) -> Windows {
        let lead = 3 - self.axes();
        let axes = std::array::from_fn(|axis| match axis.checked_sub(lead) {
            None => Axis { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, pad: 0 },
            Some(axis) => Axis {
                input: input[axis],
                output: output[axis],
                kernel: self.kernel[axis],
                stride: self.strides[axis],
                dilation: self.dilations[axis],
                pad: self.pad_before(axis, input[axis], output[axis]),
            },
        });
        Windows { axes }
    }
}

/// ONNX Conv of `x`, `[B, C, spatial...]` of shape `shape`, with the weight `[M, C/group * kernel]` at its
/// resident's current width and `bias` `[M]`. Returns the output row-major and its shape. The result does not
/// depend on the number of threads.
///
/// # Errors
/// If shapes and attributes contradict each other, or the weight cannot be read at that width.
pub fn nested_conv(
    resident: &Resident,
    geometry: &ConvGeometry,
    x: &[f32],
    shape: &[usize],
    bias: Option<&[f32]>,
) -> Result<(Vec<f32>, Vec<usize>), ConvError> {
    let (m, k) = (resident.weight().rows(), resident.weight().cols());
    let dims: TVec<TDim> = shape.iter().map(|dim| dim.to_dim()).collect();
    let out_shape: Vec<usize> = geometry
        .output_shape(&dims, m)
        .and_then(|dims| {
            dims.iter().map(|dim| dim.to_i64().map(|dim| dim as usize).map_err(|e| e.to_string())).collect()
        })
        .map_err(ConvError::Shape)?;
    let (groups, taps) = (geometry.group, geometry.kernel.iter().product::<usize>());
    let channels = k / taps;
    if k % taps != 0 || channels * groups != shape[1] || m % groups != 0 {
        return Err(ConvError::Shape(format!(
            "{} input channels in {groups} groups do not fit a weight of {m} rows by {k}, {taps} a channel",
            shape[1]
        )));
    }
    let windows = geometry.windows(&shape[2..], &out_shape[2..]);
    let mut out = vec![0.0; shape[0] * m * windows.positions()];
    if !out.is_empty() && k != 0 {
        let convolution = Convolution { resident, windows, channels, groups, bias };
        if channels == 1 && groups > 1 {
            convolution.depthwise(x, &mut out)?
        } else {
            convolution.unfolded(x, &mut out)?
        }
    }
    Ok((out, out_shape))
}

/// Why a convolution failed.
#[derive(Debug, thiserror::Error)]
pub enum ConvError {
    /// Shapes and attributes contradict each other.
    #[error("{0}")]
    Shape(String),
    /// The weight cannot be read.
    #[error(transparent)]
    Weight(#[from] NestedError),
    /// The product failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A convolution whose shapes fit: `channels` of the input for each of the `groups`.
struct Convolution<'a> {
    resident: &'a Resident,
    windows: Windows,
    channels: usize,
    groups: usize,
    bias: Option<&'a [f32]>,
}

impl Convolution<'_> {
    /// One channel a group: a direct loop.
    fn depthwise(&self, x: &[f32], out: &mut [f32]) -> Result<(), NestedError> {
        let (weight, width) = (self.resident.weight(), self.resident.width());
        let (rows, taps) = (weight.rows(), self.windows.taps());
        let (size, positions) = (self.windows.input_size(), self.windows.positions());
        let mut taps_of = vec![0.0; rows * taps];
        weight.dequantize_rows(width, 0..rows, &mut taps_of)?;
        let rows_a_group = rows / self.groups;
        self.resident.engine().threads().chunks(out, positions, |index, out| {
            let (image, row) = (index / rows, index % rows);
            let plane = &x[(image * self.groups + row / rows_a_group) * size..][..size];
            out.fill(self.bias.map_or(0.0, |bias| bias[row]));
            self.windows.slide(plane, &taps_of[row * taps..][..taps], out);
        });
        Ok(())
    }

    /// Each window becomes a token of a product whose outputs are the channels.
    fn unfolded(&self, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        let threads = self.resident.engine().threads();
        let product = self.resident.product(&threads)?;
        let k = self.channels * self.windows.taps();
        let (size, positions) = (self.windows.input_size(), self.windows.positions());
        let rows = self.resident.weight().rows() / self.groups;
        let tile = (TILE / k).clamp(64, positions.max(64)).min(positions);
        let (mut columns, mut tokens) = (vec![0.0; k * tile], vec![0.0; k * tile]);
        for (index, out) in out.chunks_mut(rows * positions).enumerate() {
            let group = index % self.groups;
            let x = &x[index * self.channels * size..][..self.channels * size];
            let range = group * rows..(group + 1) * rows;
            for start in (0..positions).step_by(tile) {
                let width = tile.min(positions - start);
                let tokens = &mut tokens[..k * width];
                if self.windows.is_pointwise() {
                    transpose(&threads, &x[start..], positions, k, tokens);
                } else {
                    let columns = &mut columns[..k * width];
                    threads.chunks(columns, self.windows.taps() * width, |channel, rows| {
                        let plane = &x[channel * size..][..size];
                        let taps = rows.chunks_mut(width).enumerate();
                        taps.for_each(|(tap, row)| self.windows.unfold(plane, tap, start, row));
                    });
                    transpose(&threads, columns, width, k, tokens);
                }
                let epilogue =
                    Epilogue { bias: self.bias.map(|bias| &bias[range.clone()]), ..Epilogue::default() };
                let layout = Layout::RowMajor { stride: positions };
                let end = (rows - 1) * positions + width;
                let matmul = MatMul { rows: range.clone(), epilogue, layout, ..product.clone() };
                matmul.run(tokens, width, &mut out[start..start + end])?;
            }
        }
        Ok(())
    }
}

/// Tokens transposed together: a cache line of each column.
const LINE: usize = 16;

/// `tokens[t, c] = columns[c * stride + t]` for `k` columns.
fn transpose(threads: &Threads, columns: &[f32], stride: usize, k: usize, tokens: &mut [f32]) {
    threads.chunks(tokens, LINE * k, |index, tokens| {
        for (column, values) in columns.chunks(stride).take(k).enumerate() {
            for (token, value) in tokens.chunks_mut(k).zip(&values[index * LINE..]) {
                token[column] = *value;
            }
        }
    });
}

/// One spatial axis of a convolution.
#[derive(Debug, Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
}

impl Axis {
    /// The input position under kernel tap `tap` of window `window`, if it is not padding.
    fn position(&self, window: usize, tap: usize) -> Option<usize> {
        (window * self.stride + tap * self.dilation).checked_sub(self.pad).filter(|at| *at < self.input)
    }

    /// The windows whose tap `tap` is not padding: `first..end`.
    fn inside(&self, tap: usize) -> (usize, usize) {
        let offset = tap * self.dilation;
        let first = self.pad.saturating_sub(offset).div_ceil(self.stride);
        let end = (self.input + self.pad).saturating_sub(offset).div_ceil(self.stride);
        (first, end)
    }
}

/// All windows of a convolution over one image, on three spatial axes.
#[derive(Debug, Clone, Copy)]
struct Windows {
    axes: [Axis; 3],
}

/// A run of windows along the last axis: `output..output + len`, of which `inside` read `line` from `input`
/// on.
struct Run {
    output: usize,
    len: usize,
    inside: Option<(std::ops::Range<usize>, usize)>,
}

impl Windows {
    fn input_size(&self) -> usize {
        self.axes.iter().map(|axis| axis.input).product()
    }

    fn positions(&self) -> usize {
        self.axes.iter().map(|axis| axis.output).product()
    }

    fn taps(&self) -> usize {
        self.axes.iter().map(|axis| axis.kernel).product()
    }

    /// Whether every window is one input position, in order.
    fn is_pointwise(&self) -> bool {
        self.axes
            .iter()
            .all(|axis| axis.kernel == 1 && axis.stride == 1 && axis.pad == 0 && axis.input == axis.output)
    }

    /// The windows `start..end` in runs along the last axis, each with where tap `tap` reads the input plane.
    fn runs(&self, tap: usize, start: usize, end: usize) -> impl Iterator<Item = Run> {
        let [depth, height, width] = self.axes;
        let tap_w = tap % width.kernel;
        let tap_h = tap / width.kernel % height.kernel;
        let tap_d = tap / (width.kernel * height.kernel);
        let (first, last) = width.inside(tap_w);
        let mut at = start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (column, line) = (at % width.output, at / width.output);
            let len = (width.output - column).min(end - at);
            let from = first.clamp(column, column + len);
            let to = last.clamp(from, column + len);
            let inside = height
                .position(line % height.output, tap_h)
                .zip(depth.position(line / height.output, tap_d))
                .filter(|_| from < to)
                .map(|(h, d)| {
                    let input =
                        (d * height.input + h) * width.input + from * width.stride + tap_w * width.dilation
                            - width.pad;
                    (from - column..to - column, input)
                });
            let run = Run { output: at - start, len, inside };
            at += len;
            Some(run)
        })
    }

    /// im2col: what tap `tap` reads of `plane` in the windows `start..start + row.len()`, zero where it is
    /// padding.
    fn unfold(&self, plane: &[f32], tap: usize, start: usize, row: &mut [f32]) {
        let stride = self.axes[2].stride;
        for run in self.runs(tap, start, start + row.len()) {
            let out = &mut row[run.output..run.output + run.len];
            let Some((inside, input)) = run.inside else {
                out.fill(0.0);
                continue;
            };
            out[..inside.start].fill(0.0);
            out[inside.end..].fill(0.0);
            if stride == 1 {
                let len = inside.len();
                out[inside].copy_from_slice(&plane[input..input + len]);
            } else {
                out[inside].iter_mut().zip(plane[input..].iter().step_by(stride)).for_each(|(y, x)| *y = *x);
            }
        }
    }

    /// Direct convolution of one channel: `out[p] += sum_tap weight[tap] * plane[position(p, tap)]`.
    fn slide(&self, plane: &[f32], weight: &[f32], out: &mut [f32]) {
        let stride = self.axes[2].stride;
        for (tap, w) in weight.iter().enumerate() {
            for run in self.runs(tap, 0, self.positions()) {
                let Some((inside, input)) = run.inside else { continue };
                let out = &mut out[run.output..][inside];
                if stride == 1 {
                    out.iter_mut().zip(&plane[input..]).for_each(|(y, x)| *y += w * x);
                } else {
                    out.iter_mut().zip(plane[input..].iter().step_by(stride)).for_each(|(y, x)| *y += w * x);
                }
            }
        }
    }
}
