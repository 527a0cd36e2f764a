//! Attributes: `AttributeProto` to and from [`Attribute`] and the graphs of a node.

use bytes::Bytes;
use mqc_ir::{Attribute, F32, Text};

use crate::file::Resolver;
use crate::proto::{AttributeProto, AttributeType, GraphProto};
use crate::{Error, tensors, types};

/// What an attribute holds.
pub enum Content<'a> {
    /// Data.
    Value(Attribute),
    /// A graph.
    Graph(&'a GraphProto),
    /// Several graphs.
    Graphs(&'a [GraphProto]),
}

/// The kind of an attribute: what it says, or, in models before IR version 2, the field that is filled.
fn kind(attribute: &AttributeProto) -> Option<AttributeType> {
    use AttributeType::*;
    let stated = AttributeType::try_from(attribute.r#type.unwrap_or(0)).ok()?;
    if stated != Undefined {
        return Some(stated);
    }
    let filled = [
        (attribute.f.is_some(), Float),
        (attribute.i.is_some(), Int),
        (attribute.s.is_some(), String),
        (attribute.t.is_some(), Tensor),
        (attribute.g.is_some(), Graph),
        (!attribute.floats.is_empty(), Floats),
        (!attribute.ints.is_empty(), Ints),
        (!attribute.strings.is_empty(), Strings),
        (!attribute.tensors.is_empty(), Tensors),
        (!attribute.graphs.is_empty(), Graphs),
        (attribute.sparse_tensor.is_some(), SparseTensor),
        (!attribute.sparse_tensors.is_empty(), SparseTensors),
        (attribute.tp.is_some(), TypeProto),
        (!attribute.type_protos.is_empty(), TypeProtos),
    ];
    let mut filled = filled.into_iter().filter(|(there, _)| *there).map(|(_, kind)| kind);
    filled.next().filter(|_| filled.next().is_none())
}

/// The content of an attribute of `node`.
///
/// # Errors
/// The type is absent or unknown, the field that it names is not there, or a tensor is malformed.
pub fn read<'a>(
    attribute: &'a AttributeProto,
    resolver: &Resolver,
    node: &str,
) -> Result<Content<'a>, Error> {
    let name = attribute.name();
    let error = |message| Error::Attribute { node: node.to_owned(), attribute: name.to_owned(), message };
    let within = |source| Error::AttributeContent {
        node: node.to_owned(),
        attribute: name.to_owned(),
        source: Box::new(source),
    };
    let kind = kind(attribute).ok_or_else(|| error("its type is absent or unknown"))?;
    if let Some(reference) = attribute.ref_attr_name.as_deref().filter(|reference| !reference.is_empty()) {
        return Ok(Content::Value(Attribute::Reference { name: reference.to_owned(), kind: kind as i32 }));
    }
    let missing = || error("the field that its type names is absent");
    let text = |bytes: &Bytes| Text(bytes.to_vec());
    let tensor = |tensor| tensors::read(tensor, resolver).map_err(within);
    let sparse = |sparse| tensors::read_sparse(sparse, resolver).map_err(within);
    let ty = |ty| types::read(Some(ty), name).map_err(within);
    Ok(Content::Value(match kind {
        AttributeType::Undefined => return Err(error("its type is absent or unknown")),
        // Some writers leave out zeros and empty strings.
        AttributeType::Float => Attribute::Float(F32(attribute.f())),
        AttributeType::Int => Attribute::Int(attribute.i()),
        AttributeType::String => Attribute::String(text(attribute.s.as_ref().unwrap_or(&Bytes::new()))),
        AttributeType::Tensor => Attribute::Tensor(tensor(attribute.t.as_deref().ok_or_else(missing)?)?),
        AttributeType::Graph => return Ok(Content::Graph(attribute.g.as_deref().ok_or_else(missing)?)),
        AttributeType::Floats => Attribute::Floats(attribute.floats.iter().map(|&f| F32(f)).collect()),
        AttributeType::Ints => Attribute::Ints(attribute.ints.clone()),
        AttributeType::Strings => Attribute::Strings(attribute.strings.iter().map(text).collect()),
        AttributeType::Tensors => {
            Attribute::Tensors(attribute.tensors.iter().map(tensor).collect::<Result<_, _>>()?)
        }
        AttributeType::Graphs => match attribute.graphs.as_slice() {
            [] => return Err(error("it is an empty list of graphs, which is not supported")),
            graphs => return Ok(Content::Graphs(graphs)),
        },
        AttributeType::SparseTensor => {
            Attribute::SparseTensor(sparse(attribute.sparse_tensor.as_deref().ok_or_else(missing)?)?)
        }
        AttributeType::SparseTensors => {
            Attribute::SparseTensors(attribute.sparse_tensors.iter().map(sparse).collect::<Result<_, _>>()?)
        }
        AttributeType::TypeProto => Attribute::Type(ty(attribute.tp.as_deref().ok_or_else(missing)?)?),
        AttributeType::TypeProtos => {
            Attribute::Types(attribute.type_protos.iter().map(ty).collect::<Result<_, _>>()?)
        }
    }))
}

/// An attribute without a value.
fn named(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

/// The message of an attribute.
pub fn write(name: &str, value: &Attribute) -> AttributeProto {
    let text = |text: &Text| Bytes::copy_from_slice(&text.0);
    let empty = |kind| named(name, kind);
    match value {
        Attribute::Int(i) => AttributeProto { i: Some(*i), ..empty(AttributeType::Int) },
        Attribute::Float(f) => AttributeProto { f: Some(f.0), ..empty(AttributeType::Float) },
        Attribute::String(s) => AttributeProto { s: Some(text(s)), ..empty(AttributeType::String) },
        Attribute::Tensor(t) => {
            AttributeProto { t: Some(Box::new(tensors::write("", t))), ..empty(AttributeType::Tensor) }
        }
        Attribute::SparseTensor(t) => AttributeProto {
            sparse_tensor: Some(Box::new(tensors::write_sparse(t))),
            ..empty(AttributeType::SparseTensor)
        },
        Attribute::Type(t) => AttributeProto {
            tp: Some(Box::new(types::write(t).unwrap_or_default())),
            ..empty(AttributeType::TypeProto)
        },
        Attribute::Ints(v) => AttributeProto { ints: v.clone(), ..empty(AttributeType::Ints) },
        Attribute::Floats(v) => {
            AttributeProto { floats: v.iter().map(|f| f.0).collect(), ..empty(AttributeType::Floats) }
        }
        Attribute::Strings(v) => {
            AttributeProto { strings: v.iter().map(text).collect(), ..empty(AttributeType::Strings) }
        }
        Attribute::Tensors(v) => AttributeProto {
            tensors: v.iter().map(|t| tensors::write("", t)).collect(),
            ..empty(AttributeType::Tensors)
        },
        Attribute::SparseTensors(v) => AttributeProto {
            sparse_tensors: v.iter().map(tensors::write_sparse).collect(),
            ..empty(AttributeType::SparseTensors)
        },
        Attribute::Types(v) => AttributeProto {
            type_protos: v.iter().map(|t| types::write(t).unwrap_or_default()).collect(),
            ..empty(AttributeType::TypeProtos)
        },
        Attribute::Reference { name: reference, kind } => AttributeProto {
            name: Some(name.to_owned()),
            ref_attr_name: Some(reference.clone()),
            r#type: Some(*kind),
            ..AttributeProto::default()
        },
    }
}

/// The message of a graph-valued attribute.
pub fn write_graph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(Box::new(graph)), ..named(name, AttributeType::Graph) }
}

/// The message of an attribute that is a list of graphs.
pub fn write_graphs(name: &str, graphs: Vec<GraphProto>) -> AttributeProto {
    AttributeProto { graphs, ..named(name, AttributeType::Graphs) }
}
