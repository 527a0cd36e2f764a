//! Artifacts of trained content: what is given is what is stored, and wrong content is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mqc::artifact::Artifact;
use mqc::data::{Tensors, random_inputs};
use mqc::precision::Precision;
use mqc::run::{Loaded, Setup};
use mqc::trained::{Trained, TrainedLayer};
use mqc_ir::quant::Grouping;
use mqc_ir::{Activations, DType, Tensor};
use mqc_passes::{Options, QuantizeOptions};

mod common;

use common::trained::{compile_in, expected, random_layer, width};
use common::{scratch, write_model};

/// Two products and a bias.
const MODEL: &str = "graph @m(%x: f32[n, 24]) -> (y: f32[n, 7]) {
  opset \"\" = 17
  %a.weight = weight : f32[24, 40] = random(1)
  %b.weight = weight : f32[40, 7] = random(2)
  %bias = weight : f32[7] = random(3)
  %h = mat_mul %x, %a.weight @a
  %r = relu %h
  %p = mat_mul %r, %b.weight @b
  %y = add %p, %bias
  return %y
}";

fn model(folder: &Path) -> PathBuf {
    let path = folder.join("m.onnx");
    write_model(&path, MODEL);
    path
}

fn options() -> Options {
    Options { quantize: QuantizeOptions { grouping: Grouping::group(16).unwrap(), ..Default::default() } }
}

fn outputs(folder: &Path, bits: u8, inputs: &Tensors) -> Vec<f32> {
    let setup = Setup { activations: Some(Activations::F32), ..Setup::default() };
    let loaded = Loaded::open(&folder.join("m.mqc"), &setup).unwrap();
    loaded.run(&Precision::uniform(width(bits)), inputs).unwrap()[0].1.to_f32_vec().unwrap()
}

#[test]
fn codes_and_maps_are_stored_and_run_and_tensors_replaced() {
    let folder = scratch();
    let folder = folder.path();
    let model = model(folder);
    let layers = compile_in(folder, &model, &options(), None).unwrap().manifest.layers;
    assert_eq!(layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["a.weight", "b.weight"]);
    let bias: Vec<f32> = (0..7).map(|i| i as f32).collect();
    let trained = Trained {
        layers: BTreeMap::from([
            ("a.weight".to_owned(), random_layer(&layers[0], &[8, 4, 2], 1)),
            ("b.weight".to_owned(), random_layer(&layers[1], &[5, 3], 2)),
        ]),
        tensors: BTreeMap::from([("bias".to_owned(), Tensor::from_f32(vec![7], &bias).unwrap())]),
    };
    let manifest = compile_in(folder, &model, &options(), Some(&trained)).unwrap().manifest;
    // The map of 8 bits is the first one: it has no entry.
    for (layer, widths) in manifest.layers.iter().zip([[4, 2], [5, 3]]) {
        assert!(layer.trained);
        assert_eq!(layer.map_widths, widths.map(width));
        let groups = layer.cols.div_ceil(16);
        assert_eq!(layer.scale_bytes, 3 * 8 * (layer.rows * groups) as u64);
    }
    Artifact::open(&folder.join("m.mqc")).unwrap().verify_all().unwrap();

    let loaded = Loaded::open(&folder.join("m.mqc"), &Setup::default()).unwrap();
    let inputs = random_inputs(loaded.graph(), 3, &BTreeMap::new(), 5).unwrap();
    let x = inputs["x"].to_f32_vec().unwrap();
    for bits in 1..=8 {
        let product = |x: &[f64], layer: usize| -> Vec<f64> {
            let layer = &manifest.layers[layer];
            let weight = expected(layer, &trained.layers[&layer.name], bits);
            let dot = |x: &[f64], row: &[f32]| x.iter().zip(row).map(|(x, w)| x * f64::from(*w)).sum::<f64>();
            x.chunks(layer.cols)
                .flat_map(|x| weight.chunks(layer.cols).map(|row| dot(x, row)).collect::<Vec<_>>())
                .collect()
        };
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let hidden: Vec<f64> = product(&x, 0).into_iter().map(|h| h.max(0.0)).collect();
        let y = product(&hidden, 1);
        for (at, (found, y)) in outputs(folder, bits, &inputs).iter().zip(&y).enumerate() {
            let y = y + f64::from(bias[at % 7]);
            assert!((f64::from(*found) - y).abs() < 1e-4, "{bits} bits, element {at}: {found}, expected {y}");
        }
        let session = loaded.session().unwrap().layers();
        for layer in &manifest.layers {
            let mut read = vec![0.0; layer.rows * layer.cols];
            let weight = session[&layer.name].weight();
            weight.dequantize_rows(width(bits), 0..layer.rows, &mut read).unwrap();
            assert_eq!(read, expected(layer, &trained.layers[&layer.name], bits), "{} at {bits}", layer.name);
        }
    }
}

#[test]
fn what_is_not_trained_is_quantized_as_ever_from_the_tensors_given() {
    let folder = scratch();
    let folder = folder.path();
    let model = model(folder);
    let plain = compile_in(folder, &model, &options(), None).unwrap().manifest.layers;
    let nothing = compile_in(folder, &model, &options(), Some(&Trained::default())).unwrap().manifest.layers;
    assert_eq!(plain, nothing);

    let weight: Vec<f32> = (0..280).map(|i| (i as f32).sin()).collect();
    let only_float = Trained {
        tensors: BTreeMap::from([("b.weight".to_owned(), Tensor::from_f32(vec![40, 7], &weight).unwrap())]),
        ..Trained::default()
    };
    let changed = compile_in(folder, &model, &options(), Some(&only_float)).unwrap().manifest.layers;
    assert_eq!(plain[0], changed[0]);
    assert!(!changed[1].trained && changed[1].sqnr_db[&width(8)].unwrap() > 30.0);
    let loaded = Loaded::open(&folder.join("m.mqc"), &Setup::default()).unwrap();
    let mut read = vec![0.0; 280];
    loaded.session().unwrap().layers()["b.weight"]
        .weight()
        .dequantize_rows(width(8), 0..7, &mut read)
        .unwrap();
    let far = (0..280).map(|at| (read[at] - weight[at % 40 * 7 + at / 40]).abs()).fold(0.0, f32::max);
    assert!(far < 0.01, "{far}");
}

#[test]
fn wrong_content_is_an_error_that_names_it() {
    let folder = scratch();
    let folder = folder.path();
    let model = model(folder);
    let layers = compile_in(folder, &model, &options(), None).unwrap().manifest.layers;
    let before = std::fs::read(folder.join("m.mqc/manifest.json")).unwrap();
    let good = || random_layer(&layers[0], &[4], 1);
    let refused = |layer: Option<(&str, TrainedLayer)>, tensor: Option<(&str, Tensor)>| {
        let trained = Trained {
            layers: layer.into_iter().map(|(name, layer)| (name.to_owned(), layer)).collect(),
            tensors: tensor.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(),
        };
        let Err(error) = compile_in(folder, &model, &options(), Some(&trained)) else { panic!("accepted") };
        format!("{error:#}")
    };
    let mut short = good();
    short.codes.pop();
    let mut infinite = good();
    infinite.per_width.get_mut(&width(4)).unwrap().zero = vec![f32::INFINITY; 80].into();
    let mut few_scales = good();
    few_scales.map.scale = vec![1.0; 79].into();
    let mut few_zeros = good();
    few_zeros.per_width.get_mut(&width(4)).unwrap().zero = vec![1.0; 40].into();
    let tensor = |shape: &[usize], value: f32| {
        Tensor::from_f32(shape.to_vec(), &vec![value; shape.iter().product()]).unwrap()
    };
    let integers = Tensor::new(DType::I32, vec![7], vec![0; 28].into()).unwrap();
    for (error, expected) in [
        (refused(Some(("c.weight", good())), None), "trained layer \"c.weight\": compiling this model"),
        (refused(Some(("a.weight", short)), None), "trained layer a.weight (weight a.weight): codes"),
        (refused(Some(("a.weight", infinite)), None), "map of 4 bits: expected finite"),
        (refused(Some(("a.weight", few_scales)), None), "scale: expected 80 values, found 79"),
        (refused(Some(("a.weight", few_zeros)), None), "zero at width 4: expected 80 values, found 40"),
        (refused(None, Some(("c", tensor(&[7], 0.0)))), "trained tensor \"c\": the model has no constant"),
        (
            refused(None, Some(("bias", tensor(&[1, 7], 0.0)))),
            "expected f32 [7] as in the model, found f32 [1, 7]",
        ),
        (refused(None, Some(("bias", integers))), "expected f32 [7] as in the model, found i32 [7]"),
        (refused(None, Some(("bias", tensor(&[7], f32::NAN)))), "trained tensor \"bias\" holds NaN"),
    ] {
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    assert_eq!(
        std::fs::read(folder.join("m.mqc/manifest.json")).unwrap(),
        before,
        "the artifact that was there is kept"
    );
}
