//! The bit planes of nested weights as values of the graph, for the rule that reads them.

use std::collections::BTreeMap;

use bytes::Bytes;
use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, Op, Tensor, Value};

use crate::Error;

/// The stored parts of a nested weight.
#[derive(Clone, Debug)]
pub struct StoredPlanes {
    /// f32 [N, G]; [1 + map_widths, N, G] when there are any: see [`mqc_ir::op::Nested`].
    pub scale: Tensor,
    /// As `scale`.
    pub zero: Tensor,
    /// The widths with a scale and a zero of their own, wide first.
    pub map_widths: Vec<Width>,
    /// Leading bit planes, u8 [N, ceil(K/8)].
    pub planes: Vec<Tensor>,
}

/// The stored parts as values of a graph.
#[derive(Clone, Debug)]
pub(crate) struct StoredValues {
    pub layer: String,
    pub map_widths: Vec<Width>,
    /// Scale and zero; those of the graph when not given.
    pub maps: Option<(Value, Value)>,
    pub planes: Vec<Value>,
}

/// Adds the planes of all codes that are sliced: of quantized weights those that `stored` has for the layer, of constant
/// codes their own bits. Keyed by the codes.
pub(crate) fn attach(
    graph: &mut Graph,
    stored: &BTreeMap<String, StoredPlanes>,
) -> Result<BTreeMap<Value, StoredValues>, Error> {
    let mut attached = BTreeMap::new();
    for id in graph.order()? {
        let Some(Op::SliceBits { .. }) = graph.node(id).map(|n| &n.op) else { continue };
        let Some(codes) = graph.operand(id, 0).filter(|codes| !attached.contains_key(codes)) else {
            continue;
        };
        let values = match graph.node(codes.node).map(|n| (&n.op, n.name.clone())) {
            Some((Op::NestedQuantize(_), layer)) => {
                stored.get(&layer).map(|tensors| add_stored(graph, &layer, tensors))
            }
            Some((Op::Weight(tensor) | Op::Constant(tensor), _)) => {
                let layer = graph.info(codes).map(|i| i.name.clone()).unwrap_or_default();
                let planes = planes(&tensor.clone())?;
                planes.map(|planes| StoredValues {
                    planes: add_planes(graph, &layer, &planes),
                    map_widths: vec![],
                    maps: None,
                    layer,
                })
            }
            _ => None,
        };
        attached.extend(values.map(|values| (codes, values)));
    }
    Ok(attached)
}

fn add_stored(graph: &mut Graph, layer: &str, tensors: &StoredPlanes) -> StoredValues {
    let add = |graph: &mut Graph, part: &str, tensor: &Tensor| {
        let name = graph.fresh_name(&format!("{layer}.{part}"));
        graph.add_weight(name, tensor.clone())
    };
    StoredValues {
        layer: layer.to_owned(),
        map_widths: tensors.map_widths.clone(),
        maps: Some((add(graph, "scale", &tensors.scale), add(graph, "zero", &tensors.zero))),
        planes: add_planes(graph, layer, &tensors.planes),
    }
}

fn add_planes(graph: &mut Graph, layer: &str, planes: &[Tensor]) -> Vec<Value> {
    let add = |(p, tensor): (usize, &Tensor)| {
        let name = graph.fresh_name(&format!("{layer}.plane{p}"));
        graph.add_weight(name, tensor.clone())
    };
    planes.iter().enumerate().map(add).collect()
}

/// The eight bit planes of codes u8 [N, K], most significant first: bit i of byte j is column 8 j + i.
fn planes(codes: &Tensor) -> Result<Option<Vec<Tensor>>, Error> {
    let (DType::U8, &[rows, cols]) = (codes.dtype(), codes.shape()) else { return Ok(None) };
    let bytes = cols.div_ceil(8);
    let mut planes = vec![vec![0u8; rows * bytes]; 8];
    if cols > 0 {
        for (row, codes) in codes.bytes().chunks_exact(cols).enumerate() {
            for (col, code) in codes.iter().enumerate() {
                for (p, plane) in planes.iter_mut().enumerate() {
                    plane[row * bytes + col / 8] |= (code >> (7 - p) & 1) << (col % 8);
                }
            }
        }
    }
    let tensor = |plane| Tensor::new(DType::U8, vec![rows, bytes], Bytes::from(plane));
    Ok(Some(planes.into_iter().map(tensor).collect::<Result<_, _>>()?))
}
