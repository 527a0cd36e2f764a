//! A model that is ready to run: an artifact at any width, or a float ONNX model.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use mqc_ir::quant::Width;
use mqc_ir::{Graph, Tensor};
use mqc_onnx::Model;
use mqc_runtime::Session;

use crate::artifact::Artifact;
use crate::data::Tensors;
use crate::load;
use crate::precision::{LayerNames, Precision};

/// A loaded model.
pub struct Loaded {
    artifact: Option<Artifact>,
    model: Model,
    session: Session,
}

impl Loaded {
    /// Opens an artifact or an ONNX model.
    pub fn open(path: &Path) -> Result<Loaded> {
        if load::is_artifact(path) {
            return Loaded::artifact(Artifact::open(path)?);
        }
        let model = load::for_running(path)?;
        let session = Session::new(&model).with_context(|| format!("cannot load {}", path.display()))?;
        Ok(Loaded { artifact: None, model, session })
    }

    /// Loads an open artifact. Its planes stay in the mapped file until a width reads them.
    pub fn artifact(artifact: Artifact) -> Result<Loaded> {
        let model = load::artifact_model(&artifact)?;
        let mut always: Vec<String> = artifact.untouched().iter().map(|n| (*n).to_owned()).collect();
        let least = Width::all().next().unwrap_or(Width::MAX);
        always.extend(
            artifact
                .manifest()
                .layers
                .iter()
                .flat_map(|l| artifact.tensor_names(l, least))
                .filter(|n| !n.contains(".plane")),
        );
        artifact.verify(&always)?;
        let dir = artifact.dir().display().to_string();
        let session = Session::new(&model).with_context(|| format!("cannot load {dir}"))?;
        Ok(Loaded { artifact: Some(artifact), model, session })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.model.graph
    }

    /// The artifact, when it is one.
    pub fn opened(&self) -> Option<&Artifact> {
        self.artifact.as_ref()
    }

    /// The width of every layer.
    pub fn widths(&self, precision: &Precision) -> Result<BTreeMap<String, Width>> {
        let layers = self.artifact.iter().flat_map(|a| &a.manifest().layers);
        precision.resolve(layers.map(|l| LayerNames { layer: &l.name, nodes: &l.nodes }))
    }

    /// Runs the model. The planes that a width reads are compared with their checksums the first time.
    pub fn run(&self, precision: &Precision, inputs: &Tensors) -> Result<Vec<(String, Tensor)>> {
        let widths = self.widths(precision)?;
        if let Some(artifact) = &self.artifact {
            let layers = artifact.manifest().layers.iter();
            let needed = layers
                .filter_map(|l| Some((l, *widths.get(&l.name)?)))
                .filter(|(_, w)| *w <= artifact.widest());
            artifact.verify(&needed.flat_map(|(l, w)| artifact.tensor_names(l, w)).collect::<Vec<_>>())?;
        }
        Ok(self.session.run(&widths, inputs)?)
    }
}
