//! Programs on a device (a stand-in: kernels run on the CPU, see `mqc-cuda-standin`) against the plain definition.

#![cfg(feature = "cuda")]

mod graphs;
mod nested;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod text;
mod token;
mod windows;

use std::collections::BTreeMap;
use std::path::Path;

use mqc_ir::graph::Output;
use mqc_ir::quant::Width;
use mqc_ir::{Graph, Type};
use mqc_step::cuda::{self, Engine};
use mqc_step::{Array, Program, Setup};
pub type Widths = BTreeMap<String, Width>;

pub fn with_device(test: &str, body: impl FnOnce()) {
    mqc_cuda_standin::with_device(Path::new(env!("CARGO_TARGET_TMPDIR")), test, &[], body);
}

pub fn with_blas(test: &str, body: impl FnOnce()) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    mqc_cuda_standin::with_device(folder, test, &[("MQC_CUBLAS", "on")], || {
        assert!(Engine::open(BTreeMap::new()).unwrap().has_blas());
        body();
    });
}

pub fn wide(array: &Array<f32>) -> Array<f64> {
    let values = array.as_real().unwrap().iter().map(|v| f64::from(*v)).collect();
    Array::real(array.shape().to_vec(), values).unwrap()
}

pub fn outputs(graph: &mut Graph, values: &[mqc_ir::Value]) {
    let output = |(i, v): (usize, &mqc_ir::Value)| Output {
        value: *v,
        name: format!("y{i}"),
        declared: Type::Unknown,
    };
    graph.set_outputs(values.iter().enumerate().map(output).collect());
}

/// The outputs of some runs on the device.
pub fn on_device(graph: &Graph, setup: &Setup, inputs: &[Array<f32>], times: usize) -> Vec<Array<f64>> {
    let mut engine = Engine::open(BTreeMap::new()).unwrap();
    let mut program = cuda::Program::compile(graph, setup, &engine).unwrap();
    inputs.iter().enumerate().for_each(|(i, value)| program.set(i, value).unwrap());
    (0..times).for_each(|_| program.run(&mut engine, &Widths::new()).unwrap());
    (0..program.outputs().len()).map(|i| wide(&program.output(i).unwrap())).collect()
}

/// The same on the CPU, plainly.
pub fn plain(graph: &Graph, setup: &Setup, inputs: &[Array<f64>], times: usize) -> Vec<Array<f64>> {
    let mut program = Program::<f64>::compile_plain(graph, setup).unwrap();
    inputs.iter().enumerate().for_each(|(i, value)| program.set(i, value).unwrap());
    (0..times).for_each(|_| program.run().unwrap());
    (0..program.outputs().len()).map(|i| program.output(i)).collect()
}
