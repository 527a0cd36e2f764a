//! Attention without a cache as tract sees it: `q, keys, values[, mask]` to the attended values; scores are never stored.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Engine;
use super::attention::{Mask, Order, Queries};
use super::cached_attention::four;
use super::kv_cache::{CacheShape, KvCache};
use super::same_shape::floats;

/// One node of kind `Attention`.
#[derive(Debug, Clone)]
pub(super) struct SelfAttention {
    engine: Arc<Engine>,
    /// Factor of the scores; its bits, since operators are compared.
    scale: u32,
    has_mask: bool,
}

impl PartialEq for SelfAttention {
    fn eq(&self, other: &Self) -> bool {
        self.scale == other.scale && self.has_mask == other.has_mask
    }
}

impl Eq for SelfAttention {}

impl SelfAttention {
    /// Reads the attributes.
    pub(super) fn parse(node: &NodeProto, engine: &Arc<Engine>) -> TractResult<SelfAttention> {
        let scale: f32 = node.get_attr("scale")?;
        let has_mask = node.input.get(3).is_some_and(|name| !name.is_empty());
        Ok(SelfAttention { engine: engine.clone(), scale: scale.to_bits(), has_mask })
    }

    fn inputs(&self) -> usize {
        3 + usize::from(self.has_mask)
    }

    /// `[batch, positions, heads, value size]`
    fn output_shape(&self, queries: &[TDim], values: &[TDim]) -> TractResult<TVec<TDim>> {
        let ([batch, rows, heads, _], [.., size]) = (queries, values) else {
            bail!("the queries are {queries:?}, expected [batch, positions, heads, size]");
        };
        Ok(tvec!(batch.clone(), rows.clone(), heads.clone(), size.clone()))
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let (&[batch, rows, heads, key_size], keys, values) =
            (inputs[0].shape(), inputs[1].shape(), inputs[2].shape())
        else {
            bail!("the queries have rank {}, expected 4", inputs[0].rank());
        };
        let (&[_, positions, few, _], &[.., value_size]) = (keys, values) else {
            bail!("the keys are {keys:?}, expected [{batch}, positions, heads, {key_size}]");
        };
        ensure!(
            keys == [batch, positions, few, key_size] && values == [batch, positions, few, value_size],
            "the keys are {keys:?} and the values {values:?}, expected [{batch}, positions, heads, {key_size}] and the same \
             positions and heads"
        );
        ensure!(
            few > 0 && heads % few == 0 && key_size > 0 && value_size > 0,
            "{heads} heads of queries and {few} of keys, expected a multiple; sizes {key_size} and {value_size}"
        );
        let floats = floats(inputs)?;
        let mask_shape = inputs.get(3).map(|mask| four(mask.shape())).transpose()?;
        if let Some([sequences, ..]) = mask_shape {
            ensure!(
                sequences == 1 || sequences == batch,
                "the mask has {sequences} sequences, expected {batch}"
            );
        }
        let threads = self.engine.threads();
        let shape = CacheShape { heads: few, key_size, value_size };
        let mut out = vec![0.0; batch * rows * heads * value_size];
        for (at, out) in out.chunks_exact_mut((rows * heads * value_size).max(1)).enumerate() {
            let part = |input: usize| {
                let len = floats[input].len() / batch;
                &floats[input][at * len..][..len]
            };
            let (data, keys, values) = (part(0), part(1), part(2));
            let mask = mask_shape.map(|[sequences, rest @ ..]| {
                let len = floats[3].len() / sequences;
                Mask { data: &floats[3][at % sequences * len..][..len], shape: rest }
            });
            let queries = Queries {
                data,
                order: Order::PositionsFirst,
                heads,
                rows,
                scale: f32::from_bits(self.scale),
            };
            let cache = KvCache::new("", shape.clone());
            let attended =
                cache.attend(keys, values, &queries, mask, &threads).map_err(|e| format_err!(e))?;
            for (place, out) in out.chunks_exact_mut(value_size).enumerate() {
                let from = (place % heads * rows + place / heads) * value_size;
                out.copy_from_slice(&attended[from..from + value_size]);
            }
        }
        tract_ndarray::Array1::from(out).into_tensor().into_shape(&[batch, rows, heads, value_size])
    }
}

impl Op for SelfAttention {
    fn name(&self) -> StaticName {
        "Attention".into()
    }

    op_as_typed_op!();
}

impl EvalOp for SelfAttention {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.evaluate(&inputs)?.into_tvalue()))
    }
}

impl TypedOp for SelfAttention {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == self.inputs(), "{} inputs, expected {}", inputs.len(), self.inputs());
        Ok(tvec!(f32::fact(self.output_shape(&inputs[0].shape, &inputs[2].shape)?)))
    }
}

impl Expansion for SelfAttention {
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
        s.given_2(&inputs[0].shape, &inputs[2].shape, move |s, queries, values| {
            s.equals(&outputs[0].shape, self.output_shape(&queries, &values)?)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }

    fn runs_out_of_plan(&self) -> bool {
        false
    }
}
