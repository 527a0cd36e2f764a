//! One graph of the IR, and the graphs inside it, as ONNX graphs.

use std::collections::BTreeMap;

use mqc_ir::{Graph, Node, NodeId, Op, Type, Value};

use super::metadata;
use super::names::Names;
use super::weights::WeightSink;
use crate::model::Header;
use crate::ops::{self, NESTED_DOMAIN};
use crate::proto::{
    AttributeProto, DataLocation, GraphProto, NodeProto, TensorProto, TypeProto, TypeValue, ValueInfoProto,
};
use crate::{Error, attributes, tensors, types};

pub(super) struct Exporter<'a> {
    pub weights: &'a mut dyn WeightSink,
    pub opsets: &'a BTreeMap<String, i64>,
    pub header: &'a Header,
    /// Filled: whether there are nested operators.
    pub nested: bool,
}

impl Exporter<'_> {
    /// The graph; `captured` are the outer names of its last inputs, which ONNX does not list.
    pub fn graph(
        &mut self,
        graph: &Graph,
        outer: Option<&Names>,
        captured: &[String],
    ) -> Result<GraphProto, Error> {
        let order = graph.order()?;
        let names = Names::new(graph, &order, outer, captured)?;
        let main = outer.is_none();
        let mut proto = GraphProto {
            name: Some(graph.name.clone()),
            doc_string: text(&graph.doc),
            metadata_props: metadata(&graph.metadata),
            ..GraphProto::default()
        };
        let listed = graph.inputs().len().saturating_sub(captured.len());
        for &node in &graph.inputs()[..listed] {
            let value = Value { node, slot: 0 };
            proto.input.push(self.info(names.of(value), graph.ty(value), main));
        }
        for id in order {
            let Some(node) = graph.node(id) else { continue };
            match &node.op {
                Op::Input if graph.inputs().contains(&id) => {}
                Op::Input => return Err(Error::Lost { node: graph.label(id), what: "an input" }),
                Op::Weight(tensor) => {
                    let name = names.of(Value { node: id, slot: 0 });
                    let mut weight = self.weight(name, tensor)?;
                    weight.doc_string = text(&node.doc);
                    weight.metadata_props = metadata(&node.metadata);
                    proto.initializer.push(weight);
                }
                _ => {
                    proto.node.push(self.node(graph, id, node, &names)?);
                    proto.value_info.extend(self.stated(graph, id, node, &names, main));
                }
            }
        }
        for (output, identity) in graph.outputs().iter().zip(&names.identities) {
            if graph.info(output.value).is_none() {
                return Err(Error::Lost { node: output.name.clone(), what: "the output" });
            }
            let name = identity.as_deref().unwrap_or(names.of(output.value));
            if let Some(name) = identity {
                proto.node.push(NodeProto {
                    op_type: Some("Identity".to_owned()),
                    input: vec![names.of(output.value).to_owned()],
                    output: vec![name.clone()],
                    ..NodeProto::default()
                });
            }
            let known =
                if output.declared == Type::Unknown { graph.ty(output.value) } else { &output.declared };
            proto.output.push(self.info(name, known, main));
        }
        if main {
            proto.quantization_annotation = self.header.annotations.clone();
        }
        Ok(proto)
    }

    fn weight(&mut self, name: &str, tensor: &mqc_ir::Tensor) -> Result<TensorProto, Error> {
        let place = if tensor.as_strings().is_some() { None } else { self.weights.place(name, tensor)? };
        Ok(match place {
            None => tensors::write(name, tensor),
            Some(external_data) => TensorProto {
                external_data,
                data_location: Some(DataLocation::External as i32),
                ..tensors::header(name, tensor)
            },
        })
    }

    fn node(&mut self, graph: &Graph, id: NodeId, node: &Node, names: &Names) -> Result<NodeProto, Error> {
        let operands = graph.operands(id);
        // Captured values follow the inputs of the ONNX node; inner graphs name them themselves.
        let captured = node.subgraphs.iter().flat_map(|inner| &inner.captures);
        let inputs = captured.min().map_or(operands.len(), |first| operands.len().min(*first));
        let opset = self.opsets.get("").copied().unwrap_or(ops::NEWEST_OPSET);
        let form = ops::write(&node.op, inputs, opset, &graph.label(id))?;
        self.nested |= form.domain == NESTED_DOMAIN;

        let mut attribute: Vec<AttributeProto> =
            form.attributes.iter().map(|(name, value)| attributes::write(name, value)).collect();
        attribute.extend(self.bodies(graph, id, node, names)?);
        attribute.sort_by(|a, b| a.name.cmp(&b.name));

        let name = |value: Option<Value>| value.map_or("", |value| names.of(value)).to_owned();
        let output: Vec<String> =
            (0..node.outputs.len()).map(|slot| names.of(Value { node: id, slot }).to_owned()).collect();
        let first = node.outputs.first().map_or("", |first| first.name.as_str());
        Ok(NodeProto {
            input: operands[..inputs].iter().map(|value| name(*value)).collect(),
            output,
            name: text(&node.name),
            op_type: Some(form.op_type),
            attribute,
            doc_string: text(&node.doc),
            domain: text(&form.domain),
            overload: text(&form.overload),
            metadata_props: metadata(&node.metadata),
            device_configurations: self.header.placements.get(first).cloned().unwrap_or_default(),
        })
    }

    /// The graph-valued attributes; `name[0]`, `name[1]`, ... are one list.
    fn bodies(
        &mut self,
        graph: &Graph,
        id: NodeId,
        node: &Node,
        names: &Names,
    ) -> Result<Vec<AttributeProto>, Error> {
        let mut attributes: Vec<AttributeProto> = vec![];
        for inner in &node.subgraphs {
            let lost = || Error::Lost { node: graph.label(id), what: "a captured value" };
            let outer = |slot: &usize| Ok(names.of(graph.operand(id, *slot).ok_or_else(lost)?).to_owned());
            let captured = inner.captures.iter().map(outer).collect::<Result<Vec<_>, Error>>()?;
            let body = self.graph(&inner.graph, Some(names), &captured)?;
            match inner.attribute.split_once('[') {
                None => attributes.push(attributes::write_graph(&inner.attribute, body)),
                Some((list, _)) => match attributes.last_mut().filter(|last| last.name() == list) {
                    Some(last) => last.graphs.push(body),
                    None => attributes.push(attributes::write_graphs(list, vec![body])),
                },
            }
        }
        Ok(attributes)
    }

    /// What is known of the outputs of a node that are no results of the graph.
    fn stated(
        &self,
        graph: &Graph,
        id: NodeId,
        node: &Node,
        names: &Names,
        main: bool,
    ) -> Vec<ValueInfoProto> {
        let values = (0..node.outputs.len()).map(|slot| Value { node: id, slot });
        let inner = values.filter(|value| {
            let mut results = graph.outputs().iter().zip(&names.identities);
            !results.any(|(output, identity)| output.value == *value && identity.is_none())
        });
        let known = inner.filter(|value| !names.of(*value).is_empty() && is_known(graph.ty(*value)));
        known.map(|value| self.info(names.of(value), graph.ty(value), main)).collect()
    }

    /// The message of a value; in the main graph with what the imported model said of it besides.
    fn info(&self, name: &str, ty: &Type, main: bool) -> ValueInfoProto {
        let mut info = ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: types::write(ty),
            ..ValueInfoProto::default()
        };
        if let Some(note) = self.header.values.get(name).filter(|_| main) {
            info.doc_string = note.doc_string.clone();
            info.metadata_props = note.metadata_props.clone();
            if let (Some(ty), Some(note)) = (&mut info.r#type, &note.r#type) {
                denote(ty, note);
            }
        }
        info
    }
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether a type says enough to be written: a tensor without an element type is refused by readers.
fn is_known(ty: &Type) -> bool {
    match ty {
        Type::Unknown => false,
        Type::Tensor(t) | Type::Sparse(t) => t.dtype.is_some(),
        Type::Sequence(inner) | Type::Optional(inner) | Type::Map(_, inner) => is_known(inner),
        Type::Foreign { .. } => true,
    }
}

/// Copies the denotations of a type and of its dimensions.
fn denote(ty: &mut TypeProto, note: &TypeProto) {
    ty.denotation = note.denotation.clone();
    let (Some(TypeValue::TensorType(ty)), Some(TypeValue::TensorType(note))) = (&mut ty.value, &note.value)
    else {
        return;
    };
    let (Some(shape), Some(note)) = (&mut ty.shape, &note.shape) else { return };
    if shape.dim.len() == note.dim.len() {
        for (dim, note) in shape.dim.iter_mut().zip(&note.dim) {
            dim.denotation = note.denotation.clone();
        }
    }
}
