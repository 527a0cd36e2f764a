//! Rows of a nested table.

use super::Resident;
use crate::nested::NestedError;

/// The table's rows `indices`, each counted from the end when negative, at its resident's current width:
/// `[indices, K]`.
///
/// # Errors
/// The first index outside `-rows..rows`, or a weight that cannot be read at that width.
pub fn nested_gather(resident: &Resident, indices: &[i64]) -> Result<Vec<f32>, GatherError> {
    let (weight, width) = (resident.weight(), resident.width());
    let (rows, cols) = (weight.rows(), weight.cols());
    let picked = indices.iter().map(|&index| row_of(index, rows)).collect::<Result<Vec<usize>, _>>()?;
    let mut out = vec![0.0; picked.len() * cols];
    weight.gather(width, &picked, &mut out)?;
    Ok(out)
}

/// Why a gather failed.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// An index that the table does not have.
    #[error("index {index} is out of range for a table of {rows} rows")]
    OutOfRange { index: i64, rows: usize },
    /// The table cannot be read.
    #[error(transparent)]
    Weight(#[from] NestedError),
}

fn row_of(index: i64, rows: usize) -> Result<usize, GatherError> {
    let wrapped = if index < 0 { index.checked_add_unsigned(rows as u64) } else { Some(index) };
    wrapped
        .and_then(|row| usize::try_from(row).ok())
        .filter(|row| *row < rows)
        .ok_or(GatherError::OutOfRange { index, rows })
}
