//! What training learned of a model: codes and maps of its layers, and tensors in the place of the model's own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use mqc_ir::quant::Width;
use mqc_ir::{Graph, Op, Tensor};
use mqc_passes::Layer;
use mqc_passes::walk::for_each_graph;
use mqc_runtime::nested::{AffineMap, NestedWeight, pack};

/// Learned content, for [`crate::compile::Request::trained`].
#[derive(Clone, Debug, Default)]
pub struct Trained {
    /// Nested weights by the name of their layer, as a compilation of the model with the same options names it.
    pub layers: BTreeMap<String, TrainedLayer>,
    /// Constants of the normalized model by name (that of the model's file, unless normalization made the constant), of the
    /// type and shape that they have there. The float weight of a
    /// layer may be among them: then the layer's signal-to-noise ratios are against this one.
    pub tensors: BTreeMap<String, Tensor>,
}

/// A nested weight, instead of what quantization would make of the float one.
#[derive(Clone, Debug)]
pub struct TrainedLayer {
    /// 8-bit codes [rows, cols], row-major; rows and columns as in the manifest.
    pub codes: Vec<u8>,
    /// [rows, groups] of finite numbers: the map of widths without a wider or equal one in `per_width`.
    pub map: AffineMap,
    /// Maps of some widths, each also for the narrower widths up to the next: see [`NestedWeight::map`].
    pub per_width: BTreeMap<Width, AffineMap>,
}

impl Trained {
    /// Puts the tensors in the place of the graph's constants.
    pub(crate) fn replace_tensors(&self, graph: &mut Graph) -> Result<()> {
        let mut missing: BTreeMap<&str, &Tensor> =
            self.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut misfit = None;
        for_each_graph(graph, &mut |graph| -> Result<(), mqc_ir::Error> {
            for id in graph.order()? {
                let Some(node) = graph.node_mut(id) else { continue };
                let (Op::Weight(old) | Op::Constant(old)) = &mut node.op else { continue };
                let Some((name, new)) =
                    node.outputs.first().and_then(|o| self.tensors.get_key_value(&o.name))
                else {
                    continue;
                };
                if (old.dtype(), old.shape()) != (new.dtype(), new.shape()) {
                    misfit.get_or_insert_with(|| (name.clone(), old.clone(), new.clone()));
                }
                *old = new.clone();
                missing.remove(name.as_str());
            }
            Ok(())
        })?;
        if let Some((name, old, new)) = misfit {
            let text = |t: &Tensor| format!("{} {:?}", t.dtype(), t.shape());
            bail!("trained tensor {name:?}: expected {} as in the model, found {}", text(&old), text(&new));
        }
        if let Some(name) = missing.keys().next() {
            bail!("trained tensor {name:?}: the model has no constant of this name");
        }
        let nan =
            |t: &Tensor| t.dtype().is_float() && t.to_f32_vec().is_some_and(|v| v.iter().any(|v| v.is_nan()));
        if let Some((name, _)) = self.tensors.iter().find(|(_, t)| nan(t)) {
            bail!("trained tensor {name:?} holds NaN");
        }
        Ok(())
    }

    /// Every trained layer must be one of `layers`.
    pub(crate) fn check_names(&self, layers: &[Layer]) -> Result<()> {
        let unknown = self.layers.keys().find(|name| layers.iter().all(|l| l.name != **name));
        match unknown {
            Some(name) => {
                bail!("trained layer {name:?}: compiling this model with these options gives no such layer")
            }
            None => Ok(()),
        }
    }
}

impl TrainedLayer {
    /// The weight of `layer`.
    pub(crate) fn weight(&self, layer: &Layer) -> Result<NestedWeight> {
        let (rows, cols) = (layer.rows, layer.cols);
        let maps = std::iter::once(("map".to_owned(), &self.map))
            .chain(self.per_width.iter().map(|(width, map)| (format!("map of {width} bits"), map)));
        for (what, map) in maps {
            let values = map.scale.as_slice().iter().chain(map.zero.as_slice());
            let finite = values.clone().all(|value| value.is_finite());
            ensure!(finite, "{what}: expected finite scales and zeros, found others");
        }
        let planes = pack(&self.codes, rows, cols).context("codes")?.map(Bytes::from).to_vec();
        let (map, per_width) = (self.map.clone(), self.per_width.clone());
        Ok(NestedWeight::new((rows, cols), layer.spec.grouping, layer.spec.mode, planes, map, per_width)?)
    }
}
