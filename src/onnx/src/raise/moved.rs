//! Operators whose attributes became operands, or whose attributes were renamed.

use mqc_ir::{Tensor, Value, ValueInfo};

use super::site::Site;
use crate::Error;

/// Slice 10: starts, ends and axes are operands.
pub(super) fn slice(site: &mut Site) -> Result<(), Error> {
    for (slot, name) in [(1, "starts"), (2, "ends")] {
        let Some(list) = site.take_ints(name)? else {
            return Err(site.refuse(format!("its attribute '{name}' is absent")));
        };
        let list = site.integers(name, &list);
        site.set_operand(slot, list);
    }
    let axes = site.take_ints("axes")?.unwrap_or_default();
    site.list_to_operand("axes", 3, &axes);
    Ok(())
}

/// TopK 10: k is an operand [1].
pub(super) fn top_k(site: &mut Site) -> Result<(), Error> {
    let Some(k) = site.take_int("k")? else { return Err(site.refuse("its attribute 'k' is absent")) };
    let k = site.integers("k", &[k]);
    site.set_operand(1, k);
    Ok(())
}

/// Clip 11: min and max are operands. Without one, the bound is the least or greatest float of the type, in both forms.
pub(super) fn clip(site: &mut Site) -> Result<(), Error> {
    let x = site.required(0)?;
    for (slot, name, none) in [(1, "min", f32::MIN), (2, "max", f32::MAX)] {
        let Some(bound) = site.take_float(name)?.filter(|bound| *bound != none) else { continue };
        let bound = site.scalar_like(name, bound, x)?;
        site.set_operand(slot, bound);
    }
    Ok(())
}

/// Pad 11: pads and value are operands; value counts in one mode only.
pub(super) fn pad(site: &mut Site) -> Result<(), Error> {
    let x = site.required(0)?;
    let Some(pads) = site.take_ints("pads")? else {
        return Err(site.refuse("its attribute 'pads' is absent"));
    };
    let pads = site.integers("pads", &pads);
    site.set_operand(1, pads);
    let value = site.take_float("value")?.unwrap_or(0.0);
    if value != 0.0 && site.text("mode", "constant") == b"constant" {
        let value = site.scalar_like("value", value, x)?;
        site.set_operand(2, value);
    }
    Ok(())
}

/// Dropout 10: the mask is of booleans. 12: the ratio is an operand.
pub(super) fn dropout(site: &mut Site) -> Result<(), Error> {
    dropout_mask(site)?;
    if site.version == 12
        && let Some(ratio) = site.take_float("ratio")?
    {
        let ratio = site.weight("ratio", Tensor::f32_scalar(ratio));
        site.set_operand(1, ratio);
    }
    Ok(())
}

/// Before opset 12 nothing says what the mask is at inference, so one that is in use cannot be kept.
pub(super) fn dropout_mask(site: &mut Site) -> Result<(), Error> {
    let mask = Value { node: site.id, slot: 1 };
    if site.graph.is_output(mask) || !site.graph.users(mask).is_empty() {
        return Err(
            site.refuse("its output 'mask', undefined at inference, is used; export the model for inference")
        );
    }
    if let Some(mask) = site.graph.node_mut(site.id).and_then(|n| n.outputs.get_mut(1)) {
        *mask = ValueInfo::default();
    }
    Ok(())
}

/// DFT 20: the axis is an operand; its default was 1 and is -2.
pub(super) fn dft(site: &mut Site) -> Result<(), Error> {
    let axis = site.take_int("axis")?.unwrap_or(1);
    let axis = site.weight("axis", Tensor::i64_scalar(axis));
    site.set_operand(2, axis);
    Ok(())
}

/// GridSample 20: modes for any number of dimensions.
pub(super) fn grid_sample(site: &mut Site) -> Result<(), Error> {
    match site.text("mode", "bilinear") {
        b"bilinear" => site.set_text("mode", "linear"),
        b"bicubic" => site.set_text("mode", "cubic"),
        _ => {}
    }
    Ok(())
}
