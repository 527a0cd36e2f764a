//! ONNX files for other runtimes, made from an artifact.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mqc_ir::quant::{Width, Widths};
use mqc_ir::{Graph, Op, Tensor, Value};
use mqc_onnx::export::{self, ExportOptions, WeightSink};
use mqc_onnx::file::{self, ExternalWriter};
use mqc_onnx::proto::StringStringEntryProto;
use mqc_onnx::{Model, nested_functions, raise};
use mqc_passes::deploy::{self, AccuracyLevel};
use mqc_passes::walk::for_each_graph;

use crate::artifact::Artifact;
use crate::load;
use crate::precision::{LayerNames, Precision};
use crate::usage::UsageError;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Local functions of standard operators over the bit planes.
    Functions,
    /// com.microsoft MatMulNBits.
    MatMulNBits(AccuracyLevel),
    /// DequantizeLinear.
    Qdq,
    /// Float weights with the values of the width.
    Float,
}

/// Files that were written, with their sizes in bytes.
pub type Written = Vec<(PathBuf, u64)>;

const MICROSOFT: &str = "com.microsoft";

/// Constants of at least so many bytes lie in the shared data file.
const SHARED: usize = 1 << 10;

/// Writes one model; large weights go to `OUTPUT.data`.
pub fn single(
    artifact: &Artifact,
    precision: &Precision,
    format: Format,
    output: &Path,
    force: bool,
) -> Result<Written> {
    refuse_existing(&[output.to_owned(), data_file(output)], force)?;
    let layers = artifact.manifest().layers.iter();
    let widths = precision.resolve(layers.map(|l| LayerNames { layer: &l.name, nodes: &l.nodes }))?;
    let mut model = load::artifact_model(artifact)?;
    let graph = &mut model.graph;
    match format {
        Format::Functions => set_widths(graph, &widths)?,
        Format::MatMulNBits(accuracy) => {
            deploy::matmulnbits(graph, &widths, accuracy)?;
            graph.opsets.insert(MICROSOFT.to_owned(), 1);
        }
        Format::Qdq => deploy::qdq(graph, &widths)?,
        Format::Float => deploy::float(graph, &widths)?,
    }
    finish(&mut model)?;
    export::write(&model, output, &ExportOptions { inline_limit: 1 << 20, ..ExportOptions::default() })
        .with_context(|| format!("cannot write {}", output.display()))?;
    sizes([output.to_owned(), data_file(output)])
}

/// Writes a small model per width, all over one data file of slices.
pub fn shared(
    artifact: &Artifact,
    widths: Widths,
    accuracy: AccuracyLevel,
    output: &Path,
    force: bool,
) -> Result<Written> {
    let paths: Vec<(Width, PathBuf)> =
        widths.iter().map(|w| (w, output.with_extension(format!("int{w}.onnx")))).collect();
    let data = data_file(output);
    let all: Vec<PathBuf> = paths.iter().map(|(_, p)| p.clone()).chain([data.clone()]).collect();
    refuse_existing(&all, force)?;
    let mut models = vec![];
    for (width, path) in &paths {
        let mut model = load::artifact_model(artifact)?;
        let every = artifact.manifest().layers.iter().map(|l| (l.name.clone(), *width)).collect();
        deploy::shared(&mut model.graph, *width, accuracy)?;
        set_widths(&mut model.graph, &every)?;
        model.graph.opsets.insert(MICROSOFT.to_owned(), 1);
        finish(&mut model)?;
        models.push((path, model));
    }
    let places = write_shared(output, &models)?;
    for (path, model) in &models {
        let proto = export::to_proto(model, &mut Shared(&places))?;
        file::write_atomic(path, &proto).with_context(|| format!("cannot write {}", path.display()))?;
    }
    sizes(all)
}

/// Where constants lie in the shared data file, and what they are, by name.
type Places = BTreeMap<String, (Vec<StringStringEntryProto>, Tensor)>;

/// Points weights into the shared data file; others stay in the model.
struct Shared<'a>(&'a Places);

impl WeightSink for Shared<'_> {
    fn place(
        &mut self,
        name: &str,
        tensor: &Tensor,
    ) -> Result<Option<Vec<StringStringEntryProto>>, mqc_onnx::Error> {
        let found = self.0.get(name).filter(|(_, stored)| stored == tensor);
        Ok(found.map(|(entries, _)| entries.clone()))
    }
}

/// Writes every large constant of the models once.
fn write_shared(output: &Path, models: &[(&PathBuf, Model)]) -> Result<Places> {
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (_, model) in models {
        crate::emit::for_each_node(&model.graph, &mut |graph, id| {
            let Some(Op::Weight(tensor)) = graph.node(id).map(|n| &n.op) else { return };
            let name = graph.info(Value { node: id, slot: 0 }).map(|i| i.name.clone()).unwrap_or_default();
            if tensor.bytes().len() >= SHARED {
                tensors.entry(name).or_insert_with(|| tensor.clone());
            }
        })?;
    }
    let mut writer = ExternalWriter::new(output)?;
    let mut places = BTreeMap::new();
    for (name, tensor) in tensors {
        places.insert(name, (writer.append(tensor.bytes())?, tensor));
    }
    writer.finish()?;
    Ok(places)
}

/// Infers the new values' types, raises the operator set as far as the new nodes need it, adds function bodies.
fn finish(model: &mut Model) -> Result<()> {
    mqc_ir::infer::infer(&mut model.graph).map_err(mqc_passes::Error::InvalidInput)?;
    let needed = deploy::opset_needed(&model.graph);
    raise::raise_opset(&mut model.graph, needed)?;
    if let Some(opset) = model.graph.opsets.get("") {
        model.header.ir_version = model.header.ir_version.max(raise::ir_version_for(*opset));
    }
    nested_functions::renew(model);
    Ok(())
}

/// Makes the widths the values of the nodes' `width` operands.
pub fn set_widths(graph: &mut Graph, widths: &BTreeMap<String, Width>) -> Result<()> {
    for_each_graph(graph, &mut |graph| -> Result<(), mqc_passes::Error> {
        for id in graph.order()? {
            let nested = graph.node(id).and_then(|n| mqc_runtime::nested_node::nested_parts(&n.op));
            let Some(width) = nested.and_then(|(nested, _)| widths.get(&nested.layer)) else { continue };
            let Some(operand) = graph.operand(id, 1) else { continue };
            if let Some(node) = graph.node_mut(operand.node) {
                node.op = Op::Weight(Tensor::i64_scalar(width.bits().into()));
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn data_file(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".data");
    PathBuf::from(name)
}

fn refuse_existing(paths: &[PathBuf], force: bool) -> Result<()> {
    match paths.iter().find(|p| p.exists()) {
        Some(path) if !force => bail!(UsageError(format!("{} exists; --force replaces it", path.display()))),
        Some(_) | None => Ok(()),
    }
}

fn sizes(paths: impl IntoIterator<Item = PathBuf>) -> Result<Written> {
    let there = paths.into_iter().filter(|p| p.exists());
    there.map(|p| Ok((p.clone(), std::fs::metadata(&p)?.len()))).collect()
}
