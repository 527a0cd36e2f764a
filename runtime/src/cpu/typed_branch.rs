//! ONNX `If` for tract, with shapes known and a condition that only a run knows.

use std::sync::Arc;

use tract_onnx::tract_hir::internal::*;

/// The subgraph of one side and, for each of its inputs, the input of the node that feeds it.
#[derive(Debug, Clone)]
pub(super) struct Side<M> {
    pub body: M,
    pub feeds: Vec<usize>,
}

/// One side with its shapes known.
#[derive(Debug)]
pub(super) enum PlannedSide {
    /// The graph, to inline if the condition turns out constant, and the plan, to run if not.
    Ready(Side<TypedModel>, Arc<TypedSimplePlan>),
    /// Why it cannot exist under these shapes.
    Impossible(String),
}

/// `If` with a condition that only a run knows.
#[derive(Debug, Clone)]
pub(super) struct TypedBranch {
    pub then: Arc<PlannedSide>,
    pub otherwise: Arc<PlannedSide>,
}

impl Side<InferenceModel> {
    /// Translates the subgraph and makes its plan.
    pub(super) fn plan(self) -> TractResult<PlannedSide> {
        let body = self.body.into_typed()?;
        let plan = body.clone().into_optimized()?.into_runnable()?;
        Ok(PlannedSide::Ready(Side { body, feeds: self.feeds }, plan))
    }
}

impl Side<TypedModel> {
    /// Wires the subgraph into `target` in place of the node `name` with inputs `inputs`.
    pub(super) fn inline(
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

impl TypedBranch {
    /// The side that `condition` takes.
    fn taken(&self, condition: &Tensor) -> TractResult<(&Side<TypedModel>, &Arc<TypedSimplePlan>)> {
        let taken = condition.cast_to_scalar::<bool>()?;
        let (name, side) = if taken { ("then", &self.then) } else { ("else", &self.otherwise) };
        match side.as_ref() {
            PlannedSide::Ready(side, plan) => Ok((side, plan)),
            PlannedSide::Impossible(reason) => {
                bail!("the {name}_branch is taken and does not fit the shapes of the inputs: {reason}")
            }
        }
    }
}

impl PlannedSide {
    /// The facts of the outputs without their values, or why there are none.
    fn outputs(&self) -> Result<TractResult<TVec<TypedFact>>, &str> {
        match self {
            PlannedSide::Ready(side, _) => {
                let slots = 0..side.body.outputs.len();
                Ok(slots.map(|slot| Ok(side.body.output_fact(slot)?.without_value())).collect())
            }
            PlannedSide::Impossible(reason) => Err(reason),
        }
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
        let (side, plan) = self.taken(&inputs[0])?;
        plan.run(side.feeds.iter().map(|input| inputs[*input].clone()).collect())
    }
}

impl TypedOp for TypedBranch {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        match (self.then.outputs(), self.otherwise.outputs()) {
            (Ok(then), Ok(otherwise)) => {
                let (then, otherwise) = (then?, otherwise?);
                ensure!(
                    then == otherwise,
                    "If: outputs are {then:?} in then_branch and {otherwise:?} in else_branch; they must agree"
                );
                Ok(then)
            }
            (Ok(facts), Err(_)) | (Err(_), Ok(facts)) => facts,
            (Err(then), Err(otherwise)) => bail!("If: then_branch: {then}; else_branch: {otherwise}"),
        }
    }

    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let Some(condition) = &model.outlet_fact(node.inputs[0])?.konst else { return Ok(None) };
        let (side, _) = self.taken(condition)?;
        let mut patch = TypedModelPatch::default();
        let inputs = patch.taps(model, &node.inputs)?;
        let outputs = side.inline(&node.name, &mut patch.model, &inputs)?;
        for (slot, output) in outputs.into_iter().enumerate() {
            patch.shunt_outside(model, OutletId::new(node.id, slot), output)?;
        }
        Ok(Some(patch))
    }
}
