//! ONNX `If` for tract.
//!
//! tract's own `If` analyses the branch that is never taken, folds a branch that reads our weights into a
//! constant when its inputs are constant, and plans a branch anew at every run. This one analyses and inlines
//! only the taken branch when the condition is known, never folds, and plans both branches once.

use std::sync::Arc;

use tract_onnx::model::{ParseResult, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;

/// The subgraph of one side and, for each of its inputs, the input of the node that feeds it.
#[derive(Debug, Clone)]
struct Side<M> {
    body: M,
    feeds: Vec<usize>,
}

/// `If` before shapes are known; input 0 is the condition, the others are the values that the branches
/// capture.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    then: Side<InferenceModel>,
    otherwise: Side<InferenceModel>,
}

/// Builds a [`Branch`]; the captured values become its inputs.
pub(super) fn parse(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let then = context.parse_graph(node.get_attr("then_branch")?)?;
    let otherwise = context.parse_graph(node.get_attr("else_branch")?)?;
    let mut captured: Vec<String> =
        [&then, &otherwise].iter().flat_map(|r| r.unresolved_inputs.clone()).collect();
    captured.sort();
    captured.dedup();
    let side = |result: ParseResult| {
        let feeds = result.unresolved_inputs.iter();
        let feeds = feeds.map(|name| 1 + captured.partition_point(|other| other < name)).collect();
        Side { body: result.model, feeds }
    };
    let branch = Branch { then: side(then), otherwise: side(otherwise) };
    let (left, right) = (branch.then.body.outputs.len(), branch.otherwise.body.outputs.len());
    ensure!(left == right, "node {}: then_branch has {left} outputs, else_branch {right}", node.name);
    Ok((Box::new(branch), captured))
}

impl Branch {
    /// Both subgraphs.
    pub(super) fn bodies_mut(&mut self) -> [&mut InferenceModel; 2] {
        [&mut self.then.body, &mut self.otherwise.body]
    }

    fn side(&self, condition: bool) -> &Side<InferenceModel> {
        if condition { &self.then } else { &self.otherwise }
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
            for (condition, side) in [(true, &mut self.then), (false, &mut self.otherwise)] {
                if known.is_some_and(|known| known != condition) {
                    continue;
                }
                for (inner, outer) in side.feeds.iter().enumerate() {
                    changed |= side.body.input_fact_mut(inner)?.unify_with_mut(&mut inputs[*outer])?;
                }
                for (slot, output) in outputs.iter_mut().enumerate() {
                    let inner = side.body.output_fact_mut(slot)?;
                    changed |= inner.datum_type.unify_with_mut(&mut output.datum_type)?;
                    changed |= inner.shape.unify_with_mut(&mut output.shape)?;
                    if known.is_some() {
                        changed |= inner.value.unify_with_mut(&mut output.value)?;
                    }
                }
                changed |= side.body.analyse(false)?;
            }
        }
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.then.body.outputs.len())
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
            let side = self.side(condition.cast_to_scalar::<bool>()?);
            let typed = Side { body: side.body.clone().into_typed()?, feeds: side.feeds.clone() };
            return typed.inline(&node.name, target, &inputs);
        }
        let op = TypedBranch { then: self.then.planned()?, otherwise: self.otherwise.planned()? };
        target.wire_node(&node.name, op, &inputs)
    }

    as_op!();
}

impl Side<InferenceModel> {
    fn planned(&self) -> TractResult<Arc<PlannedSide>> {
        let typed = self.body.clone().into_typed()?;
        let plan = typed.clone().into_optimized()?.into_runnable()?;
        Ok(Arc::new(PlannedSide { typed: Side { body: typed, feeds: self.feeds.clone() }, plan }))
    }
}

impl Side<TypedModel> {
    /// Wires the subgraph into `target` in place of the node `name` with inputs `inputs`.
    fn inline(
        &self,
        name: &str,
        target: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut wires: HashMap<OutletId, OutletId> =
            self.body.inputs.iter().zip(&self.feeds).map(|(inner, outer)| (*inner, inputs[*outer])).collect();
        for id in self.body.eval_order()? {
            let node = self.body.node(id);
            if TypedModel::is_source(&node.op) {
                continue;
            }
            let node_inputs: TVec<OutletId> = node.inputs.iter().map(|input| wires[input]).collect();
            let outputs = target.wire_node(format!("{name}.{}", node.name), node.op.clone(), &node_inputs)?;
            wires.extend(
                outputs.into_iter().enumerate().map(|(slot, outlet)| (OutletId::new(id, slot), outlet)),
            );
        }
        Ok(self.body.outputs.iter().map(|output| wires[output]).collect())
    }
}

/// One side with its shapes known: the graph to inline if the condition turns out constant, the plan to run
/// if not.
#[derive(Debug)]
struct PlannedSide {
    typed: Side<TypedModel>,
    plan: Arc<TypedSimplePlan>,
}

/// `If` with a condition that only a run knows.
#[derive(Debug, Clone)]
struct TypedBranch {
    then: Arc<PlannedSide>,
    otherwise: Arc<PlannedSide>,
}

impl TypedBranch {
    fn side(&self, condition: &Tensor) -> TractResult<&PlannedSide> {
        Ok(if condition.cast_to_scalar::<bool>()? { &self.then } else { &self.otherwise })
    }
}

impl PartialEq for TypedBranch {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for TypedBranch {}

impl Op for TypedBranch {
    fn name(&self) -> StaticName {
        "If".into()
    }

    op_as_typed_op!();
}

impl EvalOp for TypedBranch {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let side = self.side(&inputs[0])?;
        side.plan.run(side.typed.feeds.iter().map(|input| inputs[*input].clone()).collect())
    }
}

impl TypedOp for TypedBranch {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let outputs = self.then.typed.body.outputs.len();
        let facts = (0..outputs).map(|slot| {
            let then = self.then.typed.body.output_fact(slot)?.without_value();
            let otherwise = self.otherwise.typed.body.output_fact(slot)?.without_value();
            ensure!(
                then == otherwise,
                "If: output {slot} is {then:?} in then_branch and {otherwise:?} in else_branch; they must agree"
            );
            Ok(then)
        });
        facts.collect()
    }

    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let Some(condition) = &model.outlet_fact(node.inputs[0])?.konst else { return Ok(None) };
        let side = self.side(condition)?;
        let mut patch = TypedModelPatch::default();
        let inputs = patch.taps(model, &node.inputs)?;
        let outputs = side.typed.inline(&node.name, &mut patch.model, &inputs)?;
        for (slot, output) in outputs.into_iter().enumerate() {
            patch.shunt_outside(model, OutletId::new(node.id, slot), output)?;
        }
        Ok(Some(patch))
    }
}
