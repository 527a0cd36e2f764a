//! ONNX model -> [`Model`]. One ONNX node becomes one node of the IR.
//!
//! Accepted beyond the standard, since it is common: nodes out of order (they are sorted), inner names that shadow outer
//! ones (the inner value is meant), nodes and values without types.

mod build;
pub(crate) mod scope;
mod verbatim;

use std::collections::BTreeMap;
use std::path::Path;

use crate::file::{self, Resolver};
use crate::model::{Header, Model};
use crate::ops::OLDEST_OPSET;
use crate::proto::{
    FunctionProto, GraphProto, ModelProto, NodeDeviceConfigurationProto, OperatorSetIdProto,
    StringStringEntryProto, ValueInfoProto,
};
use crate::{Error, ops};

/// Graphs within graphs that are read: more than the protobuf decoder lets through.
pub const MAX_DEPTH: usize = 32;

/// Reads the model at `path`. Weights are shared with the mapped file and its external data.
///
/// # Errors
/// See [`file::read`] and [`from_proto`].
pub fn import(path: &Path) -> Result<Model, Error> {
    let loaded = file::read(path)?;
    from_proto(loaded.model, &loaded.resolver)
}

/// The model that a message holds; `resolver` finds its external data.
///
/// # Errors
/// An operator set before 7, a graph that is no graph (names defined twice or not at all, cycles, unnamed values,
/// nesting over [`MAX_DEPTH`]), malformed attributes, types or tensors.
pub fn from_proto(model: ModelProto, resolver: &Resolver) -> Result<Model, Error> {
    let no_graph = GraphProto::default();
    let proto = model.graph.as_ref().unwrap_or(&no_graph);
    let opsets = opsets(&model.opset_import)?;
    let opset = match opsets.get("") {
        Some(&found) if found < OLDEST_OPSET => return Err(Error::OldOpset { found }),
        Some(&found) => found,
        None if scope::uses_standard_domain(proto, 0)? => return Err(Error::NoOpset),
        None => ops::NEWEST_OPSET,
    };
    if opset > ops::NEWEST_OPSET {
        tracing::warn!(opset, newest = ops::NEWEST_OPSET, "the operator set is newer than this compiler");
    }

    let mut importer = build::Importer {
        resolver,
        opset,
        functions: model.functions.iter().map(function_key).collect(),
        placements: BTreeMap::new(),
    };
    let mut graph = importer.graph(proto, &[], 0)?;
    graph.opsets = opsets;
    let placements = importer.placements;
    Ok(Model { header: header(model, placements, resolver)?, graph })
}

/// Domain and name of a function.
fn function_key(function: &FunctionProto) -> (String, String) {
    (domain(function.domain()).to_owned(), function.name().to_owned())
}

/// A domain under its one name: "ai.onnx" is "".
pub(crate) fn domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn opsets(imports: &[OperatorSetIdProto]) -> Result<BTreeMap<String, i64>, Error> {
    let mut opsets = BTreeMap::new();
    for import in imports {
        let (domain, version) = (domain(import.domain()), import.version());
        if let Some(other) = opsets.insert(domain.to_owned(), version)
            && other != version
        {
            return Err(Error::OpsetTwice { domain: domain.to_owned(), first: other, second: version });
        }
    }
    Ok(opsets)
}

fn header(
    mut model: ModelProto,
    placements: BTreeMap<String, Vec<NodeDeviceConfigurationProto>>,
    resolver: &Resolver,
) -> Result<Header, Error> {
    verbatim::bring_in(&mut model, resolver)?;
    let graph = model.graph.take().unwrap_or_default();
    let says_more = |value: &ValueInfoProto| {
        let denoted = value.r#type.as_ref().is_some_and(verbatim::has_denotation);
        value.doc_string.is_some() || !value.metadata_props.is_empty() || denoted
    };
    let values = graph.input.into_iter().chain(graph.output).chain(graph.value_info).filter(says_more);
    let text = Option::unwrap_or_default;
    Ok(Header {
        ir_version: model.ir_version.unwrap_or_default(),
        producer_name: text(model.producer_name),
        producer_version: text(model.producer_version),
        domain: text(model.domain),
        model_version: model.model_version.unwrap_or_default(),
        doc: text(model.doc_string),
        metadata: metadata(&model.metadata_props),
        functions: model.functions,
        training: model.training_info,
        devices: model.configuration,
        placements,
        annotations: graph.quantization_annotation,
        values: values.map(|value| (value.name().to_owned(), value)).collect(),
    })
}

fn metadata(entries: &[StringStringEntryProto]) -> Vec<(String, String)> {
    entries.iter().map(|entry| (entry.key().to_owned(), entry.value().to_owned())).collect()
}

#[cfg(test)]
mod tests;
