use super::*;
use crate::{
    file::{read, tensor_bytes},
    proto::{DataLocation, DataType, GraphProto, OperatorSetIdProto, TensorProto},
};
use std::fs;

fn model(initializer: Vec<TensorProto>) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        graph: Some(GraphProto { initializer, ..Default::default() }),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(21) }],
        ..Default::default()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_model_replaces_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, "old").unwrap();
    write_atomic(&path, &model(vec![])).unwrap();
    assert_eq!(read(&path).unwrap().model, model(vec![]));
    assert_eq!(names(folder.path()), ["m.onnx"]);
}

#[cfg(unix)]
#[test]
fn a_written_file_has_the_mode_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    write_atomic(&path, &model(vec![])).unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, []).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(path), mode(plain));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/m.onnx");
    assert!(matches!(write_atomic(&missing, &model(vec![])), Err(Error::Write { .. })));
    // A folder in place of the file: the rename fails.
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("kept"), []).unwrap();
    assert!(matches!(write_atomic(&taken, &model(vec![])), Err(Error::Write { .. })));
    assert_eq!(names(folder.path()), ["taken"]);
}

#[test]
fn messages_over_the_limit_are_refused() {
    let path = Path::new("m.onnx");
    check_size(path, (1 << 31) - 1).unwrap();
    let error = check_size(path, 1 << 31).unwrap_err();
    assert!(error.to_string().contains("external data"), "{error}");
    // Eight tensors that share the same 300 MB of untouched zeros: nothing is encoded.
    let raw = bytes::Bytes::from(vec![0; 300 << 20]);
    let big = TensorProto { raw_data: Some(raw), ..Default::default() };
    let folder = tempfile::tempdir().unwrap();
    let error = write_atomic(&folder.path().join("m.onnx"), &model(vec![big; 8])).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn external_data_is_aligned_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let sizes = [10, 64, 0, (1 << 20) + 1, 1 << 20, 3];
    let content = |index: usize| vec![index as u8 + 1; sizes[index]];
    let mut writer = ExternalWriter::new(&path).unwrap();
    let mut tensors = Vec::new();
    for (index, &size) in sizes.iter().enumerate() {
        tensors.push(TensorProto {
            name: Some(format!("w{index}")),
            dims: vec![size as i64],
            data_type: Some(DataType::Uint8 as i32),
            data_location: Some(DataLocation::External as i32),
            external_data: writer.append(&content(index)).unwrap(),
            ..Default::default()
        });
    }
    assert!(!folder.path().join("m.onnx.data").exists());
    writer.finish().unwrap();
    write_atomic(&path, &model(tensors)).unwrap();
    assert_eq!(names(folder.path()), ["m.onnx", "m.onnx.data"]);

    let loaded = read(&path).unwrap();
    let tensors = &loaded.model.graph.as_ref().unwrap().initializer;
    for (index, tensor) in tensors.iter().enumerate() {
        assert_eq!(tensor_bytes(tensor, &loaded.resolver).unwrap(), content(index));
    }
    let offsets: Vec<u64> =
        tensors.iter().map(|tensor| tensor.external_data[1].value().parse().unwrap()).collect();
    assert_eq!(offsets, [0, 64, 128, 4096, 1052736, 2101312]);
}

#[test]
fn unfinished_external_data_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(folder.path().join("m.onnx.data"), "old").unwrap();
    let mut writer = ExternalWriter::new(&path).unwrap();
    writer.append(&[1; 100_000]).unwrap();
    assert_eq!(names(folder.path()).len(), 2);
    drop(writer);
    assert_eq!(names(folder.path()), ["m.onnx.data"]);
    assert_eq!(fs::read(folder.path().join("m.onnx.data")).unwrap(), b"old");
}

#[test]
fn no_tensors_make_no_file() {
    let folder = tempfile::tempdir().unwrap();
    ExternalWriter::new(&folder.path().join("m.onnx")).unwrap().finish().unwrap();
    assert_eq!(names(folder.path()), [""; 0]);
    assert!(matches!(ExternalWriter::new(Path::new("..")), Err(Error::FileName { .. })));
    assert!(matches!(ExternalWriter::new(&folder.path().join("no/m.onnx")), Err(Error::Write { .. })));
}
