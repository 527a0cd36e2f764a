//! The artifact: a folder `model.mqc/` with a manifest, the nested store and the inference graph.
//!
//! [`Artifact`] reads one. To write one: a [`folder::Builder`], a [`store::Writer`], the other files, then
//! [`manifest::Manifest::write`] and [`folder::Builder::commit`]. `docs/format.md` is the specification.

pub mod digest;
pub mod error;
pub mod folder;
pub mod manifest;
mod slice;
pub mod store;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mqc_ir::DType;
use mqc_ir::quant::Width;

pub use error::{Error, Result};
pub use manifest::{Layer, Manifest};
pub use store::Store;

/// The name of the inference graph in an artifact's folder.
pub const GRAPH: &str = "graph.onnx";

/// An artifact that was opened: its parts are consistent, the tensors are not yet compared with their checksums.
#[derive(Debug)]
pub struct Artifact {
    dir: PathBuf,
    manifest: Manifest,
    store: Store,
    widest: Width,
}

impl Artifact {
    /// Opens a folder. Checks the manifest, the header of the store against it, and the digest of [`GRAPH`]; tensors are
    /// checked where they are first used, by [`Artifact::verify`]. A store that was cut after a bit plane opens.
    ///
    /// # Errors
    /// A part that is missing, damaged or contradicts another; no width left in a store that was cut.
    pub fn open(dir: &Path) -> Result<Artifact> {
        let manifest = Manifest::read(dir)?;
        let store = Store::open(&dir.join(store::FILE))?;
        check_store(&manifest, &store)?;
        let available = store.planes_available();
        let Some(widest) = manifest.widest(available) else {
            let least = manifest.planes_read(Width::all().next().unwrap_or(Width::MAX));
            return Err(Error::field(store.path(), "bit planes", format!("at least {least}"), available));
        };
        let artifact = Artifact { dir: dir.to_path_buf(), manifest, store, widest };
        artifact.verify_file(GRAPH)?;
        Ok(artifact)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The inference graph.
    pub fn graph_path(&self) -> PathBuf {
        self.dir.join(GRAPH)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The nested store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The widest width that all layers have: less than 8 in a sliced artifact or a store that was cut.
    pub fn widest(&self) -> Width {
        self.widest
    }

    /// The layer of a name.
    pub fn layer(&self, name: &str) -> Option<&Layer> {
        self.manifest.layers.iter().find(|l| l.name == name)
    }

    /// Names of the tensors that a layer reads at `width`: scale, zero and bit planes.
    pub fn tensor_names(&self, layer: &Layer, width: Width) -> Vec<String> {
        let planes = (0..layer.mode.planes_read(width)).map(|p| store::plane_name(&layer.name, p));
        affine_names(layer).into_iter().chain(planes).collect()
    }

    /// Names of the tensors that no layer owns: weights that were left alone.
    pub fn untouched(&self) -> Vec<&str> {
        let owned: BTreeSet<String> = self.manifest.layers.iter().flat_map(affine_names).collect();
        let resident = |name: &&str| store::parse_plane_name(name).is_none() && !owned.contains(*name);
        self.store.names().filter(resident).collect()
    }

    /// Compares tensors with their checksums, each at most once.
    ///
    /// # Errors
    /// The first one that differs, with both digests.
    pub fn verify<S: AsRef<str> + Sync>(&self, names: &[S]) -> Result<()> {
        self.store.verify(names, &self.manifest.tensors)
    }

    /// Compares every tensor that is there and every file with its checksum.
    ///
    /// # Errors
    /// The first one that differs or is missing.
    pub fn verify_all(&self) -> Result<()> {
        self.manifest.files.keys().try_for_each(|name| self.verify_file(name))?;
        self.verify(&self.store.names().collect::<Vec<_>>())
    }

    fn verify_file(&self, name: &str) -> Result<()> {
        let Some(entry) = self.manifest.files.get(name) else {
            let path = self.dir.join(manifest::FILE);
            return Err(Error::field(&path, "files", format!("an entry for {name}"), "none"));
        };
        let path = self.dir.join(name);
        let (sha256, bytes) = digest::of_file(&path)?;
        if bytes != entry.bytes {
            return Err(Error::field(&path, "file size", format!("{} bytes", entry.bytes), bytes));
        }
        digest::compare(&path, "file", &entry.sha256, sha256)
    }
}

/// Names of a layer's scales and zeros.
fn affine_names(layer: &Layer) -> [String; 2] {
    [store::scale_name(&layer.name), store::zero_name(&layer.name)]
}

/// Whether the store holds what the manifest describes.
fn check_store(manifest: &Manifest, store: &Store) -> Result<()> {
    store.verify(&[store::HEADER], &manifest.tensors)?;
    let path = store.path();
    let in_store = || store.tensors().iter().map(|t| t.name.as_str());
    if let Some(name) = in_store().find(|name| !manifest.tensors.contains_key(*name)) {
        return Err(Error::field(
            path,
            format!("checksum of tensor {name:?}"),
            "one in the manifest",
            "none",
        ));
    }
    if let Some(name) =
        manifest.tensors.keys().find(|name| *name != store::HEADER && store.info(name).is_err())
    {
        return Err(Error::UnknownTensor { path: path.to_path_buf(), name: name.clone() });
    }
    let names: Vec<&String> = manifest.layers.iter().map(|l| &l.name).collect();
    let layers = store.layers();
    if let Some(i) = (0..names.len().max(layers.len())).find(|i| names.get(*i).copied() != layers.get(*i)) {
        let expected = format!("{:?} as in the manifest", names.get(i));
        return Err(Error::field(path, format!("layer {i}"), expected, format!("{:?}", layers.get(i))));
    }
    if !names.is_empty() && manifest.planes != store.planes_stored() {
        let expected = format!("{} bit planes as in the manifest", manifest.planes);
        return Err(Error::field(path, "planes", expected, store.planes_stored()));
    }
    manifest.layers.iter().try_for_each(|layer| check_layer(layer, store))
}

fn check_layer(layer: &Layer, store: &Store) -> Result<()> {
    let geometry = layer.geometry();
    let plane = (store::plane_name(&layer.name, 0), DType::U8, vec![geometry.rows, geometry.row_bytes()]);
    let affine = affine_names(layer).map(|name| (name, DType::F32, geometry.map_shape()));
    let mut scale_bytes = 0;
    for (name, dtype, shape) in affine.into_iter().chain([plane]) {
        let info = store.info(&name)?;
        if info.dtype != dtype || info.shape != shape {
            let (expected, found) = (format!("{dtype} {shape:?} as in the manifest"), &info.shape);
            let field = format!("tensor {name:?}: shape");
            return Err(Error::field(store.path(), field, expected, format!("{} {found:?}", info.dtype)));
        }
        if dtype == DType::F32 {
            scale_bytes += info.len;
        }
    }
    if scale_bytes != layer.scale_bytes {
        let field = format!("scale_bytes of layer {:?}", layer.name);
        return Err(Error::field(
            store.path(),
            field,
            format!("{} as in the manifest", layer.scale_bytes),
            scale_bytes,
        ));
    }
    Ok(())
}
