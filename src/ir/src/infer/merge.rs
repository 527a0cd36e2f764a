//! What is inferred and what is declared, made one type; sizes that no tensor can have.

use std::collections::BTreeMap;

use super::site::{Inferred, Site, show};
use crate::{DType, Dim, NodeId, Op, TensorType, Type, Value};

/// The inferred type, filled in from the declared one where the two agree.
pub(super) fn merge(inferred: Type, declared: &Type) -> Type {
    match (inferred, declared) {
        (Type::Unknown, declared) => declared.clone(),
        (Type::Tensor(inferred), Type::Tensor(declared)) => Type::Tensor(merge_tensors(inferred, declared)),
        (Type::Sparse(inferred), Type::Sparse(declared)) => Type::Sparse(merge_tensors(inferred, declared)),
        (Type::Sequence(inferred), Type::Sequence(declared)) => {
            Type::Sequence(Box::new(merge(*inferred, declared)))
        }
        (Type::Optional(inferred), Type::Optional(declared)) => {
            Type::Optional(Box::new(merge(*inferred, declared)))
        }
        (inferred, _) => inferred,
    }
}

fn merge_tensors(inferred: TensorType, declared: &TensorType) -> TensorType {
    let dtype = inferred.dtype.or(declared.dtype);
    let shape = match (inferred.shape, &declared.shape) {
        (None, declared) => declared.clone(),
        // A declaration that is wrong somewhere is not believed elsewhere.
        (Some(ours), Some(theirs))
            if ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.compatible(b)) =>
        {
            let fill = |(a, b): (Dim, &Dim)| if a == Dim::Unknown { b.clone() } else { a };
            Some(ours.into_iter().zip(theirs).map(fill).collect())
        }
        (inferred, _) => inferred,
    };
    TensorType { dtype, shape }
}

/// The types of all outputs of a node. Error when an operation has more outputs than it can, or a type is impossible.
pub(super) fn outputs(
    site: &Site,
    id: NodeId,
    mut inferred: Vec<Type>,
    declared: &BTreeMap<Value, Type>,
) -> Inferred {
    let outputs = &site.node.outputs;
    let open = matches!(site.node.op, Op::Input | Op::Opaque(_));
    if !open && outputs.len() > inferred.len() {
        return Err(format!("found {} outputs, expected at most {}", outputs.len(), inferred.len()));
    }
    inferred.resize(outputs.len(), Type::Unknown);
    let merged = inferred.into_iter().zip(outputs).enumerate().map(|(slot, (ty, output))| {
        let ty = merge(ty, &output.ty);
        let ty = declared.get(&Value { node: id, slot }).map_or(ty.clone(), |declared| merge(ty, declared));
        check(&ty)?;
        Ok(ty)
    });
    merged.collect()
}

/// Error when a tensor has more elements than can be counted.
fn check(ty: &Type) -> Inferred<()> {
    let Some(shape) = ty.shape() else {
        return Ok(());
    };
    let sizes = || shape.iter().filter_map(Dim::size);
    let bits = ty.dtype().and_then(DType::bits).unwrap_or(8) as u64;
    let fits = |n: u64| i64::try_from(n).is_ok();
    let elements = sizes().try_fold(1u64, |n, d| n.checked_mul(d).filter(|n| fits(*n)));
    let empty = sizes().any(|d| d == 0);
    let small = empty || elements.is_some_and(|n| n.checked_mul(bits.div_ceil(8)).is_some_and(fits));
    if small && sizes().all(fits) {
        return Ok(());
    }
    Err(format!(
        "shape {} has more than 2^63 bytes, expected sizes of a tensor that fits memory",
        show(shape)
    ))
}
