//! The store against the safetensors crate and against every cut and every flipped bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mqc_ir::DType;
use proptest::prelude::*;
use rayon::prelude::*;
use safetensors::SafeTensors;
use tempfile::TempDir;

use super::*;
use crate::artifact::error::Error;

/// A store's content, kept outside of it.
#[derive(Clone, Debug)]
struct Content {
    resident: Vec<(ResidentTensor, Vec<u8>)>,
    layers: Vec<(LayerGeometry, Codes)>,
    planes: usize,
}

#[derive(Clone, Debug)]
struct Codes {
    codes: Vec<u8>,
    scale: Vec<f32>,
    zero: Vec<f32>,
}

impl Codes {
    /// Plane `p` of rows of `cols` codes, bit by bit.
    fn plane(&self, cols: usize, p: usize) -> Vec<u8> {
        let mut plane = vec![0; self.codes.len() / cols.max(1) * cols.div_ceil(8)];
        for (at, code) in self.codes.iter().enumerate() {
            let (row, k) = (at / cols, at % cols);
            plane[row * cols.div_ceil(8) + k / 8] |= (code >> (7 - p) & 1) << (k % 8);
        }
        plane
    }
}

impl Content {
    fn layout(&self) -> Layout {
        let resident = self.resident.iter().map(|(t, _)| t.clone()).collect();
        let layers = self.layers.iter().map(|(l, _)| l.clone()).collect();
        Layout::new(resident, layers, self.planes).unwrap()
    }

    fn write(&self, path: &Path) -> BTreeMap<String, String> {
        let writer = Writer::create(path, self.layout()).unwrap();
        self.resident.par_iter().for_each(|(t, bytes)| writer.write_resident(&t.name, bytes).unwrap());
        self.layers.par_iter().for_each(|(geometry, codes)| {
            let planes: Vec<_> = (0..self.planes).map(|p| codes.plane(geometry.cols, p)).collect();
            writer.write_layer(&geometry.name, &planes, &codes.scale, &codes.zero).unwrap();
        });
        writer.finish().unwrap()
    }

    /// Every tensor by name.
    fn tensors(&self) -> BTreeMap<String, Vec<u8>> {
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors: BTreeMap<_, _> =
            self.resident.iter().map(|(t, b)| (t.name.clone(), b.clone())).collect();
        for (geometry, codes) in &self.layers {
            tensors.insert(format!("{}.scale", geometry.name), floats(&codes.scale));
            tensors.insert(format!("{}.zero", geometry.name), floats(&codes.zero));
            for p in 0..self.planes {
                tensors.insert(format!("{}.plane{p}", geometry.name), codes.plane(geometry.cols, p));
            }
        }
        tensors
    }
}

fn resident(
    name: String,
    dtype: DType,
    shape: Vec<usize>,
) -> impl Strategy<Value = (ResidentTensor, Vec<u8>)> {
    let len = dtype.byte_len(shape.iter().product()).unwrap();
    let tensor = ResidentTensor { name, dtype, shape };
    prop::collection::vec(any::<u8>(), len).prop_map(move |bytes| (tensor.clone(), bytes))
}

fn layer(name: String) -> impl Strategy<Value = (LayerGeometry, Codes)> {
    (0usize..5, 0usize..20, 1usize..4, 1usize..4).prop_flat_map(move |(rows, cols, groups, maps)| {
        let geometry = LayerGeometry { name: name.clone(), rows, cols, groups, maps };
        let floats = || prop::collection::vec(any::<f32>(), maps * rows * groups);
        (prop::collection::vec(any::<u8>(), rows * cols), floats(), floats())
            .prop_map(move |(codes, scale, zero)| (geometry.clone(), Codes { codes, scale, zero }))
    })
}

fn content() -> impl Strategy<Value = Content> {
    let dtypes =
        prop::sample::select(vec![DType::F32, DType::F16, DType::I64, DType::U8, DType::Bool, DType::F64]);
    let kinds = prop::collection::vec((dtypes, prop::collection::vec(0usize..4, 0..3)), 0..5);
    let residents = kinds.prop_flat_map(|kinds| {
        kinds
            .into_iter()
            .enumerate()
            .map(|(i, (d, s))| resident(format!("äx\"{i}"), d, s))
            .collect::<Vec<_>>()
    });
    let layers = (0usize..4).prop_flat_map(|n| (0..n).map(|i| layer(format!("l/{i}"))).collect::<Vec<_>>());
    (residents, layers, 1usize..=8).prop_map(|(resident, layers, planes)| Content {
        resident,
        layers,
        planes,
    })
}

/// Two layers, one odd in its sizes, and an i64 tensor.
fn sample() -> Content {
    let layer = |name: &str, rows: usize, cols: usize, groups: usize| {
        let geometry = LayerGeometry { name: name.into(), rows, cols, groups, maps: 1 };
        let codes = (0..rows * cols).map(|i| (i * 37 + 11) as u8).collect();
        let floats = |from: f32| (0..rows * groups).map(|i| from + i as f32).collect();
        (geometry, Codes { codes, scale: floats(0.5), zero: floats(127.5) })
    };
    let shape = ResidentTensor { name: "shape".into(), dtype: DType::I64, shape: vec![2] };
    let layers = vec![layer("fc1", 3, 10, 2), layer("a", 2, 8, 1)];
    Content { resident: vec![(shape, vec![7; 16])], layers, planes: 8 }
}

fn in_folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    (dir, path)
}

proptest! {
    #[test]
    fn what_is_written_is_read_by_us_and_by_the_safetensors_crate(content in content()) {
        let (_dir, path) = in_folder();
        let checksums = content.write(&path);
        let tensors = content.tensors();
        let file = fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&file).unwrap();
        prop_assert_eq!(theirs.len(), tensors.len());
        let ours = Store::open(&path).unwrap();
        prop_assert_eq!(ours.names().count(), tensors.len());
        for (name, bytes) in &tensors {
            let (dtype, shape, found) = ours.tensor(name).unwrap();
            let other = theirs.tensor(name).unwrap();
            prop_assert_eq!(&found[..], &bytes[..]);
            prop_assert_eq!(other.data(), &bytes[..]);
            prop_assert_eq!(other.shape(), &shape[..]);
            prop_assert_eq!(other.dtype().to_string(), header::safetensors_name(dtype).unwrap());
            let (start, len) = ours.offset_of(name).unwrap();
            prop_assert_eq!(&file[start as usize..][..len as usize], &bytes[..]);
            prop_assert_eq!(found.as_ptr() as usize % dtype.byte_len(1).unwrap(), 0);
        }
        let names: Vec<&str> = ours.names().chain([HEADER]).collect();
        ours.verify(&names, &checksums).unwrap();
        prop_assert_eq!(checksums.len(), names.len());
    }

    #[test]
    fn planes_are_last_and_in_turn(content in content()) {
        let layout = content.layout();
        let order: Vec<&str> = layout.tensors().iter().map(|t| t.name.as_str()).collect();
        let planes: Vec<String> = (0..content.planes)
            .flat_map(|p| content.layers.iter().map(move |(l, _)| format!("{}.plane{p}", l.name)))
            .collect();
        prop_assert!(order.ends_with(&planes.iter().map(String::as_str).collect::<Vec<_>>()));
        prop_assert_eq!(order.len(), planes.len() + 2 * content.layers.len() + content.resident.len());
        prop_assert_eq!(layout.tensors().first().map_or(0, |t| t.start % 64), 0);
    }

    #[test]
    fn a_cut_file_has_its_complete_planes(content in content(), fraction in 0.0f64..1.0) {
        let (_dir, path) = in_folder();
        content.write(&path);
        let layout = content.layout();
        let cut = (layout.file_len() as f64 * fraction) as u64;
        fs::File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        check_cut(&content, &path, cut);
    }

    #[test]
    fn random_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), json in ".*") {
        let (_dir, path) = in_folder();
        fs::write(&path, &bytes).unwrap();
        prop_assert!(Store::open(&path).is_err());
        let padded = format!("{json:<120}");
        fs::write(&path, [&(padded.len() as u64).to_le_bytes(), padded.as_bytes()].concat()).unwrap();
        prop_assert!(Store::open(&path).is_err());
    }
}

fn check_cut(content: &Content, path: &Path, cut: u64) {
    let layout = content.layout();
    let is_plane =
        |name: &str| content.layers.iter().any(|(l, _)| name.starts_with(&format!("{}.plane", l.name)));
    let resident_end = layout.tensors().iter().filter(|t| !is_plane(&t.name)).map(|t| t.end()).max();
    let header_len = layout.header.len() as u64;
    let opened = Store::open(path);
    if cut < resident_end.unwrap_or(header_len).max(header_len) {
        assert!(opened.is_err(), "cut at {cut}");
        return;
    }
    let store = opened.unwrap();
    for t in layout.tensors() {
        let found = store.tensor(&t.name);
        assert_eq!(found.is_ok(), t.end() <= cut, "{} cut at {cut}", t.name);
        if let Ok((_, _, bytes)) = found {
            assert_eq!(bytes[..], content.tensors()[&t.name][..]);
        }
    }
    if !content.layers.is_empty() {
        let there = |p: &usize| {
            content.layers.iter().all(|(l, _)| layout.tensor(&plane_name(&l.name, *p)).unwrap().end() <= cut)
        };
        assert_eq!(store.planes_available(), (0..content.planes).take_while(there).count(), "cut at {cut}");
        assert_eq!(store.planes_stored(), content.planes);
    }
}

#[test]
fn every_cut_is_an_error_or_a_narrower_store() {
    let (_dir, path) = in_folder();
    let content = sample();
    content.write(&path);
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        check_cut(&content, &path, cut as u64);
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(
        error.contains(&format!("file size: expected {}, found {}", whole.len(), whole.len() + 1)),
        "{error}"
    );
}

#[test]
fn every_flipped_bit_is_found_and_named() {
    let (_dir, path) = in_folder();
    let checksums = sample().write(&path);
    let whole = fs::read(&path).unwrap();
    let layout = sample().layout();
    for at in 0..whole.len() {
        let owner = layout.tensors().iter().find(|t| (t.start..t.end()).contains(&(at as u64)));
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            fs::write(&path, &damaged).unwrap();
            let Ok(store) = Store::open(&path) else {
                assert!(owner.is_none(), "a flip in the data at {at} hinders opening");
                continue;
            };
            let header = store.verify(&[HEADER], &checksums);
            let names: Vec<&str> = store.names().collect();
            match owner {
                None => assert!(header.is_err(), "byte {at} bit {bit} of the header"),
                Some(tensor) => {
                    header.unwrap();
                    match store.verify(&names, &checksums).unwrap_err() {
                        Error::Checksum { path: file, part, expected, found } => {
                            assert_eq!((file, part), (path.clone(), format!("tensor {:?}", tensor.name)));
                            assert_eq!(expected, checksums[&tensor.name]);
                            assert_ne!(expected, found);
                        }
                        other => panic!("{other}"),
                    }
                }
            }
        }
    }
}

#[test]
fn a_tensor_is_verified_once() {
    let (_dir, path) = in_folder();
    let checksums = sample().write(&path);
    let store = Store::open(&path).unwrap();
    store.verify(&["a.plane0"], &checksums).unwrap();
    let wrong: BTreeMap<String, String> = checksums.keys().map(|k| (k.clone(), "0".repeat(64))).collect();
    store.verify(&["a.plane0"], &wrong).unwrap();
    assert!(store.verify(&["a.plane0", "a.plane1"], &wrong).unwrap_err().to_string().contains("a.plane1"));
    assert!(store.verify(&["a.plane2"], &BTreeMap::new()).is_err());
    assert!(store.verify(&["b.plane2"], &checksums).is_err());
}

/// A file with this header and so many bytes of data.
fn open_header(json: &str, data: usize) -> Result<Store, Error> {
    let (_dir, path) = in_folder();
    let len = (8 + json.len()).next_multiple_of(64) - 8;
    let mut file = (len as u64).to_le_bytes().to_vec();
    file.extend(format!("{json:<len$}").as_bytes());
    file.resize(8 + len + data, 0);
    fs::write(&path, file).unwrap();
    Store::open(&path)
}

#[test]
fn headers_are_read_strictly() {
    const META: &str = r#""__metadata__":{"format":"mqc","version":"1"}"#;
    let with = |tensors: &str| format!("{{{META}{tensors}}}");
    let x = |from: u64, to: u64| format!(r#","x":{{"dtype":"U8","shape":[2],"data_offsets":[{from},{to}]}}"#);
    assert!(open_header(&with(""), 0).is_ok());
    assert!(open_header(&with(&x(0, 2)), 2).is_ok());
    let plane = |p: usize, from: u64, shape: &str| {
        format!(r#","x.plane{p}":{{"dtype":"U8","shape":{shape},"data_offsets":[{from},{}]}}"#, from + 2)
    };
    assert!(open_header(&with(&[plane(0, 0, "[1,2]"), plane(1, 2, "[1,2]")].concat()), 4).is_ok());
    let cases = [
        (with(&x(1, 3)), "data_offsets: expected to start where the tensor before ends, at 0"),
        (with(&x(0, 3)), "data_offsets: expected the Some(2) bytes"),
        (with(&x(2, 0)), "data_offsets"),
        (with(&x(0, u64::MAX)), "data_offsets"),
        (with(&[x(0, 2), x(2, 4)].concat()), "name: expected each name once"),
        (
            with(r#","x":{"dtype":"U8","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}"#),
            "data_offsets",
        ),
        (
            with(
                r#","x":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}"#,
            ),
            "data_off",
        ),
        (with(r#","x":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}"#), "JSON"),
        (with(r#","x":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"more":1}"#), "JSON"),
        (
            with(r#","x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}"#),
            "dtype: expected an element type of safetensors",
        ),
        (
            with(
                r#","x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"F32","shape":[],"data_offsets":[2,6]}"#,
            ),
            "aligned",
        ),
        (with(&format!(",{META}")), "JSON"),
        (with(&[plane(0, 0, "[1,2]"), plane(2, 2, "[1,2]")].concat()), "place: expected \"x.plane1\""),
        (with(&plane(1, 0, "[1,2]")), "plane 0 of every layer first"),
        (with(&[plane(0, 0, "[1,2]"), plane(1, 2, "[2,1]")].concat()), "as in plane 0"),
        (with(&plane(0, 0, "[2]")), "shape"),
        (with(&[plane(0, 0, "[1,2]"), x(2, 4)].concat()), "place"),
        (
            with(
                &[plane(0, 0, "[1,2]"), plane(0, 2, "[1,2]").replace("x.", "y."), plane(1, 4, "[1,2]")]
                    .concat(),
            ),
            "\"y.plane1\" after the last",
        ),
        ("{}".into(), "another safetensors file"),
        (r#"{"__metadata__":{"format":"pt","version":"1"}}"#.into(), "another safetensors file"),
        (r#"{"__metadata__":{"format":"mqc","version":"3"}}"#.into(), "update mqc"),
        (r#"{"__metadata__":{"format":"mqc","version":"0"}}"#.into(), "__metadata__.version"),
        (format!("{{{META}}} {{}}"), "JSON"),
        ("[]".into(), "JSON"),
        ("[".repeat(5000), "JSON"),
    ];
    for (json, expected) in cases {
        let error = open_header(&json, 8).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(FILE), "{json}: {error}");
    }
    let (_dir, path) = in_folder();
    for claim in [u64::MAX, 1 << 40, 121, 64] {
        fs::write(&path, [&claim.to_le_bytes()[..], &[b' '; 120]].concat()).unwrap();
        assert!(Store::open(&path).unwrap_err().to_string().contains("header length"), "{claim}");
    }
}

#[test]
fn layouts_refuse_what_cannot_be_stored() {
    let x = |name: &str, dtype, shape: &[usize]| ResidentTensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
    };
    let layer = |name: &str, groups| LayerGeometry { name: name.into(), rows: 1, cols: 1, groups, maps: 1 };
    let cases = [
        (Layout::new(vec![x("w", DType::U4, &[2])], vec![], 8), "no element type u4"),
        (Layout::new(vec![x("w", DType::String, &[2])], vec![], 8), "no element type string"),
        (Layout::new(vec![x("w", DType::U8, &[usize::MAX, 2])], vec![], 8), "too large"),
        (
            Layout::new(vec![x("w", DType::U8, &[usize::MAX]), x("v", DType::U8, &[9])], vec![], 8),
            "too large",
        ),
        (Layout::new(vec![x("a.scale", DType::F32, &[])], vec![layer("a", 1)], 8), "two tensors"),
        (Layout::new(vec![x("a.plane7", DType::F32, &[])], vec![], 8), "only bit planes"),
        (Layout::new(vec![x("__metadata__", DType::F32, &[])], vec![], 8), "reserves"),
        (Layout::new(vec![], vec![layer("a", 1), layer("a", 1)], 8), "two tensors"),
        (Layout::new(vec![], vec![layer("a", 0)], 8), "at least one group"),
        (Layout::new(vec![], vec![LayerGeometry { maps: 0, ..layer("a", 1) }], 8), "needs a map, found 0"),
        (Layout::new(vec![], vec![layer("a", 1)], 0), "1 to 8 bit planes, found 0"),
        (Layout::new(vec![], vec![layer("a", 1)], 9), "1 to 8 bit planes, found 9"),
    ];
    for (layout, expected) in cases {
        let error = layout.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(Layout::can_hold("a.plane8", DType::F32) && !Layout::can_hold("a.plane7", DType::F32));
    assert!(!Layout::can_hold("a", DType::C64) && !Layout::can_hold(HEADER, DType::F32));
}

#[test]
fn an_incomplete_or_wrong_write_is_an_error() {
    let (_dir, path) = in_folder();
    let writer = || Writer::create(&path, sample().layout()).unwrap();
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();

    assert!(message(writer().write_resident("shape", &[0; 15])).contains("expected 16 bytes, found 15"));
    assert!(message(writer().write_resident("shape", &[0; 17])).contains("expected 16 bytes, found 17"));
    assert!(message(writer().write_resident("other", &[0; 16])).contains("no tensor \"other\""));
    let twice = writer();
    twice.write_resident("shape", &[0; 16]).unwrap();
    assert!(message(twice.write_resident("shape", &[0; 16])).contains("twice"));
    assert!(
        message(twice.write_layer("other", &[[0; 2]; 8], &[], &[])).contains("no tensor \"other.scale\"")
    );

    let wrong = |planes: usize, bytes: usize, scales: usize, zeros: usize| {
        message(writer().write_layer(
            "fc1",
            &vec![vec![0; bytes]; planes],
            &vec![1.0; scales],
            &vec![1.0; zeros],
        ))
    };
    assert!(wrong(7, 6, 6, 6).contains("expected 8 bit planes, found 7"));
    assert!(wrong(8, 5, 6, 6).contains("\"fc1.plane0\": expected 6 bytes, found 5"));
    assert!(wrong(8, 6, 5, 6).contains("\"fc1.scale\": expected 24 bytes, found 20"));
    assert!(wrong(8, 6, 6, 7).contains("\"fc1.zero\": expected 24 bytes, found 28"));

    let writer = writer();
    writer.write_layer("fc1", &[[0; 6]; 8], &[1.0; 6], &[1.0; 6]).unwrap();
    let missing = writer.finish().map(drop);
    assert!(message(missing).contains("\"shape\": was not written completely"));
}

#[test]
fn a_full_disk_is_an_error() {
    let error = Writer::create(Path::new("/dev/full"), sample().layout()).unwrap_err();
    assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
}

/// The block of hexadecimal bytes in the documentation is what is written.
#[test]
fn the_worked_example_of_the_documentation_is_true() {
    let text = include_str!("../../../docs/format.md");
    let block = text.split("```hex\n").nth(1).and_then(|t| t.split("```").next()).unwrap();
    let documented: Vec<u8> = block
        .lines()
        .flat_map(|line| line[10..58].split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let geometry = LayerGeometry { name: "W".into(), rows: 2, cols: 10, groups: 1, maps: 1 };
    let first = [201, 0, 255, 128, 64, 32, 16, 8, 4, 3];
    let codes = first.into_iter().chain(first.map(|q| 255 - q)).collect();
    let codes = Codes { codes, scale: vec![0.5, 0.25], zero: vec![100.0, 127.5] };
    let bias = ResidentTensor { name: "bias".into(), dtype: DType::F32, shape: vec![2] };
    let bias_bytes = [1f32.to_le_bytes(), (-2f32).to_le_bytes()].concat();
    let content = Content { resident: vec![(bias, bias_bytes)], layers: vec![(geometry, codes)], planes: 2 };
    let (_dir, path) = in_folder();
    content.write(&path);
    assert_eq!(documented, fs::read(&path).unwrap());
}
