//! What a model keeps verbatim: its external data is brought in, since the model may be written to another folder.

use crate::Error;
use crate::file::{Resolver, tensor_bytes};
use crate::proto::{
    DataLocation, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto, TypeValue,
};

/// Replaces external data by the bytes themselves (shared with the mapped file) in functions and training graphs.
///
/// # Errors
/// External data that cannot be resolved.
pub(super) fn bring_in(model: &mut ModelProto, resolver: &Resolver) -> Result<(), Error> {
    let mut bring = |tensor: &mut TensorProto| {
        if tensor.data_location() == DataLocation::External {
            tensor.raw_data = Some(tensor_bytes(tensor, resolver)?);
            tensor.data_location = None;
            tensor.external_data.clear();
        }
        Ok(())
    };
    for function in &mut model.functions {
        each_node(&mut function.node, &mut bring)?;
    }
    for training in &mut model.training_info {
        for graph in [&mut training.initialization, &mut training.algorithm].into_iter().flatten() {
            each_tensor(graph, &mut bring)?;
        }
    }
    Ok(())
}

type Visit<'a> = &'a mut dyn FnMut(&mut TensorProto) -> Result<(), Error>;

fn each_tensor(graph: &mut GraphProto, visit: Visit) -> Result<(), Error> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    sparse(graph.sparse_initializer.iter_mut(), visit)?;
    each_node(&mut graph.node, visit)
}

fn each_node(nodes: &mut [NodeProto], visit: Visit) -> Result<(), Error> {
    for attribute in nodes.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
        sparse(
            attribute.sparse_tensor.as_deref_mut().into_iter().chain(&mut attribute.sparse_tensors),
            visit,
        )?;
        for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
            each_tensor(graph, visit)?;
        }
    }
    Ok(())
}

fn sparse<'a>(tensors: impl Iterator<Item = &'a mut SparseTensorProto>, visit: Visit) -> Result<(), Error> {
    tensors.flat_map(|tensor| [&mut tensor.values, &mut tensor.indices]).flatten().try_for_each(visit)
}

/// Whether a type says what the value or a dimension means.
pub(super) fn has_denotation(ty: &TypeProto) -> bool {
    let shape = match &ty.value {
        Some(TypeValue::TensorType(tensor)) => tensor.shape.as_ref(),
        _ => None,
    };
    ty.denotation.is_some() || shape.is_some_and(|shape| shape.dim.iter().any(|dim| dim.denotation.is_some()))
}
