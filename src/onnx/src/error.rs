//! What can go wrong in this crate.

use crate::proto::DataType;
use std::{io, path::PathBuf};

/// An error of reading, writing, importing or exporting a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or mapped.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file could not be written; what was there before is unchanged.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// A folder, pipe or device where a file is needed.
    #[error("{} is {found}, expected a file", path.display())]
    NotAFile { path: PathBuf, found: &'static str },
    /// A model file without a byte.
    #[error("{} is empty, expected an ONNX model", path.display())]
    Empty { path: PathBuf },
    /// The file ends inside a field of the model.
    #[error(
        "{} is truncated: field {field} needs the file to have {needed} bytes, found {found}; copy it again",
        path.display()
    )]
    Truncated { path: PathBuf, field: &'static str, needed: u64, found: u64 },
    /// The file is something else.
    #[error("{} is not an ONNX model: {found}", path.display())]
    NotOnnx { path: PathBuf, found: &'static str },
    /// The file starts as an ONNX model but a message in it is damaged; the source names its field.
    #[error("{} is not a valid ONNX model", path.display())]
    Decode { path: PathBuf, source: prost::DecodeError },
    /// A file that should be one tensor.
    #[error("{} is not an ONNX tensor", path.display())]
    DecodeTensor { path: PathBuf, source: prost::DecodeError },
    /// Protobuf messages end at 2 GiB - 1.
    #[error(
        "{} would have {found} bytes, an ONNX file can have {limit} at most; store tensors as external data",
        path.display()
    )]
    TooLarge { path: PathBuf, found: usize, limit: usize },
    /// A path that cannot be stored in a model, because it is not UTF-8 or has no file name.
    #[error("{} cannot be named in a model: its file name is missing or is not UTF-8", path.display())]
    FileName { path: PathBuf },

    /// `data_type` is absent or not a `TensorProto.DataType`.
    #[error("tensor '{tensor}': data_type is {found}, expected an element type in 1..=28")]
    DataType { tensor: String, found: i32 },
    /// `data_location` is not a `TensorProto.DataLocation`.
    #[error("tensor '{tensor}': data_location is {found}, expected 0 (DEFAULT) or 1 (EXTERNAL)")]
    DataLocation { tensor: String, found: i32 },
    /// A dimension is negative or the size is over what a file can hold.
    #[error("tensor '{tensor}': dims {dims:?} are negative or too large")]
    Dims { tensor: String, dims: Vec<i64> },
    /// The tensor is one part of a larger one.
    #[error("tensor '{tensor}': segments are not supported; store it as one tensor")]
    Segment { tensor: String },
    /// Text where numbers are needed, or the other way round.
    #[error("tensor '{tensor}' holds {found}, expected {expected}")]
    Kind { tensor: String, found: DataType, expected: &'static str },
    /// The elements are in none or in several of the data fields, or in one that does not fit the type.
    #[error(
        "tensor '{tensor}' of {data_type}: its data is in {found}, expected raw_data or {expected} alone"
    )]
    DataField { tensor: String, data_type: DataType, found: String, expected: &'static str },
    /// A data field does not have the length that `data_type` and `dims` need.
    #[error("tensor '{tensor}' of {data_type} {dims:?}: {field} has {found} {unit}, expected {expected}")]
    DataLength {
        tensor: String,
        data_type: DataType,
        dims: Vec<i64>,
        field: &'static str,
        unit: &'static str,
        found: u64,
        expected: u64,
    },
    /// An entry of a typed field is no value of the element type.
    #[error("tensor '{tensor}': {field}[{index}] is {found}, which is no {data_type}")]
    Value { tensor: String, field: &'static str, index: usize, found: i128, data_type: DataType },
    /// An element of a string tensor is not UTF-8.
    #[error("tensor '{tensor}': string_data[{index}] is not UTF-8")]
    Utf8 { tensor: String, index: usize, source: std::str::Utf8Error },

    /// An `external_data` entry is absent, repeated or malformed.
    #[error("tensor '{tensor}': external_data {key} is {found}, expected {expected}")]
    ExternalEntry { tensor: String, key: &'static str, found: String, expected: &'static str },
    /// External data in a model that was not read from a folder.
    #[error("tensor '{tensor}': its data is in another file, but the model was not read from a folder")]
    NoFolder { tensor: String },
    /// External data that is not below the model's folder, as written or once links are followed.
    #[error(
        "tensor '{tensor}': external data location '{location}' leaves the model's folder {}; copy the file there",
        folder.display()
    )]
    OutsideFolder { tensor: String, location: String, folder: PathBuf },
    /// The external data file cannot be opened.
    #[error("tensor '{tensor}': cannot read its external data")]
    External { tensor: String, source: Box<Error> },
    /// The external data file ends before the tensor does.
    #[error(
        "tensor '{tensor}': external data file {} is too short: needs {needed} bytes, found {found}",
        path.display()
    )]
    ExternalTooShort { tensor: String, path: PathBuf, needed: u128, found: u64 },

    /// A graph or constant that the IR refuses.
    #[error(transparent)]
    Ir(#[from] mqc_ir::Error),
    /// Standard operators without an operator set.
    #[error(
        "the model uses standard operators but imports no operator set of the domain ''; add one to opset_import"
    )]
    NoOpset,
    /// Operators before multidirectional broadcasting.
    #[error("the model's opset is {found}, expected 7 or newer; convert it with onnx.version_converter")]
    OldOpset { found: i64 },
    /// A domain is imported in two versions.
    #[error("opset_import has domain '{domain}' in the versions {first} and {second}, expected one")]
    OpsetTwice { domain: String, first: i64, second: i64 },
    /// Inputs and initializers are known by their names alone.
    #[error("graph '{graph}': {what} {index} has no name")]
    Unnamed { graph: String, what: &'static str, index: usize },
    /// Two values of one graph have one name.
    #[error("graph '{graph}': {value} has the name of a value that is already defined")]
    DefinedTwice { graph: String, value: String },
    /// A sparse initializer cannot be the default of an input.
    #[error("graph '{graph}': the sparse initializer '{value}' is also an input, which is not supported")]
    SparseInput { graph: String, value: String },
    /// An operand that does not exist.
    #[error(
        "node '{node}' or a graph inside it uses the value '{value}', which no input, initializer or node defines"
    )]
    Undefined { node: String, value: String },
    /// A result that does not exist.
    #[error("graph '{graph}': the output '{value}' is not defined by an input, an initializer or a node")]
    UndefinedOutput { graph: String, value: String },
    /// Nodes that wait for each other.
    #[error("graph '{graph}' has a cycle through node '{node}'")]
    Cycle { graph: String, node: String },
    /// Graphs within graphs without end.
    #[error("graph '{graph}' is nested over {limit} levels deep")]
    TooDeep { graph: String, limit: usize },
    /// An element type of a value.
    #[error("value '{value}': element type {found} is unknown or not supported, expected one in 1..=26")]
    ElementType { value: String, found: i32 },
    /// An attribute that cannot be read.
    #[error("node '{node}': attribute '{attribute}': {message}")]
    Attribute { node: String, attribute: String, message: &'static str },
    /// A tensor or type in an attribute.
    #[error("node '{node}': attribute '{attribute}' is malformed")]
    AttributeContent { node: String, attribute: String, source: Box<Error> },
    /// A sparse tensor without its parts.
    #[error("sparse tensor '{tensor}' has no {missing}")]
    SparsePart { tensor: String, missing: &'static str },

    /// An operation of the quantization dialect, or a source where a node is expected.
    #[error("node '{node}': {op} has no ONNX form; lower the quantization dialect first")]
    Dialect { node: String, op: &'static str },
    /// The opset of the model does not have the form yet.
    #[error("node '{node}': {form} needs opset {since} or newer, the graph has {found}")]
    OpsetTooOld { node: String, form: &'static str, found: i64, since: i64 },
    /// The opset of the model does not have the form any more.
    #[error("node '{node}': {form} needs an opset before {until}, the graph has {found}")]
    OpsetTooNew { node: String, form: &'static str, found: i64, until: i64 },
    /// A node whose form a newer opset does not have.
    #[error("node '{node}': {op} of opset {from} cannot be raised to opset {version}: {reason}")]
    Raise { node: String, op: String, from: i64, version: i64, reason: String },
    /// A size that does not fit an ONNX integer.
    #[error("node '{node}': {field} is {found}, over the greatest int64")]
    TooLargeNumber { node: String, field: &'static str, found: u64 },
    /// An operand, a captured value or a result that the graph lost.
    #[error("node '{node}': {what} is not a value of the graph")]
    Lost { node: String, what: &'static str },
    /// Two values would have to carry one name.
    #[error("graph '{graph}': several inputs or outputs are named '{name}'")]
    InterfaceName { graph: String, name: String },

    /// A function that calls itself.
    #[error("function '{function}' calls itself, through {calls}")]
    Recursion { function: String, calls: String },
    /// Functions calling functions without end.
    #[error("call of function '{function}' in node '{node}': {message}")]
    Call { node: String, function: String, message: String },
    /// A function body that means another version of its operators than the model.
    #[error(
        "function '{function}' is written for version {body} of domain '{domain}', the model imports {model}; \
         convert the model to one version"
    )]
    FunctionOpset { function: String, domain: String, body: i64, model: i64 },
    /// Functions whose bodies grow beyond any model.
    #[error("the functions of the model expand to over {limit} nodes")]
    Expansion { limit: usize },
}
