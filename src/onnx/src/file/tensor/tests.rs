use super::*;
use crate::proto::{Segment, StringStringEntryProto};
use prost::Message;

/// A tensor of every type but STRING in its typed field, as `onnx.helper.make_tensor` (onnx 1.23.2) writes
/// it, and its `raw_data` as `onnx.numpy_helper` writes the array that it reads from it. Both in hexadecimal.
const TYPED_AND_RAW: [(&str, &str); 27] = [
    ("08031001220c0000c03f000010c0e6b1617f420174", "0000c03f000010c0e6b1617f"), // FLOAT
    (
        "0803100b4201745218000000000000f83f9c7500883ce437fe9a9999999999b93f",
        "000000000000f83f9c7500883ce437fe9a9999999999b93f",
    ), // DOUBLE
    (
        "0803100e22180000803f00000040000060c00000803e0000000000000000420174",
        "0000803f00000040000060c00000803e0000000000000000",
    ), // COMPLEX64
    (
        "0803100f4201745230000000000000f03f00000000000000400000000000000cc05a62d7d718e7746900000000000000000000000000000000",
        "000000000000f03f00000000000000400000000000000cc05a62d7d718e7746900000000000000000000000000000000",
    ), // COMPLEX128
    ("080310032a1580ffffffffffffffff017fffffffffffffffffff01420174", "807fff"), // INT8
    ("080310022a0400ff0107420174", "00ff07"),                                   // UINT8
    ("080310052a178080feffffffffffff01ffff01feffffffffffffffff01420174", "0080ff7ffeff"), // INT16
    ("080310042a0600ffff038202420174", "0000ffff0201"),                         // UINT16
    ("080310062a1980808080f8ffffffff01ffffffff07fdffffffffffffffff01420174", "00000080ffffff7ffdffffff"), // INT32
    ("0803100c4201745a0900ffffffff0f838404", "00000000ffffffff03020100"), // UINT32
    (
        "080310073a1d80808080808080808001ffffffffffffffff7ffcffffffffffffffff01420174",
        "0000000000000080ffffffffffffff7ffcffffffffffffff",
    ), // INT64
    ("0803100d4201745a0c00ffffffffffffffffff0105", "0000000000000000ffffffffffffffff0500000000000000"), // UINT64
    ("080310092a03010001420174", "010001"),             // BOOL
    ("0803100a2a06807cfff70301420174", "003efffb0100"), // FLOAT16
    ("080310102a06c07fe2fe0301420174", "c03f62ff0100"), // BFLOAT16
    ("080310112a043cfe0105420174", "3cfe05"),           // FLOAT8E4M3FN
    ("080310122a0444ff010a420174", "44ff0a"),           // FLOAT8E4M3FNUZ
    ("080310132a043efb0121420174", "3efb21"),           // FLOAT8E5M2
    ("080310142a0442ff0125420174", "42ff25"),           // FLOAT8E5M2FNUZ
    ("080310182a047f80017d420174", "7f807d"),           // FLOAT8E8M0
    ("080510152a04f1013809420174", "f13809"),           // UINT4
    ("080510162a03783f0b420174", "783f0b"),             // INT4
    ("080510172a05f101950102420174", "f19502"),         // FLOAT4E2M1
    ("080510192a026c03420174", "6c03"),                 // UINT2
    ("0805101a2a023602420174", "3602"),                 // INT2
    ("0805101b2a05013f14280c420174", "c14fa10c"),       // FLOAT6E2M3
    ("0805101c2a05013f122c0e420174", "c12fb10e"),       // FLOAT6E3M2
];

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn typed(index: usize) -> TensorProto {
    TensorProto::decode(&*hex(TYPED_AND_RAW[index].0)).unwrap()
}

fn read(tensor: &TensorProto) -> Result<Bytes, Error> {
    tensor_bytes(tensor, &Resolver::in_memory())
}

fn tensor(data_type: DataType, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: Some("w".to_owned()),
        data_type: Some(data_type as i32),
        dims: dims.to_vec(),
        ..Default::default()
    }
}

#[test]
fn typed_fields_give_the_bytes_that_onnx_gives() {
    for (index, (_, raw)) in TYPED_AND_RAW.iter().enumerate() {
        let tensor = typed(index);
        assert_eq!(read(&tensor).unwrap(), hex(raw), "{}", element_type(&tensor).unwrap());
    }
    let types: std::collections::BTreeSet<_> =
        (0..TYPED_AND_RAW.len()).map(|index| typed(index).data_type).collect();
    assert_eq!(types.len(), 27);
}

#[test]
fn raw_data_is_shared_and_has_the_same_bytes() {
    for (index, (_, raw)) in TYPED_AND_RAW.iter().enumerate() {
        let typed = typed(index);
        let raw = Bytes::from(hex(raw));
        let tensor =
            TensorProto { raw_data: Some(raw.clone()), ..tensor(element_type(&typed).unwrap(), &typed.dims) };
        let found = read(&tensor).unwrap();
        assert_eq!((found.as_ptr(), found.len()), (raw.as_ptr(), raw.len()));
    }
}

#[test]
fn every_field_must_have_the_right_length() {
    for index in 0..TYPED_AND_RAW.len() {
        // 9 elements need another number of entries in every type, packed or not.
        let error = read(&TensorProto { dims: vec![9], ..typed(index) }).unwrap_err();
        assert!(matches!(error, Error::DataLength { unit: "entries", .. }), "{error}");
    }
    let short = TensorProto { raw_data: Some(Bytes::from_static(&[0; 11])), ..tensor(DataType::Float, &[3]) };
    let error = read(&short).unwrap_err();
    let message = "tensor 'w' of FLOAT [3]: raw_data has 11 bytes, expected 12";
    assert_eq!(error.to_string(), message);
}

#[test]
fn data_is_in_the_one_right_field() {
    let wrong = TensorProto { int64_data: vec![1], ..tensor(DataType::Float, &[1]) };
    let both = TensorProto {
        raw_data: Some(Bytes::from_static(&[0; 4])),
        float_data: vec![0.0],
        ..tensor(DataType::Float, &[1])
    };
    let none = tensor(DataType::Float, &[1]);
    for (tensor, found) in [(wrong, "int64_data"), (both, "float_data, raw_data"), (none, "no field")] {
        let error = read(&tensor).unwrap_err();
        assert!(matches!(&error, Error::DataField { found: text, .. } if text == found), "{error}");
    }
    assert_eq!(read(&tensor(DataType::Float, &[2, 0])).unwrap().len(), 0);
}

#[test]
fn entries_must_be_values_of_the_type() {
    let cases = [
        (DataType::Int8, 128),
        (DataType::Int8, -129),
        (DataType::Uint8, -1),
        (DataType::Uint8, 256),
        (DataType::Int16, 0x8000),
        (DataType::Uint16, 0x10000),
        (DataType::Float16, -1),
        (DataType::Bool, 2),
        (DataType::Float8e5m2, 256),
        (DataType::Float6e2m3, 64),
        (DataType::Uint4, 256),
        (DataType::Int2, -129),
    ];
    for (data_type, value) in cases {
        let error = read(&TensorProto { int32_data: vec![value], ..tensor(data_type, &[1]) }).unwrap_err();
        assert!(
            matches!(error, Error::Value { index: 0, found, .. } if found == i128::from(value)),
            "{error}"
        );
    }
    let wide = TensorProto { uint64_data: vec![0, 1 << 32], ..tensor(DataType::Uint32, &[2]) };
    assert!(matches!(read(&wide), Err(Error::Value { index: 1, found: 0x1_0000_0000, .. })));
}

#[test]
fn dims_are_checked_before_anything_is_allocated() {
    assert_eq!(element_count(&tensor(DataType::Float, &[])).unwrap(), 1);
    assert_eq!(element_count(&tensor(DataType::Float, &[i64::MAX, i64::MAX, 0])).unwrap(), 0);
    for dims in [&[-1][..], &[0, -1], &[i64::MAX, 3], &[1 << 32, 1 << 32]] {
        assert!(matches!(read(&tensor(DataType::Float, dims)), Err(Error::Dims { .. })), "{dims:?}");
    }
    // The count fits, its bytes do not.
    assert!(matches!(read(&tensor(DataType::Float, &[i64::MAX])), Err(Error::Dims { .. })));
    let huge = TensorProto { float_data: vec![0.0], ..tensor(DataType::Float, &[1 << 40]) };
    assert!(matches!(read(&huge), Err(Error::DataLength { .. })));
}

#[test]
fn unknown_types_places_and_segments_are_errors() {
    for found in [None, Some(0), Some(29), Some(-1)] {
        let error = read(&TensorProto { data_type: found, ..tensor(DataType::Float, &[0]) }).unwrap_err();
        assert!(
            matches!(error, Error::DataType { found: code, .. } if code == found.unwrap_or(0)),
            "{error}"
        );
    }
    let place = TensorProto { data_location: Some(2), ..tensor(DataType::Float, &[0]) };
    assert!(matches!(read(&place), Err(Error::DataLocation { found: 2, .. })));
    let part = TensorProto { segment: Some(Segment::default()), ..tensor(DataType::Float, &[0]) };
    assert!(matches!(read(&part), Err(Error::Segment { .. })));
}

#[test]
fn strings_are_read_apart() {
    let strings = |data: &[&'static [u8]]| TensorProto {
        string_data: data.iter().map(|bytes| Bytes::from_static(bytes)).collect(),
        ..tensor(DataType::String, &[2])
    };
    let text = strings(&["grüße".as_bytes(), b""]);
    assert_eq!(tensor_strings(&text).unwrap(), ["grüße", ""]);
    assert!(matches!(read(&text), Err(Error::Kind { .. })));
    assert!(matches!(tensor_strings(&tensor(DataType::Float, &[0])), Err(Error::Kind { .. })));
    assert!(matches!(tensor_strings(&strings(&[b"", b"\xff"])), Err(Error::Utf8 { index: 1, .. })));
    assert!(matches!(
        tensor_strings(&strings(&[b"a"])),
        Err(Error::DataLength { found: 1, expected: 2, .. })
    ));

    let raw = TensorProto { raw_data: Some(Bytes::from_static(b"ab")), ..tensor(DataType::String, &[2]) };
    assert!(matches!(tensor_strings(&raw), Err(Error::DataField { found, .. }) if found == "raw_data"));
    let external = TensorProto {
        data_location: Some(DataLocation::External as i32),
        external_data: vec![StringStringEntryProto::default()],
        ..tensor(DataType::String, &[0])
    };
    assert!(
        matches!(tensor_strings(&external), Err(Error::DataField { found, .. }) if found == "external_data")
    );
}
