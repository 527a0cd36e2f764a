//! ONNX `If` for tract, before shapes are known.
//!
//! tract's own `If` analyses the branch that is never taken, folds a branch that reads our weights into a
//! constant when its inputs are constant, and plans a branch anew at every run. This one inlines the taken
//! branch when the condition is known. Otherwise it plans both once, and a branch that cannot exist under
//! the shapes of the inputs (models choose branches by sizes that only they understand) is an error when it
//! is taken.

use std::sync::Arc;

use tract_onnx::model::{ParseResult, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;

use super::typed_branch::{PlannedSide, Side, TypedBranch};

/// One side before shapes are known, and why it cannot exist under the shapes seen, if so.
#[derive(Debug, Clone)]
struct OpenSide {
    side: Side<InferenceModel>,
    fault: Option<String>,
}

/// `If` before shapes are known; input 0 is the condition, the others are the values that the branches
/// capture.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    then: OpenSide,
    otherwise: OpenSide,
}

/// Builds a [`Branch`]; the captured values become its inputs.
pub(super) fn parse(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let then = context.parse_graph(node.get_attr("then_branch")?)?;
    let otherwise = context.parse_graph(node.get_attr("else_branch")?)?;
    let (left, right) = (then.model.outputs.len(), otherwise.model.outputs.len());
    ensure!(left == right, "node {}: then_branch has {left} outputs, else_branch {right}", node.name);
    let mut captured: Vec<String> =
        [&then, &otherwise].iter().flat_map(|r| r.unresolved_inputs.clone()).collect();
    captured.sort();
    captured.dedup();
    let open = |result: ParseResult| {
        let feeds = result.unresolved_inputs.iter();
        let feeds = feeds.map(|name| 1 + captured.partition_point(|other| other < name)).collect();
        OpenSide { side: Side { body: result.model, feeds }, fault: None }
    };
    Ok((Box::new(Branch { then: open(then), otherwise: open(otherwise) }), captured))
}

impl Branch {
    /// Both subgraphs.
    pub(super) fn bodies_mut(&mut self) -> [&mut InferenceModel; 2] {
        [&mut self.then.side.body, &mut self.otherwise.side.body]
    }
}

impl OpenSide {
    /// Exchanges what is known between the node and the subgraph; whether anything new came of it. Values of
    /// the outputs are exchanged only where this side is the one `taken`.
    fn unify(
        &mut self,
        inputs: &mut [InferenceFact],
        outputs: &mut [InferenceFact],
        taken: bool,
    ) -> TractResult<bool> {
        let Side { body, feeds } = &mut self.side;
        let mut changed = false;
        for (inner, outer) in feeds.iter().enumerate() {
            changed |= body.input_fact_mut(inner)?.unify_with_mut(&mut inputs[*outer])?;
        }
        for (slot, output) in outputs.iter_mut().enumerate() {
            let inner = body.output_fact_mut(slot)?;
            changed |= inner.datum_type.unify_with_mut(&mut output.datum_type)?;
            changed |= inner.shape.unify_with_mut(&mut output.shape)?;
            if taken {
                changed |= inner.value.unify_with_mut(&mut output.value)?;
            }
        }
        Ok(body.analyse(false)? || changed)
    }

    fn planned(&self) -> PlannedSide {
        match &self.fault {
            Some(fault) => PlannedSide::Impossible(fault.clone()),
            None => {
                self.side.clone().plan().unwrap_or_else(|error| PlannedSide::Impossible(format!("{error:#}")))
            }
        }
    }
}

impl PartialEq for Branch {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Branch {}

impl Op for Branch {
    fn name(&self) -> StaticName {
        "If".into()
    }

    not_a_typed_op!();
}

impl EvalOp for Branch {
    not_out_of_plan!();
}

impl InferenceOp for Branch {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let mut inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        inputs[0].datum_type.unify_with(&bool::datum_type().into())?;
        let known = inputs[0].value.concretize().map(|value| value.cast_to_scalar::<bool>()).transpose()?;
        let mut changed = true;
        while changed {
            changed = false;
            for (condition, open) in [(true, &mut self.then), (false, &mut self.otherwise)] {
                if known.is_some_and(|known| known != condition) || open.fault.is_some() {
                    continue;
                }
                let (mut tried_inputs, mut tried_outputs) = (inputs.clone(), outputs.clone());
                match open.unify(&mut tried_inputs, &mut tried_outputs, known.is_some()) {
                    Ok(more) => {
                        changed |= more;
                        (inputs, outputs) = (tried_inputs, tried_outputs);
                    }
                    Err(error) if known.is_some() => return Err(error),
                    Err(error) => open.fault = Some(format!("{error:#}")),
                }
            }
        }
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.then.side.body.outputs.len())
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<OutletId> = node.inputs.iter().map(|input| mapping[input]).collect();
        if let Some(condition) = source.outlet_fact(node.inputs[0])?.value.concretize() {
            let open = if condition.cast_to_scalar::<bool>()? { &self.then } else { &self.otherwise };
            let typed = Side { body: open.side.body.clone().into_typed()?, feeds: open.side.feeds.clone() };
            return typed.inline(&node.name, target, &inputs);
        }
        let op = TypedBranch {
            then: Arc::new(self.then.planned()),
            otherwise: Arc::new(self.otherwise.planned()),
        };
        target.wire_node(&node.name, op, &inputs)
    }

    as_op!();
}
