//! One ONNX graph, and the graphs inside it, as graphs of the IR.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::{Attribute, Graph, Node, NodeId, Op, Output, Subgraph, Type, Value, ValueInfo, op::Opaque};

use super::scope::{Definition, captures, check_depth, definitions, label, sorted};
use super::{domain, metadata};
use crate::attributes::{self, Content};
use crate::file::Resolver;
use crate::ops::{self, Form, NESTED_DOMAIN};
use crate::proto::{GraphProto, NodeDeviceConfigurationProto, NodeProto, TypeProto};
use crate::{Error, tensors, types};

pub(super) struct Importer<'a> {
    pub resolver: &'a Resolver,
    /// Version of ONNX's own operator set.
    pub opset: i64,
    /// Domain and name of the local functions.
    pub functions: BTreeSet<(String, String)>,
    /// Filled: placement of nodes of all graphs.
    pub placements: BTreeMap<String, Vec<NodeDeviceConfigurationProto>>,
}

type Scope = BTreeMap<String, Value>;

impl Importer<'_> {
    /// The graph; `captured` are its last inputs: the values that it takes from outside.
    pub fn graph(
        &mut self,
        proto: &GraphProto,
        captured: &[(String, Type)],
        depth: usize,
    ) -> Result<Graph, Error> {
        check_depth(proto, depth)?;
        let definitions = definitions(proto)?;
        let stated: BTreeMap<&str, &TypeProto> =
            proto.value_info.iter().filter_map(|info| Some((info.name(), info.r#type.as_ref()?))).collect();

        let mut graph = Graph::new(proto.name());
        graph.doc = proto.doc_string().to_owned();
        graph.metadata = metadata(&proto.metadata_props);
        let mut scope = self.sources(proto, captured, &definitions, &mut graph)?;
        for index in sorted(proto, &definitions, depth)? {
            self.node(&proto.node[index], &stated, &mut graph, &mut scope, depth)?;
        }

        let outputs = proto.output.iter().map(|output| {
            let name = output.name();
            let undefined =
                || Error::UndefinedOutput { graph: proto.name().to_owned(), value: name.to_owned() };
            let value = *scope.get(name).ok_or_else(undefined)?;
            let declared = types::read(output.r#type.as_ref(), name)?;
            Ok::<_, Error>(Output { value, name: name.to_owned(), declared })
        });
        let outputs = outputs.collect::<Result<_, _>>()?;
        graph.set_outputs(outputs);
        Ok(graph)
    }

    /// Adds inputs, captured values and initializers.
    fn sources(
        &self,
        proto: &GraphProto,
        captured: &[(String, Type)],
        definitions: &BTreeMap<&str, Definition>,
        graph: &mut Graph,
    ) -> Result<Scope, Error> {
        let mut scope = Scope::new();
        let initializers: BTreeMap<&str, _> =
            proto.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        let weight = |graph: &mut Graph, tensor| {
            let value = graph
                .add_weight(crate::proto::TensorProto::name(tensor), tensors::read(tensor, self.resolver)?);
            if let Some(node) = graph.node_mut(value.node) {
                node.doc = tensor.doc_string().to_owned();
                node.metadata = metadata(&tensor.metadata_props);
            }
            Ok::<_, Error>(value)
        };
        for input in &proto.input {
            let name = input.name();
            let value = match (definitions.get(name), initializers.get(name)) {
                (Some(Definition::Initializer), Some(tensor)) => {
                    let value = weight(graph, tensor)?;
                    graph.list_as_input(value.node);
                    value
                }
                (Some(Definition::Initializer), None) => {
                    return Err(Error::SparseInput {
                        graph: proto.name().to_owned(),
                        value: name.to_owned(),
                    });
                }
                (Some(Definition::Input | Definition::Node(_)) | None, _) => {
                    graph.add_input(name, types::read(input.r#type.as_ref(), name)?)
                }
            };
            scope.insert(name.to_owned(), value);
        }
        for (name, ty) in captured {
            scope.insert(name.clone(), graph.add_input(name, ty.clone()));
        }
        for tensor in &proto.initializer {
            if !scope.contains_key(tensor.name()) {
                let value = weight(graph, tensor)?;
                scope.insert(tensor.name().to_owned(), value);
            }
        }
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |values| values.name());
            let value = Attribute::SparseTensor(tensors::read_sparse(sparse, self.resolver)?);
            let op = Op::Opaque(Opaque {
                domain: String::new(),
                op_type: "Constant".to_owned(),
                overload: String::new(),
                attributes: BTreeMap::from([("sparse_value".to_owned(), value)]),
            });
            let info = ValueInfo { name: name.to_owned(), ty: Type::Unknown };
            let node = graph.insert(Node::new(op, "", vec![info]), &[])?;
            scope.insert(name.to_owned(), Value { node, slot: 0 });
        }
        Ok(scope)
    }

    fn node(
        &mut self,
        proto: &NodeProto,
        stated: &BTreeMap<&str, &TypeProto>,
        graph: &mut Graph,
        scope: &mut Scope,
        depth: usize,
    ) -> Result<NodeId, Error> {
        let find = |name: &str| {
            let undefined = || Error::Undefined { node: label(proto), value: name.to_owned() };
            scope.get(name).copied().ok_or_else(undefined)
        };
        let mut operands = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            operands.push(if name.is_empty() { None } else { Some(find(name)?) });
        }
        let inputs: Vec<bool> = operands.iter().map(Option::is_some).collect();

        let mut attributes = BTreeMap::new();
        let mut bodies: Vec<(String, &GraphProto)> = vec![];
        let mut names = BTreeSet::new();
        for attribute in &proto.attribute {
            let name = attribute.name();
            if !names.insert(name) {
                let message = "it is there twice";
                return Err(Error::Attribute { node: label(proto), attribute: name.to_owned(), message });
            }
            match attributes::read(attribute, self.resolver, &label(proto))? {
                Content::Value(value) => drop(attributes.insert(name.to_owned(), value)),
                Content::Graph(body) => bodies.push((name.to_owned(), body)),
                Content::Graphs(list) => {
                    bodies.extend(list.iter().enumerate().map(|(i, body)| (format!("{name}[{i}]"), body)));
                }
            }
        }

        // A value that several bodies take is one operand.
        let mut slots: BTreeMap<&str, usize> = BTreeMap::new();
        let mut subgraphs = vec![];
        for (attribute, body) in bodies {
            let mut captured = vec![];
            let mut feeds = vec![];
            for name in captures(body, depth + 1)? {
                let value = find(name)?;
                captured.push((name.to_owned(), graph.ty(value).clone()));
                feeds.push(*slots.entry(name).or_insert_with(|| {
                    operands.push(Some(value));
                    operands.len() - 1
                }));
            }
            let inner = self.graph(body, &captured, depth + 1)?;
            subgraphs.push(Subgraph { attribute, graph: inner, captures: feeds });
        }

        let form = Form {
            domain: domain(proto.domain()),
            op_type: proto.op_type(),
            overload: proto.overload(),
            opset: self.opset,
            inputs: &inputs,
            outputs: proto.output.len(),
            attributes,
        };
        let function = form.domain != NESTED_DOMAIN
            && self.functions.contains(&(form.domain.to_owned(), form.op_type.to_owned()));
        let op = if function || !subgraphs.is_empty() { ops::opaque(form) } else { ops::read(form) };
        let mut outputs = Vec::with_capacity(proto.output.len());
        for name in &proto.output {
            let ty = types::read(stated.get(name.as_str()).copied(), name)?;
            outputs.push(ValueInfo { name: name.clone(), ty });
        }
        let mut node = Node::new(op, proto.name(), outputs);
        node.doc = proto.doc_string().to_owned();
        node.metadata = metadata(&proto.metadata_props);
        node.subgraphs = subgraphs;
        let id = graph.insert(node, &operands)?;
        for (slot, name) in proto.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            scope.insert(name.clone(), Value { node: id, slot });
        }
        if !proto.device_configurations.is_empty() {
            let first = proto.output.first().cloned().unwrap_or_default();
            self.placements.insert(first, proto.device_configurations.clone());
        }
        Ok(id)
    }
}
