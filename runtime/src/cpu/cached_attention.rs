//! Attention over a cache as tract sees it: `q, new keys, new values[, mask]` to the attended values.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Engine;
use super::attention::{Mask, Order, Queries};
use super::kv_cache::{CacheShape, KvCache};

/// One node of kind `CachedAttention`.
///
/// A run appends to the cache, so the node never evaluates outside a plan: tract cannot fold it.
#[derive(Debug, Clone)]
pub(super) struct CachedAttention {
    pub cache: Arc<KvCache>,
    engine: Arc<Engine>,
    /// Factor of the scores; its bits, since operators are compared.
    scale: u32,
    has_mask: bool,
}

impl PartialEq for CachedAttention {
    fn eq(&self, other: &Self) -> bool {
        self.scale == other.scale && self.has_mask == other.has_mask && Arc::ptr_eq(&self.cache, &other.cache)
    }
}

impl Eq for CachedAttention {}

impl CachedAttention {
    /// Reads the attributes; the cache is a new one.
    pub(super) fn parse(node: &NodeProto, engine: &Arc<Engine>) -> TractResult<CachedAttention> {
        let name: String = node.get_attr("cache")?;
        let size = |attribute: &str| -> TractResult<usize> {
            let size: i64 = node.get_attr(attribute)?;
            ensure!((1..1 << 20).contains(&size), "{attribute} is {size}, expected a size");
            Ok(size as usize)
        };
        let shape = CacheShape {
            heads: size("kv_heads")?,
            key_size: size("key_size")?,
            value_size: size("value_size")?,
        };
        let scale: f32 = node.get_attr("scale")?;
        let has_mask = node.input.get(3).is_some_and(|name| !name.is_empty());
        let cache = Arc::new(KvCache::new(name, shape));
        Ok(CachedAttention { cache, engine: engine.clone(), scale: scale.to_bits(), has_mask })
    }

    fn inputs(&self) -> usize {
        3 + usize::from(self.has_mask)
    }

    fn output_shape(&self, queries: &[TDim]) -> TractResult<TVec<TDim>> {
        let [batch, heads, rows, _] = queries else {
            bail!(
                "the queries are {queries:?}, expected [1, heads, positions, {}]",
                self.cache.shape().key_size
            );
        };
        Ok(tvec!(batch.clone(), heads.clone(), rows.clone(), self.cache.shape().value_size.to_dim()))
    }

    fn evaluate(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let &[batch, heads, rows, key_size] = inputs[0].shape() else {
            bail!("the queries have rank {}, expected 4", inputs[0].rank());
        };
        let CacheShape { heads: kv_heads, key_size: expected, value_size } = *self.cache.shape();
        ensure!(batch == 1, "a batch of {batch} sequences, expected 1: there is one cache");
        ensure!(key_size == expected, "queries of {key_size} elements, expected {expected}");
        for (input, size) in [(1, expected), (2, value_size)] {
            let shape = inputs[input].shape();
            ensure!(
                shape == [1, kv_heads, rows, size],
                "input {input} is {shape:?}, expected [1, {kv_heads}, {rows}, {size}]"
            );
        }
        let floats = inputs.iter().map(|t| t.cast_to::<f32>()).collect::<TractResult<Vec<_>>>()?;
        let floats = floats
            .iter()
            .map(|t| t.try_as_plain_ram()?.as_slice::<f32>())
            .collect::<TractResult<Vec<_>>>()?;
        let mask = match floats.get(3) {
            Some(data) => Some(Mask { data, shape: mask_shape(inputs[3].shape())? }),
            None => None,
        };
        let (order, scale) = (Order::HeadsFirst, f32::from_bits(self.scale));
        let queries = Queries { data: floats[0], order, heads, rows, scale };
        let threads = self.engine.threads();
        let out = self.cache.attend(floats[1], floats[2], &queries, mask, &threads);
        let out = out.map_err(|e| format_err!(e))?;
        let out = tract_ndarray::Array1::from(out).into_tensor().into_shape(&[1, heads, rows, value_size])?;
        Ok(out.cast_to_dt(inputs[0].datum_type())?.into_owned())
    }
}

/// `[heads or 1, rows or 1, positions or 1]` of a mask of up to four dimensions.
fn mask_shape(shape: &[usize]) -> TractResult<[usize; 3]> {
    let [batch, rest @ ..] = four(shape)?;
    ensure!(batch == 1, "the mask is {shape:?}, expected one sequence");
    Ok(rest)
}

/// The shape with ones in front of it.
pub(super) fn four(shape: &[usize]) -> TractResult<[usize; 4]> {
    let missing = 4usize.checked_sub(shape.len()).context("the mask has more than 4 dimensions")?;
    Ok(std::array::from_fn(|axis| if axis < missing { 1 } else { shape[axis - missing] }))
}

impl Op for CachedAttention {
    fn name(&self) -> StaticName {
        "CachedAttention".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("cache of {}", self.cache.name())])
    }

    op_as_typed_op!();
}

impl EvalOp for CachedAttention {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let y = self.evaluate(&inputs).with_context(|| format!("cache of {}", self.cache.name()))?;
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for CachedAttention {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == self.inputs(), "{} inputs, expected {}", inputs.len(), self.inputs());
        Ok(tvec!(inputs[0].datum_type.fact(self.output_shape(&inputs[0].shape)?)))
    }
}

impl Expansion for CachedAttention {
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
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.given(&inputs[0].shape, move |s, shape| s.equals(&outputs[0].shape, self.output_shape(&shape)?))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }

    fn runs_out_of_plan(&self) -> bool {
        false
    }
}
