//! The numeric definition of nested quantization.
//!
//! A weight is a matrix of rows (output channels) by columns (the reduction). Each row, or each group of columns in a
//! row, has one affine map, or one for each of some widths; each element has one 8-bit code. A slice of the leading bits of
//! the code is the same weight at a lower width. `slice` says what a code means at a width, `quantize` makes codes, `fit`
//! maps for a width, `planes` stores codes bit by bit, and `NestedWeight` reads as many planes as a width needs.

mod error;
mod fit;
mod floats;
mod planes;
mod quantize;
mod range;
mod search;
mod slice;
mod view;
mod weight;

pub use error::NestedError;
pub use floats::Floats;
pub use planes::{pack, pack_into, row_bytes, unpack_row};
pub use quantize::{Codes, QuantizeSpec, quantize_rows};
pub use slice::{MultiplyAdd, centre, dequantize, multiply_add, slice, step};
pub use view::WeightView;
pub use weight::{AffineMap, NestedWeight};

#[cfg(test)]
mod tests;
