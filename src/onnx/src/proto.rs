//! The messages of `onnx.proto` (onnx 1.23.2, IR version 14) for prost, written by hand.
//!
//! The schema is proto2: a singular field is an `Option`, so that "absent" and "set to the default" stay apart and
//! a model that is read and written again keeps its bytes (if its fields are in the order of their tags, as
//! serializers put them). `bytes` fields are [`bytes::Bytes`]: decoded from a `Bytes` (a mapped file) they share
//! its memory. Fields newer than this schema are dropped by decoding.

mod data_type;
mod model;
mod tensor;
mod types;

pub use data_type::DataType;
pub use model::{
    AttributeProto, AttributeType, DeviceConfigurationProto, FunctionProto, GraphProto, IntIntListEntryProto,
    ModelProto, NodeDeviceConfigurationProto, NodeProto, OperatorSetIdProto, ShardedDimProto,
    ShardingSpecProto, SimpleShardedDimProto, SimpleShardedDimValue, StringStringEntryProto,
    TensorAnnotation, TrainingInfoProto,
};
pub use tensor::{DataLocation, Segment, SparseTensorProto, TensorProto};
pub use types::{
    Dimension, DimensionValue, MapType, OpaqueType, OptionalType, SequenceType, SparseTensorType,
    TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto,
};

/// The newest IR version whose fields these messages cover.
pub const IR_VERSION: i64 = 14;

#[cfg(test)]
mod tests;
