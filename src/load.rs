//! Opening models and artifacts.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mqc_ir::{DType, Dim, Graph, Tensor, TensorType, Type, Value};
use mqc_onnx::ops::NESTED_DOMAIN;
use mqc_onnx::proto::{GraphProto, ModelProto};
use mqc_onnx::{Model, file, import, inline};
use mqc_passes::Pipeline;
use mqc_passes::walk::for_each_graph;
use mqc_runtime::nested_node::nested_parts;

use crate::artifact::store::{self, Store};
use crate::artifact::{Artifact, manifest};

/// An ONNX model with its local functions inlined: their weights are to be found, and runtimes like tract know none.
pub fn for_compiling(path: &Path) -> Result<Model> {
    if path.is_dir() {
        bail!("{} is a folder, expected an ONNX file", path.display());
    }
    let mut loaded = file::read(path)?;
    inline::inline_functions(&mut loaded.model)?;
    let mut model = import::from_proto(loaded.model, &loaded.resolver)?;
    model.graph.fix_weights();
    forget_empty_sizes(&mut model.graph);
    Ok(model)
}

/// A float model for the CPU session: normalized, since tract plans some models only so.
pub fn for_running(path: &Path) -> Result<Model> {
    let mut model = for_compiling(path)?;
    let options = mqc_passes::Options::default();
    let mut context = mqc_passes::Context::new(&options, None);
    Pipeline::normalize().run(&mut model.graph, &mut context, &mqc_passes::Debug::default())?;
    Ok(model)
}

/// Exporters declare sizes of 0 for inputs of any size; an input that is always empty has no use.
fn forget_empty_sizes(graph: &mut Graph) {
    for id in graph.inputs().to_vec() {
        let value = Value { node: id, slot: 0 };
        let mut ty = graph.ty(value).clone();
        if let Type::Tensor(TensorType { shape: Some(dims), .. }) = &mut ty {
            dims.iter_mut().filter(|d| **d == Dim::Size(0)).for_each(|d| *d = Dim::Unknown);
            graph.set_type(value, ty);
        }
    }
}

/// An ONNX model as it is.
pub fn model(path: &Path) -> Result<Model> {
    Ok(import::import(path)?)
}

/// Whether the path is an artifact rather than a model file.
pub fn is_artifact(path: &Path) -> bool {
    path.join(manifest::FILE).is_file()
}

/// The inference graph of an artifact; its constants are slices of the artifact's mapped store.
pub fn artifact_model(artifact: &Artifact) -> Result<Model> {
    let path = artifact.graph_path();
    let mut loaded = file::read(&path)?;
    loaded.resolver.preset(store::FILE, artifact.store().file_bytes());
    let is_cut = artifact.store().planes_available() < artifact.store().planes_stored();
    if is_cut {
        drop_planes(&mut loaded.model, artifact.store());
    }
    // mqc knows the nested operators; the bodies are for others and are made anew on export.
    loaded.model.functions.retain(|f| f.domain.as_deref() != Some(NESTED_DOMAIN));
    let mut model = import::from_proto(loaded.model, &loaded.resolver)
        .with_context(|| format!("cannot load {}", path.display()))?;
    if is_cut {
        narrow_widths(&mut model.graph)?;
    }
    Ok(model)
}

/// Nodes that have fewer planes than their width reads get the widest width that they have planes for.
fn narrow_widths(graph: &mut Graph) -> Result<(), mqc_passes::Error> {
    for_each_graph(graph, &mut |graph| {
        for id in graph.order()? {
            let Some((nested, first_plane)) = graph.node(id).and_then(|n| nested_parts(&n.op)) else {
                continue;
            };
            let planes = graph.operands(id).len().saturating_sub(first_plane);
            let (Some(widest), layer) = (nested.mode.widest(planes), nested.layer.clone()) else { continue };
            let given = graph.operand(id, 1).and_then(|width| graph.constant(width)?.to_i64_vec());
            if given.is_some_and(|given| given.iter().any(|width| *width > i64::from(widest.bits()))) {
                let name = graph.fresh_name(&format!("{layer}.width"));
                let width = graph.add_weight(name, Tensor::i64_scalar(i64::from(widest.bits())));
                graph.set_operand(id, 1, width);
            }
        }
        graph.erase_dead();
        Ok(())
    })
}

/// Takes planes that a cut store lacks out of the graph.
fn drop_planes(model: &mut ModelProto, store: &Store) {
    let gone = |name: &str| match store::parse_plane_name(name) {
        Some((_, plane)) => plane >= store.planes_available(),
        None => false,
    };
    if let Some(graph) = &mut model.graph {
        drop_planes_in(graph, &gone);
    }
}

fn drop_planes_in(graph: &mut GraphProto, gone: &dyn Fn(&str) -> bool) {
    graph.initializer.retain(|t| !t.name.as_deref().is_some_and(gone));
    for node in &mut graph.node {
        if node.domain.as_deref() == Some(NESTED_DOMAIN) {
            node.input.retain(|name| !gone(name));
        }
        for attribute in &mut node.attribute {
            let bodies = attribute.g.iter_mut().map(|g| &mut **g).chain(&mut attribute.graphs);
            bodies.for_each(|body| drop_planes_in(body, gone));
        }
    }
}

/// The elements of a float tensor as f32, without a copy where they are that already.
pub fn f32_values(tensor: &Tensor) -> Result<Cow<'_, [f32]>> {
    if tensor.dtype() == DType::F32
        && let Ok(values) = bytemuck::try_cast_slice(tensor.bytes())
    {
        return Ok(Cow::Borrowed(values));
    }
    match tensor.to_f32_vec() {
        Some(values) => Ok(Cow::Owned(values)),
        None => bail!("elements of type {} are not floats", tensor.dtype()),
    }
}

/// Size of a model file and of the files that its tensors lie in.
pub fn bytes_with_external_data(path: &Path) -> Result<u64> {
    let loaded = file::read(path)?;
    let mut files = std::collections::BTreeSet::new();
    if let Some(graph) = &loaded.model.graph {
        let entries = graph.initializer.iter().flat_map(|t| &t.external_data);
        files
            .extend(entries.filter(|e| e.key.as_deref() == Some("location")).filter_map(|e| e.value.clone()));
    }
    let mut total = std::fs::metadata(path)?.len();
    for name in files {
        let external = path.parent().unwrap_or(Path::new(".")).join(&name);
        total += std::fs::metadata(&external)
            .with_context(|| format!("cannot read {}", external.display()))?
            .len();
    }
    Ok(total)
}

/// Size of all files in a folder.
pub fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        total +=
            if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(total)
}
