//! A model that is ready to run: an artifact at any width, or a float ONNX model.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use mqc_ir::quant::Width;
use mqc_ir::{Activations, Graph, Tensor};
use mqc_onnx::Model;
use mqc_passes::{Context, Debug, FuseSettings, Options, Pipeline};
use mqc_runtime::Session;
use mqc_runtime::cpu::Engine;

use crate::artifact::Artifact;
use crate::data::Tensors;
use crate::device::DeviceSession;
use crate::load;
use crate::precision::{LayerNames, Precision};

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Threads of the products, 0 for as many as there are processors.
    pub threads: usize,
    /// How products round activations; what the artifact was compiled for if not given.
    pub activations: Option<Activations>,
    /// Load the bit planes of so many bits at once, not when a layer first reads them.
    pub resident_bits: Option<Width>,
    /// Run the graph as it is, not fused.
    pub unfused: bool,
    /// Rules of `fuse` that are left out.
    pub without: Vec<String>,
    /// Run on a CUDA device.
    pub cuda: bool,
}

/// A loaded model.
pub struct Loaded {
    artifact: Option<Artifact>,
    model: Model,
    runner: Runner,
}

/// Who runs a model.
enum Runner {
    Cpu(Box<Session>),
    Cuda(Box<DeviceSession>),
}

impl Loaded {
    /// Opens an artifact or an ONNX model.
    pub fn open(path: &Path, setup: &Setup) -> Result<Loaded> {
        Loaded::open_changed(path, setup, |_| Ok(()))
    }

    /// Opens an artifact or an ONNX model, and changes the graph before it is loaded.
    pub fn open_changed(
        path: &Path,
        setup: &Setup,
        change: impl FnOnce(&mut Graph) -> Result<()>,
    ) -> Result<Loaded> {
        if load::is_artifact(path) {
            return Loaded::changed(Artifact::open(path)?, setup, change);
        }
        let mut model = load::for_running(path)?;
        change(&mut model.graph)?;
        let engine = Arc::new(Engine::new(setup.threads, setup.activations.unwrap_or_default()));
        let runner = runner(&model, None, setup, &engine)
            .with_context(|| format!("cannot load {}", path.display()))?;
        Ok(Loaded { artifact: None, model, runner })
    }

    /// Loads an open artifact. Its planes stay in the mapped file until a width reads them.
    pub fn artifact(artifact: Artifact, setup: &Setup) -> Result<Loaded> {
        Loaded::changed(artifact, setup, |_| Ok(()))
    }

    fn changed(
        artifact: Artifact,
        setup: &Setup,
        change: impl FnOnce(&mut Graph) -> Result<()>,
    ) -> Result<Loaded> {
        let mut model = load::artifact_model(&artifact)?;
        change(&mut model.graph)?;
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
        let activations = setup.activations.unwrap_or(artifact.manifest().activations);
        let engine = Arc::new(Engine::new(setup.threads, activations));
        let kernels = artifact.dir().join(crate::cuda::FOLDER);
        let runner = runner(&model, Some(&kernels), setup, &engine);
        let runner = runner.with_context(|| format!("cannot load {dir}"))?;
        let loaded = Loaded { artifact: Some(artifact), model, runner };
        if let (Some(width), Runner::Cpu(session)) = (setup.resident_bits, &loaded.runner) {
            let widest = loaded.opened().map_or(Width::MAX, |artifact| artifact.widest());
            loaded.prepare(&Precision::uniform(width.min(widest)))?;
            session.load(width)?;
        }
        Ok(loaded)
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

    /// The width of every layer; the planes that they read are compared with their checksums the first time.
    pub fn prepare(&self, precision: &Precision) -> Result<BTreeMap<String, Width>> {
        let widths = self.widths(precision)?;
        if let Some(artifact) = &self.artifact {
            let layers = artifact.manifest().layers.iter();
            let needed = layers
                .filter_map(|l| Some((l, *widths.get(&l.name)?)))
                .filter(|(_, w)| *w <= artifact.widest());
            artifact.verify(&needed.flat_map(|(l, w)| artifact.tensor_names(l, w)).collect::<Vec<_>>())?;
        }
        Ok(widths)
    }

    /// What runs the model on the processors.
    ///
    /// # Errors
    /// If it runs on a device.
    pub fn session(&self) -> Result<&Session> {
        match &self.runner {
            Runner::Cpu(session) => Ok(session),
            Runner::Cuda(_) => bail!("this works on the CPU only, not on a CUDA device"),
        }
    }

    /// What runs the model on a device, where that is so.
    pub fn device(&self) -> Option<&DeviceSession> {
        match &self.runner {
            Runner::Cpu(_) => None,
            Runner::Cuda(session) => Some(session),
        }
    }

    /// Runs the model.
    pub fn run(&self, precision: &Precision, inputs: &Tensors) -> Result<Vec<(String, Tensor)>> {
        let widths = self.prepare(precision)?;
        match &self.runner {
            Runner::Cpu(session) => Ok(session.run(&widths, inputs)?),
            Runner::Cuda(session) => session.run(&widths, inputs),
        }
    }
}

/// What runs a model; `kernels` is where compiled ones of a device may be.
fn runner(model: &Model, kernels: Option<&Path>, setup: &Setup, engine: &Arc<Engine>) -> Result<Runner> {
    if setup.cuda {
        return Ok(Runner::Cuda(Box::new(DeviceSession::open(
            &model.graph,
            kernels,
            setup.unfused,
            &setup.without,
        )?)));
    }
    Ok(Runner::Cpu(Box::new(session(model, setup, engine)?)))
}

/// A session of the graph on the processors, fused unless the setup says otherwise.
fn session(model: &Model, setup: &Setup, engine: &Arc<Engine>) -> Result<Session> {
    if setup.unfused {
        return Ok(Session::on(model, engine)?);
    }
    let mut fused = model.clone();
    let options = Options::default();
    let mut context = Context::new(&options, None);
    context.fuse = Some(FuseSettings { without: setup.without.clone(), ..FuseSettings::session()? });
    Pipeline::fuse().run(&mut fused.graph, &mut context, &Debug::default())?;
    Ok(Session::on(&fused, engine)?)
}
