//! What tract asks of an operator of f32 tensors whose one output has the shape of its first input: `RmsNorm`, `LayerNorm`,
//! `Rotary`, `Epilogue`.

use tract_onnx::tract_hir::internal::*;

/// The elements of f32 inputs.
pub(super) fn floats(inputs: &[TValue]) -> TractResult<Vec<&[f32]>> {
    inputs.iter().map(|t| t.try_as_plain_ram()?.as_slice::<f32>()).collect()
}

/// Makes a type with the methods `kind() -> &'static str`, `inputs() -> usize` and `evaluate(&[TValue]) -> TractResult<Tensor>`
/// such an operator.
macro_rules! same_shape_op {
    ($op:ty) => {
        impl Op for $op {
            fn name(&self) -> StaticName {
                self.kind().into()
            }

            op_as_typed_op!();
        }

        impl EvalOp for $op {
            not_out_of_plan!();

            fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
                Ok(tvec!(self.evaluate(&inputs)?.into_tvalue()))
            }
        }

        impl TypedOp for $op {
            as_op!();

            fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
                ensure!(inputs.len() == self.inputs(), "{} inputs, expected {}", inputs.len(), self.inputs());
                Ok(tvec!(f32::fact(inputs[0].shape.to_tvec())))
            }
        }

        impl Expansion for $op {
            fn name(&self) -> StaticName {
                Op::name(self)
            }

            fn rules<'r, 'p: 'r, 's: 'r>(
                &'s self,
                s: &mut Solver<'r>,
                inputs: &'p [TensorProxy],
                outputs: &'p [TensorProxy],
            ) -> InferenceResult {
                check_input_arity(inputs, self.inputs())?;
                check_output_arity(outputs, 1)?;
                inputs.iter().try_for_each(|input| s.equals(&input.datum_type, f32::datum_type()))?;
                s.equals(&outputs[0].datum_type, f32::datum_type())?;
                s.equals(&outputs[0].shape, &inputs[0].shape)
            }

            fn wire(
                &self,
                prefix: &str,
                model: &mut TypedModel,
                inputs: &[OutletId],
            ) -> TractResult<TVec<OutletId>> {
                model.wire_node(prefix, self.clone(), inputs)
            }

            fn runs_out_of_plan(&self) -> bool {
                false
            }
        }
    };
}

pub(super) use same_shape_op;
