//! Upsample (7, 9) and Resize (10) to Resize as it is since opset 11.
//!
//! Both take the input coordinate x / scale ("asymmetric"). Nearest rounds it down where the scale is over 1 and, in
//! Resize, up where it is under 1: ONNX's own test models of opset 10, and onnxruntime.

use mqc_ir::op::Variadic;
use mqc_ir::{Op, Value};

use super::site::{Site, text, verbatim};
use crate::Error;

/// Upsample 9: `scales` becomes an operand.
pub(super) fn scales(site: &mut Site) -> Result<(), Error> {
    let Some(scales) = site.take_floats("scales")? else { return Ok(()) };
    let scales = site.numbers("scales", &scales)?;
    site.set_operand(1, scales);
    Ok(())
}

/// Upsample to Resize 11. Its scales are at least 1.
pub(super) fn upsample(site: &mut Site) -> Result<(), Error> {
    site.rename("Resize");
    let (x, scales) = (site.required(0)?, site.required(1)?);
    site.set_text("nearest_mode", "floor");
    asymmetric(site, x, scales)
}

/// Resize 10 to 11. Nearest with scales that may be over 1 and under 1 becomes two nodes, up and then down.
pub(super) fn coordinates(site: &mut Site) -> Result<(), Error> {
    let (x, scales) = (site.required(0)?, site.required(1)?);
    if site.text("mode", "nearest") != b"nearest" {
        return asymmetric(site, x, scales);
    }
    let fixed = !site.graph.inputs().contains(&scales.node);
    let known = site.graph.constant(scales).filter(|_| fixed).and_then(|t| t.to_f32_vec());
    let rounding = match known.as_deref() {
        Some(known) if known.iter().all(|s| *s >= 1.0) => Some("floor"),
        Some(known) if known.iter().all(|s| *s <= 1.0) => Some("ceil"),
        Some(_) | None => None,
    };
    if let Some(rounding) = rounding {
        site.set_text("nearest_mode", rounding);
        return asymmetric(site, x, scales);
    }
    let one = site.numbers("one", &[1.0])?;
    let up = site.apply(Op::Variadic(Variadic::Max), "scales_up", &[scales, one])?;
    let down = site.apply(Op::Variadic(Variadic::Min), "scales_down", &[scales, one])?;
    let roi = site.numbers("roi", &[])?;
    let attributes = [
        ("coordinate_transformation_mode", text("asymmetric")),
        ("mode", text("nearest")),
        ("nearest_mode", text("floor")),
    ];
    let larger = site.apply(verbatim("Resize", attributes), "up", &[x, roi, up])?;
    site.set_text("nearest_mode", "ceil");
    asymmetric(site, larger, down)
}

fn asymmetric(site: &mut Site, x: Value, scales: Value) -> Result<(), Error> {
    site.set_text("coordinate_transformation_mode", "asymmetric");
    let roi = site.numbers("roi", &[])?;
    Ok(site.graph.set_operands(site.id, &[Some(x), Some(roi), Some(scales)])?)
}

/// Resize 13: with `sizes`, `scales` is absent instead of empty; one way to transform coordinates is gone.
pub(super) fn sizes_alone(site: &mut Site) -> Result<(), Error> {
    if site.text("coordinate_transformation_mode", "half_pixel") == b"tf_half_pixel_for_nn" {
        return Err(
            site.refuse("coordinate_transformation_mode = tf_half_pixel_for_nn is gone; use half_pixel")
        );
    }
    let mut operands = site.graph.operands(site.id);
    if operands.get(3).is_some_and(Option::is_some) {
        operands[2] = None;
        site.graph.set_operands(site.id, &operands)?;
    }
    Ok(())
}
