//! Checks a graph before tract sees it, and removes what would make tract refuse or misread it.

use std::collections::{BTreeSet, HashMap};

use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::{GraphProto, NodeProto, ValueInfoProto, type_proto};

use super::{CpuError, DOMAIN};

/// Domains whose operators tract implements under the meaning that the domain gives them.
const DOMAINS: [&str; 5] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", DOMAIN];

/// Makes `graph`, and every subgraph below it, safe to parse:
/// * an operator that is not among `known` is an error that names it (tract looks at the op type alone, never at
///   the domain);
/// * an output that nothing defines is an error;
/// * nodes get unique names, which tract requires and ONNX does not;
/// * named sizes of subgraph inputs are dropped: they would contradict the concrete sizes of a plan.
pub(super) fn prepare<B>(graph: &mut GraphProto, known: &HashMap<String, B>) -> Result<(), CpuError> {
    prepare_graph(graph, known, &mut 0)
}

fn prepare_graph<B>(
    graph: &mut GraphProto,
    known: &HashMap<String, B>,
    counter: &mut usize,
) -> Result<(), CpuError> {
    let mut defined: BTreeSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    defined.extend(graph.initializer.iter().map(|initializer| initializer.name.as_str()));
    defined.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    if let Some(output) = graph.output.iter().find(|output| !defined.contains(output.name.as_str())) {
        return Err(CpuError::UndefinedOutput { graph: graph.name.clone(), output: output.name.clone() });
    }
    for node in &mut graph.node {
        if !DOMAINS.contains(&node.domain.as_str()) || !known.contains_key(&node.op_type) {
            return Err(unsupported(node));
        }
        let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
        node.name = format!("{}#{counter}", name.map_or("", String::as_str));
        *counter += 1;
        for attribute in &mut node.attribute {
            for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                body.input.iter_mut().for_each(forget_named_sizes);
                prepare_graph(body, known, counter)?;
            }
        }
    }
    Ok(())
}

fn unsupported(node: &NodeProto) -> CpuError {
    CpuError::UnsupportedOp {
        node: node.name.clone(),
        op: node.op_type.clone(),
        domain: if node.domain.is_empty() { "ai.onnx".to_owned() } else { node.domain.clone() },
    }
}

fn forget_named_sizes(input: &mut ValueInfoProto) {
    let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_mut().and_then(|t| t.value.as_mut())
    else {
        return;
    };
    for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
        dim.value = dim.value.take().filter(|value| matches!(value, Dim::DimValue(_)));
    }
}
