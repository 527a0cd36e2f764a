//! Old forms of BatchNormalization and GroupNormalization.

use mqc_ir::op::Binary;
use mqc_ir::{Attribute, Op};

use super::site::Site;
use crate::Error;

/// BatchNormalization 9: only one mean for each channel.
pub(super) fn spatial(site: &mut Site) -> Result<(), Error> {
    match site.take_int("spatial")? {
        None | Some(1) => Ok(()),
        Some(_) => Err(site.refuse("spatial = 0 is gone; flatten the input of the node before it")),
    }
}

/// BatchNormalization 14: training has other outputs.
pub(super) fn training(site: &mut Site) -> Result<(), Error> {
    match site.outputs() {
        1 => Ok(()),
        _ => Err(site.refuse("it is in training mode; export the model for inference, with one output")),
    }
}

/// GroupNormalization 21: scale and bias [groups] become [channels], each repeated channels / groups times.
pub(super) fn group(site: &mut Site) -> Result<(), Error> {
    let (x, scale, bias) = (site.required(0)?, site.required(1)?, site.required(2)?);
    let Some(Attribute::Int(groups)) = site.attribute("num_groups") else {
        return Err(site.refuse("its attribute 'num_groups' is absent or not an integer"));
    };
    let groups = site.integers("groups", &[*groups]);
    let channels = site.apply(Op::Shape { start: 1, end: Some(2) }, "channels", &[x])?;
    let times = site.apply(Op::Binary(Binary::Div), "times", &[channels, groups])?;
    let one = site.integers("one", &[1]);
    let repeated = site.apply(Op::Concat { axis: 0 }, "repeated", &[one, times])?;
    let all = site.integers("all", &[-1]);
    for (slot, name, value) in [(1, "scale", scale), (2, "bias", bias)] {
        let column = site.apply(Op::Unsqueeze { axes: None }, name, &[value, one])?;
        let rows = site.apply(Op::Expand, name, &[column, repeated])?;
        let per_channel = site.apply(Op::Reshape { allowzero: false }, name, &[rows, all])?;
        site.set_operand(slot, per_channel);
    }
    Ok(())
}
