//! The nested operators as tract sees them: shapes for its analysis, evaluation on its tensors.

use std::sync::Arc;

use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;

use super::epilogue::Parts;
use super::{ConvGeometry, Resident, nested_conv, nested_gather, nested_matmul};

/// What a nested operator computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    MatMul,
    Conv(ConvGeometry),
    Gather,
}

/// One node that reads a resident weight.
///
/// Its value depends on the width of the moment, so it never evaluates outside a plan: tract cannot fold it.
#[derive(Debug, Clone)]
pub(super) struct NestedOp {
    pub kind: Kind,
    pub resident: Arc<Resident>,
    /// Of a convolution no more than a bias, of a gather none.
    pub parts: Parts,
}

impl PartialEq for NestedOp {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.parts == other.parts && Arc::ptr_eq(&self.resident, &other.resident)
    }
}

impl Eq for NestedOp {}

impl NestedOp {
    fn inputs(&self) -> usize {
        1 + self.parts.inputs()
    }

    fn output_type(&self, input: DatumType) -> DatumType {
        match self.kind {
            Kind::MatMul | Kind::Conv(_) => input,
            Kind::Gather => f32::datum_type(),
        }
    }

    fn output_shape(&self, input: &[TDim]) -> TractResult<TVec<TDim>> {
        let (rows, cols) = (self.resident.weight().rows(), self.resident.weight().cols());
        match &self.kind {
            Kind::MatMul => {
                let Some((last, leading)) = input.split_last() else {
                    bail!("layer {}: the input is a scalar, expected [..., {cols}]", self.resident.name());
                };
                if last.to_i64().is_ok_and(|last| last != cols as i64) {
                    bail!("layer {}: the input is {input:?}, expected [..., {cols}]", self.resident.name());
                }
                Ok(leading.iter().cloned().chain([rows.to_dim()]).collect())
            }
            Kind::Conv(geometry) => geometry
                .output_shape(input, rows)
                .map_err(|reason| format_err!("layer {}: {reason}", self.resident.name())),
            Kind::Gather => Ok(input.iter().cloned().chain([cols.to_dim()]).collect()),
        }
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let x = &inputs[0];
        if self.kind == Kind::Gather {
            let indices = x.cast_to::<i64>()?;
            let rows = nested_gather(&self.resident, indices.try_as_plain_ram()?.as_slice()?)?;
            let shape: TVec<usize> =
                x.shape().iter().copied().chain([self.resident.weight().cols()]).collect();
            return tract_ndarray::Array1::from(rows).into_tensor().into_shape(&shape);
        }
        let values = x.cast_to::<f32>()?;
        let values = values.try_as_plain_ram()?.as_slice::<f32>()?;
        let parts = inputs[1..].iter().map(|part| part.cast_to::<f32>()).collect::<TractResult<Vec<_>>>()?;
        let parts = parts
            .iter()
            .map(|part| part.try_as_plain_ram()?.as_slice::<f32>())
            .collect::<TractResult<Vec<_>>>()?;
        let epilogue = self.parts.epilogue(&parts);
        let rows = self.resident.weight().rows();
        if let Some(bias) = epilogue.bias {
            ensure!(bias.len() == rows, "the bias has {} elements, expected {rows}", bias.len());
        }
        let (y, shape) = match &self.kind {
            Kind::Conv(geometry) => nested_conv(&self.resident, geometry, values, x.shape(), epilogue.bias)?,
            Kind::MatMul | Kind::Gather => {
                let cols = self.resident.weight().cols();
                ensure!(
                    x.shape().last() == Some(&cols),
                    "the input is {:?}, expected [..., {cols}]",
                    x.shape()
                );
                let mut shape = x.shape().to_vec();
                shape[x.rank() - 1] = rows;
                let m = shape[..x.rank() - 1].iter().product();
                (nested_matmul(&self.resident, values, m, epilogue)?, shape)
            }
        };
        let y = tract_ndarray::Array1::from(y).into_tensor().into_shape(&shape)?;
        Ok(y.cast_to_dt(self.output_type(x.datum_type()))?.into_owned())
    }
}

impl Op for NestedOp {
    fn name(&self) -> StaticName {
        match self.kind {
            Kind::MatMul => "NestedMatMul".into(),
            Kind::Conv(_) => "NestedConv".into(),
            Kind::Gather => "NestedGather".into(),
        }
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("layer {}", self.resident.name())])
    }

    op_as_typed_op!();
}

impl EvalOp for NestedOp {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let y = self.evaluate(&inputs).with_context(|| format!("layer {}", self.resident.name()))?;
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for NestedOp {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == self.inputs(), "{} inputs, expected {}", inputs.len(), self.inputs());
        let shape = self.output_shape(&inputs[0].shape)?;
        Ok(tvec!(self.output_type(inputs[0].datum_type).fact(shape)))
    }
}

impl Expansion for NestedOp {
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
        s.given(&inputs[0].datum_type, move |s, dtype| {
            s.equals(&outputs[0].datum_type, self.output_type(dtype))
        })?;
        s.given(&inputs[0].shape, move |s, shape| s.equals(&outputs[0].shape, self.output_shape(&shape)?))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let mut inputs: TVec<OutletId> = inputs.into();
        if self.kind == Kind::Gather {
            inputs[0] =
                model.wire_node(format!("{prefix}.indices"), cast(i64::datum_type()), &[inputs[0]])?[0];
        }
        model.wire_node(prefix, self.clone(), &inputs)
    }

    fn runs_out_of_plan(&self) -> bool {
        false
    }
}
