//! Writing the inference graph over a store, and slicing artifacts.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use mqc_ir::quant::Width;
use mqc_ir::{Graph, NodeId, Op, Tensor, Value};
use mqc_onnx::export::{self, ExternalLocation, Located};
use mqc_onnx::{Model, file, nested_functions};
use mqc_runtime::nested_node::{nested_mut, nested_parts};

use crate::artifact::store::{self, Layout, Store};
use crate::artifact::{Artifact, Manifest};
use crate::load;

/// Calls `visit` for every node of the graph and of all bodies in it.
pub fn for_each_node(graph: &Graph, visit: &mut dyn FnMut(&Graph, NodeId)) -> Result<()> {
    for id in graph.order()? {
        visit(graph, id);
        for subgraph in graph.node(id).map(|n| &n.subgraphs).into_iter().flatten() {
            for_each_node(&subgraph.graph, visit)?;
        }
    }
    Ok(())
}

/// The float weight of every layer that the graph quantizes.
pub fn quantized_sources(graph: &Graph) -> Result<BTreeMap<String, Tensor>> {
    let mut sources = BTreeMap::new();
    for_each_node(graph, &mut |graph, id| {
        let (Some(node), Some(weight)) = (graph.node(id), graph.operand(id, 0)) else { return };
        if let (Op::NestedQuantize(_), Some(tensor)) = (&node.op, graph.constant(weight)) {
            sources.insert(node.name.clone(), tensor.clone());
        }
    })?;
    Ok(sources)
}

/// Where the bytes of a tensor begin, and how many there are: what two views of one tensor have in common.
type Place = (usize, usize);

fn place(tensor: &Tensor) -> Place {
    (tensor.bytes().as_ptr().addr(), tensor.bytes().len())
}

/// Constants that are not quantized and large enough to be stored, each once.
pub struct Weights {
    by_name: BTreeMap<String, Tensor>,
    names: BTreeMap<Place, String>,
}

impl Weights {
    /// Constants of at least `least` bytes that something else than a quantizer uses.
    pub fn collect(graph: &Graph, least: usize) -> Result<Weights> {
        let mut weights = Weights { by_name: BTreeMap::new(), names: BTreeMap::new() };
        for_each_node(graph, &mut |graph, id| {
            let Some(Op::Weight(tensor)) = graph.node(id).map(|n| &n.op) else { return };
            let value = Value { node: id, slot: 0 };
            let is_quantized =
                |user: NodeId| graph.node(user).is_some_and(|n| matches!(n.op, Op::NestedQuantize(_)));
            let name = graph.info(value).map(|i| i.name.clone()).unwrap_or_default();
            let used =
                graph.is_output(value) || graph.users(value).iter().any(|(user, _)| !is_quantized(*user));
            if !used || tensor.bytes().len() < least || !Layout::can_hold(&name, tensor.dtype()) {
                return;
            }
            weights.add(name, tensor);
        })?;
        Ok(weights)
    }

    fn add(&mut self, name: String, tensor: &Tensor) {
        if self.names.contains_key(&place(tensor)) {
            return;
        }
        // Bodies may use one name for different weights.
        let mut unique = name;
        while self.by_name.contains_key(&unique) {
            unique.push('\'');
        }
        self.names.insert(place(tensor), unique.clone());
        self.by_name.insert(unique, tensor.clone());
    }

    /// The tensors by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// Lets the graph's constants be the ones in the store.
    pub fn share(&self, graph: &mut Graph, stored: &Store) -> Result<()> {
        mqc_passes::walk::for_each_graph(graph, &mut |graph| -> Result<(), mqc_passes::Error> {
            for id in graph.order()? {
                let Some(Op::Weight(tensor)) = graph.node(id).map(|n| &n.op) else { continue };
                let name = self.names.get(&place(tensor));
                let Some((dtype, shape, bytes)) = name.and_then(|n| stored.tensor(n).ok()) else { continue };
                let tensor = Tensor::new(dtype, shape, bytes)?;
                if let Some(node) = graph.node_mut(id) {
                    node.op = Op::Weight(tensor);
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// Writes `graph.onnx`: constants that lie in the store become references into it.
pub fn write_graph(model: &Model, path: &Path, stored: &Store) -> Result<()> {
    let mut offsets: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    for name in stored.names() {
        let (_, _, bytes): (_, _, Bytes) = stored.tensor(name)?;
        offsets.insert((bytes.as_ptr().addr(), bytes.len()), stored.offset_of(name)?);
    }
    let locate = |_: &str, tensor: &Tensor| {
        let (offset, length) = *offsets.get(&place(tensor)).filter(|_| !tensor.bytes().is_empty())?;
        Some(ExternalLocation { location: store::FILE.to_owned(), offset, length })
    };
    let mut model = model.clone();
    nested_functions::renew(&mut model);
    let proto = export::to_proto(&model, &mut Located(locate))?;
    file::write_atomic(path, &proto).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a smaller artifact that serves `width` and less. Returns its size in bytes.
pub fn slice(artifact: &Artifact, width: Width, target: &Path, force: bool) -> Result<u64> {
    let model = load::artifact_model(artifact)?;
    let written = artifact.slice(width, target, force, |folder, manifest, stored| -> Result<()> {
        let mut model = model.clone();
        move_to(&mut model.graph, artifact.store(), manifest, stored)?;
        // Runtimes that only know the function bodies read the width from the graph.
        let widths = manifest.layers.iter().map(|l| (l.name.clone(), width)).collect();
        crate::export::set_widths(&mut model.graph, &widths)?;
        write_graph(&model, &folder.join(crate::artifact::GRAPH), stored)?;
        crate::report::write(&folder.join(crate::report::FILE), manifest, stored, manifest.source.bytes)
    })?;
    load::folder_bytes(&written)
}

/// Points the constants of a graph over one store at the tensors of the same name in another, of which `manifest` is;
/// planes and maps that it lacks go.
fn move_to(graph: &mut Graph, old: &Store, manifest: &Manifest, new: &Store) -> Result<()> {
    let mut names: BTreeMap<Place, &str> = BTreeMap::new();
    for name in old.names() {
        let (dtype, shape, bytes) = old.tensor(name)?;
        names.insert(place(&Tensor::new(dtype, shape, bytes)?), name);
    }
    let planes = new.planes_available();
    let map_widths: BTreeMap<&str, &Vec<Width>> =
        manifest.layers.iter().map(|l| (l.name.as_str(), &l.map_widths)).collect();
    mqc_passes::walk::for_each_graph(graph, &mut |graph| -> Result<(), mqc_passes::Error> {
        for id in graph.order()? {
            let Some(node) = graph.node(id) else { continue };
            if let Some((_, first)) = nested_parts(&node.op) {
                let operands = graph.operands(id);
                graph.set_operands(id, &operands[..operands.len().min(first + planes)])?;
                if let Some(nested) = graph.node_mut(id).and_then(|n| nested_mut(&mut n.op))
                    && let Some(widths) = map_widths.get(nested.layer.as_str())
                {
                    nested.map_widths.clone_from(widths);
                }
                continue;
            }
            let Op::Weight(tensor) = &node.op else { continue };
            let found = names.get(&place(tensor)).filter(|_| !tensor.bytes().is_empty());
            let Some((dtype, shape, bytes)) = found.and_then(|n| new.tensor(n).ok()) else { continue };
            let tensor = Tensor::new(dtype, shape, bytes)?;
            if let Some(node) = graph.node_mut(id) {
                node.op = Op::Weight(tensor);
            }
        }
        graph.erase_dead();
        Ok(())
    })?;
    Ok(())
}
