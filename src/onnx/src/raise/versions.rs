//! The versions of ONNX operators at which an older form stops being valid or changes its meaning, for nodes that are
//! kept verbatim. Operators that are not here stayed the same or only grew: types, optional inputs, attributes whose
//! default is what was before.
//!
//! Not counted as changes, since runtimes never told the versions apart: negative indices of OneHot (off before 11),
//! the odd pad of ConvTranspose with `output_shape` (11), pooling windows that start in the padding (22).

use super::site::Site;
use super::{moved, normalization, resize, softmax};
use crate::Error;

/// Brings a verbatim node from the version before `site.version` to it; whether there was anything to change.
///
/// # Errors
/// The node has no equal at that version.
pub(super) fn convert(site: &mut Site, op_type: &str) -> Result<bool, Error> {
    match (op_type, site.version) {
        ("BatchNormalization", 9) => normalization::spatial(site)?,
        ("BatchNormalization", 14) => normalization::training(site)?,
        ("Clip", 11) => moved::clip(site)?,
        ("DFT", 20) => moved::dft(site)?,
        ("Dropout", 10 | 12) => moved::dropout(site)?,
        ("GridSample", 20) => moved::grid_sample(site)?,
        ("GroupNormalization", 21) => normalization::group(site)?,
        ("Hardmax", 13) => softmax::hardmax(site)?,
        ("Pad", 11) => moved::pad(site)?,
        ("Resize", 11) => resize::coordinates(site)?,
        ("Resize", 13) => resize::sizes_alone(site)?,
        ("RoiAlign", 16) => site.set_text("coordinate_transformation_mode", "output_half_pixel"),
        ("Scan", 9) => {
            return Err(
                site.refuse("its body must be called for each element of the batch; export the model again")
            );
        }
        ("Scatter", 11) => site.rename("ScatterElements"),
        ("Slice", 10) => moved::slice(site)?,
        ("TopK", 10) => moved::top_k(site)?,
        ("Upsample", 9) => resize::scales(site)?,
        ("Upsample", 10) if site.to == 10 => site.rename("Resize"),
        ("Upsample", 11) => resize::upsample(site)?,
        // Their old forms are understood, all that ONNX allows.
        ("Squeeze" | "Unsqueeze" | "Split" | "Softmax" | "LogSoftmax" | "ReduceSum", 13)
        | (
            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean"
            | "ReduceMin" | "ReduceProd" | "ReduceSumSquare",
            18,
        ) => {
            return Err(site.refuse("it has inputs, outputs or attributes that its operator does not have"));
        }
        _ => return Ok(false),
    }
    Ok(true)
}
