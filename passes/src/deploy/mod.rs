//! Nested nodes become operations that other runtimes run, at one width per layer.
//!
//! Before: `%y = nested_matmul %x, %fc1.width, %fc1.scale, %fc1.zero, %fc1.plane0, ...`
//!
//! After, for `float`: `%y = matmul %x, %fc1`; for `matmulnbits`:
//! `%p = com.microsoft.MatMulNBits %x, %fc1.codes, %fc1.scales`, `%s = matmul %x, %ones`, `%c = matmul %s, %fc1.correction`,
//! `%y = add %p, %c`
//!
//! Integer formats have integer zero points and nested weights do not: see `correction`. New values have no types yet,
//! except those of opaque nodes; infer afterwards.

mod correction;
mod float;
mod gather;
mod levels;
mod matmulnbits;
mod qdq;
mod site;
mod transpose;

use std::collections::BTreeMap;

use mqc_ir::op::Opaque;
use mqc_ir::quant::Width;
use mqc_ir::{Attribute, DType, Graph, Op};

use crate::Error;
use site::{Kind, replace_nested};

/// How MatMulNBits computes: its attribute `accuracy_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccuracyLevel {
    /// 1: in f32.
    F32,
    /// 4: x is rounded to 8 bits, which is faster and has a relative error of about 1e-2.
    Int8,
}

impl AccuracyLevel {
    fn attribute(self) -> i64 {
        match self {
            AccuracyLevel::F32 => 1,
            AccuracyLevel::Int8 => 4,
        }
    }
}

/// Dequantized weights, any width and mode: MatMul, Conv and Gather.
///
/// # Errors
/// If a layer has no width in `widths` or too few planes for it, or its operands are malformed.
pub fn float(graph: &mut Graph, widths: &BTreeMap<String, Width>) -> Result<(), Error> {
    replace_nested(graph, &|layer| widths.get(layer).copied(), |scope, site| {
        float::lower(scope, site).map(Some)
    })
}

/// DequantizeLinear in front of MatMul and Conv, Gather over packed codes; needs [`opset_needed`].
///
/// # Errors
/// As [`float`]; if a width is not 8, 4 or 2; if slices have more levels than integers of their width (mode extra).
pub fn qdq(graph: &mut Graph, widths: &BTreeMap<String, Width>) -> Result<(), Error> {
    replace_nested(graph, &|layer| widths.get(layer).copied(), |scope, site| {
        let value = match &site.kind {
            Kind::MatMul => qdq::matmul(scope, site),
            Kind::Conv { window, shape, bias } => qdq::conv(scope, site, window, shape, *bias),
            Kind::Gather => gather::lower(scope, site, None),
        };
        value.map(Some)
    })
}

/// MatMulNBits of onnxruntime for MatMul; Conv as [`qdq`], Gather over the same codes as the MatMul of a tied weight.
///
/// # Errors
/// As [`qdq`]; if a group size is not a multiple of 16.
pub fn matmulnbits(
    graph: &mut Graph,
    widths: &BTreeMap<String, Width>,
    accuracy: AccuracyLevel,
) -> Result<(), Error> {
    replace_nested(graph, &|layer| widths.get(layer).copied(), |scope, site| {
        let value = match &site.kind {
            Kind::MatMul => matmulnbits::matmul(scope, site, accuracy),
            Kind::Conv { window, shape, bias } => qdq::conv(scope, site, window, shape, *bias),
            Kind::Gather => matmulnbits::gather(scope, site),
        };
        value.map(Some)
    })
}

/// MatMul as a sum of MatMulNBits over the slices [2 | 2 | 4] of the codes: one, two or three of them at 2, 4 and 8 bits.
/// Conv and Gather stay nested. The tensors of a slice have the same names and bytes at every width, so that the models
/// of all widths can share them.
///
/// # Errors
/// As [`matmulnbits`]; if the slice mode is not midpoint: a rounded slice is no prefix of a wider one.
pub fn shared(graph: &mut Graph, width: Width, accuracy: AccuracyLevel) -> Result<(), Error> {
    replace_nested(graph, &|_| Some(width), |scope, site| match &site.kind {
        Kind::MatMul => matmulnbits::shared(scope, site, accuracy).map(Some),
        Kind::Conv { .. } | Kind::Gather => Ok(None),
    })
}

/// The least version of ONNX's operator set that has what [`qdq`] and [`matmulnbits`] put into the graph.
pub fn opset_needed(graph: &Graph) -> i64 {
    let node_needs = |id| {
        let Some(node) = graph.node(id) else { return FIRST_AXIS };
        let inner = node.subgraphs.iter().map(|s| opset_needed(&s.graph)).max().unwrap_or(FIRST_AXIS);
        let Op::Opaque(Opaque { domain, op_type, attributes, .. }) = &node.op else { return inner };
        if !domain.is_empty() || op_type != "DequantizeLinear" {
            return inner;
        }
        let blocks = attributes.get("block_size").is_some_and(|size| *size != Attribute::Int(0));
        match graph.operand(id, 0).and_then(|codes| graph.ty(codes).dtype()) {
            Some(DType::U2 | DType::I2) => FIRST_U2,
            Some(DType::U4 | DType::I4) => FIRST_BLOCKS,
            _ if blocks => FIRST_BLOCKS,
            _ => inner,
        }
    };
    graph.ids().into_iter().map(node_needs).max().unwrap_or(FIRST_AXIS)
}

/// DequantizeLinear per channel.
const FIRST_AXIS: i64 = 13;
/// DequantizeLinear in blocks and of 4-bit types.
const FIRST_BLOCKS: i64 = 21;
/// 2-bit types.
const FIRST_U2: i64 = 25;

#[cfg(test)]
mod tests;
