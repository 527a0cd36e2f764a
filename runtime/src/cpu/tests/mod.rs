//! Tests of the CPU session against plain f64 loops.

pub(super) mod fixture;
mod graphs;
mod layers;
mod operators;
