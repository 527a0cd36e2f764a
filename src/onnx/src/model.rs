//! A model: a graph and what a graph does not hold.

use std::collections::BTreeMap;

use mqc_ir::Graph;

use crate::proto::{
    DeviceConfigurationProto, FunctionProto, NodeDeviceConfigurationProto, TensorAnnotation,
    TrainingInfoProto, ValueInfoProto,
};

/// An imported model. The operator sets are those of the graph.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    /// All else.
    pub header: Header,
}

impl Model {
    /// A model of ours around a graph.
    pub fn from_graph(graph: Graph) -> Model {
        Model { graph, header: Header::default() }
    }
}

/// What a model has besides its graph. Empty texts and a version of 0 are written as absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Version of the format.
    pub ir_version: i64,
    /// Tool that made the model.
    pub producer_name: String,
    /// Version of that tool.
    pub producer_version: String,
    /// Namespace of the model, in reverse DNS.
    pub domain: String,
    /// Version of the model itself.
    pub model_version: i64,
    /// Documentation string.
    pub doc: String,
    /// Metadata in the model's order.
    pub metadata: Vec<(String, String)>,
    /// Local functions, verbatim.
    pub functions: Vec<FunctionProto>,
    /// Training information, verbatim.
    pub training: Vec<TrainingInfoProto>,
    /// Device configurations.
    pub devices: Vec<DeviceConfigurationProto>,
    /// Placement of nodes on devices, by the name of the node's first output.
    pub placements: BTreeMap<String, Vec<NodeDeviceConfigurationProto>>,
    /// Quantization parameters of tensors of the main graph.
    pub annotations: Vec<TensorAnnotation>,
    /// Values of the main graph whose message says more than name and type (documentation, metadata, denotations).
    pub values: BTreeMap<String, ValueInfoProto>,
}

impl Default for Header {
    /// A model of ours in IR version 10, which all runtimes since 2024 read.
    fn default() -> Header {
        Header {
            ir_version: 10,
            producer_name: env!("CARGO_PKG_NAME").trim_end_matches("-onnx").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            domain: String::new(),
            model_version: 0,
            doc: String::new(),
            metadata: vec![],
            functions: vec![],
            training: vec![],
            devices: vec![],
            placements: BTreeMap::new(),
            annotations: vec![],
            values: BTreeMap::new(),
        }
    }
}
