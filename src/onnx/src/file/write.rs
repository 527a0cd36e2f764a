//! Writing a model and its external data: to temporary files beside the target, renamed when they are whole.

use super::read::parent;
use crate::{
    Error,
    proto::{ModelProto, StringStringEntryProto},
};
use prost::Message;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Protobuf's limit for one message.
const MODEL_LIMIT: usize = i32::MAX as usize;
/// Vector registers and cache lines.
const ALIGNMENT: u64 = 64;
/// Tensors over `LARGE` bytes start on a page, so that each can be mapped alone.
const PAGE: u64 = 4096;
const LARGE: usize = 1 << 20;

/// Writes `model` to `path`; a killed or failed call leaves the old file as it was.
///
/// # Errors
/// The message is over 2 GiB - 1 bytes: store tensors with an [`ExternalWriter`]. The file cannot be written.
pub fn write_atomic(path: &Path, model: &ModelProto) -> Result<(), Error> {
    let size = model.encoded_len();
    check_size(path, size)?;
    let bytes = model.encode_to_vec();
    let write = || -> io::Result<()> {
        let mut file = temporary(path)?;
        file.write_all(&bytes)?;
        replace(file, path)
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn check_size(path: &Path, found: usize) -> Result<(), Error> {
    match found <= MODEL_LIMIT {
        true => Ok(()),
        false => Err(Error::TooLarge { path: path.to_owned(), found, limit: MODEL_LIMIT }),
    }
}

/// Writes the data of tensors into `MODEL.data` beside the model file `MODEL`. Nothing is there before
/// [`finish`](Self::finish); dropped without it, the data is removed.
#[derive(Debug)]
pub struct ExternalWriter {
    path: PathBuf,
    location: String,
    file: BufWriter<NamedTempFile>,
    length: u64,
}

impl ExternalWriter {
    /// Starts the data file of the model that will be written to `model`.
    ///
    /// # Errors
    /// `model` has no file name, or one that is not UTF-8; its folder cannot be written.
    pub fn new(model: &Path) -> Result<Self, Error> {
        let name = model.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::FileName { path: model.to_owned() })?;
        let location = format!("{name}.data");
        let path = model.with_file_name(&location);
        let file = temporary(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Self { path, location, file: BufWriter::new(file), length: 0 })
    }

    /// Appends the bytes of one tensor and returns its `external_data`. The offset is a multiple of 64, and
    /// of 4096 for tensors over 1 MiB; gaps are zeros.
    ///
    /// # Errors
    /// The bytes cannot be written, e.g. because the disk is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<Vec<StringStringEntryProto>, Error> {
        let alignment = if bytes.len() > LARGE { PAGE } else { ALIGNMENT };
        let offset = self.length.next_multiple_of(alignment);
        let mut write = || -> io::Result<()> {
            io::copy(&mut io::Read::take(io::repeat(0), offset - self.length), &mut self.file)?;
            self.file.write_all(bytes)
        };
        write().map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.length = offset + bytes.len() as u64;
        let entry =
            |key: &str, value| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        Ok(vec![
            entry("location", self.location.clone()),
            entry("offset", offset.to_string()),
            entry("length", bytes.len().to_string()),
        ])
    }

    /// Puts the file in place. Call it before the model is written: a model then never names data that is not
    /// there. Without an appended tensor no file is made.
    ///
    /// # Errors
    /// The last bytes cannot be written or the file cannot be renamed.
    pub fn finish(self) -> Result<(), Error> {
        if self.length == 0 {
            return Ok(());
        }
        let Self { path, file, .. } = self;
        let finish = || replace(file.into_inner().map_err(io::IntoInnerError::into_error)?, &path);
        finish().map_err(|source| Error::Write { path: path.clone(), source })
    }
}

/// A temporary file in the folder of `path`, readable as the umask allows and not by its owner alone.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".mqc-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(parent(path))
}

/// Renames `file`, with its bytes on disk, to `path`.
fn replace(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
