//! A smaller artifact: the same one without the bit planes that narrower widths do not read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mqc_ir::quant::{Width, Widths};

use super::error::{Error, Result};
use super::folder::Builder;
use super::store::{self, HEADER, Layout, ResidentTensor, Store, Writer, parse_plane_name};
use super::{Artifact, Manifest, digest, manifest};

impl Artifact {
    /// Writes an artifact to `target` that serves `width` and less. `rewrite` gets the new folder and the new store, and
    /// writes the other files, at least `graph.onnx`: planes are gone from it and offsets have changed.
    /// Every byte that is copied is compared with its checksum on the way. Returns the new folder.
    ///
    /// # Errors
    /// `width` is wider than what is there, a damaged tensor, what `rewrite` returns, an I/O error, or a `target` that
    /// [`Builder`] refuses. Nothing is left behind then.
    pub fn slice<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        width: Width,
        target: &Path,
        force: bool,
        rewrite: impl FnOnce(&Path, &Store) -> std::result::Result<(), E>,
    ) -> Result<PathBuf> {
        if width > self.widest() {
            let (asked, widest) = (width.bits(), self.widest().bits());
            return Err(Error::Width { path: self.dir.clone(), asked, widest });
        }
        let folder = Builder::new(target, force)?;
        let planes = self.manifest.planes_read(width);
        let path = folder.path(store::FILE);
        let tensors = self.copy_tensors(&path, planes)?;
        let new_store = Store::open(&path)?;
        rewrite(folder.dir(), &new_store)
            .map_err(|e| Error::Rewrite { path: target.to_path_buf(), source: e.into() })?;
        let files = manifest::hash_files(folder.dir())?;
        let mut sliced = Manifest { planes, tensors, files, ..self.manifest.clone() };
        sliced.created_by = manifest::CREATED_BY.to_string();
        sliced.bits =
            narrow(&self.manifest.bits, width).map_err(|e| Error::field(&self.dir, "bits", "a width", e))?;
        for layer in &mut sliced.layers {
            layer.sqnr_db.retain(|w, _| *w <= width);
        }
        sliced.write(folder.dir())?;
        folder.commit()
    }

    /// Copies the resident tensors and `planes` bit planes. Returns their digests.
    fn copy_tensors(&self, path: &Path, planes: usize) -> Result<BTreeMap<String, String>> {
        let geometries: Vec<_> = self.manifest.layers.iter().map(|l| l.geometry()).collect();
        let implied: BTreeSet<String> =
            geometries.iter().flat_map(|g| [store::scale_name(&g.name), store::zero_name(&g.name)]).collect();
        let resident = self.store.tensors().iter().filter(|t| parse_plane_name(&t.name).is_none());
        let resident = resident.filter(|t| !implied.contains(&t.name)).map(|t| ResidentTensor {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
        });
        let writer = Writer::create(path, Layout::new(resident.collect(), geometries, planes)?)?;
        let names: Vec<String> = writer.layout().tensors().iter().map(|t| t.name.clone()).collect();
        for name in &names {
            let (_, _, bytes) = self.store.tensor(name)?;
            writer.write_resident(name, &bytes)?;
        }
        let digests = writer.finish()?;
        for (name, found) in digests.iter().filter(|(name, _)| *name != HEADER) {
            let expected = self.manifest.tensors.get(name).map_or("", String::as_str);
            digest::compare(self.store.path(), &format!("tensor {name:?}"), expected, found.clone())?;
        }
        Ok(digests)
    }
}

/// The widths up to `width`; `width` itself when the artifact was compiled for wider ones only.
fn narrow(bits: &Widths, width: Width) -> std::result::Result<Widths, mqc_ir::quant::ParseError> {
    let kept: Vec<Width> = bits.iter().filter(|b| *b <= width).collect();
    Widths::try_from(if kept.is_empty() { vec![width] } else { kept })
}
