//! A smaller artifact: the same one without the bit planes and affine maps that narrower widths do not read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mqc_ir::quant::{Width, Widths};

use super::error::{Error, Result};
use super::folder::Builder;
use super::store::{self, Layout, ResidentTensor, Store, Writer, parse_plane_name};
use super::{Artifact, Layer, Manifest, digest, manifest};

impl Artifact {
    /// Writes an artifact to `target` that serves `width` and less. `rewrite` gets the new folder, its manifest as far as
    /// known and the new store, and writes the other files, at least `graph.onnx`: planes and maps are gone from it and
    /// offsets have changed. Every byte that is copied is compared with its checksum. Returns the new folder.
    ///
    /// # Errors
    /// `width` is wider than what is there, a damaged tensor, what `rewrite` returns, an I/O error, or a `target` that
    /// [`Builder`] refuses. Nothing is left behind then.
    pub fn slice<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        width: Width,
        target: &Path,
        force: bool,
        rewrite: impl FnOnce(&Path, &Manifest, &Store) -> std::result::Result<(), E>,
    ) -> Result<PathBuf> {
        if width > self.widest() {
            let (asked, widest) = (width.bits(), self.widest().bits());
            return Err(Error::Width { path: self.dir.clone(), asked, widest });
        }
        let folder = Builder::new(target, force)?;
        let planes = self.manifest.planes_read(width);
        let path = folder.path(store::FILE);
        let layers: Vec<Layer> =
            self.manifest.layers.iter().map(|layer| narrow_layer(layer, width, planes)).collect();
        let tensors = self.copy_tensors(&path, &layers, planes)?;
        let bits =
            narrow(&self.manifest.bits, width).map_err(|e| Error::field(&self.dir, "bits", "a width", e))?;
        let created_by = manifest::CREATED_BY.to_string();
        let version = manifest::VERSION;
        let mut sliced =
            Manifest { version, created_by, bits, planes, layers, tensors, ..self.manifest.clone() };
        rewrite(folder.dir(), &sliced, &Store::open(&path)?)
            .map_err(|e| Error::Rewrite { path: target.to_path_buf(), source: e.into() })?;
        sliced.files = manifest::hash_files(folder.dir())?;
        sliced.write(folder.dir())?;
        folder.commit()
    }

    /// Copies the resident tensors, of scales and zeros what `layers` keep of them, and `planes` bit planes. Returns the
    /// digests.
    fn copy_tensors(&self, path: &Path, layers: &[Layer], planes: usize) -> Result<BTreeMap<String, String>> {
        let geometries: Vec<_> = layers.iter().map(Layer::geometry).collect();
        let implied: BTreeSet<String> =
            geometries.iter().flat_map(|g| [store::scale_name(&g.name), store::zero_name(&g.name)]).collect();
        let resident = self.store.tensors().iter().filter(|t| parse_plane_name(&t.name).is_none());
        let resident = resident.filter(|t| !implied.contains(&t.name)).map(|t| ResidentTensor {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
        });
        let writer = Writer::create(path, Layout::new(resident.collect(), geometries, planes)?)?;
        let mut whole = BTreeSet::new();
        for info in writer.layout().tensors() {
            let (_, _, bytes) = self.store.tensor(&info.name)?;
            // Maps lie from wide to narrow: those of wider widths are in front.
            let kept = bytes.slice(bytes.len() - info.len as usize..);
            if kept.len() == bytes.len() {
                whole.insert(info.name.clone());
            } else {
                self.verify(&[&info.name])?;
            }
            writer.write_resident(&info.name, &kept)?;
        }
        let digests = writer.finish()?;
        for (name, found) in digests.iter().filter(|(name, _)| whole.contains(*name)) {
            let expected = self.manifest.tensors.get(name).map_or("", String::as_str);
            digest::compare(self.store.path(), &format!("tensor {name:?}"), expected, found.clone())?;
        }
        Ok(digests)
    }
}

/// A layer of which so many planes are kept: no ratios over `width`, no maps that only wider widths use.
fn narrow_layer(layer: &Layer, width: Width, planes: usize) -> Layer {
    let mut narrowed = layer.clone();
    narrowed.sqnr_db.retain(|w, _| *w <= width);
    // Of several modes one may reach further than `width`.
    let widest = layer.mode.widest(planes).unwrap_or(width);
    narrowed.map_widths.retain(|w| *w < widest);
    narrowed.scale_bytes = layer.map_bytes() * (1 + narrowed.map_widths.len() as u64);
    narrowed
}

/// The widths up to `width`; `width` itself when the artifact was compiled for wider ones only.
fn narrow(bits: &Widths, width: Width) -> std::result::Result<Widths, mqc_ir::quant::ParseError> {
    let kept: Vec<Width> = bits.iter().filter(|b| *b <= width).collect();
    Widths::try_from(if kept.is_empty() { vec![width] } else { kept })
}
