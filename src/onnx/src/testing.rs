//! Builders of ONNX messages for tests.

use crate::proto::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto,
};

pub fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        ..NodeProto::default()
    }
}

impl NodeProto {
    pub fn named(mut self, name: &str) -> NodeProto {
        self.name = Some(name.to_owned());
        self
    }

    pub fn of(mut self, domain: &str) -> NodeProto {
        self.domain = Some(domain.to_owned());
        self
    }

    pub fn with(mut self, attribute: AttributeProto) -> NodeProto {
        self.attribute.push(attribute);
        self
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(Box::new(graph)), ..attribute(name, AttributeType::Graph) }
}

pub fn bodies(name: &str, graphs: Vec<GraphProto>) -> AttributeProto {
    AttributeProto { graphs, ..attribute(name, AttributeType::Graphs) }
}

/// In a function body: the attribute `from` of the call.
pub fn reference(name: &str, kind: AttributeType, from: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(from.to_owned()), ..attribute(name, kind) }
}

/// A float value of a shape.
pub fn value(name: &str, dims: &[Option<DimensionValue>]) -> ValueInfoProto {
    let dim = dims.iter().map(|value| Dimension { value: value.clone(), denotation: None }).collect();
    let tensor =
        TensorType { elem_type: Some(DataType::Float as i32), shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(TypeValue::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// A float value of shape [2].
pub fn pair(name: &str) -> ValueInfoProto {
    value(name, &[Some(DimensionValue::DimValue(2))])
}

/// A float initializer of shape [2].
pub fn weight(name: &str) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DataType::Float as i32),
        dims: vec![2],
        raw_data: Some([1f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

/// A graph between inputs and outputs of shape [2].
pub fn graph(name: &str, inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some(name.to_owned()),
        input: inputs.iter().map(|name| pair(name)).collect(),
        node: nodes,
        output: outputs.iter().map(|name| pair(name)).collect(),
        ..GraphProto::default()
    }
}

pub fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

pub fn model(version: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset("", version)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}
