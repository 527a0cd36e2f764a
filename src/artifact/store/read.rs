//! Reads a store: mapped, never copied, checked against its header on opening and against checksums on demand.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use memmap2::{Advice, Mmap};
use mqc_ir::DType;
use rayon::prelude::*;

use super::header::{self, Table, TensorInfo};
use super::{HEADER, parse_plane_name};
use crate::artifact::digest;
use crate::artifact::error::{Error, Result};

const NO_RESIDENT: &str = "the file was cut before its bit planes, copy it again";
const NO_PLANE: &str = "the file was cut, it serves narrower widths only";

/// A mapped store. Tensors are slices of the map.
///
/// Another process must not shorten the file meanwhile: reading behind its end kills the process (SIGBUS).
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    mapped: Mapped,
    map: Bytes,
    table: Table,
    layers: Vec<String>,
    planes_stored: usize,
    planes_available: usize,
    verified: Vec<AtomicBool>,
}

impl Store {
    /// Maps a file and checks its header: see `docs/format.md`. Tensor data is not read.
    ///
    /// # Errors
    /// An unreadable file; a header that is damaged, claims what is not there, leaves gaps or overlaps; a file that is
    /// longer than its tensors or was cut before the end of the resident ones.
    pub fn open(path: &Path) -> Result<Store> {
        let mapped = map(path)?;
        let map = Bytes::from_owner(mapped.clone());
        let table = header::parse(path, &map)?;
        let resident = table.tensors.iter().take_while(|t| parse_plane_name(&t.name).is_none()).count();
        let (resident, planes) = table.tensors.split_at(resident);
        let layers = check_planes(path, planes)?;
        let found = map.len() as u64;
        if found > table.file_len() {
            return Err(Error::field(path, "file size", table.file_len(), found));
        }
        if let Some(t) = resident.last().filter(|t| t.end() > found) {
            let (path, name) = (path.to_path_buf(), t.name.clone());
            return Err(Error::Cut { path, name, needed: t.end(), found, hint: NO_RESIDENT });
        }
        let (planes_stored, planes_available) = if layers.is_empty() {
            (8, 8)
        } else {
            let complete = planes.iter().take_while(|t| t.end() <= found).count();
            (planes.len() / layers.len(), complete / layers.len())
        };
        let verified = table.tensors.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Store {
            path: path.to_path_buf(),
            mapped,
            map,
            table,
            layers,
            planes_stored,
            planes_available,
            verified,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Type and place of a tensor, also of one that was cut off.
    ///
    /// # Errors
    /// No such tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.position(name).map(|i| &self.table.tensors[i])
    }

    /// Element type, shape and packed elements of a tensor: a slice of the map, aligned to the element size.
    ///
    /// # Errors
    /// No such tensor, or one that was cut off.
    pub fn tensor(&self, name: &str) -> Result<(DType, Vec<usize>, Bytes)> {
        let info = self.info(name)?;
        Ok((info.dtype, info.shape.clone(), self.bytes(info)?))
    }

    /// Offset from the start of the file, and length, in bytes: ONNX external data. Also of what was cut off.
    ///
    /// # Errors
    /// No such tensor.
    pub fn offset_of(&self, name: &str) -> Result<(u64, u64)> {
        self.info(name).map(|info| (info.start, info.len))
    }

    /// Every tensor of the header in file order, also those that were cut off.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.table.tensors
    }

    /// Names of the tensors that are completely there, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let there = self.map.len() as u64;
        self.table.tensors.iter().filter(move |t| t.end() <= there).map(|t| t.name.as_str())
    }

    /// The layers, in file order.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// Leading bit planes that every layer has completely: fewer than [`Store::planes_stored`] when the file was cut.
    /// 8 when there are no layers.
    pub fn planes_available(&self) -> usize {
        self.planes_available
    }

    /// Leading bit planes that the header lists, 8 when there are no layers.
    pub fn planes_stored(&self) -> usize {
        self.planes_stored
    }

    /// The whole mapped file.
    pub fn file_bytes(&self) -> Bytes {
        self.map.clone()
    }

    /// Bytes in front of the data.
    pub fn header_bytes(&self) -> &[u8] {
        &self.map[..self.table.header_len]
    }

    /// Compares tensors, or the header ([`HEADER`]), with their sha256; in parallel, each tensor at most once in the
    /// life of the store.
    ///
    /// # Errors
    /// The first of `names` that is absent, has no checksum or another one.
    pub fn verify<S: AsRef<str> + Sync>(
        &self,
        names: &[S],
        checksums: &BTreeMap<String, String>,
    ) -> Result<()> {
        let errors: Vec<Error> =
            names.par_iter().filter_map(|name| self.verify_one(name.as_ref(), checksums).err()).collect();
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    fn verify_one(&self, name: &str, checksums: &BTreeMap<String, String>) -> Result<()> {
        let Some(expected) = checksums.get(name) else {
            return Err(Error::field(
                &self.path,
                format!("checksum of tensor {name:?}"),
                "one in the manifest",
                "none",
            ));
        };
        if name == HEADER {
            return self.compare("header", expected, self.header_bytes());
        }
        let verified = &self.verified[self.position(name)?];
        if !verified.load(Ordering::Relaxed) {
            let info = self.info(name)?;
            let bytes = self.bytes(info)?;
            let _ = self.mapped.0.advise_range(Advice::WillNeed, info.start as usize, bytes.len());
            self.compare(&format!("tensor {name:?}"), expected, &bytes)?;
            verified.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn compare(&self, part: &str, expected: &str, bytes: &[u8]) -> Result<()> {
        digest::compare(&self.path, part, expected, digest::of_bytes(bytes))
    }

    fn position(&self, name: &str) -> Result<usize> {
        let unknown = || Error::UnknownTensor { path: self.path.clone(), name: name.to_string() };
        self.table.position(name).ok_or_else(unknown)
    }

    fn bytes(&self, info: &TensorInfo) -> Result<Bytes> {
        let found = self.map.len() as u64;
        if info.end() > found {
            let (path, name) = (self.path.clone(), info.name.clone());
            return Err(Error::Cut { path, name, needed: info.end(), found, hint: NO_PLANE });
        }
        Ok(self.map.slice(info.start as usize..info.end() as usize))
    }
}

/// The layers of the planes, in order. Every plane must list all of them, in the same order and with the same shapes.
fn check_planes(path: &Path, planes: &[TensorInfo]) -> Result<Vec<String>> {
    let first: Vec<_> =
        planes.iter().map_while(|t| parse_plane_name(&t.name).filter(|(_, p)| *p == 0)).collect();
    for (i, tensor) in planes.iter().enumerate() {
        let field = |what: &str, expected: String, found: String| {
            Error::field(path, format!("tensor {:?}: {what}", tensor.name), expected, found)
        };
        let Some((layer, _)) = first.get(i % first.len().max(1)) else {
            return Err(field("place", "plane 0 of every layer first".into(), "another plane".into()));
        };
        let expected = super::plane_name(layer, i / first.len());
        if tensor.name != expected {
            return Err(field("place", format!("{expected:?}, in the order of plane 0"), "it".into()));
        }
        let shape = &planes[i % first.len()].shape;
        if tensor.dtype != DType::U8 || tensor.shape.len() != 2 || tensor.shape != *shape {
            let found = format!("{} {:?}", tensor.dtype, tensor.shape);
            return Err(field("shape", format!("u8 [rows, bytes of a row] as in plane 0, {shape:?}"), found));
        }
    }
    if let Some(i) = (!first.is_empty()).then(|| planes.len() % first.len()).filter(|rest| *rest != 0) {
        let missing = super::plane_name(first[i].0, planes.len() / first.len());
        return Err(Error::field(path, "tensors", format!("{missing:?} after the last"), "nothing"));
    }
    Ok(first.into_iter().map(|(layer, _)| layer.to_string()).collect())
}

#[expect(unsafe_code, reason = "mapping a file")]
fn map(path: &Path) -> Result<Mapped> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // SAFETY: the map is private to this process and read-only. mqc replaces artifacts by renaming and never writes
    // into one, so the bytes do not change below us; that others do not either is a condition in the type's text.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
    // Reading ahead would fetch planes that nobody asked for; `verify` says what is needed. Only advice: errors do no harm.
    let _ = map.advise(Advice::Random);
    Ok(Mapped(Arc::new(map)))
}

/// The map, shared by the tensors and by the advice to the kernel.
#[derive(Clone, Debug)]
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
