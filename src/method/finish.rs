//! What comes out of a training: a nested artifact, or a float model with the trained weights.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use mqc_ir::Tensor;
use mqc_ir::quant::Width;
use mqc_onnx::export::{self, ExportOptions};
use mqc_runtime::nested::AffineMap;
use mqc_training::Training;
use mqc_training::graphs::replica_name;

use super::prepare::replace_weights;
use super::stages::Trained;
use crate::load;
use crate::trained::{self, TrainedLayer};

/// Codes, maps and float tensors as the compiler takes them.
///
/// # Errors
/// None that a user can cause.
pub fn for_compiler(trained: &Trained) -> Result<trained::Trained> {
    let tensors = trained.training.float_names();
    let tensors = tensors.into_iter().filter_map(|n| Some((n.clone(), trained.state.get(&n)?.clone())));
    Ok(trained::Trained { layers: layers(&trained.training, &trained.codes)?, tensors: tensors.collect() })
}

/// Codes and maps of a training's layers, from what its [`Training::codes_graph`] gave.
///
/// # Errors
/// None that a user can cause.
pub fn layers(
    training: &Training,
    codes: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, TrainedLayer>> {
    let mut layers = BTreeMap::new();
    for layer in training.layers() {
        let get = |name: String| codes.get(&name).with_context(|| format!("the training left no {name}"));
        let weight = &layer.weight;
        let values = |name: String| Ok::<_, anyhow::Error>(get(name)?.to_f32_vec().unwrap_or_default());
        let map = |width: Option<Width>| {
            let at = replica_name(width);
            let (scale, zero) =
                (values(format!("{weight}.scale{at}"))?, values(format!("{weight}.zero{at}"))?);
            Ok::<_, anyhow::Error>(AffineMap { scale: scale.into(), zero: zero.into() })
        };
        let codes = values(format!("{weight}.codes"))?.into_iter().map(|c| c as u8).collect();
        let maps = training.options().maps();
        let per_width = maps.into_iter().map(|w| Ok((w, map(Some(w))?))).collect::<Result<_>>()?;
        layers.insert(layer.name.clone(), TrainedLayer { codes, map: map(None)?, per_width });
    }
    Ok(layers)
}

/// Writes the model at `model` with its weights replaced.
///
/// # Errors
/// The model cannot be read again, or the output not written.
pub fn write_float(model: &Path, output: &Path, state: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut model = load::model(model)?;
    replace_weights(&mut model.graph, state)?;
    export::write(&model, output, &ExportOptions::default())
        .with_context(|| format!("cannot write {}", output.display()))
}
