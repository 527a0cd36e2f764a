//! Artifacts of real models, read by others: an independent reader of `docs/format.md` gives the same weights, and
//! onnxruntime gives for every export the outputs that `mqc run` gives.

use std::path::{Path, PathBuf};

use mqc::artifact::manifest::LayerOp;
use mqc::data::{Tensors, read_npz, write_npz};
use mqc::trained::Trained;
use mqc_ir::quant::Grouping;
use mqc_ir::{DType, Graph, Op, Tensor, Value};
use mqc_passes::{Options, QuantizeOptions};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod common;

use common::python::{pypi_file, script};
use common::trained::{compile_in, expected, random_layer};
use common::{contents, mqc, repository, run, scratch, succeed, write_model};

const WIDTHS: [&str; 5] = ["8", "6", "4", "3", "2"];

/// `||found - expected|| <= TOLERANCE ||expected||`: sums of f32 products in another order.
const OUTPUTS: &str = "1e-3";
const WEIGHTS: f64 = 1e-5;

fn digits() -> PathBuf {
    repository("examples/digits/digits.onnx")
}

/// The first 16 test images.
fn write_images(path: &Path) {
    let images = read_npz(&repository("examples/digits/digits-test.npz")).unwrap().remove("image").unwrap();
    let shape = [&[16], &images.shape()[1..]].concat();
    let bytes = images.bytes().slice(..4 * shape.iter().product::<usize>());
    let few = Tensor::new(images.dtype(), shape, bytes).unwrap();
    write_npz(path, &[("image".to_owned(), few)]).unwrap();
}

/// Compiles the digits with these options; the folder holds `m.mqc` and `in.npz`.
fn compiled(options: &str) -> tempfile::TempDir {
    let folder = scratch();
    let model = digits();
    succeed(folder.path(), &format!("compile {} -o m.mqc --quiet {options}", model.display()));
    write_images(&folder.path().join("in.npz"));
    folder
}

/// Runs `m.mqc` on `in.npz` at each width, in one process; writes `y4.npz` for 4 bits.
fn run_widths(folder: &Path, widths: &[&str]) {
    let bits: Vec<String> = widths.iter().map(|w| format!("--bits {w}")).collect();
    succeed(folder, &format!("run m.mqc {} --input in.npz --output y{{bits}}.npz --quiet", bits.join(" ")));
}

/// Exports: file name, width, options.
struct Exports(Vec<(String, String)>);

impl Exports {
    /// Writes `FORMAT-WIDTH.onnx` for every width.
    fn write(folder: &Path, format: &str, widths: &[&str]) -> Exports {
        let mut files = vec![];
        for width in widths {
            let name = format!("{format}-{width}.onnx");
            let exact = if format == "matmulnbits" { "--activations f32" } else { "" };
            succeed(
                folder,
                &format!("export m.mqc --bits {width} --format {format} {exact} -o {name} --quiet"),
            );
            files.push((name, (*width).to_owned()));
        }
        Exports(files)
    }

    /// The checker accepts them, and onnxruntime gives what `mqc run` gave.
    fn check(&self, folder: &Path) {
        let mut command = script("compare_export.py");
        command.current_dir(folder).args(["--rtol", OUTPUTS, "--qdq-exact"]);
        for (name, width) in &self.0 {
            command.args([name.as_str(), "in.npz", &format!("y{width}.npz")]);
        }
        let ran = run(&mut command);
        assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stdout.lines().count(), self.0.len());
    }
}

/// Every format at every width that it has, against `mqc run`; the weights of `float` against the independent reader.
fn check_variant(options: &str, integers: &[&str], shared: bool) {
    check_artifact(compiled(options).path(), integers, shared);
}

fn check_artifact(folder: &Path, integers: &[&str], shared: bool) {
    run_widths(folder, &WIDTHS);
    for format in ["functions", "float"] {
        Exports::write(folder, format, &WIDTHS).check(folder);
    }
    for format in ["qdq", "matmulnbits"] {
        Exports::write(folder, format, integers).check(folder);
    }
    if shared {
        succeed(
            folder,
            "export m.mqc --bits 8,4,2 --format matmulnbits --shared --activations f32 -o shared.onnx --quiet",
        );
        let files = ["8", "4", "2"].map(|w| (format!("shared.int{w}.onnx"), w.to_owned()));
        Exports(files.to_vec()).check(folder);
    }
    for width in WIDTHS {
        check_weights(folder, width);
    }
}

/// The weights of `m.mqc` as the independent reader reads them.
fn reader_weights(folder: &Path, width: &str) -> Tensors {
    let arguments = ["m.mqc", "--bits", width, "--npz", "weights.npz"];
    let ran = run(script("nested_reader.py").current_dir(folder).args(arguments));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    read_npz(&folder.join("weights.npz")).unwrap()
}

/// Compares the weights of `float-WIDTH.onnx` with those that `nested_reader.py` reads.
fn check_weights(folder: &Path, width: &str) {
    let expected = reader_weights(folder, width);
    let graph = mqc_onnx::import::import(&folder.join(format!("float-{width}.onnx"))).unwrap().graph;
    let manifest = mqc::artifact::Manifest::read(&folder.join("m.mqc")).unwrap();
    assert!(!manifest.layers.is_empty());
    for layer in &manifest.layers {
        let found = weight(&graph, &layer.name).to_f32_vec().unwrap();
        let expected = expected[&layer.name].to_f32_vec().unwrap();
        assert_eq!(found.len(), expected.len(), "{}", layer.name);
        // As the node of the export takes it.
        let place = |row: usize, col: usize| match layer.op {
            LayerOp::Conv | LayerOp::Gather => row * layer.cols + col,
            LayerOp::MatMul | LayerOp::Gemm => col * layer.rows + row,
        };
        let (mut noise, mut signal) = (0.0, 0.0);
        for (i, e) in expected.iter().enumerate() {
            let difference = f64::from(found[place(i / layer.cols, i % layer.cols)]) - f64::from(*e);
            noise += difference * difference;
            signal += f64::from(*e) * f64::from(*e);
        }
        assert!(
            noise.sqrt() <= WEIGHTS * signal.sqrt(),
            "{} at {width} bits: {noise} of {signal}",
            layer.name
        );
        assert!(signal > 0.0, "{} at {width} bits is zero", layer.name);
    }
}

fn weight<'a>(graph: &'a Graph, name: &str) -> &'a Tensor {
    let of = |id| match &graph.node(id)?.op {
        Op::Weight(tensor) if graph.info(Value { node: id, slot: 0 })?.name == name => Some(tensor),
        _ => None,
    };
    graph.ids().into_iter().find_map(of).unwrap_or_else(|| panic!("the float export has no weight {name}"))
}

#[test]
fn midpoint_slices_per_channel() {
    check_variant("", &["8", "4", "2"], true);
}

#[test]
fn midpoint_slices_in_groups_of_32() {
    check_variant("--group-size 32", &["8", "4", "2"], true);
}

#[test]
fn midpoint_slices_symmetric_by_search_in_groups_of_64() {
    check_variant("--group-size 64 --scheme symmetric --range mse", &["8", "4", "2"], true);
}

#[test]
fn rounded_slices_per_channel() {
    check_variant("--slice round", &["8", "4", "2"], false);
}

#[test]
fn rounded_slices_symmetric_in_groups_of_32() {
    check_variant("--slice round --group-size 32 --scheme symmetric", &["8", "4", "2"], false);
}

#[test]
fn extra_slices_per_channel() {
    check_variant("--slice extra", &["8"], false);
}

#[test]
fn extra_slices_in_groups_of_128() {
    check_variant("--slice extra --group-size 128", &["8"], false);
}

#[test]
fn maps_per_width_midpoint_per_channel() {
    check_variant("--affine per-width --bits 6,4,2", &["8", "4", "2"], true);
}

#[test]
fn maps_per_width_midpoint_in_groups_of_32() {
    check_variant("--affine per-width --group-size 32", &["8", "4", "2"], true);
}

#[test]
fn maps_per_width_rounded_symmetric() {
    check_variant("--affine per-width --slice round --scheme symmetric", &["8", "4", "2"], false);
}

#[test]
fn maps_per_width_extra_in_groups_of_64() {
    check_variant("--affine per-width --slice extra --group-size 64", &["8"], false);
}

#[test]
fn maps_per_width_of_a_table_and_the_product_tied_to_it() {
    let folder = scratch();
    let folder = folder.path();
    let text = "graph @m(%ids: i64[n]) -> (y: f32[n, 50]) {
  opset \"\" = 17
  %table = weight : f32[50, 96] = random(1)
  %rows = gather %table, %ids {axis = 0} @embed
  %head = transpose %table {perm = [1, 0]}
  %y = mat_mul %rows, %head @head
  return %y
}";
    write_model(&folder.join("m.onnx"), text);
    succeed(
        folder,
        "compile m.onnx -o m.mqc --embeddings --affine per-width --bits 6,4,2 --group-size 32 --quiet",
    );
    write_npz(&folder.join("in.npz"), &[("ids".to_owned(), Tensor::i64_vector(&[3, 49, 0, -1, 7]))]).unwrap();
    run_widths(folder, &WIDTHS);
    for (format, widths) in [("functions", &WIDTHS[..]), ("float", &WIDTHS), ("qdq", &["8", "4", "2"])] {
        Exports::write(folder, format, widths).check(folder);
    }
    Exports::write(folder, "matmulnbits", &["8", "4", "2"]).check(folder);
}

#[test]
fn trained_layers_with_maps_of_their_own() {
    for grouping in [Grouping::PerChannel, Grouping::group(32).unwrap()] {
        let options = Options { quantize: QuantizeOptions { grouping, ..QuantizeOptions::default() } };
        let folder = scratch();
        let folder = folder.path();
        let layers = compile_in(folder, &digits(), &options, None).unwrap().manifest.layers;
        let maps = [&[8, 4, 2][..], &[6, 3], &[], &[1], &[5, 4]];
        let content = layers.iter().zip(maps).enumerate();
        let content = content.map(|(i, (l, maps))| (l.name.clone(), random_layer(l, maps, i as u64)));
        let trained = Trained { layers: content.collect(), ..Trained::default() };
        assert_eq!(trained.layers.len(), 5, "of {} layers", layers.len());
        compile_in(folder, &digits(), &options, Some(&trained)).unwrap();
        write_images(&folder.join("in.npz"));
        for bits in WIDTHS {
            let read = reader_weights(folder, bits);
            for layer in layers.iter().filter(|l| trained.layers.contains_key(&l.name)) {
                let expected = expected(layer, &trained.layers[&layer.name], bits.parse().unwrap());
                assert_eq!(
                    read[&layer.name].to_f32_vec().unwrap(),
                    expected,
                    "{} at {bits} bits",
                    layer.name
                );
            }
        }
        check_artifact(folder, &["8", "4", "2"], true);
    }
}

#[test]
fn graph_onnx_itself_runs_at_its_default_of_8_bits() {
    let folder = compiled("");
    run_widths(folder.path(), &["8"]);
    Exports(vec![("m.mqc/graph.onnx".to_owned(), "8".to_owned())]).check(folder.path());
}

#[test]
fn a_sliced_artifact_gives_the_same_outputs() {
    let maps = ["shared", "per-width --bits 8,6,4,2"];
    for (mode, affine) in
        ["midpoint", "round", "extra"].into_iter().flat_map(|mode| maps.map(|maps| (mode, maps)))
    {
        let folder = compiled(&format!("--slice {mode} --affine {affine}"));
        let folder = folder.path();
        run_widths(folder, &["4", "2"]);
        succeed(folder, "slice m.mqc --bits 4 -o sliced.mqc --quiet");
        succeed(folder, "run sliced.mqc --bits 4 --bits 2 --input in.npz --output sliced{bits}.npz --quiet");
        for width in ["4", "2"] {
            let of = |name: String| read_npz(&folder.join(name)).unwrap();
            assert_eq!(
                of(format!("y{width}.npz")),
                of(format!("sliced{width}.npz")),
                "{mode} {affine} at {width} bits"
            );
        }
        succeed(folder, "verify sliced.mqc");
        // Its graph.onnx says the width that it has, for runtimes that only know the function bodies.
        Exports(vec![("sliced.mqc/graph.onnx".to_owned(), "4".to_owned())]).check(folder);
    }
}

#[test]
fn the_same_model_and_options_give_the_same_bytes() {
    let model = digits();
    let compile = |threads: Option<&str>| {
        let folder = scratch();
        let mut command = mqc(folder.path());
        command.args(["compile", "-o", "m.mqc", "--range", "mse", "--quiet"]).arg(&model);
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads);
        }
        assert_eq!(run(&mut command).code, Some(0));
        contents(&folder.path().join("m.mqc"))
    };
    let first = compile(None);
    let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["graph.onnx", "manifest.json", "report.html", "weights.safetensors"]);
    for (threads, again) in [(None, compile(None)), (Some("1"), compile(Some("1")))] {
        for ((name, bytes), (other_name, other)) in first.iter().zip(&again) {
            assert_eq!(name, other_name);
            assert!(bytes == other, "{name} differs, RAYON_NUM_THREADS {threads:?}");
        }
    }
}

/// A model from PyPI: compiled with `options`, run on each set of inputs, its exports compared.
fn check_real(model: &Path, options: &str, sets: &[Vec<(String, Tensor)>]) {
    let folder = scratch();
    let folder = folder.path();
    succeed(folder, &format!("compile {} -o m.mqc --quiet {options}", model.display()));
    let widths = ["8", "4", "2"];
    let exports =
        ["functions", "float", "qdq", "matmulnbits"].map(|format| Exports::write(folder, format, &widths));
    for inputs in sets {
        write_npz(&folder.join("in.npz"), inputs).unwrap();
        run_widths(folder, &widths);
        exports.iter().for_each(|e| e.check(folder));
    }
}

/// Elements of any type from `next`, which gives their bytes.
fn tensor(dtype: DType, shape: &[usize], next: impl FnMut() -> Vec<u8>) -> Tensor {
    let bytes: Vec<u8> = std::iter::repeat_with(next).take(shape.iter().product()).flatten().collect();
    Tensor::new(dtype, shape.to_vec(), bytes.into()).unwrap()
}

#[test]
fn magika_from_pypi() {
    let digest = "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529";
    let model = pypi_file("magika==1.0.3", digest, "model.onnx");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let bytes = tensor(DType::I32, &[2, 2048], || random.random_range(0..=256i32).to_le_bytes().to_vec());
    check_real(&model, "--group-size 32", &[vec![("bytes".to_owned(), bytes)]]);
}

/// Each sample rate takes its own branch of an If.
#[test]
fn silero_vad_from_pypi_in_both_branches() {
    let digest = "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8";
    let model = pypi_file("silero-vad==6.2.3", digest, "silero_vad.onnx");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut floats = |shape: &[usize]| {
        tensor(DType::F32, shape, || random.random_range(-0.5f32..0.5).to_le_bytes().to_vec())
    };
    let sets = [(16000i64, 576), (8000, 288)].map(|(rate, samples)| {
        vec![
            ("input".to_owned(), floats(&[1, samples])),
            ("state".to_owned(), floats(&[2, 1, 128])),
            ("sr".to_owned(), Tensor::i64_scalar(rate)),
        ]
    });
    check_real(&model, "", &sets);
}
