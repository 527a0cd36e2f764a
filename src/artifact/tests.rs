//! Whole artifacts: what is damaged is found, what exists is kept, what was interrupted leaves nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mqc_ir::Activations;
use mqc_ir::op::WeightLayout;
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode};
use proptest::prelude::*;

use super::folder::Builder;
use super::manifest::{LayerOp, Skipped, Source};
use super::store::{Layout, ResidentTensor, Writer, plane_name};
use super::*;

fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

fn layer(name: &str, rows: usize, cols: usize, mode: SliceMode, group_size: Grouping) -> Layer {
    Layer {
        name: name.into(),
        nodes: vec![format!("{name}/MatMul")],
        op: LayerOp::MatMul,
        shape: vec![cols, rows],
        layout: WeightLayout::RowsLast,
        rows,
        cols,
        group_size,
        mode,
        scheme: Scheme::Asymmetric,
        range: RangeMethod::Minmax,
        trained: false,
        map_widths: vec![],
        parameters: (rows * cols) as u64,
        bytes_per_plane: (rows * cols.div_ceil(8)) as u64,
        scale_bytes: (8 * rows * group_size.groups(cols)) as u64,
        sqnr_db: Width::all()
            .map(|w| (w, manifest::decibels(6.02 * f64::from(w.bits()) + 0.12345)))
            .collect(),
    }
}

fn manifest_of(layers: Vec<Layer>, planes: usize) -> Manifest {
    Manifest {
        format: manifest::FORMAT.into(),
        version: manifest::VERSION,
        created_by: manifest::CREATED_BY.into(),
        source: Source { file: "m.onnx".into(), sha256: "ab".repeat(32), bytes: 12 },
        bits: "8,4,2".parse().unwrap(),
        mode: SliceMode::Midpoint,
        scheme: Scheme::Asymmetric,
        range: RangeMethod::Minmax,
        group_size: Grouping::PerChannel,
        activations: Activations::Int8Group(64),
        planes,
        layers,
        skipped: vec![Skipped {
            node: "n".into(),
            op: "MatMul".into(),
            weight: "w".into(),
            reason: "f64".into(),
        }],
        files: BTreeMap::new(),
        tensors: BTreeMap::new(),
        checksum: String::new(),
    }
}

/// Writes an artifact with arbitrary codes; `graph.onnx` is a text here.
fn write(target: &Path, force: bool, layers: Vec<Layer>) -> Result<PathBuf> {
    let folder = Builder::new(target, force)?;
    fs::write(folder.path(GRAPH), b"graph").unwrap();
    fs::create_dir(folder.path("ir")).unwrap();
    fs::write(folder.path("ir/00.mqir"), b"graph @g").unwrap();
    let bias = ResidentTensor { name: "bias".into(), dtype: DType::F32, shape: vec![3] };
    let geometries: Vec<_> = layers.iter().map(Layer::geometry).collect();
    let writer = Writer::create(&folder.path(store::FILE), Layout::new(vec![bias], geometries.clone(), 8)?)?;
    writer.write_resident("bias", &[5; 12])?;
    for (l, g) in geometries.iter().enumerate() {
        let planes: Vec<Vec<u8>> = (0..8).map(|p| vec![(17 * p + l) as u8; g.rows * g.row_bytes()]).collect();
        let values = |from: usize| -> Vec<f32> {
            (0..g.maps).flat_map(|map| vec![(from + map) as f32; g.rows * g.groups]).collect()
        };
        writer.write_layer(&g.name, &planes, &values(1), &values(3))?;
    }
    let mut manifest = manifest_of(layers, 8);
    manifest.tensors = writer.finish()?;
    manifest.files = manifest::hash_files(folder.dir())?;
    manifest.write(folder.dir())?;
    folder.commit()
}

fn two_layers() -> Vec<Layer> {
    vec![
        layer("fc1", 3, 10, SliceMode::Midpoint, Grouping::PerChannel),
        layer("a", 2, 20, SliceMode::Midpoint, Grouping::Group(8)),
    ]
}

fn sample(dir: &Path) -> PathBuf {
    write(&dir.join("m.mqc"), false, two_layers()).unwrap()
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_artifact_opens_and_is_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let artifact = Artifact::open(&path).unwrap();
    artifact.verify_all().unwrap();
    assert_eq!(artifact.widest(), width(8));
    assert_eq!(artifact.untouched(), ["bias"]);
    assert_eq!(artifact.manifest().files.keys().collect::<Vec<_>>(), [GRAPH, "ir/00.mqir"]);
    let expected = Manifest {
        files: artifact.manifest().files.clone(),
        tensors: artifact.manifest().tensors.clone(),
        checksum: artifact.manifest().checksum.clone(),
        ..manifest_of(two_layers(), 8)
    };
    assert_eq!(*artifact.manifest(), expected);
    let names = artifact.tensor_names(artifact.layer("a").unwrap(), width(2));
    assert_eq!(names, ["a.scale", "a.zero", "a.plane0", "a.plane1"]);
    assert_eq!(names_in(dir.path()), ["m.mqc"]);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(&a, false, two_layers()).unwrap();
    write(&b, false, two_layers()).unwrap();
    for name in [manifest::FILE, store::FILE] {
        assert_eq!(fs::read(a.join(name)).unwrap(), fs::read(b.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn every_flipped_bit_of_the_manifest_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path()).join(manifest::FILE);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            let result = Manifest::parse(&damaged, &path);
            assert!(result.is_err_and(|e| e.to_string().contains("manifest.json")), "byte {at} bit {bit}");
        }
    }
    for cut in 0..whole.len() {
        assert!(Manifest::parse(&whole[..cut], &path).is_err(), "cut at {cut}");
    }
}

#[test]
fn damage_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let damage = |name: &str, at: usize| {
        let mut bytes = fs::read(path.join(name)).unwrap();
        bytes[at] ^= 4;
        fs::write(path.join(name), bytes).unwrap();
    };
    damage(GRAPH, 2);
    assert!(Artifact::open(&path).unwrap_err().to_string().contains("graph.onnx: file: sha256 should be"));
    damage(GRAPH, 2);
    damage("ir/00.mqir", 1);
    let artifact = Artifact::open(&path).unwrap();
    assert!(artifact.verify_all().unwrap_err().to_string().contains("00.mqir"));
    damage("ir/00.mqir", 1);
    let start = artifact.store().offset_of("a.plane3").unwrap().0 as usize;
    drop(artifact);
    damage(store::FILE, start);
    let artifact = Artifact::open(&path).unwrap();
    let fc1 = artifact.tensor_names(artifact.layer("fc1").unwrap(), width(8));
    artifact.verify(&fc1).unwrap();
    let error = artifact.verify_all().unwrap_err().to_string();
    assert!(error.contains("weights.safetensors: tensor \"a.plane3\": sha256 should be"), "{error}");
    let refused =
        artifact.slice(width(4), &dir.path().join("s"), false, write_graph).unwrap_err().to_string();
    assert!(refused.contains("a.plane3"), "{refused}");
    artifact.slice(width(3), &dir.path().join("s"), false, write_graph).unwrap();
    assert_eq!(names_in(dir.path()), ["m.mqc", "s"]);
}

/// Writes the manifest of `sample` again after a change, with a right checksum.
fn reopened(path: &Path, change: impl FnOnce(&mut serde_json::Value)) -> Result<Artifact> {
    let file = path.join(manifest::FILE);
    let original = fs::read(&file).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&original).unwrap();
    change(&mut value);
    value.as_object_mut().unwrap().remove("checksum");
    let text = serde_json::to_string_pretty(&value).unwrap();
    let before = format!("{},\n  \"checksum\": \"", text.strip_suffix("\n}").unwrap());
    let digest = digest::of_bytes(format!("{before}\"\n}}\n").as_bytes());
    fs::write(&file, format!("{before}{digest}\"\n}}\n")).unwrap();
    let result = Artifact::open(path);
    fs::write(&file, original).unwrap();
    result
}

#[test]
fn contradictions_name_file_and_field() {
    use serde_json::json;
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    reopened(&path, |_| ()).unwrap();
    type Change = fn(&mut serde_json::Value);
    let cases: &[(Change, &str)] = &[
        (|m| m["format"] = json!("zip"), "manifest.json: format: expected \"mqc\", found \"zip\""),
        (|m| m["version"] = json!(3), "manifest.json: format version 3 was written by a newer mqc"),
        (|m| m["version"] = json!(0), "version: expected 1 to 2, found 0"),
        (|m| m["planes"] = json!(9), "planes: expected 1 to 8, found 9"),
        (|m| m["planes"] = json!(3), "bits: expected widths that 3 planes give, found 8"),
        (|m| m["unknown"] = json!(0), "not the JSON"),
        (|m| m["bits"] = json!([9]), "not the JSON"),
        (
            |m| m["files"]["../x"] = json!({"bytes": 0, "sha256": ""}),
            "files: expected names inside the folder, found ../x",
        ),
        (
            |m| m["files"]["/x"] = json!({"bytes": 0, "sha256": ""}),
            "files: expected names inside the folder, found /x",
        ),
        (|m| m["files"] = json!({}), "files: expected an entry for graph.onnx"),
        (|m| m["layers"][1]["name"] = json!("fc1"), "layers[1] (fc1).name: expected each name once"),
        (|m| m["layers"][0]["rows"] = json!(4), "layers[0] (fc1).rows: expected 3 from shape [10, 3]"),
        (|m| m["layers"][0]["cols"] = json!(4), "layers[0] (fc1).cols: expected 10 from shape [10, 3]"),
        (|m| m["layers"][0]["shape"] = json!([u64::MAX, 3]), "layers[0] (fc1).cols"),
        (|m| m["layers"][0]["shape"] = json!([]), "layers[0] (fc1).rows"),
        (|m| m["layers"][0]["parameters"] = json!(4), "layers[0] (fc1).parameters: expected 30"),
        (|m| m["layers"][0]["bytes_per_plane"] = json!(4), "layers[0] (fc1).bytes_per_plane: expected 6"),
        (
            |m| m["layers"][0]["scale_bytes"] = json!(4),
            "scale_bytes of layer \"fc1\": expected 4 as in the manifest, found 24",
        ),
        (|m| m["layers"][0]["group_size"] = json!(8), "tensor \"fc1.scale\": shape: expected f32 [3, 2]"),
        (
            |m| m["layers"][0]["map_widths"] = json!([4]),
            "tensor \"fc1.scale\": shape: expected f32 [2, 3, 1]",
        ),
        (
            |m| m["layers"][0]["map_widths"] = json!([2, 4]),
            "layers[0] (fc1).map_widths: expected different widths, wide first, found [2, 4]",
        ),
        (|m| m["layers"][0]["name"] = json!("other"), "layer 0: expected Some(\"other\") as in the manifest"),
        (|m| m["layers"] = json!([]), "layer 0: expected None"),
        (|m| m["tensors"]["x"] = json!(""), "there is no tensor \"x\""),
        (|m| drop(m["tensors"].as_object_mut().unwrap().remove("bias")), "checksum of tensor \"bias\""),
        (|m| drop(m["tensors"].as_object_mut().unwrap().remove("__metadata__")), "\"__metadata__\""),
    ];
    for (change, expected) in cases {
        let error = reopened(&path, change).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    fs::remove_file(path.join(store::FILE)).unwrap();
    assert!(Artifact::open(&path).unwrap_err().to_string().contains("weights.safetensors"));
    fs::remove_file(path.join(manifest::FILE)).unwrap();
    assert!(Artifact::open(&path).unwrap_err().to_string().contains("manifest.json"));
}

#[test]
fn a_nonfinite_ratio_is_null() {
    let mut fc1 = layer("fc1", 3, 10, SliceMode::Midpoint, Grouping::PerChannel);
    fc1.sqnr_db.insert(width(8), Some(f64::INFINITY));
    let text = serde_json::to_string(&fc1).unwrap();
    assert!(text.contains("\"8\":null"), "{text}");
    assert_eq!(serde_json::from_str::<Layer>(&text).unwrap().sqnr_db[&width(8)], None);
    assert_eq!((manifest::decibels(f64::NAN), manifest::decibels(1.23456)), (None, Some(1.235)));
}

fn write_graph(dir: &Path, _: &Manifest, _: &Store) -> std::io::Result<()> {
    fs::write(dir.join(GRAPH), b"sliced")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_slice_is_a_smaller_artifact_with_the_same_tensors(
        modes in prop::collection::vec(prop::sample::select(vec![SliceMode::Midpoint, SliceMode::Round]), 0..3),
        bits in 1u8..=8,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let layers = modes.iter().enumerate().map(|(i, m)| layer(&format!("l{i}"), 3, 9 + i, *m, Grouping::PerChannel));
        let whole = Artifact::open(&write(&dir.path().join("m"), false, layers.collect()).unwrap()).unwrap();
        let sliced = whole.slice(width(bits), &dir.path().join("s"), false, write_graph).unwrap();
        let sliced = Artifact::open(&sliced).unwrap();
        sliced.verify_all().unwrap();
        let planes = modes.iter().map(|m| m.planes_read(width(bits))).max().unwrap_or(bits.into());
        prop_assert_eq!(sliced.manifest().planes, planes);
        let expected: Vec<u8> = [8, 4, 2].into_iter().filter(|b| *b <= bits).collect();
        let found: Vec<u8> = sliced.manifest().bits.iter().map(Width::bits).collect();
        prop_assert_eq!(found, if expected.is_empty() { vec![bits] } else { expected });
        for name in whole.store().names() {
            let dropped = store::parse_plane_name(name).is_some_and(|(_, p)| p >= planes);
            prop_assert_eq!(sliced.store().tensor(name).is_err(), dropped, "{}", name);
            if !dropped {
                prop_assert_eq!(sliced.store().tensor(name).unwrap(), whole.store().tensor(name).unwrap());
            }
        }
        prop_assert!(sliced.manifest().layers.iter().all(|l| l.sqnr_db.keys().all(|w| w.bits() <= bits)));
    }
}

#[test]
fn a_slice_keeps_the_maps_that_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let own = |name: &str, mode: SliceMode, bits: &[u8]| {
        let map_widths: Vec<Width> = bits.iter().map(|bits| width(*bits)).collect();
        let plain = layer(name, 3, 10, mode, Grouping::Group(8));
        Layer { scale_bytes: plain.scale_bytes * (1 + bits.len() as u64), map_widths, ..plain }
    };
    let layers = vec![own("m", SliceMode::Midpoint, &[6, 4, 2]), own("r", SliceMode::Round, &[6, 5, 3])];
    let whole = Artifact::open(&write(&dir.path().join("m"), false, layers).unwrap()).unwrap();
    assert_eq!(whole.store().tensor("m.scale").unwrap().1, [4, 3, 2]);
    // Of each slice the widths with maps, and the number of the map in front: the first of the whole is 1.
    for (bits, midpoint, round) in [
        (8, (&[6, 4, 2][..], 1), (&[6, 5, 3][..], 1)),
        (6, (&[6, 4, 2], 1), (&[5, 3], 2)),
        // Five planes: mode midpoint reads 5 bits of them.
        (4, (&[4, 2], 2), (&[3], 3)),
        (2, (&[2], 3), (&[], 4)),
        (1, (&[], 4), (&[], 4)),
    ] {
        let path = dir.path().join(format!("s{bits}"));
        let sliced = Artifact::open(&whole.slice(width(bits), &path, false, write_graph).unwrap()).unwrap();
        sliced.verify_all().unwrap();
        for (name, (widths, first)) in [("m", midpoint), ("r", round)] {
            let found: Vec<u8> = sliced.layer(name).unwrap().map_widths.iter().map(|w| w.bits()).collect();
            assert_eq!(found, widths, "{name} at {bits}");
            let (_, _, zero) = sliced.store().tensor(&format!("{name}.zero")).unwrap();
            let zero: Vec<f32> =
                zero.chunks(24).map(|map| f32::from_le_bytes(map[..4].try_into().unwrap())).collect();
            let expected: Vec<f32> = (0..=widths.len()).map(|map| (2 + first + map) as f32).collect();
            assert_eq!(zero, expected, "{name} at {bits}");
        }
    }
}

#[test]
fn version_1_opens_and_its_slice_is_of_this_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let old = reopened(&path, |m| {
        m["version"] = serde_json::json!(1);
        for layer in m["layers"].as_array_mut().unwrap() {
            let layer = layer.as_object_mut().unwrap();
            assert!(layer.remove("map_widths").is_some() && layer.remove("trained").is_some());
        }
    });
    let old = old.unwrap();
    assert_eq!((old.manifest().version, old.manifest().layers.clone()), (1, two_layers()));
    let sliced = old.slice(width(4), &dir.path().join("s"), false, write_graph).unwrap();
    assert_eq!(Artifact::open(&sliced).unwrap().manifest().version, manifest::VERSION);
}

#[test]
fn a_slice_may_replace_its_source_and_fails_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let artifact = Artifact::open(&path).unwrap();
    let error = artifact.slice(width(4), &path, true, |_, _, _| Err("no graph")).unwrap_err();
    assert!(matches!(error, Error::Rewrite { .. }), "{error}");
    assert!(matches!(artifact.slice(width(4), &path, false, write_graph), Err(Error::Exists { .. })));
    artifact.verify_all().unwrap();
    artifact.slice(width(4), &path, true, write_graph).unwrap();
    let sliced = Artifact::open(&path).unwrap();
    assert_eq!((sliced.widest(), sliced.manifest().planes), (width(4), 4));
    let error = sliced.slice(width(5), &path, true, write_graph).unwrap_err().to_string();
    assert!(error.contains("width 5 is asked for, the bit planes there reach width 4"), "{error}");
    assert_eq!(names_in(dir.path()), ["m.mqc"]);
}

#[test]
fn a_cut_artifact_opens_narrower_and_can_be_sliced() {
    for (mode, widest) in [(SliceMode::Midpoint, 4), (SliceMode::Extra, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let layers =
            vec![layer("a", 2, 9, mode, Grouping::PerChannel), layer("b", 5, 8, mode, Grouping::PerChannel)];
        let path = write(&dir.path().join("m"), false, layers).unwrap();
        let end = |p| Artifact::open(&path).unwrap().store().info(&plane_name("b", p)).unwrap().end();
        let (end_of_plane_3, end_of_plane_0) = (end(3), end(0));
        let store = File::options().write(true).open(path.join(store::FILE)).unwrap();
        store.set_len(end_of_plane_3 + 1).unwrap();
        let cut = Artifact::open(&path).unwrap();
        assert_eq!(cut.widest(), width(widest));
        cut.verify_all().unwrap();
        let sliced = cut.slice(width(widest), &dir.path().join("s"), false, write_graph).unwrap();
        Artifact::open(&sliced).unwrap().verify_all().unwrap();
        drop(cut);
        store.set_len(end_of_plane_0).unwrap();
        assert_eq!(Artifact::open(&path).is_ok(), mode == SliceMode::Midpoint);
        store.set_len(end_of_plane_0 - 1).unwrap();
        assert!(Artifact::open(&path).unwrap_err().to_string().contains("bit planes: expected at least"));
    }
}

#[test]
fn what_exists_is_kept_unless_it_is_an_artifact_and_forced() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.mqc");
    let refused = |force: bool| Builder::new(&target, force).unwrap_err().to_string();

    fs::write(&target, b"notes").unwrap();
    assert!(refused(false).contains("--force"));
    assert!(refused(true).contains("not a folder"));
    fs::remove_file(&target).unwrap();

    fs::create_dir(&target).unwrap();
    assert!(refused(false).contains("--force"));
    drop(Builder::new(&target, true).unwrap());
    fs::write(target.join("thesis.txt"), b"years of work").unwrap();
    assert!(refused(true).contains("no manifest.json"));
    for foreign in ["{\"name\": \"web app\"}", "not JSON", "{\"format\": \"zip\"}"] {
        fs::write(target.join(manifest::FILE), foreign).unwrap();
        assert!(refused(true).contains("not one of mqc"), "{foreign}");
    }
    fs::remove_dir_all(&target).unwrap();

    sample(dir.path());
    let before = fs::read(target.join(manifest::FILE)).unwrap();
    assert!(refused(false).contains("--force"));
    fs::write(target.join("mine.npz"), b"data").unwrap();
    assert!(refused(true).contains("mine.npz is not part"));
    fs::remove_file(target.join("mine.npz")).unwrap();
    drop(Builder::new(&target, true).unwrap());
    assert_eq!(fs::read(target.join(manifest::FILE)).unwrap(), before);
    write(&target, true, two_layers()[..1].to_vec()).unwrap();
    assert_eq!(Artifact::open(&target).unwrap().manifest().layers.len(), 1);
    assert_eq!(names_in(dir.path()), ["m.mqc"]);
    assert!(
        Builder::new(&dir.path().join("no/m.mqc"), false)
            .unwrap_err()
            .to_string()
            .contains("find the folder")
    );
    assert!(Builder::new(Path::new("/"), true).is_err());
}

#[test]
fn a_link_to_an_artifact_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("m.mqc", &link).unwrap();
    write(&link, true, two_layers()[..1].to_vec()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(Artifact::open(&dir.path().join("m.mqc")).unwrap().manifest().layers.len(), 1);
}

#[test]
fn what_takes_the_place_meanwhile_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.mqc");
    for force in [false, true] {
        let folder = Builder::new(&target, force).unwrap();
        fs::write(folder.path("x"), b"x").unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("thesis.txt"), b"years of work").unwrap();
        assert!(folder.commit().is_err());
        assert_eq!(fs::read(target.join("thesis.txt")).unwrap(), b"years of work");
        assert_eq!(names_in(dir.path()), ["m.mqc"]);
        fs::remove_dir_all(&target).unwrap();
    }
}

/// Tells a test of this file that it runs in a process of its own, and where.
const CHILD: &str = "MQC_TEST_ARTIFACT";

/// A process that runs one test of this file after a line of shell.
fn child(shell: &str, test: &str, target: &Path) -> Command {
    let mut command = Command::new("sh");
    let name = concat!(module_path!(), "::").split_once("::").unwrap().1.to_owned() + test;
    command.args(["-c", &format!("{shell} exec \"$0\" --exact \"$1\"")]);
    command.arg(std::env::current_exe().unwrap()).arg(name).env(CHILD, target).stdout(Stdio::null());
    command
}

/// Only in the process that `a_killed_process_leaves_no_half_artifact` starts: begins an artifact and waits.
#[test]
fn is_killed() {
    let Some(target) = std::env::var_os(CHILD) else { return };
    let folder = Builder::new(Path::new(&target), true).unwrap();
    fs::write(folder.path("weights.safetensors"), b"half").unwrap();
    fs::write(folder.path("ready"), b"").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn a_killed_process_leaves_no_half_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let mut process = child("", "is_killed", &path).spawn().unwrap();
    let partial = loop {
        let names = names_in(dir.path());
        let partial = names.into_iter().find(|n| n.starts_with(".m.mqc.partial-"));
        match partial.map(|n| dir.path().join(n)) {
            Some(partial) if partial.join("ready").exists() => break partial,
            _ => assert!(process.try_wait().unwrap().is_none(), "the process ended early"),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    drop(Builder::new(&path, true).unwrap());
    assert!(partial.exists(), "the folder of a process that lives was removed");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(partial.exists());
    Artifact::open(&path).unwrap().verify_all().unwrap();
    drop(Builder::new(&path, true).unwrap());
    assert_eq!(names_in(dir.path()), ["m.mqc"]);
}

/// Only in the process that `a_disk_that_fills_up_keeps_the_old_artifact` starts: files cannot grow beyond a few KiB.
#[test]
fn has_no_room() {
    let Some(target) = std::env::var_os(CHILD) else { return };
    let large = vec![layer("large", 300, 1000, SliceMode::Midpoint, Grouping::PerChannel)];
    let error = write(Path::new(&target), true, large).unwrap_err();
    assert!(
        matches!(&error, Error::Io { action: "write", path, .. } if path.ends_with(store::FILE)),
        "{error}"
    );
}

#[test]
fn a_disk_that_fills_up_keeps_the_old_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let status = child("trap '' XFSZ; ulimit -f 16;", "has_no_room", &path).status().unwrap();
    assert!(status.success());
    assert_eq!(names_in(dir.path()), ["m.mqc"]);
    assert_eq!(Artifact::open(&path).unwrap().manifest().layers.len(), 2);
}
