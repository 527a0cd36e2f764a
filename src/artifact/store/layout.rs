//! Where every tensor of a store lies: computed before the first byte is written.

use mqc_ir::DType;

use super::header::{self, Table, TensorInfo};
use super::{HEADER, parse_plane_name, plane_name, scale_name, zero_name};
use crate::artifact::error::{Error, Result};

/// A tensor that no layer owns: a float tensor that was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidentTensor {
    /// Its name.
    pub name: String,
    /// Element type, one that [`Layout::can_hold`].
    pub dtype: DType,
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
}

/// A nested weight: a matrix of codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGeometry {
    /// The layer, in front of the names of its tensors.
    pub name: String,
    /// N, output channels.
    pub rows: usize,
    /// K, the length of the reduction.
    pub cols: usize,
    /// Scales and zeros of a row, at least 1.
    pub groups: usize,
    /// Affine maps, at least 1: more where widths have their own.
    pub maps: usize,
}

impl LayerGeometry {
    /// Bytes of a plane's row.
    pub fn row_bytes(&self) -> usize {
        self.cols.div_ceil(8)
    }

    /// Shape of the scales, and of the zeros.
    pub fn map_shape(&self) -> Vec<usize> {
        match self.maps {
            1 => vec![self.rows, self.groups],
            maps => vec![maps, self.rows, self.groups],
        }
    }
}

/// Names, types and offsets of all tensors of a store.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(super) table: Table,
    pub(super) header: Vec<u8>,
    pub(super) planes: usize,
}

impl Layout {
    /// Orders the tensors: the resident ones with the layers' scales and zeros, widest elements first and by name;
    /// then the leading `planes` bit planes, all layers' plane 0 before all layers' plane 1.
    ///
    /// # Errors
    /// Two tensors of one name, an element type or a name that the store cannot hold, a size that overflows, `planes`
    /// outside 1..=8, a layer without groups or maps.
    pub fn new(
        mut resident: Vec<ResidentTensor>,
        layers: Vec<LayerGeometry>,
        planes: usize,
    ) -> Result<Layout> {
        if !(1..=8).contains(&planes) {
            return Err(refused("plane", format!("expected 1 to 8 bit planes, found {planes}")));
        }
        for tensor in &resident {
            if parse_plane_name(&tensor.name).is_some() {
                return Err(refused(
                    &tensor.name,
                    "only bit planes have such a name; keep it in graph.onnx".into(),
                ));
            }
        }
        for layer in &layers {
            for (what, count) in
                [("a row needs at least one group", layer.groups), ("a layer needs a map", layer.maps)]
            {
                if count == 0 {
                    return Err(refused(&scale_name(&layer.name), format!("{what}, found 0")));
                }
            }
            for name in [scale_name(&layer.name), zero_name(&layer.name)] {
                resident.push(ResidentTensor { name, dtype: DType::F32, shape: layer.map_shape() });
            }
        }
        resident.sort_by(|a, b| b.dtype.bits().cmp(&a.dtype.bits()).then_with(|| a.name.cmp(&b.name)));
        let mut tensors: Vec<_> = resident.into_iter().map(|t| (t.name, t.dtype, t.shape)).collect();
        for plane in 0..planes {
            let named =
                |l: &LayerGeometry| (plane_name(&l.name, plane), DType::U8, vec![l.rows, l.row_bytes()]);
            tensors.extend(layers.iter().map(named));
        }
        let (table, header) = header::encode(tensors)?;
        Ok(Layout { table, header, planes })
    }

    /// Whether a tensor of this name and element type can be resident. One that cannot stays inside `graph.onnx`.
    pub fn can_hold(name: &str, dtype: DType) -> bool {
        header::safetensors_name(dtype).is_some() && name != HEADER && parse_plane_name(name).is_none()
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.table.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.table.get(name)
    }

    /// Size of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.table.file_len()
    }
}

fn refused(name: &str, message: String) -> Error {
    Error::Layout { name: name.to_string(), message }
}
