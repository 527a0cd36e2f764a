//! The registers of passes: blocks of elements that begin where cache lines do.

use std::ops::{Deref, DerefMut};

use crate::Real;

/// Bytes of a cache line, and of the longest vector.
const LINE: usize = 64;

/// The registers of a pass; kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Registers<T>(pub Vec<Register<T>>);

impl<T: Real> Registers<T> {
    /// At least `count` registers of at least `len` elements.
    pub fn at_least(&mut self, count: usize, len: usize) -> &mut [Register<T>] {
        if self.0.len() < count {
            self.0.resize_with(count, Register::default);
        }
        for register in self.0.iter_mut().take(count).filter(|register| register.len() < len) {
            *register = Register::new(len);
        }
        &mut self.0
    }
}

#[derive(Debug, Default)]
pub(super) struct Register<T> {
    values: Vec<T>,
    first: usize,
}

impl<T: Real> Register<T> {
    fn new(len: usize) -> Register<T> {
        let spare = LINE / size_of::<T>();
        let values = vec![T::ZERO; len + spare];
        let first = values.as_ptr().align_offset(LINE).min(spare);
        Register { values, first }
    }
}

impl<T> Deref for Register<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.values[self.first..]
    }
}

impl<T> DerefMut for Register<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.first..]
    }
}
