//! The one place that knows ONNX operator names: [`read`] turns a node into an [`Op`], [`write()`] turns it back.
//!
//! A node becomes an [`Op`] only when the `Op` says all that the node says at the model's opset: the right number of
//! inputs and outputs, every attribute understood. Any other node is [`Op::Opaque`], kept verbatim. Attributes with
//! their default value are the same as absent ones and are written as absent.

mod attributes;
mod names;
mod read;
mod write;

use std::collections::BTreeMap;

use mqc_ir::{Attribute, Op, op::Opaque, op::Window};

use crate::Error;

/// The domain of the nested operators.
pub const NESTED_DOMAIN: &str = "ai.mqc";
/// The version of [`NESTED_DOMAIN`] that is written.
pub const NESTED_VERSION: i64 = 1;
/// The oldest operator set that is read: the first one with multidirectional broadcasting.
pub const OLDEST_OPSET: i64 = 7;
/// The newest operator set whose operators were compared with the table. Newer ones are read by the same table: an
/// operator or attribute that it does not know makes a node opaque.
pub const NEWEST_OPSET: i64 = 28;

/// An ONNX node without names: what decides its operation.
#[derive(Debug)]
pub struct Form<'a> {
    /// Domain, "" for ONNX's own.
    pub domain: &'a str,
    /// Operator.
    pub op_type: &'a str,
    /// Overload of a local function.
    pub overload: &'a str,
    /// Version of ONNX's own operator set that the model imports.
    pub opset: i64,
    /// For each input, whether it is there.
    pub inputs: &'a [bool],
    /// Number of outputs.
    pub outputs: usize,
    /// Attributes that are not graphs.
    pub attributes: BTreeMap<String, Attribute>,
}

/// The operation of a node without graph-valued attributes; opaque when no other says the same.
pub fn read(form: Form) -> Op {
    let known = if form.overload.is_empty() { read::read(&form) } else { None };
    // An operator older than the one in the table, or of a later opset than the model's, cannot be written back.
    known
        .filter(|op| write(op, form.inputs.len(), form.opset, form.op_type).is_ok())
        .unwrap_or_else(|| opaque(form))
}

/// The node verbatim.
pub fn opaque(form: Form) -> Op {
    Op::Opaque(Opaque {
        domain: form.domain.to_owned(),
        op_type: form.op_type.to_owned(),
        overload: form.overload.to_owned(),
        attributes: form.attributes,
    })
}

/// The ONNX node of an operation with `inputs` operands in a model of operator set `opset`. `node` is named in errors.
///
/// # Errors
/// The operation has no ONNX form, or none at this opset. Inputs and weights are no nodes.
pub fn write(op: &Op, inputs: usize, opset: i64, node: &str) -> Result<Opaque, Error> {
    write::write(op, &write::Target { inputs, opset, node })
}

/// The attributes of a sliding window, defaults left out.
pub fn window_attributes(window: &Window) -> BTreeMap<String, Attribute> {
    write::window(window, attributes::Writer::default()).0
}

#[cfg(test)]
mod tests;
