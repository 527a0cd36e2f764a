//! Tests of the CPU session against plain f64 loops.

mod fixture;
mod graphs;
mod layers;
