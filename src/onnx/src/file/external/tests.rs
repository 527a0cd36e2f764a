use super::*;
use crate::{
    file::tensor_bytes,
    proto::{DataLocation, DataType, StringStringEntryProto},
};
use std::fs;

/// A u8 tensor of `dims` with the given `external_data`.
fn tensor(dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    TensorProto {
        name: Some("w".to_owned()),
        dims: dims.to_vec(),
        data_type: Some(DataType::Uint8 as i32),
        data_location: Some(DataLocation::External as i32),
        external_data: entries.iter().map(entry).collect(),
        ..Default::default()
    }
}

/// A folder `model` with `w.data` (the bytes 0..100) and an empty file, and beside it a file `secret`.
fn folder() -> (tempfile::TempDir, Resolver) {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    fs::create_dir_all(model.join("sub")).unwrap();
    fs::write(root.path().join("secret"), [1; 100]).unwrap();
    fs::write(model.join("w.data"), (0..100).collect::<Vec<u8>>()).unwrap();
    fs::write(model.join("sub/v.data"), [5; 10]).unwrap();
    fs::write(model.join("empty.data"), []).unwrap();
    let resolver = Resolver::new(&model).unwrap();
    (root, resolver)
}

#[test]
fn tensors_share_one_mapping() {
    let (_root, resolver) = folder();
    let read = |entries: &[_]| tensor_bytes(&tensor(&[2, 5], entries), &resolver).unwrap();
    let first = read(&[("location", "w.data"), ("offset", "20"), ("length", "10")]);
    assert_eq!(&*first, (20..30).collect::<Vec<u8>>());
    // Without offset and length, with an entry that other writers add, and another spelling of the path.
    let second = read(&[("location", "././w.data"), ("checksum", "ab")]);
    assert_eq!(&*second, (0..10).collect::<Vec<u8>>());
    assert_eq!(first.as_ptr() as usize - second.as_ptr() as usize, 20);
    assert_eq!(&*read(&[("location", "sub/v.data")]), [5; 10]);
    assert_eq!(resolver.files.lock().unwrap().len(), 2);
}

#[test]
fn tensors_without_elements_need_no_bytes() {
    let (_root, resolver) = folder();
    assert_eq!(tensor_bytes(&tensor(&[0, 3], &[("location", "empty.data")]), &resolver).unwrap().len(), 0);
    let end = tensor(&[0], &[("location", "w.data"), ("offset", "100"), ("length", "0")]);
    assert_eq!(tensor_bytes(&end, &resolver).unwrap().len(), 0);
}

#[test]
fn files_outside_the_folder_are_refused() {
    let (root, resolver) = folder();
    let absolute = root.path().join("model/w.data");
    for location in
        ["../secret", "sub/../../secret", "sub/../w.data", "/etc/passwd", absolute.to_str().unwrap()]
    {
        let error = tensor_bytes(&tensor(&[4], &[("location", location)]), &resolver).unwrap_err();
        assert!(matches!(error, Error::OutsideFolder { .. }), "{location}: {error}");
        assert!(error.to_string().contains(location));
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_only_within_the_folder() {
    use std::os::unix::fs::symlink;
    let (root, resolver) = folder();
    let model = root.path().join("model");
    symlink("../secret", model.join("out.data")).unwrap();
    symlink("..", model.join("up")).unwrap();
    symlink("w.data", model.join("in.data")).unwrap();
    for location in ["out.data", "up/secret"] {
        let error = tensor_bytes(&tensor(&[4], &[("location", location)]), &resolver).unwrap_err();
        assert!(matches!(error, Error::OutsideFolder { .. }), "{error}");
    }
    assert_eq!(&*tensor_bytes(&tensor(&[2], &[("location", "in.data")]), &resolver).unwrap(), [0, 1]);
    // The model's folder may itself be reached through a link.
    symlink(&model, root.path().join("link")).unwrap();
    let linked = Resolver::new(&root.path().join("link")).unwrap();
    assert_eq!(&*tensor_bytes(&tensor(&[2], &[("location", "w.data")]), &linked).unwrap(), [0, 1]);
}

#[test]
fn files_that_are_missing_or_short_are_named() {
    let (root, resolver) = folder();
    let error = |location, offset| {
        let entries = [("location", location), ("offset", offset)];
        tensor_bytes(&tensor(&[50], &entries), &resolver).unwrap_err()
    };
    let missing = error("nowhere.data", "0");
    let Error::External { source, tensor } = missing else { panic!("{missing}") };
    assert_eq!(tensor, "w");
    assert!(matches!(*source, Error::Read { path, .. } if path.ends_with("nowhere.data")));
    let Error::External { source, .. } = error("sub", "0") else { panic!() };
    assert!(matches!(*source, Error::NotAFile { .. }));

    let short = error("w.data", "51");
    assert!(matches!(short, Error::ExternalTooShort { needed: 101, found: 100, .. }), "{short}");
    let overflow = error("w.data", "18446744073709551615");
    assert!(matches!(overflow, Error::ExternalTooShort { .. }), "{overflow}");

    assert!(matches!(Resolver::new(&root.path().join("none")), Err(Error::Read { .. })));
    let in_memory =
        tensor_bytes(&super::tests::tensor(&[1], &[("location", "w.data")]), &Resolver::in_memory());
    assert!(matches!(in_memory, Err(Error::NoFolder { .. })));
}

#[test]
fn entries_are_parsed_strictly() {
    let (_root, resolver) = folder();
    let error = |entries: &[_]| tensor_bytes(&tensor(&[10], entries), &resolver).unwrap_err();
    for number in ["", "-1", "+1", " 1", "0x10", "1.0", "18446744073709551616"] {
        for key in ["offset", "length"] {
            let error = error(&[("location", "w.data"), (key, number)]);
            assert!(
                matches!(error, Error::ExternalEntry { key: found, .. } if found == key),
                "{number}: {error}"
            );
        }
    }
    let key_of = |entries: &[_]| match error(entries) {
        Error::ExternalEntry { key, .. } => key,
        error => panic!("{error}"),
    };
    assert_eq!(key_of(&[("location", "w.data"), ("length", "9")]), "length");
    assert_eq!(key_of(&[("location", "w.data"), ("location", "sub/v.data")]), "location");
    assert_eq!(key_of(&[("offset", "0")]), "location");
    assert_eq!(key_of(&[("location", "")]), "location");
}
