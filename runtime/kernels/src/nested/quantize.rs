//! Quantizes float weights to 8-bit codes, in blocks of rows.

use std::ops::Range;

use rayon::prelude::*;

use super::error::{NestedError, check_rows};
use super::range::{GroupMap, encode, finite_range};
use super::search::Objective;
use super::view::WeightView;
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Widths};

/// How a weight is quantized.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeSpec {
    /// Where the zero point lies.
    pub scheme: Scheme,
    /// How slices are read: it fixes the zero point of the symmetric scheme and the error that `mse` minimises.
    pub mode: SliceMode,
    /// Which weights share a scale and a zero point.
    pub grouping: Grouping,
    /// How the range of a group is chosen.
    pub range: RangeMethod,
    /// The widths whose error `mse` minimises.
    pub widths: Widths,
    /// The weight of each width's error, in the order of `widths` (widest first).
    pub lambda: Vec<f32>,
    /// Accept NaN and infinities. In its group an infinity is taken as the largest (smallest) finite weight, a NaN as
    /// the value nearest to 0 between these two.
    pub allow_nonfinite: bool,
}

impl QuantizeSpec {
    fn check(&self) -> Result<(), NestedError> {
        let usable = self.lambda.iter().all(|lambda| lambda.is_finite() && *lambda >= 0.0)
            && self.lambda.iter().any(|lambda| *lambda > 0.0);
        if usable && self.lambda.len() == self.widths.count() {
            Ok(())
        } else {
            Err(NestedError::Lambda { widths: self.widths, found: self.lambda.clone() })
        }
    }
}

/// Quantized rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// One code per weight, [rows, cols].
    pub codes: Vec<u8>,
    /// Scale of every group, [rows, groups], finite and at least 0.
    pub scale: Vec<f32>,
    /// Zero point of every group in 8-bit codes, [rows, groups], finite, not rounded.
    pub zero: Vec<f32>,
}

/// Quantizes `rows` of `view`. The same rows give the same codes in whatever ranges they are asked for.
///
/// Min-max (MatQuant, section 3): `scale = (max - min) / 255`, `zero = -min / scale`; symmetric: `2 max|w| / 255` and
/// 127.5 in midpoint mode, `max|w| / 127` and 128 otherwise. `code = clamp(round(w / scale + zero), 0, 255)`, half to
/// even. A group that holds one value is exact at every width. Magnitudes over 127/129 of the largest f32 saturate;
/// ranges under 255 * 2^-126 count as one value.
///
/// # Errors
/// `rows` outside the view, a `lambda` that does not fit the widths, or a weight that is not finite (unless allowed).
pub fn quantize_rows(
    view: &WeightView,
    rows: Range<usize>,
    spec: &QuantizeSpec,
) -> Result<Codes, NestedError> {
    spec.check()?;
    check_rows(&rows, view.rows())?;
    let cols = view.cols();
    let groups = spec.grouping.groups(cols);
    let mut codes = vec![0; rows.len() * cols];
    let mut scale = vec![0.0; rows.len() * groups];
    let mut zero = vec![0.0; rows.len() * groups];
    if !codes.is_empty() {
        let objective = Objective::new(spec.scheme, spec.mode, spec.widths, &spec.lambda);
        let block_rows = view.block_rows();
        let blocks: Vec<Result<(), NestedError>> = codes
            .par_chunks_mut(block_rows * cols)
            .zip(scale.par_chunks_mut(block_rows * groups))
            .zip(zero.par_chunks_mut(block_rows * groups))
            .enumerate()
            .map_init(Vec::new, |scratch, (block, ((codes, scale), zero))| {
                let start = rows.start + block * block_rows;
                let weights = view.block(start..start + codes.len() / cols, scratch);
                quantize_block(weights, start, cols, spec, &objective, Block { codes, scale, zero })
            })
            .collect();
        blocks.into_iter().collect::<Result<(), NestedError>>()?;
    }
    Ok(Codes { codes, scale, zero })
}

/// Where the results of some rows go.
struct Block<'a> {
    codes: &'a mut [u8],
    scale: &'a mut [f32],
    zero: &'a mut [f32],
}

fn quantize_block(
    weights: &[f32],
    first_row: usize,
    cols: usize,
    spec: &QuantizeSpec,
    objective: &Objective,
    out: Block,
) -> Result<(), NestedError> {
    let group_len = spec.grouping.size(cols);
    let mut maps = out.scale.iter_mut().zip(out.zero);
    for (row, (weights, codes)) in
        weights.chunks_exact(cols).zip(out.codes.chunks_exact_mut(cols)).enumerate()
    {
        let groups = weights.chunks(group_len).zip(codes.chunks_mut(group_len));
        for (group, ((weights, codes), (scale, zero))) in groups.zip(&mut maps).enumerate() {
            let map =
                quantize_group(weights, codes, spec, objective).map_err(|col| NestedError::NonFinite {
                    row: first_row + row,
                    col: group * group_len + col,
                    value: weights[col],
                })?;
            (*scale, *zero) = (map.scale, map.zero);
        }
    }
    Ok(())
}

/// Quantizes one group. The error is the place of the first weight that is not finite.
fn quantize_group(
    weights: &[f32],
    codes: &mut [u8],
    spec: &QuantizeSpec,
    objective: &Objective,
) -> Result<GroupMap, usize> {
    let Some((low, high)) = finite_range(weights) else {
        let first = weights.iter().position(|weight| !weight.is_finite()).unwrap_or(0);
        if !spec.allow_nonfinite {
            return Err(first);
        }
        return quantize_group(&without_nonfinite(weights), codes, spec, objective);
    };
    let map = match spec.range {
        RangeMethod::Minmax => GroupMap::of_range(f64::from(low), f64::from(high), spec.scheme, spec.mode),
        RangeMethod::Mse => objective.best_map(weights, low, high),
    };
    encode(weights, map, codes);
    Ok(map)
}

/// Infinities become the end of the range of the finite weights, NaN becomes the value of that range nearest to 0.
fn without_nonfinite(weights: &[f32]) -> Vec<f32> {
    let finite = || weights.iter().copied().filter(|weight| weight.is_finite());
    let low = finite().reduce(f32::min).unwrap_or(0.0);
    let high = finite().reduce(f32::max).unwrap_or(0.0);
    let replace =
        |&weight: &f32| if weight.is_nan() { 0f32.clamp(low, high) } else { weight.clamp(low, high) };
    weights.iter().map(replace).collect()
}
