//! The models that onnxruntime runs beside ours: the float one, and the artifact's MatMulNBits exports.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mqc_passes::deploy::AccuracyLevel;
use tempfile::TempDir;

use super::Peer;
use super::peer::SessionId;
use super::report::PeerTime;
use super::stats::{Spread, median_ratio};
use crate::artifact::Artifact;
use crate::data::{self, Tensors};
use crate::export::{self, Format};
use crate::precision::Precision;

/// onnxruntime and its models.
pub struct Rivals {
    peer: Peer,
    models: Vec<Model>,
    folder: TempDir,
    notes: Vec<String>,
}

struct Model {
    kind: &'static str,
    bits: Option<String>,
    path: PathBuf,
}

/// A model that is loaded: its place in the list, and onnxruntime's session.
pub type LoadedModel = (usize, SessionId);

/// One model under measurement.
pub struct Lane {
    /// The width that it is compared with; `None` for all.
    pub bits: Option<String>,
    kind: &'static str,
    session: SessionId,
    totals: Vec<f64>,
}

impl Rivals {
    /// No models yet.
    pub fn new(peer: Peer) -> Result<Rivals> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        Ok(Rivals { peer, models: vec![], folder, notes: vec![] })
    }

    /// The version of onnxruntime.
    pub fn version(&self) -> &str {
        self.peer.version()
    }

    /// What could not be compared, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The float model, compared with every width.
    pub fn add_float(&mut self, path: &Path) {
        self.models.push(Model { kind: "float", bits: None, path: path.to_owned() });
    }

    /// The artifact's MatMulNBits export with int8 activations, if the format has the width.
    pub fn add_export(&mut self, artifact: &Artifact, bits: &str, precision: &Precision) {
        let path = self.folder.path().join(format!("{}.onnx", self.models.len()));
        let format = Format::MatMulNBits(AccuracyLevel::Int8);
        match export::single(artifact, precision, format, &path, false) {
            Ok(_) => self.models.push(Model { kind: "matmulnbits", bits: Some(bits.to_owned()), path }),
            Err(error) => self.note(&format!("no matmulnbits export at {bits} bits"), &error),
        }
    }

    /// Loads every model for a number of threads, and forgets those of other numbers.
    pub fn load(&mut self, threads: usize) -> Result<Vec<LoadedModel>> {
        self.peer.clear()?;
        let mut loaded = vec![];
        for index in 0..self.models.len() {
            match self.peer.load(&self.models[index].path, threads) {
                Ok(session) => loaded.push((index, session)),
                Err(error) => self.note(&format!("cannot load {}", self.models[index].label()), &error),
            }
        }
        Ok(loaded)
    }

    /// Everyone who runs these inputs; none if NumPy cannot hold them.
    pub fn lanes(&mut self, loaded: &[LoadedModel], inputs: &Tensors) -> Result<Vec<Lane>> {
        let path = self.folder.path().join("inputs.npz");
        let all: Vec<_> = inputs.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        if let Err(error) = data::write_npz(&path, &all) {
            self.note("cannot run", &error);
            return Ok(vec![]);
        }
        self.peer.read_inputs(&path)?;
        let lane = |(index, session): &LoadedModel| {
            let model = self.models.get(*index)?;
            Some(Lane { bits: model.bits.clone(), kind: model.kind, session: *session, totals: vec![] })
        };
        Ok(loaded.iter().filter_map(lane).collect())
    }

    /// One turn for each: a run that finds what the others left in the caches, and one that counts. Who fails is out.
    pub fn turns(&mut self, lanes: &mut Vec<Lane>, counts: bool) {
        lanes.retain_mut(|lane| {
            match self.peer.run(lane.session).and_then(|_| self.peer.run(lane.session)) {
                Ok(micros) if counts => lane.totals.push(micros),
                Ok(_) => {}
                Err(error) => {
                    self.note(&format!("cannot run {}", lane.kind), &error);
                    return false;
                }
            }
            true
        });
    }

    fn note(&mut self, what: &str, error: &anyhow::Error) {
        let note = format!("onnxruntime: {what}: {error:#}");
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

impl Model {
    fn label(&self) -> String {
        match &self.bits {
            Some(bits) => format!("{} at {bits} bits", self.kind),
            None => format!("{} ({})", self.kind, self.path.display()),
        }
    }
}

impl Lane {
    /// Its times beside ours of the same rounds.
    pub fn against(&self, ours: &[f64]) -> Option<PeerTime> {
        Some(PeerTime {
            model: self.kind,
            micros: Spread::of(&self.totals)?,
            ratio: median_ratio(ours, &self.totals)?,
        })
    }
}
