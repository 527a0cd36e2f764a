//! Writes a store piece by piece, from many threads, without holding it in memory.
//!
//! `write_at` and never a writable map: a full disk is an error here, there it would be a signal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::layout::Layout;
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
        let Some(info) = self.layout.tensor(name) else {
            return Err(Error::UnknownTensor { path: self.path.clone(), name: name.to_string() });
        };
        if bytes.len() as u64 != info.len {
            return Err(self.error(name, format!("expected {} bytes, found {}", info.len, bytes.len())));
        }
        self.file.write_all_at(bytes, info.start).map_err(Error::io("write", &self.path))?;
        let digest = digest::of_bytes(bytes);
        let mut checksums = self.checksums.lock().unwrap_or_else(PoisonError::into_inner);
        match checksums.insert(name.to_string(), digest) {
            None => Ok(()),
            Some(_) => Err(self.error(name, "was written twice".into())),
        }
    }

    /// Writes a layer: its bit planes [rows, ceil(cols / 8)], as many as the layout stores, and `scale` and `zero` of all its
    /// maps one after the other, each [rows, groups].
    ///
    /// # Errors
    /// No such layer, another number of planes, else as [`Writer::write_resident`].
    pub fn write_layer(
        &self,
        name: &str,
        planes: &[impl AsRef<[u8]>],
        scale: &[f32],
        zero: &[f32],
    ) -> Result<()> {
        if planes.len() != self.layout.planes {
            let message = format!("expected {} bit planes, found {}", self.layout.planes, planes.len());
            return Err(self.error(&plane_name(name, 0), message));
        }
        self.write_resident(&scale_name(name), &little_endian(scale))?;
        self.write_resident(&zero_name(name), &little_endian(zero))?;
        let mut planes = planes.iter().enumerate();
        planes.try_for_each(|(p, plane)| self.write_resident(&plane_name(name, p), plane.as_ref()))
    }

    /// Flushes the file to the disk. Returns the sha256 of every tensor by name, and of the header as [`HEADER`].
    ///
    /// # Errors
    /// A tensor was not written completely, or an I/O error.
    pub fn finish(self) -> Result<BTreeMap<String, String>> {
        let checksums = self.checksums.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(missing) = self.layout.tensors().iter().find(|t| !checksums.contains_key(&t.name)) {
            return Err(self.error(&missing.name, "was not written completely".into()));
        }
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        Ok(checksums)
    }

    fn error(&self, name: &str, message: String) -> Error {
        Error::Write { path: self.path.clone(), name: name.to_string(), message }
    }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
