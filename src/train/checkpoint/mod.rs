//! Checkpoints of a training: the folders `last` and `best`, each with the state, the progress and their sha256.

mod progress;
mod swap;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mqc_ir::Tensor;
use safetensors::tensor::{SafeTensorError, View};

use super::data::arrays;
use crate::artifact::digest;
use crate::usage::UsageError;
pub use progress::{Best, Progress};
use swap::Swap;

const STATE: &str = "state.safetensors";
const PROGRESS: &str = "progress.json";
const SUMS: &str = "SHA256SUMS";

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The newest, to continue from.
    Last,
    /// That of the best validation.
    Best,
}

impl Kind {
    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Last => "last",
            Kind::Best => "best",
        }
    }
}

/// A checkpoint as it was saved.
pub struct Loaded {
    /// How far the training was.
    pub progress: Progress,
    /// The model's state by name; slices of the mapped file.
    pub state: BTreeMap<String, Tensor>,
}

/// The folder of a training. One process at a time has it.
pub struct Store {
    folder: PathBuf,
    lock: File,
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is about to start still has the descriptor.
        let _ = self.lock.unlock();
    }
}

impl Store {
    /// Opens the folder, makes it where there is none, and finishes what a killed process began.
    ///
    /// # Errors
    /// An I/O error; another process that trains there.
    pub fn open(folder: &Path) -> Result<Store> {
        let context = || format!("cannot open {}", folder.display());
        fs::create_dir_all(folder).with_context(context)?;
        let lock = File::open(folder).with_context(context)?;
        // Some network file systems have no locks.
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            bail!(UsageError(format!("another process trains in {}", folder.display())));
        }
        let store = Store { folder: folder.to_owned(), lock };
        for kind in [Kind::Last, Kind::Best] {
            store.swap(kind).settle(|new| read(new).is_ok())?;
        }
        Ok(store)
    }

    /// Saves a checkpoint: complete, or not at all.
    ///
    /// # Errors
    /// An I/O error, such as a full disk. The checkpoint that was there is intact.
    pub fn save(&self, kind: Kind, progress: &Progress, state: &[(String, Tensor)]) -> Result<()> {
        let saved = self.swap(kind).replace(|new| write(new, progress, state));
        saved.with_context(|| {
            format!(
                "cannot save the {} checkpoint of step {}; the one before is intact",
                kind.name(),
                progress.step
            )
        })
    }

    /// The checkpoint, if there is one.
    ///
    /// # Errors
    /// A missing, truncated or altered file; a checkpoint of another version.
    pub fn load(&self, kind: Kind) -> Result<Option<Loaded>> {
        let place = self.swap(kind).place().to_owned();
        if place.exists() { load(&place).map(Some) } else { Ok(None) }
    }

    fn swap(&self, kind: Kind) -> Swap {
        Swap::new(&self.folder, kind.name())
    }
}

/// Reads the checkpoint in a folder, such as `best`.
///
/// # Errors
/// As of [`Store::load`].
pub fn load(place: &Path) -> Result<Loaded> {
    read(place).with_context(|| format!("cannot use the checkpoint {}", place.display()))
}

/// Writes tensors by name as a safetensors file.
///
/// # Errors
/// The file cannot be written; element types that the format lacks.
pub fn write_state(path: &Path, state: &[(String, Tensor)]) -> Result<()> {
    let views = state.iter().map(|(name, tensor)| Ok((name.as_str(), Shown::new(name, tensor)?)));
    let views: Vec<(&str, Shown)> = views.collect::<Result<_>>()?;
    safetensors::serialize_to_file(views, None, path).map_err(|error| match error {
        SafeTensorError::IoError(error) => anyhow::Error::from(error),
        other => other.into(),
    })?;
    Ok(File::open(path)?.sync_all()?)
}

fn write(folder: &Path, progress: &Progress, state: &[(String, Tensor)]) -> Result<()> {
    write_state(&folder.join(STATE), state)?;
    write_file(&folder.join(PROGRESS), &progress.to_json()?)?;
    let mut sums = String::new();
    for name in [STATE, PROGRESS] {
        sums += &format!("{}  {name}\n", digest::of_file(&folder.join(name))?.0);
    }
    write_file(&folder.join(SUMS), &sums)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

fn read(folder: &Path) -> Result<Loaded> {
    let sums = fs::read_to_string(folder.join(SUMS)).with_context(|| format!("{SUMS} cannot be read"))?;
    for name in [STATE, PROGRESS] {
        let line = sums.lines().filter_map(|line| line.split_once("  ")).find(|(_, file)| *file == name);
        let (expected, _) = line.with_context(|| format!("{SUMS} does not list {name}"))?;
        let (found, bytes) = digest::of_file(&folder.join(name))?;
        if found != expected {
            bail!(
                "{name} ({bytes} bytes) was truncated or altered: its sha256 is {found}, {SUMS} says {expected}"
            );
        }
    }
    let progress = Progress::from_json(&fs::read(folder.join(PROGRESS))?).context(PROGRESS)?;
    let state = arrays::safetensors(&super::data::map(&folder.join(STATE))?).context(STATE)?;
    Ok(Loaded { progress, state: state.into_iter().collect() })
}

/// A tensor as safetensors takes it.
struct Shown<'a> {
    tensor: &'a Tensor,
    dtype: safetensors::Dtype,
}

impl Shown<'_> {
    fn new<'a>(name: &str, tensor: &'a Tensor) -> Result<Shown<'a>> {
        let dtype = arrays::safetensors_dtype(tensor.dtype());
        let dtype =
            dtype.with_context(|| format!("tensor {name} of type {} cannot be saved", tensor.dtype()))?;
        Ok(Shown { tensor, dtype })
    }
}

impl View for Shown<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.tensor.bytes())
    }

    fn data_len(&self) -> usize {
        self.tensor.bytes().len()
    }
}
