//! A nested weight: its leading bit planes and its affine maps, read at any width that the planes reach.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use rayon::prelude::*;

use super::error::{NestedError, check_len, check_rows};
use super::floats::Floats;
use super::planes::{pack, row_bytes, rows_per_task, unpack};
use super::quantize::{QuantizeSpec, quantize_rows};
use super::slice::{LevelRule, code_bits};
use super::view::WeightView;
use mqc_ir::quant::{Grouping, SliceMode, Width};

/// Codes unpacked at a time: they stay in the first-level cache. A multiple of 8.
const RUN: usize = 1024;

/// One affine map per row and group: `weight = scale * (level - zero)`.
#[derive(Debug, Clone, PartialEq)]
pub struct AffineMap {
    /// [rows, groups], in weight units per 8-bit code.
    pub scale: Floats,
    /// [rows, groups], in 8-bit codes.
    pub zero: Floats,
}

/// A weight [rows, cols] whose every leading part is the same weight at a lower width. Cloning shares the data.
#[derive(Debug, Clone)]
pub struct NestedWeight {
    rows: usize,
    cols: usize,
    grouping: Grouping,
    mode: SliceMode,
    planes: Vec<Bytes>,
    map: AffineMap,
    pub(super) per_width: BTreeMap<Width, AffineMap>,
    max_width: Width,
}

impl NestedWeight {
    /// A weight of [rows, cols] from its leading `planes` ([rows, ceil(cols / 8)] bytes each, most significant first)
    /// and its affine map; `per_width` holds the maps that replace `map`: see [`NestedWeight::map`].
    ///
    /// # Errors
    /// A plane or a map of another length than the shape asks for, more than eight planes, or so few that no width
    /// can be read.
    pub fn new(
        (rows, cols): (usize, usize),
        grouping: Grouping,
        mode: SliceMode,
        planes: Vec<Bytes>,
        map: AffineMap,
        per_width: BTreeMap<Width, AffineMap>,
    ) -> Result<NestedWeight, NestedError> {
        let too_large = || NestedError::TooLarge { rows, cols };
        rows.checked_mul(cols).ok_or_else(too_large)?;
        let plane_len = rows.checked_mul(row_bytes(cols)).ok_or_else(too_large)?;
        let map_len = rows.checked_mul(grouping.groups(cols)).ok_or_else(too_large)?;
        let max_width = mode.widest(planes.len()).filter(|_| planes.len() <= 8);
        let least = mode.planes_read(Width::all().next().unwrap_or(Width::MAX));
        let max_width = max_width.ok_or(NestedError::Planes { planes: planes.len(), mode, least })?;
        for (p, plane) in planes.iter().enumerate() {
            check_len(&format!("plane {p}"), "bytes", plane_len, plane.len())?;
        }
        check_len("scale", "values", map_len, map.scale.as_slice().len())?;
        check_len("zero", "values", map_len, map.zero.as_slice().len())?;
        for (width, map) in &per_width {
            check_len(&format!("scale at width {width}"), "values", map_len, map.scale.as_slice().len())?;
            check_len(&format!("zero at width {width}"), "values", map_len, map.zero.as_slice().len())?;
        }
        Ok(NestedWeight { rows, cols, grouping, mode, planes, map, per_width, max_width })
    }

    /// Quantizes a whole weight in memory.
    ///
    /// # Errors
    /// Those of `quantize_rows`.
    pub fn quantize(view: &WeightView, spec: &QuantizeSpec) -> Result<NestedWeight, NestedError> {
        let quantized = quantize_rows(view, 0..view.rows(), spec)?;
        let planes = pack(&quantized.codes, view.rows(), view.cols())?.map(Bytes::from).to_vec();
        let map = AffineMap { scale: quantized.scale.into(), zero: quantized.zero.into() };
        let shape = (view.rows(), view.cols());
        NestedWeight::new(shape, spec.grouping, spec.mode, planes, map, BTreeMap::new())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Which weights of a row share a map.
    pub fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// How slices are read.
    pub fn mode(&self) -> SliceMode {
        self.mode
    }

    /// The planes present, most significant first, each [rows, ceil(cols / 8)] bytes.
    pub fn planes(&self) -> &[Bytes] {
        &self.planes
    }

    /// The affine map in force at `width`: that of the nearest wider width (or of `width`) that has one of its own, else
    /// the one for all. This is the definition.
    pub fn map(&self, width: Width) -> &AffineMap {
        self.per_width.range(width..).next().map_or(&self.map, |(_, map)| map)
    }

    /// The maps that the widths of this weight use, each with the widest of them; from wide to narrow, so that the first
    /// is that of [`NestedWeight::max_width`].
    pub fn maps(&self) -> Vec<(Width, &AffineMap)> {
        let own = self.per_width.range(..self.max_width).rev().map(|(width, map)| (*width, map));
        std::iter::once((self.max_width, self.map(self.max_width))).chain(own).collect()
    }

    /// The widest slice that the planes present give.
    pub fn max_width(&self) -> Width {
        self.max_width
    }

    /// Bytes of planes and maps that reading the whole weight at `width` touches.
    ///
    /// # Errors
    /// The planes do not reach `width`.
    pub fn bytes_touched(&self, width: Width) -> Result<usize, NestedError> {
        let planes = self.planes_of(width)?.iter().map(Bytes::len).sum::<usize>();
        let map = self.map(width);
        Ok(planes + size_of_val(map.scale.as_slice()) + size_of_val(map.zero.as_slice()))
    }

    /// Dequantizes `rows` at `width` into `out` [rows, cols], in parallel; equal to `dequantize` bit for bit. Reads only
    /// the planes of that width.
    ///
    /// # Errors
    /// The planes do not reach `width`, rows outside the weight, or `out` of another length.
    pub fn dequantize_rows(
        &self,
        width: Width,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), NestedError> {
        let reader = self.reader(width)?;
        check_rows(&rows, self.rows)?;
        check_len("dequantized rows", "values", rows.len() * self.cols, out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        let task_rows = rows_per_task(self.cols);
        out.par_chunks_mut(task_rows * self.cols).enumerate().for_each(|(task, out)| {
            for (i, out) in out.chunks_exact_mut(self.cols).enumerate() {
                reader.read_row(rows.start + task * task_rows + i, out);
            }
        });
        Ok(())
    }

    /// Dequantizes one row at `width` into `out`, `cols` long, on the calling thread.
    ///
    /// # Errors
    /// As `dequantize_rows`.
    pub fn dequantize_row_into(&self, width: Width, row: usize, out: &mut [f32]) -> Result<(), NestedError> {
        self.gather(width, &[row], out)
    }

    /// Dequantizes the rows named by `indices`, in their order, into `out` [indices, cols], on the calling thread.
    ///
    /// # Errors
    /// As `dequantize_rows`.
    pub fn gather(&self, width: Width, indices: &[usize], out: &mut [f32]) -> Result<(), NestedError> {
        let reader = self.reader(width)?;
        check_len("gathered rows", "values", indices.len().saturating_mul(self.cols), out.len())?;
        for (i, &row) in indices.iter().enumerate() {
            check_rows(&(row..row.saturating_add(1)), self.rows)?;
            reader.read_row(row, &mut out[i * self.cols..][..self.cols]);
        }
        Ok(())
    }

    /// Signal to quantization noise at `width` in dB: `10 log10(sum w^2 / sum (w - w_hat)^2)` over the finite weights
    /// of `original`. Infinite when there is no noise, negative infinite when there is noise and no signal.
    ///
    /// # Errors
    /// `original` has another shape, or the planes do not reach `width`.
    pub fn sqnr_db(&self, original: &WeightView, width: Width) -> Result<f64, NestedError> {
        check_len("rows of the original weight", "rows", self.rows, original.rows())?;
        check_len("columns of the original weight", "columns", self.cols, original.cols())?;
        let reader = self.reader(width)?;
        if self.cols == 0 {
            return Ok(f64::INFINITY);
        }
        let block_rows = original.block_rows();
        let starts: Vec<usize> = (0..self.rows).step_by(block_rows).collect();
        let sums: Vec<(f64, f64)> = starts
            .into_par_iter()
            .map_init(
                || (Vec::new(), vec![0.0; self.cols]),
                |(scratch, row), start| {
                    let block = original.block(start..(start + block_rows).min(self.rows), scratch);
                    let mut sums = (0.0, 0.0);
                    for (i, weights) in block.chunks_exact(self.cols).enumerate() {
                        reader.read_row(start + i, row);
                        let (signal, noise) = signal_and_noise(weights, row);
                        sums = (sums.0 + signal, sums.1 + noise);
                    }
                    sums
                },
            )
            .collect();
        let (signal, noise) = sums.into_iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        Ok(if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() })
    }

    fn planes_of(&self, width: Width) -> Result<&[Bytes], NestedError> {
        let absent = NestedError::WidthAbsent { width, max: self.max_width };
        self.planes.get(..self.mode.planes_read(width)).ok_or(absent)
    }

    fn reader(&self, width: Width) -> Result<RowReader<'_>, NestedError> {
        let map = self.map(width);
        self.reader_with(width, map.scale.as_slice(), map.zero.as_slice())
    }

    /// Reads with another map: `scale` and `zero` [rows, groups].
    pub(super) fn reader_with<'a>(
        &'a self,
        width: Width,
        scale: &'a [f32],
        zero: &'a [f32],
    ) -> Result<RowReader<'a>, NestedError> {
        Ok(RowReader {
            planes: self.planes_of(width)?,
            scale,
            zero,
            rule: LevelRule::new(width, self.mode),
            row_bytes: row_bytes(self.cols),
            groups: self.grouping.groups(self.cols),
            group_len: self.grouping.size(self.cols),
        })
    }
}

/// Reads rows of a weight at one width.
pub(super) struct RowReader<'a> {
    planes: &'a [Bytes],
    scale: &'a [f32],
    zero: &'a [f32],
    rule: LevelRule,
    row_bytes: usize,
    groups: usize,
    group_len: usize,
}

impl RowReader<'_> {
    /// `row` and the length of `out` are those of the weight.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) {
        let scale = &self.scale[row * self.groups..][..self.groups];
        let zero = &self.zero[row * self.groups..][..self.groups];
        let mut codes = [0; RUN];
        for (run, out) in out.chunks_mut(RUN).enumerate() {
            let codes = &mut codes[..out.len()];
            let mut parts: [&[u8]; 8] = [&[]; 8];
            for (part, plane) in parts.iter_mut().zip(self.planes) {
                *part = &plane[row * self.row_bytes + run * row_bytes(RUN)..];
            }
            unpack(&parts[..self.planes.len()], codes);
            let first = run * RUN;
            let mut from = 0;
            while from < out.len() {
                let group = (first + from) / self.group_len;
                let to = ((group + 1) * self.group_len - first).min(out.len());
                self.dequantize_run(&codes[from..to], scale[group], zero[group], &mut out[from..to]);
                from = to;
            }
        }
    }

    #[inline]
    fn dequantize_run(&self, codes: &[u8], scale: f32, zero: f32, out: &mut [f32]) {
        for (weight, &code) in out.iter_mut().zip(codes) {
            *weight = scale * (self.rule.level(code_bits(code)) - zero);
        }
    }
}

fn signal_and_noise(weights: &[f32], read: &[f32]) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for (&weight, &read) in weights.iter().zip(read) {
        let (weight, read) = (f64::from(weight), f64::from(read));
        if weight.is_finite() {
            sums.0 += weight * weight;
            sums.1 += (weight - read) * (weight - read);
        }
    }
    sums
}
