//! Half precision as f32, for engines whose floats are all of one type.

use mqc_ir::{DType, Graph, Op, Tensor, TensorType, Type};

use crate::Error;
use crate::walk::for_each_graph;

/// Lets all that is f16 or bf16 be f32: inputs, constants and what follows from them. Results are at least as exact, and do not
/// overflow where half precision does. Names stay. An operation that makes half precision by an attribute which is not known
/// here is left, and the next inference of types finds it.
///
/// # Errors
/// A graph with a cycle.
pub fn widen_floats(graph: &mut Graph) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        for id in graph.order()? {
            // In this order operands have their new types.
            let operand = graph.operand(id, 0).and_then(|value| graph.info(value)?.ty.dtype());
            let Some(node) = graph.node_mut(id) else { continue };
            for output in &mut node.outputs {
                output.ty = widened_type(&output.ty);
            }
            let op = match &node.op {
                Op::Weight(tensor) => Op::Weight(widened(tensor)?),
                Op::Constant(tensor) => Op::Constant(widened(tensor)?),
                Op::ConstantOfShape { value: Some(tensor) } => {
                    Op::ConstantOfShape { value: Some(widened(tensor)?) }
                }
                Op::Cast { to, .. } if widened_dtype(*to) == DType::F32 && operand == Some(DType::F32) => {
                    Op::Identity
                }
                Op::Cast { to, saturate } => Op::Cast { to: widened_dtype(*to), saturate: *saturate },
                _ => continue,
            };
            node.op = op;
        }
        let mut outputs = graph.outputs().to_vec();
        outputs.iter_mut().for_each(|output| output.declared = widened_type(&output.declared));
        graph.set_outputs(outputs);
        Ok(())
    })
}

fn widened_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::Bf16 => DType::F32,
        other => other,
    }
}

fn widened_type(ty: &Type) -> Type {
    match ty {
        Type::Tensor(TensorType { dtype, shape }) => {
            Type::Tensor(TensorType { dtype: dtype.map(widened_dtype), shape: shape.clone() })
        }
        other => other.clone(),
    }
}

fn widened(tensor: &Tensor) -> Result<Tensor, mqc_ir::Error> {
    match tensor.to_f32_vec() {
        Some(values) if widened_dtype(tensor.dtype()) != tensor.dtype() => {
            Tensor::from_f32(tensor.shape().to_vec(), &values)
        }
        Some(_) | None => Ok(tensor.clone()),
    }
}
