//! Learned content that no training made: random codes and maps.

use std::collections::BTreeMap;
use std::path::Path;

use mqc::artifact::Layer;
use mqc::compile::{Compiled, Request, compile};
use mqc::trained::{Trained, TrainedLayer};
use mqc_ir::Activations;
use mqc_ir::quant::{Affine, Width};
use mqc_passes::{Debug, Options};
use mqc_runtime::nested::AffineMap;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

/// Random codes, a random map, and one for each of `bits`, for a layer of this shape.
pub fn random_layer(layer: &Layer, bits: &[u8], seed: u64) -> TrainedLayer {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let maps = layer.rows * layer.group_size.groups(layer.cols);
    let codes = (0..layer.rows * layer.cols).map(|_| random.random_range(0..=255)).collect();
    let mut map = || {
        let mut values =
            |from: f32, to: f32| -> Vec<f32> { (0..maps).map(|_| random.random_range(from..to)).collect() };
        AffineMap { scale: values(0.001, 0.003).into(), zero: values(100.0, 150.0).into() }
    };
    TrainedLayer { codes, map: map(), per_width: bits.iter().map(|bits| (width(*bits), map())).collect() }
}

/// The weight [rows, cols] in mode midpoint at a width, by the words of the format's description.
pub fn expected(layer: &Layer, content: &TrainedLayer, bits: u8) -> Vec<f32> {
    let own: BTreeMap<u8, &AffineMap> = content.per_width.iter().map(|(w, map)| (w.bits(), map)).collect();
    let map = (bits..=8).find_map(|wider| own.get(&wider).copied()).unwrap_or(&content.map);
    let (groups, step) = (layer.group_size.groups(layer.cols), 1 << (8 - bits));
    let value = |(at, code): (usize, &u8)| {
        let (row, col) = (at / layer.cols, at % layer.cols);
        let group = row * groups + col / layer.group_size.size(layer.cols);
        let level = f32::from(code / step as u8) * step as f32 + (step - 1) as f32 / 2.0;
        map.scale.as_slice()[group] * (level - map.zero.as_slice()[group])
    };
    content.codes.iter().enumerate().map(value).collect()
}

/// Compiles `model` to `m.mqc` in a folder.
pub fn compile_in(
    folder: &Path,
    model: &Path,
    options: &Options,
    trained: Option<&Trained>,
) -> anyhow::Result<Compiled> {
    let request = Request {
        model,
        output: &folder.join("m.mqc"),
        force: true,
        options,
        affine: Affine::Shared,
        trained,
        activations: Activations::default(),
        target: None,
        debug: &Debug::default(),
    };
    compile(&request, &mut |_, _| {})
}
