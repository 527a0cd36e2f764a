//! Maps files: large data sets are not read into memory.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use memmap2::Mmap;

/// The bytes of a file. Another process must not shorten it meanwhile: reading behind its end kills the process (SIGBUS).
///
/// # Errors
/// The file cannot be opened or mapped.
#[expect(unsafe_code, reason = "mapping a file")]
pub fn map(path: &Path) -> Result<Bytes> {
    let context = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(context)?;
    // SAFETY: the map is private to this process and read-only; that nobody changes the file is a condition in the text.
    let map = unsafe { Mmap::map(&file) }.with_context(context)?;
    Ok(Bytes::from_owner(map))
}
