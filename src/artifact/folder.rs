//! A folder that appears complete or not at all: written beside its place under a temporary name, then renamed.
//!
//! Names beside the folder `NAME`: `.NAME.partial-*` is one being written; it is locked (`flock`) by its process, so one
//! without a lock was left by a killed process and is removed by the next [`Builder`] for the same place.
//! `.NAME.replaced-*` is the old artifact while the new one takes its place. It stays when the process dies just then,
//! or when it cannot be removed; nothing removes it later, since it may be the only copy.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use tempfile::TempDir;

use super::error::{Error, Result};
use super::{manifest, store};

/// A folder that is being written. Dropped without [`Builder::commit`] it is removed.
#[derive(Debug)]
pub struct Builder {
    target: PathBuf,
    force: bool,
    folder: TempDir,
    /// Held until the end: tells others that this process lives.
    _lock: File,
}

impl Builder {
    /// Makes the temporary folder. With `force` an artifact at `target` (or an empty folder) is replaced, nothing else.
    ///
    /// # Errors
    /// `target` exists and may not be replaced; its parent does not exist or cannot be written.
    pub fn new(target: &Path, force: bool) -> Result<Builder> {
        let target = resolve(target)?;
        check_replaceable(&target, force)?;
        let (parent, name) = split(&target)?;
        let prefix = beside(name, "partial");
        remove_stale(parent, &prefix)?;
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)
            .map_err(Error::io("create a folder in", parent))?;
        let lock = File::open(folder.path()).map_err(Error::io("open", folder.path()))?;
        // Some network file systems have no locks; there a folder of a killed process stays.
        let _ = lock.try_lock();
        Ok(Builder { target, force, folder, _lock: lock })
    }

    /// The temporary folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The place of a file in the temporary folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Flushes all files to the disk and puts the folder in its place. Returns that place.
    ///
    /// # Errors
    /// An I/O error, or something else took the place meanwhile. The place is then as it was before (unless only the
    /// last flush failed), and the temporary folder is removed.
    pub fn commit(self) -> Result<PathBuf> {
        sync(self.folder.path())?;
        check_replaceable(&self.target, self.force)?;
        let (parent, name) = split(&self.target)?;
        if exists(&self.target)? {
            let aside = tempfile::Builder::new()
                .prefix(&beside(name, "replaced"))
                .tempdir_in(parent)
                .map_err(Error::io("create a folder in", parent))?;
            fs::rename(&self.target, aside.path()).map_err(Error::io("move aside", &self.target))?;
            let aside = aside.keep();
            if let Err(error) = fs::rename(self.folder.path(), &self.target) {
                fs::rename(&aside, &self.target).map_err(Error::io("move back", &aside))?;
                return Err(Error::io("rename to", &self.target)(error));
            }
            sync_folder(parent)?;
            if let Err(error) = fs::remove_dir_all(&aside) {
                tracing::warn!("the replaced artifact stays in {}: {error}", aside.display());
            }
        } else {
            fs::rename(self.folder.path(), &self.target).map_err(Error::io("rename to", &self.target))?;
            sync_folder(parent)?;
        }
        let _ = self.folder.keep();
        Ok(self.target)
    }
}

/// The place without symbolic links, so that renaming does not replace a link.
fn resolve(target: &Path) -> Result<PathBuf> {
    if exists(target)? {
        return fs::canonicalize(target).map_err(Error::io("find", target));
    }
    let (parent, name) = split(target)?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(fs::canonicalize(parent).map_err(Error::io("find the folder", parent))?.join(name))
}

fn split(target: &Path) -> Result<(&Path, &OsStr)> {
    let parts = target.parent().zip(target.file_name());
    parts.ok_or_else(|| Error::field(target, "place of the artifact", "a folder with a name", "none"))
}

fn beside(name: &OsStr, what: &str) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(format!(".{what}-"));
    prefix
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Replacing removes a whole folder: only one that mqc wrote, and nothing that others put into it.
fn check_replaceable(target: &Path, force: bool) -> Result<()> {
    if !exists(target)? {
        return Ok(());
    }
    if !force {
        return Err(Error::Exists { path: target.to_path_buf() });
    }
    let refused = |reason: String| Err(Error::NotReplaced { path: target.to_path_buf(), reason });
    if !target.is_dir() {
        return refused("it is not a folder".into());
    }
    let manifest = target.join(manifest::FILE);
    let bytes = match exists(&manifest)? {
        true => manifest::read_limited(&manifest)?,
        false if is_empty(target)? => return Ok(()),
        false => return refused(format!("it has no {}, so it is no artifact of mqc", manifest::FILE)),
    };
    let listed = match serde_json::from_slice::<Listing>(&bytes) {
        Ok(listing) if listing.format == manifest::FORMAT => listing.files,
        _ => return refused(format!("its {} is not one of mqc; remove the folder yourself", manifest::FILE)),
    };
    let ours =
        |name: &String| [manifest::FILE, store::FILE].contains(&name.as_str()) || listed.contains_key(name);
    match manifest::files_below(target)?.into_iter().find(|name| !ours(name)) {
        Some(other) => refused(format!("its file {other} is not part of the artifact; move it away first")),
        None => Ok(()),
    }
}

/// What all versions of the manifest have.
#[derive(Deserialize)]
struct Listing {
    format: String,
    #[serde(default)]
    files: BTreeMap<String, IgnoredAny>,
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(fs::read_dir(folder).map_err(Error::io("list", folder))?.next().is_none())
}

/// Removes what killed processes left. Whatever is locked, or cannot be opened or removed, is left alone.
fn remove_stale(parent: &Path, prefix: &OsStr) -> Result<()> {
    for entry in fs::read_dir(parent).map_err(Error::io("list", parent))? {
        let path = entry.map_err(Error::io("list", parent))?.path();
        let name = path.file_name().unwrap_or_default();
        let ours = name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        if ours && fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            let lock = File::open(&path).ok().filter(|folder| folder.try_lock().is_ok());
            if lock.is_some() {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
    Ok(())
}

fn sync(dir: &Path) -> Result<()> {
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io("flush", &path))?;
            }
        }
        sync_folder(&folder)?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("flush", folder))
}
