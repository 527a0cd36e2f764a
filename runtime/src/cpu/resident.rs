//! One weight in memory, shared by every plan, and the width it is read at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use mqc_ir::Activations;
use mqc_ir::quant::Width;
use mqc_kernels::cpu::{KernelError, MatMul, Packed, Threads};

use super::Engine;
use crate::nested::NestedWeight;

/// A nested weight held once and the width that the next run reads it at.
///
/// Operators read the width when they run, so storing another one between two runs switches the precision of
/// a loaded plan. Runs at different widths over one resident must not overlap: their caller keeps them apart.
#[derive(Debug)]
pub struct Resident {
    name: String,
    packed: Packed,
    width: AtomicU8,
    /// Whether a product reads it; a table that is only gathered from stays where it is.
    multiplied: AtomicBool,
    engine: Arc<Engine>,
}

impl Resident {
    /// Keeps `weight` under the layer name `name`, read at the widest width it has until told otherwise. Planes become
    /// resident when a product first reads them, or by [`Resident::load`].
    pub fn new(name: impl Into<String>, weight: NestedWeight, engine: &Arc<Engine>) -> Self {
        let width = AtomicU8::new(u8::from(weight.max_width()));
        let packed = Packed::new(weight, &engine.pages);
        Self { name: name.into(), packed, width, multiplied: AtomicBool::new(false), engine: engine.clone() }
    }

    /// The layer name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight.
    pub fn weight(&self) -> &NestedWeight {
        self.packed.weight()
    }

    /// Bytes of planes that are resident in the order of the kernels.
    pub fn resident_bytes(&self) -> usize {
        self.packed.resident_bytes()
    }

    /// How its products round activations.
    pub fn activations(&self) -> Activations {
        self.engine.activations
    }

    /// The width that the next run reads.
    pub fn width(&self) -> Width {
        Width::new(self.width.load(Ordering::Relaxed)).unwrap_or(self.weight().max_width())
    }

    /// Selects the width. One that the weight's planes do not give is an error of the next run.
    pub fn set_width(&self, width: Width) {
        self.width.store(u8::from(width), Ordering::Relaxed);
    }

    /// Makes the planes of `width` resident, if a product reads this weight.
    ///
    /// # Errors
    /// The weight does not reach `width`, or there is no memory.
    pub fn load(&self, width: Width) -> Result<(), KernelError> {
        if self.multiplied.load(Ordering::Relaxed) { self.packed.load(width) } else { Ok(()) }
    }

    /// Says that a product reads it.
    pub(super) fn set_multiplied(&self) {
        self.multiplied.store(true, Ordering::Relaxed);
    }

    /// What the products of its session share.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The product with this weight at its current width, whose planes are made resident.
    ///
    /// # Errors
    /// As [`Resident::load`].
    pub(super) fn product<'a>(&'a self, threads: &'a Threads) -> Result<MatMul<'a>, KernelError> {
        let width = self.width();
        self.packed.load(width)?;
        let Engine { isa, activations, .. } = *self.engine;
        Ok(MatMul { isa, activations, ..MatMul::new(&self.packed, width, threads) })
    }
}
