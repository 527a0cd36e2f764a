//! Writes a store piece by piece, from many threads, without holding it in memory.
//!
//! `write_at` and never a writable map: a full disk is an error here, there it would be a signal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::layout::{LayerGeometry, Layout};
use super::{HEADER, plane_name, scale_name, zero_name};
use crate::artifact::digest;
use crate::artifact::error::{Error, Result};

/// A store that is being written. Different tensors and layers may be written from different threads.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    layout: Layout,
    checksums: Mutex<BTreeMap<String, String>>,
}

impl Writer {
    /// Creates the file and writes its header.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(path: &Path, layout: Layout) -> Result<Writer> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        file.write_all_at(&layout.header, 0).map_err(Error::io("write", path))?;
        let checksums = BTreeMap::from([(HEADER.to_string(), digest::of_bytes(&layout.header))]);
        Ok(Writer { path: path.to_path_buf(), file, layout, checksums: Mutex::new(checksums) })
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes a whole tensor, once.
    ///
    /// # Errors
    /// No such tensor, another length than its type and shape need, written before, or an I/O error.
    pub fn write_resident(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut tensor = TensorWriter::new(self, name)?;
        tensor.push(bytes)?;
        tensor.finish()
    }

    /// Starts writing a layer; [`LayerWriter::finish`] ends it.
    ///
    /// # Errors
    /// No such layer.
    pub fn layer(&self, name: &str) -> Result<LayerWriter<'_>> {
        let Some(geometry) = self.layout.layers.iter().find(|l| l.name == name) else {
            return Err(Error::UnknownTensor { path: self.path.clone(), name: plane_name(name, 0) });
        };
        Ok(LayerWriter {
            geometry,
            scale: TensorWriter::new(self, &scale_name(name))?,
            zero: TensorWriter::new(self, &zero_name(name))?,
            planes: (0..self.layout.planes)
                .map(|p| TensorWriter::new(self, &plane_name(name, p)))
                .collect::<Result<_>>()?,
        })
    }

    /// Flushes the file to the disk. Returns the sha256 of every tensor by name, and of the header as [`HEADER`].
    ///
    /// # Errors
    /// A tensor was not written completely, or an I/O error.
    pub fn finish(self) -> Result<BTreeMap<String, String>> {
        let checksums = self.checksums.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(missing) = self.layout.tensors().iter().find(|t| !checksums.contains_key(&t.name)) {
            let message = "was not written completely".to_string();
            return Err(Error::Write { path: self.path, name: missing.name.clone(), message });
        }
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        Ok(checksums)
    }
}

/// A layer that is being written row by row.
#[derive(Debug)]
pub struct LayerWriter<'a> {
    geometry: &'a LayerGeometry,
    scale: TensorWriter<'a>,
    zero: TensorWriter<'a>,
    planes: Vec<TensorWriter<'a>>,
}

impl LayerWriter<'_> {
    /// Writes the next rows: `scale` and `zero` [rows, groups], and as many planes [rows, ceil(cols / 8)] as the
    /// layout stores.
    ///
    /// # Errors
    /// Lengths that do not fit together, more rows than the layer has, or an I/O error.
    pub fn push_rows(&mut self, planes: &[impl AsRef<[u8]>], scale: &[f32], zero: &[f32]) -> Result<()> {
        let rows = scale.len() / self.geometry.groups;
        self.scale.check("scales of whole rows", rows * self.geometry.groups, scale.len())?;
        self.zero.check("zeros, one for each scale", scale.len(), zero.len())?;
        self.scale.check("bit planes", self.planes.len(), planes.len())?;
        for (writer, plane) in self.planes.iter().zip(planes) {
            writer.check(
                "bytes, a row for each row of scales",
                rows * self.geometry.row_bytes(),
                plane.as_ref().len(),
            )?;
        }
        self.scale.push(&little_endian(scale))?;
        self.zero.push(&little_endian(zero))?;
        for (writer, plane) in self.planes.iter_mut().zip(planes) {
            writer.push(plane.as_ref())?;
        }
        Ok(())
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// Rows are missing, or the layer was written before.
    pub fn finish(self) -> Result<()> {
        self.scale.finish()?;
        self.zero.finish()?;
        self.planes.into_iter().try_for_each(TensorWriter::finish)
    }
}

/// One tensor's bytes in order: where the next ones go, and the digest of those before.
#[derive(Debug)]
struct TensorWriter<'a> {
    store: &'a Writer,
    name: String,
    start: u64,
    len: u64,
    written: u64,
    hasher: Sha256,
}

impl<'a> TensorWriter<'a> {
    fn new(store: &'a Writer, name: &str) -> Result<TensorWriter<'a>> {
        let Some(info) = store.layout.tensor(name) else {
            return Err(Error::UnknownTensor { path: store.path.clone(), name: name.to_string() });
        };
        let (start, len) = (info.start, info.len);
        Ok(TensorWriter { store, name: name.to_string(), start, len, written: 0, hasher: Sha256::new() })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.written + bytes.len() as u64;
        if written > self.len {
            return Err(self.error(format!("expected {} bytes, found {written}", self.len)));
        }
        let path = &self.store.path;
        self.store.file.write_all_at(bytes, self.start + self.written).map_err(Error::io("write", path))?;
        self.hasher.update(bytes);
        self.written = written;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        if self.written != self.len {
            return Err(self.error(format!("expected {} bytes, found {}", self.len, self.written)));
        }
        let mut checksums = self.store.checksums.lock().unwrap_or_else(PoisonError::into_inner);
        if checksums.contains_key(&self.name) {
            return Err(self.error("was written twice".into()));
        }
        checksums.insert(self.name, digest::hex(&self.hasher.finalize()));
        Ok(())
    }

    fn check(&self, what: &str, expected: usize, found: usize) -> Result<()> {
        if expected == found {
            Ok(())
        } else {
            Err(self.error(format!("expected {expected} {what}, found {found}")))
        }
    }

    fn error(&self, message: String) -> Error {
        Error::Write { path: self.store.path.clone(), name: self.name.clone(), message }
    }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
