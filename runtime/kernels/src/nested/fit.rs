//! Affine maps for single widths, by least squares over codes that stay as they are.
//!
//! Of a group at a width, with the levels `l` of its codes: `w ~ scale * (l - zero)` is the regression of w on l, so
//! `scale = cov(l, w) / var(l)` and `zero = mean(l) - mean(w) / scale`. Where all levels are the same any scale will do.

use rayon::prelude::*;

use super::error::{NestedError, check_len};
use super::view::WeightView;
use super::weight::{AffineMap, NestedWeight};
use mqc_ir::quant::Width;

impl NestedWeight {
    /// This weight with a map of its own for each of `widths`: of every group the one with the least squared error
    /// against the finite weights of `original`. A group whose error that does not lessen keeps the map that it has, so that
    /// the signal to noise ratio at these widths never falls.
    ///
    /// # Errors
    /// `original` has another shape, or the planes do not reach a width.
    pub fn with_fitted_maps(
        mut self,
        original: &WeightView,
        widths: impl IntoIterator<Item = Width>,
    ) -> Result<NestedWeight, NestedError> {
        check_len("rows of the original weight", "rows", self.rows(), original.rows())?;
        check_len("columns of the original weight", "columns", self.cols(), original.cols())?;
        let fitted = widths.into_iter().map(|width| Ok((width, self.fitted_map(original, width)?)));
        let fitted = fitted.collect::<Result<Vec<_>, NestedError>>()?;
        self.per_width.extend(fitted);
        Ok(self)
    }

    fn fitted_map(&self, original: &WeightView, width: Width) -> Result<AffineMap, NestedError> {
        let (cols, groups) = (self.cols(), self.grouping().groups(self.cols()));
        let group_len = self.grouping().size(cols);
        let mut scale = self.map(width).scale.as_slice().to_vec();
        let mut zero = self.map(width).zero.as_slice().to_vec();
        if cols > 0 {
            // With these the reader gives the levels themselves.
            let (ones, zeros) = (vec![1.0; scale.len()], vec![0.0; zero.len()]);
            let reader = self.reader_with(width, &ones, &zeros)?;
            let block_rows = original.block_rows();
            let maps =
                scale.par_chunks_mut(block_rows * groups).zip(zero.par_chunks_mut(block_rows * groups));
            maps.enumerate().for_each_init(
                || (Vec::new(), vec![0.0; cols]),
                |(scratch, levels), (block, (scale, zero))| {
                    let start = block * block_rows;
                    let weights = original.block(start..start + scale.len() / groups, scratch);
                    let maps = scale.chunks_mut(groups).zip(zero.chunks_mut(groups));
                    for (i, (weights, (scale, zero))) in weights.chunks_exact(cols).zip(maps).enumerate() {
                        reader.read_row(start + i, levels);
                        let parts = weights.chunks(group_len).zip(levels.chunks(group_len));
                        for ((weights, levels), (scale, zero)) in parts.zip(scale.iter_mut().zip(zero)) {
                            (*scale, *zero) = better(weights, levels, (*scale, *zero));
                        }
                    }
                },
            );
        }
        Ok(AffineMap { scale: scale.into(), zero: zero.into() })
    }
}

/// Scale and zero by least squares, or those given where these are no worse.
fn better(weights: &[f32], levels: &[f32], given: (f32, f32)) -> (f32, f32) {
    let Some(found) = regression(weights, levels, given.0) else { return given };
    if noise(weights, levels, found) < noise(weights, levels, given) { found } else { given }
}

/// With the scale `given` where all levels are the same. `None` if f32 cannot hold the result.
fn regression(weights: &[f32], levels: &[f32], given: f32) -> Option<(f32, f32)> {
    let count = finite(weights, levels).count() as f64;
    let (sum_l, sum_w) = finite(weights, levels).fold((0.0, 0.0), |sums, (w, l)| (sums.0 + l, sums.1 + w));
    let (mean_l, mean_w) = (sum_l / count, sum_w / count);
    let (variance, covariance) = finite(weights, levels).fold((0.0, 0.0), |sums, (w, l)| {
        let from_mean = l - mean_l;
        (sums.0 + from_mean * from_mean, sums.1 + from_mean * (w - mean_w))
    });
    let scale = if variance > 0.0 { covariance / variance } else { f64::from(given) };
    let zero = mean_l - mean_w / scale;
    let (scale, zero) = (scale as f32, zero as f32);
    (scale > 0.0 && scale.is_finite() && zero.is_finite()).then_some((scale, zero))
}

/// The squared error of what is read with a map.
fn noise(weights: &[f32], levels: &[f32], (scale, zero): (f32, f32)) -> f64 {
    let read = levels.iter().map(|level| scale * (level - zero));
    let errors = weights.iter().zip(read).filter(|(w, _)| w.is_finite());
    errors.map(|(w, read)| (f64::from(*w) - f64::from(read)).powi(2)).sum()
}

/// The finite weights with their levels.
fn finite<'a>(weights: &'a [f32], levels: &'a [f32]) -> impl Iterator<Item = (f64, f64)> + Clone + 'a {
    let pairs = weights.iter().zip(levels).filter(|(w, _)| w.is_finite());
    pairs.map(|(w, l)| (f64::from(*w), f64::from(*l)))
}
