//! `manifest.json`: what an artifact holds, how it was made, and the digest of every part. `docs/format.md` lists the
//! fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use mqc_ir::Activations;
use mqc_ir::op::WeightLayout;
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width, Widths};
use mqc_ir::tensor::element_count;
use serde::{Deserialize, Serialize};

use super::digest;
use super::error::{Error, Result};
use super::store::LayerGeometry;

/// The name of the manifest in an artifact's folder.
pub const FILE: &str = "manifest.json";

/// What `format` says.
pub const FORMAT: &str = "mqc";

/// The format version that this mqc writes, and the newest that it reads: from 1 on, all.
pub const VERSION: u32 = 2;

/// What `created_by` says for artifacts of this mqc.
pub const CREATED_BY: &str = concat!("mqc ", env!("CARGO_PKG_VERSION"));

/// The largest manifest that is read, in bytes.
pub const MAX_BYTES: u64 = 256 << 20;

/// The manifest, fields in the order of the file. Holds no time and no path: the same model and options give the same
/// bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The program and its version.
    pub created_by: String,
    /// The model that was compiled.
    pub source: Source,
    /// The widths that the model was compiled for, wide first.
    pub bits: Widths,
    /// How codes are cut, unless a layer says otherwise; likewise `scheme`, `range` and `group_size`.
    pub mode: SliceMode,
    /// Where the range of codes lies.
    pub scheme: Scheme,
    /// How the range was chosen.
    pub range: RangeMethod,
    /// Weights that share a scale; null for a whole row.
    pub group_size: Grouping,
    /// How activations are rounded unless a run says otherwise.
    #[serde(default)]
    pub activations: Activations,
    /// Leading bit planes in the store, 1 to 8, the same for all layers.
    pub planes: usize,
    /// The nested weights, in the order of the store.
    pub layers: Vec<Layer>,
    /// The weights that could have been nested and were not.
    pub skipped: Vec<Skipped>,
    /// Every other file of the folder by its name relative to the folder, `/` between folders.
    pub files: BTreeMap<String, FileEntry>,
    /// sha256 of every tensor of the store, and of its header as [`super::store::HEADER`].
    pub tensors: BTreeMap<String, String>,
    /// sha256 of this file's bytes with these 64 digits left out. Set by [`Manifest::write`].
    pub checksum: String,
}

/// The model that was compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its file name, without folders.
    pub file: String,
    /// The sha256 of that file; of external data it holds the references only.
    pub sha256: String,
    /// The size of that file.
    pub bytes: u64,
}

/// The ONNX operation whose weight a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum LayerOp {
    MatMul,
    Gemm,
    Conv,
    Gather,
}

/// A nested weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its name, unique: per-layer widths and the tensors of the store use it.
    pub name: String,
    /// The ONNX nodes that use the weight.
    pub nodes: Vec<String>,
    /// What these nodes are.
    pub op: LayerOp,
    /// Shape of the float weight.
    pub shape: Vec<usize>,
    /// How that shape is a matrix of rows and columns.
    pub layout: WeightLayout,
    /// N, output channels.
    pub rows: usize,
    /// K, the length of the reduction.
    pub cols: usize,
    /// Weights that share a scale; null for a whole row.
    pub group_size: Grouping,
    /// How codes are cut.
    pub mode: SliceMode,
    /// Where the range of codes lies.
    pub scheme: Scheme,
    /// How the range was chosen.
    pub range: RangeMethod,
    /// Whether codes and maps were learned. Then scheme and range say what they were before.
    #[serde(default)]
    pub trained: bool,
    /// The widths that have an affine map of their own, wide first: see [`mqc_ir::op::Nested`].
    #[serde(default)]
    pub map_widths: Vec<Width>,
    /// Number of weights, rows * cols.
    pub parameters: u64,
    /// Size of one bit plane.
    pub bytes_per_plane: u64,
    /// Size of all scales and zeros.
    pub scale_bytes: u64,
    /// Signal to quantization noise in dB at each width; null where it is not a finite number (an exact weight).
    pub sqnr_db: BTreeMap<Width, Option<f64>>,
}

/// A weight that stayed as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// The ONNX node that uses it.
    pub node: String,
    /// That node's operation.
    pub op: String,
    /// The weight.
    pub weight: String,
    /// Why it stayed.
    pub reason: String,
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: String,
}

impl Layer {
    /// The matrix in the store.
    pub fn geometry(&self) -> LayerGeometry {
        let (groups, maps) = (self.group_size.groups(self.cols), 1 + self.map_widths.len());
        LayerGeometry { name: self.name.clone(), rows: self.rows, cols: self.cols, groups, maps }
    }

    /// Bytes of the scales and zeros that one width reads.
    pub fn map_bytes(&self) -> u64 {
        self.scale_bytes / (1 + self.map_widths.len() as u64)
    }
}

/// A ratio in dB as the manifest holds it: to three decimals, `None` when it is not finite.
pub fn decibels(ratio: f64) -> Option<f64> {
    ratio.is_finite().then(|| (ratio * 1000.0).round() / 1000.0)
}

impl Manifest {
    /// Reads the manifest of an artifact's folder.
    ///
    /// # Errors
    /// No manifest, one that is damaged, of a newer version, or whose fields contradict each other.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(FILE);
        Manifest::parse(&read_limited(&path)?, &path)
    }

    /// Reads a manifest from its bytes; `path` is for the messages.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Manifest> {
        let head: Head = serde_json::from_slice(bytes).map_err(Error::json(path))?;
        if head.format != FORMAT {
            return Err(Error::field(path, "format", format!("{FORMAT:?}"), format!("{:?}", head.format)));
        }
        if head.version > u64::from(VERSION) {
            let (path, found) = (path.to_path_buf(), head.version.to_string());
            return Err(Error::NewerVersion { path, found, supported: VERSION });
        }
        check_checksum(bytes, path)?;
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(Error::json(path))?;
        manifest.check(path)?;
        Ok(manifest)
    }

    /// Sets the checksum and writes the file into a folder.
    ///
    /// # Errors
    /// Fields that contradict each other, or an I/O error.
    pub fn write(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        self.check(&path)?;
        self.checksum = String::new();
        self.checksum = digest::of_bytes(self.to_json(&path)?.as_bytes());
        fs::write(&path, self.to_json(&path)?).map_err(Error::io("write", &path))
    }

    /// The widest width that `planes` leading bit planes give every layer; `None` when they give one of them none.
    pub fn widest(&self, planes: usize) -> Option<Width> {
        let modes: BTreeSet<SliceMode> = self.layers.iter().map(|l| l.mode).collect();
        modes.into_iter().map(|mode| mode.widest(planes)).min().unwrap_or(Some(Width::MAX))
    }

    /// The leading bit planes that a width reads, of all layers.
    pub fn planes_read(&self, width: Width) -> usize {
        self.layers
            .iter()
            .map(|l| l.mode.planes_read(width))
            .max()
            .unwrap_or_else(|| self.mode.planes_read(width))
    }

    fn to_json(&self, path: &Path) -> Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(Error::json(path))
    }

    fn check(&self, path: &Path) -> Result<()> {
        let field = |name: &str, expected: &str, found: &dyn ToString| {
            Err(Error::field(path, name, expected, found.to_string()))
        };
        if !(1..=VERSION).contains(&self.version) {
            return field("version", &format!("1 to {VERSION}"), &self.version);
        }
        if !(1..=8).contains(&self.planes) {
            return field("planes", "1 to 8", &self.planes);
        }
        let widest = self.widest(self.planes);
        if let Some(beyond) = self.bits.iter().find(|b| Some(*b) > widest) {
            return field("bits", &format!("widths that {} planes give", self.planes), &beyond);
        }
        if let Some(name) = self.files.keys().find(|name| !is_inside(name)) {
            return field("files", "names inside the folder", name);
        }
        let mut names = BTreeSet::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let at = format!("layers[{i}] ({})", layer.name);
            if !names.insert(&layer.name) {
                return field(&format!("{at}.name"), "each name once", &"it twice");
            }
            layer.check(path, &at)?;
        }
        Ok(())
    }
}

impl Layer {
    fn check(&self, path: &Path, at: &str) -> Result<()> {
        let parts = match self.layout {
            WeightLayout::RowsFirst => self.shape.split_first(),
            WeightLayout::RowsLast => self.shape.split_last(),
        };
        let checks = [
            ("rows", parts.map(|(rows, _)| *rows), Some(self.rows)),
            ("cols", parts.and_then(|(_, others)| element_count(others)), Some(self.cols)),
            ("parameters", self.rows.checked_mul(self.cols), usize::try_from(self.parameters).ok()),
            (
                "bytes_per_plane",
                self.rows.checked_mul(self.cols.div_ceil(8)),
                usize::try_from(self.bytes_per_plane).ok(),
            ),
        ];
        for (name, expected, found) in checks {
            if expected != found || expected.is_none() {
                let text = |n: Option<usize>| n.map_or("no number that fits".to_string(), |n| n.to_string());
                let expected =
                    format!("{} from shape {:?} and layout {:?}", text(expected), self.shape, self.layout);
                return Err(Error::field(path, format!("{at}.{name}"), expected, text(found)));
            }
        }
        if self.map_widths.windows(2).any(|pair| pair[0] <= pair[1]) {
            let found = format!("{:?}", self.map_widths.iter().map(|w| w.bits()).collect::<Vec<_>>());
            return Err(Error::field(
                path,
                format!("{at}.map_widths"),
                "different widths, wide first",
                found,
            ));
        }
        Ok(())
    }
}

/// The fields that every version has.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

/// The entries of `files` for a folder: all that is in it but the manifest and the store, sorted by name.
///
/// # Errors
/// An unreadable file, a link or a special file, a name that is not UTF-8.
pub fn hash_files(dir: &Path) -> Result<BTreeMap<String, FileEntry>> {
    let mut entries = BTreeMap::new();
    for name in files_below(dir)? {
        if name != FILE && name != super::store::FILE {
            let (sha256, bytes) = digest::of_file(&dir.join(&name))?;
            entries.insert(name, FileEntry { bytes, sha256 });
        }
    }
    Ok(entries)
}

/// Names of all files below a folder, relative to it, with `/` between folders.
pub(super) fn files_below(dir: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let absolute = dir.join(&folder);
        for entry in fs::read_dir(&absolute).map_err(Error::io("list", &absolute))? {
            let entry = entry.map_err(Error::io("list", &absolute))?;
            let kind = entry.file_type().map_err(Error::io("read", &entry.path()))?;
            let relative = folder.join(entry.file_name());
            match relative.to_str() {
                Some(_) if kind.is_dir() => open.push(relative),
                Some(name) if kind.is_file() => {
                    found.insert(name.to_string());
                }
                _ => {
                    return Err(Error::field(
                        &entry.path(),
                        "kind",
                        "a file with a name in UTF-8",
                        "something else",
                    ));
                }
            }
        }
    }
    Ok(found)
}

/// Reads a manifest's bytes unless they are too many.
pub(super) fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::field(path, "file size", format!("at most {MAX_BYTES} bytes"), "more"));
    }
    Ok(bytes)
}

/// On the bytes, not on what they mean: so every changed byte is noticed.
fn check_checksum(bytes: &[u8], path: &Path) -> Result<()> {
    const BEFORE: &[u8] = b"\"checksum\": \"";
    const DIGITS: usize = 64;
    let start = bytes.windows(BEFORE.len()).rposition(|w| w == BEFORE).map(|at| at + BEFORE.len());
    let parts = start.and_then(|at| Some((&bytes[..at], bytes.get(at..at + DIGITS)?, &bytes[at + DIGITS..])));
    let Some((before, digits, after)) = parts else {
        return Err(Error::field(path, "checksum", "64 hexadecimal digits at the end of the file", "none"));
    };
    let found = digest::of_bytes(&[before, after].concat());
    digest::compare(path, "checksum", &String::from_utf8_lossy(digits), found)
}

/// Whether a name with `/` leads to a file inside the folder.
fn is_inside(name: &str) -> bool {
    let normal = |c: Component| matches!(c, Component::Normal(_));
    !name.is_empty() && !name.contains('\\') && Path::new(name).components().all(normal)
}
