//! Replaces a folder so that a process that dies at any moment leaves the old one or the new one, complete.
//!
//! `NAME.new` is being written, or complete and about to take the place. `NAME.old` is what had the place before.
//! [`Swap::settle`] finishes what a dead process began.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A place and the names beside it.
pub struct Swap {
    parent: PathBuf,
    place: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Swap {
    /// The place `parent/name`.
    pub fn new(parent: &Path, name: &str) -> Swap {
        Swap {
            parent: parent.to_owned(),
            place: parent.join(name),
            new: parent.join(format!("{name}.new")),
            old: parent.join(format!("{name}.old")),
        }
    }

    /// The place.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Puts the folder that `write` fills, and flushes, into the place.
    ///
    /// # Errors
    /// An I/O error, also of `write`. The place is as it was, unless only the last flush failed.
    pub fn replace(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if let Err(error) = self.stage(write) {
            // What is left over is incomplete; the next one removes it if this fails.
            let _ = fs::remove_dir_all(&self.new);
            return Err(error);
        }
        self.retire()?;
        self.promote()?;
        self.discard();
        Ok(())
    }

    pub(super) fn stage(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        remove(&self.new)?;
        if self.place.exists() {
            remove(&self.old)?;
        }
        fs::create_dir(&self.new).with_context(|| format!("cannot create {}", self.new.display()))?;
        write(&self.new)?;
        sync_folder(&self.new)
    }

    pub(super) fn retire(&self) -> Result<()> {
        if self.place.exists() { rename(&self.place, &self.old) } else { Ok(()) }
    }

    pub(super) fn promote(&self) -> Result<()> {
        if let Err(error) = rename(&self.new, &self.place) {
            if self.old.exists() {
                rename(&self.old, &self.place)?;
            }
            return Err(error);
        }
        sync_folder(&self.parent)
    }

    pub(super) fn discard(&self) {
        if let Err(error) = remove(&self.old) {
            tracing::warn!("{error:#}");
        }
    }

    /// Finishes or undoes a replacement that was cut off. A new folder that `is_complete` counts, since it is newer
    /// than the one in the place.
    ///
    /// # Errors
    /// An I/O error.
    pub fn settle(&self, is_complete: impl FnOnce(&Path) -> bool) -> Result<()> {
        if self.new.exists() && is_complete(&self.new) {
            if self.place.exists() {
                remove(&self.old)?;
                self.retire()?;
            }
            self.promote()?;
        }
        remove(&self.new)?;
        if self.place.exists() {
            self.discard();
        } else if self.old.exists() {
            rename(&self.old, &self.place)?;
            sync_folder(&self.parent)?;
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", folder.display())),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot flush {}", folder.display()))
}
