//! tract's product with 4-bit weights (Q4_0) and f32 activations, on one thread.

use std::sync::Arc;

use anyhow::Result;
use mqc_ir::Activations;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{AxesMapping, Blob};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::tract_linalg::block_quant::{
    BlockQuant, BlockQuantFact, BlockQuantStorage, Q4_0,
};

use crate::Shape;
use crate::clock::Stopwatch;
use crate::peer::{Format, Kind};

/// Weights in a block of Q4_0, and its bytes.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 18;

/// A model with as many products as come to the bytes asked for.
pub struct Tract {
    shape: Shape,
    copies: usize,
    /// A weight in blocks of Q4_0; each product has a copy of its own.
    weight: Blob,
    loaded: Option<Loaded>,
}

/// The model for a number of tokens.
struct Loaded {
    tokens: usize,
    x: Tensor,
    model: Arc<TypedRunnableModel>,
    stopwatch: Stopwatch,
}

impl Tract {
    pub fn new(shape: Shape, bytes: usize) -> Result<Tract> {
        let copies = bytes.div_ceil(shape.k * shape.n / BLOCK * BLOCK_BYTES).max(1);
        let weight: Vec<f32> =
            (0..shape.k * shape.n).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect();
        Ok(Tract { shape, copies, weight: Q4_0.quant_f32(&weight)?, loaded: None })
    }

    /// What it multiplies.
    pub fn format(&self) -> Format {
        Format { name: "Q4_0".to_owned(), kind: Kind::Tract, bits: 4, activations: Activations::F32 }
    }

    /// Microseconds of a product.
    pub fn turn(&mut self, tokens: usize) -> Result<f64> {
        let loaded = match self.loaded.take() {
            Some(loaded) if loaded.tokens == tokens => loaded,
            _ => self.load(tokens)?,
        };
        let Loaded { x, model, stopwatch, .. } = self.loaded.insert(loaded);
        let micros = stopwatch.turn(|| model.run(tvec!(x.clone().into_tvalue())).map(drop))?;
        Ok(micros / self.copies as f64)
    }

    fn load(&self, tokens: usize) -> Result<Loaded> {
        let Shape { k, n } = self.shape;
        let mut model = TypedModel::default();
        let a = model.add_source("a", f32::fact([tokens, k]))?;
        let mut outputs = vec![];
        for i in 0..self.copies {
            let storage = BlockQuantStorage::new(Box::new(Q4_0), n, k, Arc::new(self.weight.clone()))?;
            let fact = Box::new(BlockQuantFact::new(Box::new(Q4_0), tvec!(1, n, k)));
            let tensor = Arc::new(storage.into_tensor_with_shape(f32::datum_type(), &[1, n, k]));
            let weight = Const::new_with_exotic_fact(tensor, fact)?;
            let w = model.wire_node(format!("w{i}"), weight, &[])?;
            let axes = AxesMapping::from_strs(&["mk", "gnk"], &["mn"])?;
            outputs
                .push(model.wire_node(format!("y{i}"), EinSum::new(axes, f32::datum_type()), &[a, w[0]])?[0]);
        }
        model.select_output_outlets(&outputs)?;
        let x: Vec<f32> = (0..tokens * k).map(|i| (i * 31 % 97) as f32 / 48.0 - 1.0).collect();
        Ok(Loaded {
            tokens,
            x: Tensor::from_shape(&[tokens, k], &x)?,
            model: model.into_optimized()?.into_runnable()?,
            stopwatch: Stopwatch::new(1),
        })
    }
}
