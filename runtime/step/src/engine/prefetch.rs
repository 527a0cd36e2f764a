//! Asks for memory before it is read: blocks end at pages, where the processor stops doing so by itself.
#![expect(unsafe_code, reason = "the intrinsic takes a pointer")]

use super::block::Part;
use crate::array::Slice;
use crate::fuse::instructions::{Fused, Load, Pattern};

/// Bytes that come at once.
const LINE: usize = 64;

/// What a chunk reads from one end to the other.
pub(super) struct Streams<T> {
    /// Where element 0 of the pass is, or would be.
    bases: Vec<*const T>,
    /// The end of the chunk.
    end: usize,
}

impl<T> Streams<T> {
    /// `start` and `end` are those of the chunk whose parts are given.
    pub fn new(
        fused: &Fused,
        memory: &[Slice<T>],
        parts: &[Part<T>],
        start: usize,
        end: usize,
    ) -> Streams<T> {
        let base = |(load, from): (&Load, &Slice<T>)| {
            if load.pattern != Pattern::Dense || load.row {
                return None;
            }
            match (load.in_place.and_then(|store| parts.get(store)), from) {
                (Some(Part::Real(part)), _) => Some(part.as_ptr().wrapping_sub(start)),
                (Some(Part::Bool(_)), _) | (None, Slice::Int(_) | Slice::Bool(_)) => None,
                (None, Slice::Real(v)) => Some(v.as_ptr().wrapping_add(load.start)),
            }
        };
        Streams { bases: fused.loads.iter().zip(memory).filter_map(base).collect(), end }
    }

    /// Asks for the elements from `first` to `last`, as far as they belong to the chunk.
    #[inline(always)]
    pub fn ahead(&self, first: usize, last: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let lines = last.min(self.end).saturating_sub(first) * size_of::<T>() / LINE;
            for base in &self.bases {
                let mut at: *const i8 = base.wrapping_add(first).cast();
                for _ in 0..lines {
                    // SAFETY: a prefetch reads nothing, wherever it points.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
                    at = at.wrapping_add(LINE);
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (first, last, LINE);
    }
}
