//! A run with a clock around every operator.

use std::time::Instant;

use tract_onnx::tract_core::plan;
use tract_onnx::tract_hir::internal::*;

use super::guard::guarded;
use super::nested_op::{Kind, NestedOp};
use super::{CpuError, TractModel};

/// What one operator of a plan took. The bodies of `If` and loops count as the operator that runs them.
#[derive(Debug, Clone, PartialEq)]
pub struct OpTime {
    /// The name of the node in the plan: tract renames, merges and splits nodes.
    pub node: String,
    /// What the node is, in tract's words: `NestedMatMul`, `Softmax`, `OptMatMul`, ...
    pub op: String,
    /// The layer whose nested weight it reads.
    pub layer: Option<String>,
    /// Wall time.
    pub micros: f64,
    /// Elements of the first output.
    pub elements: usize,
    /// Rows of the weight that a gather picked; `None` where the whole weight is read.
    pub picked: Option<usize>,
}

impl TractModel {
    /// Runs the model as [`TractModel::run`] does and returns the time of every operator, in the order of execution.
    ///
    /// # Errors
    /// As `run`.
    pub fn profile(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<OpTime>, CpuError> {
        let (plan, values) = self.planned(inputs)?;
        guarded("run", || {
            let mut times = vec![];
            plan.spawn()?.run_plan_with_eval(values, |context, state, node, inputs| {
                let start = Instant::now();
                let outputs = plan::eval(context, state, node, inputs)?;
                let micros = start.elapsed().as_secs_f64() * 1e6;
                let nested = node.op_as::<NestedOp>();
                let elements = outputs.first().map_or(0, |output| output.len());
                let picked = nested.and_then(|op| match op.kind {
                    Kind::Gather => elements.checked_div(op.resident.weight().cols()),
                    Kind::MatMul | Kind::Conv(_) => None,
                });
                times.push(OpTime {
                    node: node.name.clone(),
                    op: node.op().name().into_owned(),
                    layer: nested.map(|op| op.resident.name().to_owned()),
                    micros,
                    elements,
                    picked,
                });
                TractResult::Ok(outputs)
            })?;
            Ok(times)
        })
    }
}
