//! One weight in memory, shared by every plan, and the width it is read at.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::nested::NestedWeight;
use mqc_ir::quant::Width;

/// A nested weight held once and the width that the next run reads it at.
///
/// Operators read the width when they run, so storing another one between two runs switches the precision of
/// a loaded plan. Runs at different widths over one resident must not overlap: their caller keeps them apart.
#[derive(Debug)]
pub struct Resident {
    name: String,
    weight: NestedWeight,
    width: AtomicU8,
}

impl Resident {
    /// Keeps `weight` under the layer name `name`, read at the widest width it has until told otherwise.
    pub fn new(name: impl Into<String>, weight: NestedWeight) -> Self {
        let width = AtomicU8::new(u8::from(weight.max_width()));
        Self { name: name.into(), weight, width }
    }

    /// The layer name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight.
    pub fn weight(&self) -> &NestedWeight {
        &self.weight
    }

    /// The width that the next run reads.
    pub fn width(&self) -> Width {
        Width::new(self.width.load(Ordering::Relaxed)).unwrap_or(self.weight.max_width())
    }

    /// Selects the width. One that the weight's planes do not give is an error of the next run.
    pub fn set_width(&self, width: Width) {
        self.width.store(u8::from(width), Ordering::Relaxed);
    }
}
