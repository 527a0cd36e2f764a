//! [`Model`] -> ONNX model. One node of the IR becomes one ONNX node.
//!
//! Values keep their names where these are free; a value that leaves the graph under another name takes that name, or
//! passes an added `Identity` when it cannot. Captured values of subgraphs are again known by their outer names.

mod build;
mod names;
mod weights;

use std::path::Path;

use mqc_ir::{Graph, Op, Tensor};
use prost::Message;

use crate::Error;
use crate::file::{ExternalWriter, write_atomic};
use crate::model::Model;
use crate::ops::{NESTED_DOMAIN, NESTED_VERSION};
use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};

pub use crate::ops::window_attributes;
pub use weights::{ExternalLocation, Inline, Located, ToFile, WeightSink};

/// Says where the bytes of a weight lie already, by its name and itself.
pub type Locate<'a> = &'a dyn Fn(&str, &Tensor) -> Option<ExternalLocation>;

/// How [`write()`] stores weights.
#[derive(Clone, Copy)]
pub struct ExportOptions<'a> {
    /// Weights of more bytes than this, all together, go to the external data file.
    pub inline_limit: u64,
    /// Then, those of at least so many bytes each; smaller ones stay in the model.
    pub external_from: usize,
    /// Weights that are stored already: these are referred to, all others stay in the model.
    pub locate: Option<Locate<'a>>,
}

impl Default for ExportOptions<'_> {
    /// 64 MiB, which one message holds with ease, and 1 KiB, as in the onnx package.
    fn default() -> Self {
        ExportOptions { inline_limit: 64 << 20, external_from: 1024, locate: None }
    }
}

/// Writes the model to `path`, and its weights to `path` + `.data` when they are over the limit of the options. Both
/// appear whole or not at all.
///
/// # Errors
/// See [`to_proto`]; the files cannot be written.
pub fn write(model: &Model, path: &Path, options: &ExportOptions) -> Result<(), Error> {
    if let Some(locate) = options.locate {
        return write_atomic(path, &to_proto(model, &mut Located(locate))?);
    }
    if weight_bytes(&model.graph) <= options.inline_limit {
        return write_atomic(path, &to_proto(model, &mut Inline)?);
    }
    let mut file = ToFile { writer: ExternalWriter::new(path)?, external_from: options.external_from };
    let proto = to_proto(model, &mut file)?;
    file.writer.finish()?;
    write_atomic(path, &proto)
}

/// The model in one message, its weights inline.
///
/// # Errors
/// See [`to_proto`].
pub fn to_bytes(model: &Model) -> Result<Vec<u8>, Error> {
    Ok(to_proto(model, &mut Inline)?.encode_to_vec())
}

/// Bytes of all weights, those of subgraphs included.
fn weight_bytes(graph: &Graph) -> u64 {
    let nodes = graph.order().unwrap_or_default();
    let nodes = nodes.into_iter().filter_map(|id| graph.node(id));
    nodes
        .map(|node| {
            let own = if let Op::Weight(tensor) = &node.op { tensor.bytes().len() as u64 } else { 0 };
            own + node.subgraphs.iter().map(|inner| weight_bytes(&inner.graph)).sum::<u64>()
        })
        .sum()
}

/// The message of a model; `weights` says which weights are stored elsewhere. Bytes that stay are shared, not copied.
///
/// A model whose weights cannot be overridden by inputs, as IR version 3 demands, is written as IR version 4.
///
/// # Errors
/// An operation has no ONNX form at the graph's opset; inputs or outputs share a name; the sink fails.
pub fn to_proto(model: &Model, weights: &mut dyn WeightSink) -> Result<ModelProto, Error> {
    let Model { graph, header } = model;
    let mut exporter = build::Exporter { weights, opsets: &graph.opsets, header, nested: false };
    let proto = exporter.graph(graph, None, &[])?;

    let mut opsets = graph.opsets.clone();
    if exporter.nested {
        opsets.entry(NESTED_DOMAIN.to_owned()).or_insert(NESTED_VERSION);
    }
    let opset_import = opsets
        .into_iter()
        .map(|(domain, version)| OperatorSetIdProto { domain: Some(domain), version: Some(version) });
    let fixed_weights = proto.initializer.len() > graph.inputs().len()
        || proto.initializer.iter().any(|weight| proto.input.iter().all(|input| input.name != weight.name));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(ModelProto {
        ir_version: Some(if fixed_weights { header.ir_version.max(4) } else { header.ir_version }),
        producer_name: text(&header.producer_name),
        producer_version: text(&header.producer_version),
        domain: text(&header.domain),
        model_version: (header.model_version != 0).then_some(header.model_version),
        doc_string: text(&header.doc),
        graph: Some(proto),
        opset_import: opset_import.collect(),
        metadata_props: metadata(&header.metadata),
        training_info: header.training.clone(),
        functions: header.functions.clone(),
        configuration: header.devices.clone(),
    })
}

fn metadata(entries: &[(String, String)]) -> Vec<StringStringEntryProto> {
    let entry = |(key, value): &(String, String)| StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    entries.iter().map(entry).collect()
}

#[cfg(test)]
mod tests;
