//! Compiled kernels, kept in a folder: a kernel is compiled once on a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::DeviceError;
use super::nvrtc::{CompileError, Compiler, OPTIONS};

/// Bytes of the digest before what a file holds.
const DIGEST: usize = 32;

/// A folder with compiled kernels. May be shared by processes and removed at any time.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    /// Where compiled kernels of an artifact lie.
    given: Option<PathBuf>,
}

impl Cache {
    /// A cache in a folder, which is made when something is kept.
    pub fn new(folder: &Path) -> Cache {
        Cache { folder: folder.to_owned(), given: None }
    }

    /// Where the user's caches are: `$XDG_CACHE_HOME/mqc/cuda`, `~/.cache/mqc/cuda`, or else a folder for temporary files.
    pub fn of_user() -> Cache {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        Cache::new(&base.join("mqc/cuda"))
    }

    /// The same, with another folder looked into before: `NAME.cubin` is taken where it is for the architecture and the text
    /// beside it in `NAME.cu` is the one that is wanted. It is not written to.
    pub fn before(self, given: &Path) -> Cache {
        Cache { given: Some(given.to_owned()), ..self }
    }

    /// The machine code of a text: as it was kept, or compiled now and kept.
    ///
    /// # Errors
    /// The text does not compile: it is kept beside, and the log is in the error. A folder that cannot be written.
    pub fn cubin(
        &self,
        compiler: &Compiler,
        name: &str,
        text: &str,
        architecture: &str,
    ) -> Result<Vec<u8>, DeviceError> {
        if let Some(given) = self.given.as_ref().and_then(|folder| given(folder, name, text, architecture)) {
            return Ok(given);
        }
        let file = self.folder.join(format!("{}.cubin", key(text, architecture, compiler.version())));
        if let Some(kept) = read(&file) {
            return Ok(kept);
        }
        match compiler.compile(text, architecture) {
            Ok(image) => {
                let digest = Sha256::digest(&image.cubin);
                self.write(&file, &[digest.as_slice(), &image.cubin].concat())?;
                Ok(image.cubin)
            }
            Err(CompileError::Failed(error)) => Err(error),
            Err(CompileError::Rejected(log)) => {
                let kept = self.folder.join(format!("rejected-{name}.{architecture}.cu"));
                self.write(&kept, text.as_bytes())?;
                let (name, architecture) = (name.to_owned(), architecture.to_owned());
                Err(DeviceError::Compile { name, architecture, text: kept, log })
            }
        }
    }

    /// Writes beside and renames: a file that is there is complete.
    fn write(&self, file: &Path, bytes: &[u8]) -> Result<(), DeviceError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder).map_err(DeviceError::io("make the folder", &self.folder))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let beside = self.folder.join(format!(".new-{}-{number}", std::process::id()));
        let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, file));
        written.map_err(|error| {
            // It is of no use to anyone; that it may stay changes nothing.
            let _ = fs::remove_file(&beside);
            DeviceError::io("write", file)(error)
        })
    }
}

/// The compiled kernel of an artifact, if it is of this text and this architecture, which its intermediate code names.
fn given(folder: &Path, name: &str, text: &str, architecture: &str) -> Option<Vec<u8>> {
    let read = |ending: &str| fs::read(folder.join(format!("{name}.{ending}"))).ok();
    let same = read("cu")? == text.as_bytes();
    let ptx = String::from_utf8(read("ptx")?).ok()?;
    let target = ptx.lines().find_map(|line| line.strip_prefix(".target "))?;
    let is_target = target.split(',').next().map(str::trim) == Some(architecture);
    read("cubin").filter(|_| same && is_target)
}

/// What a file holds, if it is there and undamaged.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(file).ok()?;
    let held = bytes.split_off(DIGEST.min(bytes.len()));
    (Sha256::digest(&held).as_slice() == bytes).then_some(held)
}

/// All that the machine code depends on.
fn key(text: &str, architecture: &str, (major, minor): (u32, u32)) -> String {
    let mut hasher = Sha256::new();
    let version = format!("{major}.{minor}");
    for part in [text, architecture, &version].into_iter().chain(OPTIONS) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
