//! The weight of one nested layer as a function of what is trained.
//!
//! ```text
//! scale    = (gamma max(w) - beta min(w)) / (255 - 2 inset)     zero = inset - beta min(w) / scale
//! position = w / scale + zero                          or a latent code kept in its bucket (planes in turn)
//! weight_r = level_r(position) scale s_r + scale (t_r + 127.5 (1 - s_r) - zero)          (per-width affine)
//! ```
//!
//! gamma and beta are OmniQuant's learned range; with the other ranges they are 1 and the gradient passes from `weight_r`
//! to `w` unchanged, the paper's QAT. `inset` is that of `Range::Levels`, else 0.

use mqc_ir::op::{Reduction, Variadic};
use mqc_ir::quant::{Scheme, SliceMode, Width};
use mqc_ir::{Op, Value};

use crate::source::{Grouped, Layer};
use crate::{Builder, Error};

/// Ranges are at least this wide, so that a channel of zeros has a finite position.
const LEAST_SCALE: f32 = 1e-12;

/// The middle of the codes: scales turn around it, so that a scale and a shift do not disturb each other.
const MIDDLE: f32 = 127.5;

/// What the replicas of a layer share.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Shape [`Grouped::shape`].
    pub position: Value,
    /// Shape [`Grouped::map_shape`].
    pub scale: Value,
    /// Shape [`Grouped::map_shape`].
    pub zero: Value,
}

/// The ends of a range, learned.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Factor of the greatest weight, [`Grouped::map_shape`].
    pub gamma: Value,
    /// Factor of the least weight, [`Grouped::map_shape`].
    pub beta: Value,
}

/// The weight in groups, [`Grouped::shape`].
pub fn in_groups(b: &mut Builder, weight: Value, grouped: Grouped) -> Result<Value, Error> {
    let matrix = match grouped.axis() {
        2 => b.reshape(weight, &[grouped.rows, grouped.cols])?,
        _ => weight,
    };
    let missing = grouped.groups * grouped.size - grouped.cols;
    let full = match missing {
        0 => matrix,
        // Repeats of the last weight of a group change neither its least nor its greatest.
        _ => {
            let pads = match grouped.axis() {
                2 => [0, 0, 0, missing as i64],
                _ => [0, 0, missing as i64, 0],
            };
            let pads = b.ints(&pads);
            b.op(Op::Pad { mode: mqc_ir::op::PadMode::Edge }, &[matrix, pads])?
        }
    };
    b.reshape(full, &grouped.shape())
}

/// The inverse of [`in_groups`], to the shape of the float weight.
pub fn out_of_groups(b: &mut Builder, x: Value, grouped: Grouped, shape: &[usize]) -> Result<Value, Error> {
    let full = grouped.groups * grouped.size;
    let (matrix, axis) = match grouped.axis() {
        2 => ([grouped.rows, full], 1),
        _ => ([full, grouped.rows], 0),
    };
    let mut x = b.reshape(x, &matrix)?;
    if full != grouped.cols {
        x = b.slice(x, axis, 0, grouped.cols)?;
    }
    b.reshape(x, shape)
}

/// Scale, zero and position of a float weight in groups.
pub fn position(
    b: &mut Builder,
    layer: &Layer,
    weight: Value,
    ends: Option<Ends>,
    inset: f32,
) -> Result<Position, Error> {
    let axis = layer.grouped().axis();
    let spec = &layer.spec;
    let (scale, zero) = match spec.scheme {
        Scheme::Asymmetric => {
            let mut high = b.reduce(Reduction::Max, weight, &[axis], true)?;
            let mut low = b.reduce(Reduction::Min, weight, &[axis], true)?;
            if let Some(ends) = ends {
                high = b.mul(high, ends.gamma)?;
                low = b.mul(low, ends.beta)?;
            }
            let span = b.sub(high, low)?;
            let scale = b.scale(span, 1.0 / (255.0 - 2.0 * inset))?;
            let scale = at_least(b, scale)?;
            let below = b.neg(low)?;
            let zero = b.div(below, scale)?;
            (scale, if inset == 0.0 { zero } else { b.add_scalar(zero, inset)? })
        }
        Scheme::Symmetric => {
            let (steps, middle) = match spec.mode {
                SliceMode::Midpoint => (127.5, 127.5),
                SliceMode::Round | SliceMode::Extra => (127.0, 128.0),
            };
            let size = b.unary(mqc_ir::op::Unary::Abs, weight)?;
            let mut most = b.reduce(Reduction::Max, size, &[axis], true)?;
            if let Some(ends) = ends {
                most = b.mul(most, ends.gamma)?;
            }
            let scale = b.scale(most, 1.0 / (steps - inset))?;
            let scale = at_least(b, scale)?;
            let middle = b.scalar(middle);
            (scale, b.expand(middle, &layer.grouped().map_shape())?)
        }
    };
    // One division a row: the others are as many as there are weights.
    let one = b.scalar(1.0);
    let inverse = b.div(one, scale)?;
    let codes = b.mul(weight, inverse)?;
    Ok(Position { position: b.add(codes, zero)?, scale, zero })
}

fn at_least(b: &mut Builder, scale: Value) -> Result<Value, Error> {
    let least = b.scalar(LEAST_SCALE);
    b.op(Op::Variadic(Variadic::Max), &[scale, least])
}

/// A latent code held in the bucket that begins at `low`: planes in turn.
pub fn in_bucket(b: &mut Builder, code: Value, low: Value, prefix: Width) -> Result<Value, Error> {
    let high = b.add_scalar(low, (1u32 << (8 - prefix.bits())) as f32 - 1.0)?;
    let below = b.op(Op::Variadic(Variadic::Min), &[code, high])?;
    b.op(Op::Variadic(Variadic::Max), &[below, low])
}

/// One learned scale and shift of a width.
#[derive(Clone, Copy, Debug)]
pub struct AffineParameters {
    /// s_r, [`Grouped::map_shape`].
    pub scale: Value,
    /// t_r in 8-bit codes, [`Grouped::map_shape`].
    pub shift: Value,
}

/// The float weight that a width reads, in groups.
pub fn weight_at(
    b: &mut Builder,
    at: Position,
    width: Width,
    mode: SliceMode,
    affine: Option<AffineParameters>,
) -> Result<Value, Error> {
    let level = b.op(Op::FakeSlice { width, mode }, &[at.position])?;
    if affine.is_none() {
        let steps = b.sub(level, at.zero)?;
        return b.mul(steps, at.scale);
    }
    // Of the weights only a product and a sum: what is the same for a whole row is computed once for it, and so are
    // its gradients.
    let Line { slope, offset } = line_at(b, at, affine)?;
    let scaled = b.mul(level, slope)?;
    b.add(scaled, offset)
}

/// `weight = slope level + offset`, both [`Grouped::map_shape`].
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Weight of one code.
    pub slope: Value,
    /// Weight at level 0.
    pub offset: Value,
}

/// The line from the levels of a width to its weights.
pub fn line_at(b: &mut Builder, at: Position, affine: Option<AffineParameters>) -> Result<Line, Error> {
    let Some(affine) = affine else {
        let below = b.mul(at.zero, at.scale)?;
        return Ok(Line { slope: at.scale, offset: b.neg(below)? });
    };
    let slope = b.mul(at.scale, affine.scale)?;
    let middle = b.add_scalar(affine.shift, MIDDLE)?;
    let steps = b.sub(middle, at.zero)?;
    let turned = b.scale(affine.scale, MIDDLE)?;
    let steps = b.sub(steps, turned)?;
    Ok(Line { slope, offset: b.mul(steps, at.scale)? })
}

/// The affine map of a width as artifacts hold it: `weight = scale (level - zero)`.
pub fn map_at(
    b: &mut Builder,
    at: Position,
    affine: Option<AffineParameters>,
) -> Result<(Value, Value), Error> {
    let Some(affine) = affine else { return Ok((at.scale, at.zero)) };
    let scale = b.mul(at.scale, affine.scale)?;
    let below = b.add_scalar(at.zero, -MIDDLE)?;
    let offset = b.sub(below, affine.shift)?;
    let steps = b.div(offset, affine.scale)?;
    Ok((scale, b.add_scalar(steps, MIDDLE)?))
}
