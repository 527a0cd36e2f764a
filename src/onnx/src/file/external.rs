//! Tensor data in other files: `external_data` entries, checked and mapped.

use super::read::map;
use crate::{Error, proto::TensorProto};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Finds the external data of a model's tensors. Each file is mapped once and shared by its tensors.
#[derive(Debug, Default)]
pub struct Resolver {
    /// Absolute and free of links; absent for a model that is only in memory.
    folder: Option<PathBuf>,
    files: Mutex<BTreeMap<PathBuf, Bytes>>,
}

impl Resolver {
    /// A resolver for a model in `folder`.
    ///
    /// # Errors
    /// The folder does not exist.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        let canonical =
            folder.canonicalize().map_err(|source| Error::Read { path: folder.to_owned(), source })?;
        Ok(Self { folder: Some(canonical), files: Mutex::default() })
    }

    /// A resolver for a model that has no folder: every external tensor is an error.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Takes the bytes of the file `name` in the folder from memory: a mapping that the caller has already.
    pub fn preset(&self, name: &str, bytes: Bytes) {
        if let Some(folder) = &self.folder {
            self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.join(name), bytes);
        }
    }

    /// The bytes that `tensor.external_data` names; `needed` is what its type and dims need. The `checksum`
    /// entry is not verified, since that would read the whole file.
    ///
    /// # Errors
    /// Malformed entries, a length other than `needed`, a location outside the folder, a missing or short
    /// file.
    pub(super) fn bytes(&self, tensor: &TensorProto, needed: u64) -> Result<Bytes, Error> {
        let offset = number(tensor, "offset")?.unwrap_or(0);
        if let Some(length) = number(tensor, "length")?
            && length != needed
        {
            return Err(entry_error(
                tensor,
                "length",
                length.to_string(),
                "the size that data_type and dims give",
            ));
        }
        let (path, file) = self.file(tensor)?;
        let end = u128::from(offset) + u128::from(needed);
        if end > file.len() as u128 {
            let tensor = tensor.name().to_owned();
            return Err(Error::ExternalTooShort { tensor, path, needed: end, found: file.len() as u64 });
        }
        // Both are at most the length of the file, which is in the address space.
        Ok(file.slice(offset as usize..end as usize))
    }

    fn file(&self, tensor: &TensorProto) -> Result<(PathBuf, Bytes), Error> {
        let name = tensor.name();
        let location = entry(tensor, "location")?
            .filter(|location| !location.is_empty())
            .ok_or_else(|| entry_error(tensor, "location", "absent".to_owned(), "a file name"))?;
        let folder = self.folder.as_ref().ok_or_else(|| Error::NoFolder { tensor: name.to_owned() })?;
        let outside = || Error::OutsideFolder {
            tensor: name.to_owned(),
            location: location.to_owned(),
            folder: folder.clone(),
        };
        let external = |source| Error::External { tensor: name.to_owned(), source: Box::new(source) };

        let relative = Path::new(location);
        if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let joined = folder.join(relative);
        let path = joined.canonicalize().map_err(|source| external(Error::Read { path: joined, source }))?;
        if !path.starts_with(folder) {
            return Err(outside());
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = files.get(&path) {
            return Ok((path, bytes.clone()));
        }
        let bytes = map(&path).map_err(external)?;
        files.insert(path.clone(), bytes.clone());
        Ok((path, bytes))
    }
}

/// The value of the entry `key`, which may be there once.
fn entry<'a>(tensor: &'a TensorProto, key: &'static str) -> Result<Option<&'a str>, Error> {
    let mut values =
        tensor.external_data.iter().filter(|entry| entry.key() == key).map(|entry| entry.value());
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(entry_error(tensor, key, "there twice".to_owned(), "one entry")),
    }
}

/// The decimal number in the entry `key`: digits alone, without a sign or spaces.
fn number(tensor: &TensorProto, key: &'static str) -> Result<Option<u64>, Error> {
    let Some(text) = entry(tensor, key)? else { return Ok(None) };
    let value = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    value.map(Some).ok_or_else(|| entry_error(tensor, key, format!("{text:?}"), "a number of bytes"))
}

fn entry_error(tensor: &TensorProto, key: &'static str, found: String, expected: &'static str) -> Error {
    Error::ExternalEntry { tensor: tensor.name().to_owned(), key, found, expected }
}

#[cfg(test)]
mod tests;
