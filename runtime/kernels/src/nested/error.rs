//! What can be wrong with a weight, its codes or its planes.

use std::ops::Range;

use mqc_ir::quant::{SliceMode, Width, Widths};

/// An error of nested quantization. The caller adds the name of the weight.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NestedError {
    /// A NaN or an infinity among the weights.
    #[error("weight [{row}, {col}] is {value}; weights must be finite (--allow-nonfinite accepts others)")]
    NonFinite {
        /// Row of the first such weight, in row order.
        row: usize,
        /// Its column.
        col: usize,
        /// Its value.
        value: f32,
    },
    /// A view that reaches past its data.
    #[error(
        "a view of [{rows}, {cols}] weights with strides [{row_stride}, {col_stride}] does not fit in {len} values"
    )]
    View {
        /// Rows of the view.
        rows: usize,
        /// Columns of the view.
        cols: usize,
        /// Elements from one row to the next.
        row_stride: usize,
        /// Elements from one column to the next.
        col_stride: usize,
        /// Elements there are.
        len: usize,
    },
    /// A buffer of another length than its shape asks for.
    #[error("{what}: expected {expected} {unit}, found {found}")]
    Length {
        /// The buffer.
        what: String,
        /// What is counted.
        unit: &'static str,
        /// Length that the shape asks for.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// A shape whose byte or element count does not fit in memory.
    #[error("a weight of [{rows}, {cols}] is too large to address")]
    TooLarge {
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
    },
    /// Rows outside the weight.
    #[error("rows up to {last} are asked for, the weight has {rows} rows counted from 0")]
    Row {
        /// The last row asked for.
        last: usize,
        /// Rows there are.
        rows: usize,
    },
    /// A number of planes that gives no width.
    #[error("{planes} bit planes are given; slice mode {mode} needs {least} to 8")]
    Planes {
        /// Planes given.
        planes: usize,
        /// The slicing mode.
        mode: SliceMode,
        /// The fewest that give a width.
        least: usize,
    },
    /// A width that the planes present do not give.
    #[error("width {width} is asked for; the bit planes present reach width {max}")]
    WidthAbsent {
        /// The width asked for.
        width: Width,
        /// The widest there is.
        max: Width,
    },
    /// Error weights that do not match the widths.
    #[error(
        "lambda must hold one finite weight >= 0 for each of the widths {widths}, not all 0; found {found:?}"
    )]
    Lambda {
        /// The widths.
        widths: Widths,
        /// The weights given.
        found: Vec<f32>,
    },
}

/// Checks a length.
pub(super) fn check_len(
    what: &str,
    unit: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), NestedError> {
    if expected == found {
        Ok(())
    } else {
        Err(NestedError::Length { what: what.to_string(), unit, expected, found })
    }
}

/// Checks that `asked` lies within `rows` rows.
pub(super) fn check_rows(asked: &Range<usize>, rows: usize) -> Result<(), NestedError> {
    let end = asked.start.max(asked.end);
    if end <= rows { Ok(()) } else { Err(NestedError::Row { last: end - 1, rows }) }
}
