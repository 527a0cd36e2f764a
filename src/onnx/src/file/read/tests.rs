use super::*;
use crate::proto::*;
use std::error::Error as _;

fn model() -> ModelProto {
    let weight = TensorProto { raw_data: Some(Bytes::from(vec![3; 4000])), ..Default::default() };
    ModelProto {
        ir_version: Some(10),
        producer_name: Some("test".to_owned()),
        graph: Some(GraphProto { initializer: vec![weight], ..Default::default() }),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(21) }],
        ..Default::default()
    }
}

fn decode_error(bytes: impl Into<Bytes>) -> Error {
    decode(bytes.into(), Path::new("m.onnx")).unwrap_err()
}

#[test]
fn a_mapped_model_is_read_without_copying_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, model().encode_to_vec()).unwrap();
    assert_eq!(read(&path).unwrap().model, model());

    let bytes = map(&path).unwrap();
    let graph = decode(bytes.clone(), &path).unwrap().graph.unwrap();
    let raw = graph.initializer[0].raw_data.as_ref().unwrap();
    assert!(bytes.as_ptr_range().contains(&raw.as_ptr()));
}

#[test]
fn what_is_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.onnx");
    let error = read(&missing).unwrap_err();
    assert!(error.to_string().contains("missing.onnx"), "{error}");
    assert!(matches!(error, Error::Read { source, .. } if source.kind() == io::ErrorKind::NotFound));
    assert!(matches!(read(folder.path()), Err(Error::NotAFile { found: "a folder", .. })));
    #[cfg(unix)]
    assert!(matches!(read(Path::new("/dev/zero")), Err(Error::NotAFile { found: "a pipe or a device", .. })));

    let empty = folder.path().join("empty.onnx");
    fs::write(&empty, []).unwrap();
    assert!(matches!(read(&empty), Err(Error::Empty { .. })));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = Bytes::from(model().encode_to_vec());
    for length in 0..bytes.len() {
        decode(bytes.slice(..length), Path::new("m.onnx")).unwrap_err();
    }
    let error = decode_error(bytes.slice(..2000));
    let graph_end = bytes.len() as u64 - 4;
    assert!(
        matches!(error, Error::Truncated { field: "graph", needed, found: 2000, .. } if needed == graph_end),
        "{error}"
    );
}

#[test]
fn a_claim_of_exabytes_allocates_nothing() {
    let error = decode_error([&[0x08, 10, 0x12, 0, 0x3a][..], &[0xff; 8], &[0x7f]].concat());
    assert!(matches!(error, Error::Truncated { field: "graph", found: 14, .. }), "{error}");
    // The same inside the graph, whose own length is right: raw_data of an initializer.
    let error = decode_error(vec![0x08, 10, 0x3a, 8, 0x2a, 6, 0x4a, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert!(matches!(error, Error::Decode { .. }), "{error}");
    let source = error.source().unwrap().to_string();
    assert!(source.contains("TensorProto.raw_data") && source.contains("ModelProto.graph"), "{source}");
}

#[test]
fn other_files_are_told_apart() {
    let found = |bytes: &[u8]| match decode_error(bytes.to_vec()) {
        Error::NotOnnx { found, .. } => found,
        error => panic!("{error}"),
    };
    assert_eq!(found(b"hello, this is a text file\n"), "it is text");
    assert!(found(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n").contains("Git LFS"));
    assert!(found(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]).contains("gzip"));
    assert!(found(b"PK\x03\x04\x14\0\0\0").contains("zip"));
    assert!(found(b"\x1c\0\0\0TFL3\0\0").contains("TensorFlow Lite"));
    assert!(found(b"\x40\0\0\0\0\0\0\0{\"a\":{}}").contains("safetensors"));
    assert!(found(&[0xfe; 500]).contains("first fields"));
}

/// Bytes from a fixed linear congruential generator.
#[test]
fn random_files_are_errors() {
    let mut state = 1u64;
    for length in 1..2000 {
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        let bytes: Vec<u8> = std::iter::repeat_with(next).take(length).collect();
        decode_error(bytes);
    }
}

#[test]
fn messages_without_the_parts_of_a_model_are_none() {
    let reason = |change: fn(&mut ModelProto)| {
        let mut model = model();
        change(&mut model);
        decode_error(model.encode_to_vec()).to_string()
    };
    assert!(reason(|model| model.graph = None).contains("no graph"));
    assert!(reason(|model| model.ir_version = None).contains("no ir_version"));
    assert!(reason(|model| model.opset_import.clear()).contains("no opset_import"));

    let old = ModelProto { ir_version: Some(2), opset_import: vec![], ..model() };
    decode(old.encode_to_vec().into(), Path::new("m.onnx")).unwrap();
}

#[test]
fn deep_nesting_is_an_error() {
    let nested = |depth| {
        let mut graph = GraphProto::default();
        for _ in 0..depth {
            let attribute = AttributeProto { g: Some(Box::new(graph)), ..Default::default() };
            let node = NodeProto { attribute: vec![attribute], ..Default::default() };
            graph = GraphProto { node: vec![node], ..Default::default() };
        }
        ModelProto { graph: Some(graph), ..model() }
    };
    assert_eq!(decode(nested(20).encode_to_vec().into(), Path::new("m")).unwrap(), nested(20));
    let error = decode_error(nested(200).encode_to_vec());
    assert!(error.source().unwrap().to_string().contains("recursion limit"), "{error}");
}
