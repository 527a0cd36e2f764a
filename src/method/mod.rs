//! What `mqc train` does with a model: prepare it, train it in stages, write what came out.

pub mod calibrate;
pub mod finish;
pub mod graphs;
pub mod omniquant;
pub mod prepare;
pub mod runner;
pub mod stages;
pub mod trainee;
