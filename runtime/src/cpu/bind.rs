//! Gives the nodes of our domain in a parsed graph, subgraphs included, their resident weights and caches.
//!
//! tract builds operators with plain functions that cannot carry our weights. So a nested node is parsed into
//! a placeholder first, and replaced by the operator once the whole graph is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::scan::InferenceScan;

use super::branch::{self, Branch};
use super::cached_attention::CachedAttention;
use super::epilogue::{EpilogueOp, Parts};
use super::kv_cache::KvCache;
use super::nested_op::{Kind, NestedOp};
use super::norm::Norm;
use super::rotary::Rotary;
use super::self_attention::SelfAttention;
use super::{ConvGeometry, CpuError, Engine, Padding, Resident};

/// The operators of our domain.
const OPS: [&str; 9] = [
    "NestedMatMul",
    "NestedConv",
    "NestedGather",
    "CachedAttention",
    "Attention",
    "Rotary",
    "RmsNorm",
    "LayerNorm",
    "Epilogue",
];

/// Teaches tract's ONNX reader our operators and our `If`.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    for op in OPS {
        operators.insert(op, |_, node| Ok((expand(Unbound(Box::new(node.clone()))), vec![])));
    }
    operators.insert("If", branch::parse);
}

/// Replaces every placeholder of `graph` and its subgraphs by the operator over its resident weight, or over a
/// cache of its own, which is added to `caches`.
pub(super) fn bind(
    graph: &mut InferenceModel,
    residents: &BTreeMap<String, Arc<Resident>>,
    engine: &Arc<Engine>,
    caches: &mut Vec<Arc<KvCache>>,
) -> Result<(), CpuError> {
    for node in graph.nodes_mut() {
        if let Some(expansion) = node.op_as::<Box<dyn Expansion>>() {
            if let Some(Unbound(proto)) = expansion.as_ref().as_any().downcast_ref::<Unbound>() {
                let bad = |error| bad(proto, &error);
                node.op = match proto.op_type.as_str() {
                    "CachedAttention" => {
                        let attention = CachedAttention::parse(proto, engine).map_err(bad)?;
                        caches.push(attention.cache.clone());
                        expand(attention)
                    }
                    "Attention" => expand(SelfAttention::parse(proto, engine).map_err(bad)?),
                    "Rotary" => expand(Rotary),
                    "RmsNorm" => expand(Norm::parse(proto, false, engine).map_err(bad)?),
                    "LayerNorm" => expand(Norm::parse(proto, true, engine).map_err(bad)?),
                    "Epilogue" => {
                        let parts = Parts::parse(proto).map_err(bad)?;
                        expand(EpilogueOp { engine: engine.clone(), parts })
                    }
                    _ => expand(nested_op(proto, residents)?),
                };
            }
        } else if let Some(branch) = node.op_as_mut::<Branch>() {
            for body in branch.bodies_mut() {
                bind(body, residents, engine, caches)?;
            }
        } else if let Some(scan) = node.op_as_mut::<InferenceScan>() {
            bind(&mut scan.body, residents, engine, caches)?;
        }
    }
    Ok(())
}

fn bad(node: &NodeProto, error: &TractError) -> CpuError {
    CpuError::BadNode { node: node.name.clone(), reason: format!("{error:#}") }
}

fn nested_op(node: &NodeProto, residents: &BTreeMap<String, Arc<Resident>>) -> Result<NestedOp, CpuError> {
    let bad = |error: TractError| bad(node, &error);
    let layer: String = node.get_attr("layer").map_err(bad)?;
    let kind = match node.op_type.as_str() {
        "NestedMatMul" => Kind::MatMul,
        "NestedConv" => Kind::Conv(geometry(node).map_err(bad)?),
        "NestedGather" => Kind::Gather,
        op => return Err(bad(format_err!("unknown nested operator {op}"))),
    };
    let Some(resident) = residents.get(&layer) else {
        return Err(CpuError::UnknownLayer { node: node.name.clone(), layer });
    };
    if kind != Kind::Gather {
        resident.set_multiplied();
    }
    let parts = Parts::parse(node).map_err(bad)?;
    let fits = match kind {
        Kind::MatMul => true,
        Kind::Conv(_) => parts == Parts { bias: parts.bias, ..Parts::default() },
        Kind::Gather => parts == Parts::default(),
    };
    if !fits {
        return Err(bad(format_err!("only NestedMatMul has an activation, a gate or a residual")));
    }
    Ok(NestedOp { kind, resident: resident.clone(), parts })
}

fn geometry(node: &NodeProto) -> TractResult<ConvGeometry> {
    let kernel: Vec<usize> = node.get_attr_vec("kernel_shape")?;
    let axes = kernel.len();
    let strides = node.get_attr_opt_vec("strides")?.unwrap_or_else(|| vec![1; axes]);
    let dilations = node.get_attr_opt_vec("dilations")?.unwrap_or_else(|| vec![1; axes]);
    let padding = match node.get_attr_opt("auto_pad")?.unwrap_or("NOTSET") {
        "NOTSET" => {
            let mut begin: Vec<usize> = node.get_attr_opt_vec("pads")?.unwrap_or_else(|| vec![0; 2 * axes]);
            let end = begin.split_off(begin.len().min(axes));
            Padding::Explicit { begin, end }
        }
        "VALID" => Padding::Explicit { begin: vec![0; axes], end: vec![0; axes] },
        "SAME_UPPER" => Padding::SameUpper,
        "SAME_LOWER" => Padding::SameLower,
        other => bail!("auto_pad is {other}, expected NOTSET, VALID, SAME_UPPER or SAME_LOWER"),
    };
    let group = node.get_attr_opt("group")?.unwrap_or(1);
    ConvGeometry::new(kernel, strides, dilations, padding, group).map_err(|reason| format_err!(reason))
}

/// A node of our domain between parsing and binding.
#[derive(Debug, Clone)]
struct Unbound(Box<NodeProto>);

impl Expansion for Unbound {
    fn name(&self) -> StaticName {
        self.0.op_type.clone().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        _: &mut Solver<'r>,
        _: &'p [TensorProxy],
        _: &'p [TensorProxy],
    ) -> InferenceResult {
        bail!("node {} was not bound to its weight", self.0.name)
    }

    fn wire(&self, _: &str, _: &mut TypedModel, _: &[OutletId]) -> TractResult<TVec<OutletId>> {
        bail!("node {} was not bound to its weight", self.0.name)
    }

    fn runs_out_of_plan(&self) -> bool {
        false
    }
}
