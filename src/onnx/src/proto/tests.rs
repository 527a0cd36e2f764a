//! `every_field.onnx` was made by reflection over the messages of the onnx 1.23.2 Python package: each of the
//! 134 fields occurs at least once; text is the name of its field, bytes the same and 0xff, numbers the
//! number of their field.

use super::*;
use bytes::Bytes;
use prost::Message;

static EVERY_FIELD: &[u8] = include_bytes!("every_field.onnx");

#[test]
fn every_field_survives() {
    let model = ModelProto::decode(EVERY_FIELD).unwrap();
    assert_eq!(model.encode_to_vec(), EVERY_FIELD);
}

/// Fields of the same type in one message are not exchanged.
#[test]
fn every_field_has_its_own_name() {
    let model = ModelProto::decode(EVERY_FIELD).unwrap();
    let debug = format!("{model:?}");
    let singular: Vec<_> = debug.split(": Some(\"").collect();
    for pair in singular.windows(2) {
        let field = pair[0].rsplit([' ', '{']).next().unwrap();
        assert!(
            pair[1].starts_with(&format!("{field}\")")),
            "{field}: {}",
            &pair[1][..pair[1].len().min(40)]
        );
    }
    assert!(singular.len() > 60);

    assert_eq!((model.ir_version, model.model_version), (Some(1), Some(5)));
    let graph = model.graph.as_ref().unwrap();
    let node = &graph.node[0];
    assert_eq!((&*node.input[0], &*node.output[0]), ("input", "output"));
    let attribute = &node.attribute[0];
    assert_eq!((attribute.f, attribute.i, attribute.r#type()), (Some(2.0), Some(3), AttributeType::Float));
    assert_eq!(attribute.s.as_deref(), Some(b"s\xff".as_slice()));
    assert_eq!((&*attribute.floats, &*attribute.ints), ([7.0, 7.0].as_slice(), [8, 8].as_slice()));
    let tensor = attribute.t.as_ref().unwrap();
    assert_eq!(tensor.segment, Some(Segment { begin: Some(1), end: Some(2) }));
    assert_eq!((&*tensor.dims, tensor.data_type()), ([1, 1].as_slice(), 2));
    assert_eq!((&*tensor.float_data, &*tensor.double_data), ([4.0, 4.0].as_slice(), [10.0, 10.0].as_slice()));
    assert_eq!((&*tensor.int32_data, &*tensor.int64_data), ([5, 5].as_slice(), [7, 7].as_slice()));
    assert_eq!((&*tensor.uint64_data, tensor.data_location()), ([11, 11].as_slice(), DataLocation::External));
    let function = &model.functions[0];
    assert_eq!(
        (&*function.input[0], &*function.output[0], &*function.attribute[0]),
        ("input", "output", "attribute")
    );
}

#[test]
fn kinds_of_types_are_told_apart() {
    let attribute = &ModelProto::decode(EVERY_FIELD).unwrap().graph.unwrap().node[0].attribute[0];
    let kinds: Vec<_> = attribute.type_protos.iter().map(|kind| kind.value.as_ref().unwrap()).collect();
    assert!(matches!(
        kinds.as_slice(),
        [
            TypeValue::TensorType(_),
            TypeValue::SequenceType(_),
            TypeValue::MapType(_),
            TypeValue::OptionalType(_),
            TypeValue::SparseTensorType(_),
            TypeValue::OpaqueType(_)
        ]
    ));
}

#[test]
fn a_default_is_not_an_absence() {
    let zero = AttributeProto {
        name: Some(String::new()),
        f: Some(0.0),
        i: Some(0),
        s: Some(Bytes::new()),
        r#type: Some(0),
        ..Default::default()
    };
    let bytes = zero.encode_to_vec();
    assert_eq!(bytes, [0x0a, 0, 0x15, 0, 0, 0, 0, 0x18, 0, 0x22, 0, 0xa0, 0x01, 0]);
    assert_eq!(AttributeProto::decode(&*bytes).unwrap(), zero);
    assert!(AttributeProto::default().encode_to_vec().is_empty());
}

#[test]
fn both_encodings_of_repeated_numbers_are_read() {
    let packed = AttributeProto::decode([0x42, 2, 3, 4].as_slice()).unwrap();
    let unpacked = AttributeProto::decode([0x40, 3, 0x40, 4].as_slice()).unwrap();
    assert_eq!(packed.ints, [3, 4]);
    assert_eq!(packed, unpacked);
}

#[test]
fn bytes_share_the_memory_that_they_are_decoded_from() {
    let tensor = TensorProto { raw_data: Some(Bytes::from_static(&[7; 32])), ..Default::default() };
    let attribute = AttributeProto { t: Some(Box::new(tensor)), ..Default::default() };
    let bytes = Bytes::from(attribute.encode_to_vec());
    let raw = AttributeProto::decode(bytes.clone()).unwrap().t.unwrap().raw_data.unwrap();
    assert_eq!(&*raw, [7; 32]);
    assert!(bytes.as_ptr_range().contains(&raw.as_ptr()));
}

#[test]
fn text_that_is_not_utf8_is_an_error_that_names_its_field() {
    let error = NodeProto::decode([0x22, 2, 0xc3, 0x28].as_slice()).unwrap_err();
    assert!(error.to_string().contains("NodeProto.op_type"), "{error}");
    let error = NodeProto::decode([0x0a, 1, 0xff].as_slice()).unwrap_err();
    assert!(error.to_string().contains("NodeProto.input"), "{error}");
}

#[test]
fn element_types_have_their_names_and_sizes() {
    let size = |data_type: DataType, elements| data_type.byte_size(elements);
    assert_eq!(DataType::Float8e4m3fnuz.to_string(), "FLOAT8E4M3FNUZ");
    assert_eq!(DataType::Int2.to_string(), "INT2");
    assert_eq!(DataType::try_from(25), Ok(DataType::Uint2));
    assert!(DataType::try_from(29).is_err());
    assert_eq!(
        [0, 1, 4, 5].map(|elements| size(DataType::Uint2, elements)),
        [Some(0), Some(1), Some(1), Some(2)]
    );
    assert_eq!([1, 2, 3].map(|elements| size(DataType::Int4, elements)), [Some(1), Some(1), Some(2)]);
    assert_eq!([1, 4, 5].map(|elements| size(DataType::Float6e3m2, elements)), [Some(1), Some(3), Some(4)]);
    assert_eq!(size(DataType::Complex128, 3), Some(48));
    assert_eq!(size(DataType::String, 0), None);
    assert_eq!(size(DataType::Undefined, 0), None);
    assert_eq!(size(DataType::Uint8, u64::MAX), Some(u64::MAX));
    assert_eq!(size(DataType::Float16, u64::MAX), None);
}
