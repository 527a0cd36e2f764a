//! The nested store `weights.safetensors`: what is always resident first, then bit plane 0 of every layer, then plane
//! 1, ... so that the file can be cut after any plane. `docs/format.md` is its specification.

mod header;
mod layout;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use header::TensorInfo;
pub use layout::{LayerGeometry, Layout, ResidentTensor};
pub use read::Store;
pub use write::Writer;

/// The name of the store in an artifact's folder.
pub const FILE: &str = "weights.safetensors";

/// The key of the header among the checksums. No tensor can have this name: safetensors reserves it.
pub const HEADER: &str = "__metadata__";

/// Name of the scales of a layer, f32 [rows, groups] or [maps, rows, groups].
pub fn scale_name(layer: &str) -> String {
    format!("{layer}.scale")
}

/// Name of the zero points of a layer, of the same type.
pub fn zero_name(layer: &str) -> String {
    format!("{layer}.zero")
}

/// Name of a bit plane of a layer, u8 [rows, ceil(cols / 8)]; plane 0 holds the most significant bits.
pub fn plane_name(layer: &str, plane: usize) -> String {
    format!("{layer}.plane{plane}")
}

/// The layer and the number of a plane's name; `None` for other names.
pub fn parse_plane_name(name: &str) -> Option<(&str, usize)> {
    let (layer, digit) = name.rsplit_once(".plane")?;
    match digit.as_bytes() {
        [d @ b'0'..=b'7'] => Some((layer, usize::from(d - b'0'))),
        _ => None,
    }
}
