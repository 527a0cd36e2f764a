//! One weight in memory, shared by every plan, and the width it is read at.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::nested::NestedWeight;

/// A nested weight held once and the width, 1 to 8 bits, that the next run reads it at.
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
    /// Keeps `weight` under the layer name `name`, read at 8 bits until told otherwise.
    pub fn new(name: impl Into<String>, weight: NestedWeight) -> Self {
        Self { name: name.into(), weight, width: AtomicU8::new(8) }
    }

    /// The layer name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight.
    pub fn weight(&self) -> &NestedWeight {
        &self.weight
    }

    /// The width in bits that the next run reads.
    pub fn width(&self) -> u8 {
        self.width.load(Ordering::Relaxed)
    }

    /// Selects the width in bits. A width that the weight cannot give is an error of the next run.
    pub fn set_width(&self, width: u8) {
        self.width.store(width, Ordering::Relaxed);
    }
}
