//! sha256, in the lower-case hexadecimal of the manifest.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::{Error, Result};

/// Digits for a finished digest.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of bytes in memory.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The digest of a file, and its size in bytes.
///
/// # Errors
/// The file cannot be read.
pub fn of_file(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok((hex(&hasher.finalize()), bytes)),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// An error that names the part when the digests differ.
pub(super) fn compare(path: &Path, part: &str, expected: &str, found: String) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let (path, part, expected) = (path.to_path_buf(), part.to_string(), expected.to_string());
    Err(Error::Checksum { path, part, expected, found })
}
