//! Random graphs, and products of floats by our kernels and by cuBLAS.

use std::collections::BTreeMap;
use std::path::Path;

use mqc_ir::{DType, Graph, Op, Type, Value};
use mqc_step::Setup;
use mqc_step::cuda::Engine;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::state::carry_state;
use crate::support::random::{KINDS, Random, close, data, dims, graphs};
use crate::{on_device, outputs, plain, wide, with_blas, with_device};

/// Random graphs: run once, again, and recorded.
fn random_graphs(cases: u32) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let ran = runner.run(&graphs(), |(rows, cols, nodes, wanted)| {
        let mut random = Random::new(rows, cols);
        let smooth = |kind: u8| !matches!(kind % KINDS, 2 | 12 | 13 | 24 | 26);
        nodes.iter().filter(|n| smooth(n.0)).for_each(|(kind, a, b)| random.grow(*kind, *a, *b));
        random.finish(&wanted);
        let setup = Setup::default();
        let inputs: Vec<_> = random.inputs.iter().enumerate().map(|(i, shape)| data(shape, i)).collect();
        let exact = plain(&random.graph, &setup, &inputs, 1);
        prop_assume!(exact.iter().all(|a| a.as_real().unwrap().iter().all(|v| v.abs() < 1e3)));
        let inputs: Vec<_> = random.inputs.iter().enumerate().map(|(i, shape)| data(shape, i)).collect();
        close(&on_device(&random.graph, &setup, &inputs, 3), &exact, 2e-3)
    });
    ran.unwrap();
}

#[test]
fn passes_products_and_reductions() {
    with_device("graphs::passes_products_and_reductions", || random_graphs(30));
}

#[test]
fn products_by_cublas() {
    with_blas("graphs::products_by_cublas", || {
        random_graphs(20);
        carry_state();
        for seed in 0..3 {
            batched_products(seed);
        }
    });
}

/// Batches of plain, transposed, repeated and shared factors.
fn batched_products(seed: usize) {
    let mut graph = Graph::new("products");
    let shapes: [&[usize]; 5] =
        [&[2, 3, 20, 13], &[2, 3, 13, 18], &[2, 3, 18, 13], &[13, 18], &[2, 1, 13, 18]];
    let inputs: Vec<Value> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| graph.add_input(format!("x{i}"), Type::tensor(DType::F32, dims(shape))))
        .collect();
    let turned = Op::Transpose { perm: Some(vec![0, 1, 3, 2]) };
    let turned = graph.apply(turned, "turned", &[inputs[2]]).unwrap();
    // Heads between rows, as attention has them.
    let mixed = Op::Transpose { perm: Some(vec![0, 2, 1, 3]) };
    let mixed = graph.apply(mixed, "mixed", &[inputs[0]]).unwrap();
    let last = graph.apply(Op::Transpose { perm: Some(vec![0, 1, 3, 2]) }, "last", &[inputs[0]]).unwrap();
    let mut results = vec![];
    for (a, b) in [(0, inputs[1]), (0, turned), (0, inputs[3]), (0, inputs[4])] {
        results.push(graph.apply(Op::MatMul, "product", &[inputs[a], b]).unwrap());
    }
    results.push(graph.apply(Op::MatMul, "of_mixed", &[mixed, inputs[3]]).unwrap());
    results.push(graph.apply(Op::MatMul, "square", &[last, inputs[0]]).unwrap());
    outputs(&mut graph, &results);
    let of = |i: usize, shape: &[usize]| data::<f32>(shape, i + seed);
    let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| of(i, shape)).collect();
    let exact: Vec<_> = inputs.iter().map(wide).collect();
    let exact = plain(&graph, &Setup::default(), &exact, 1);
    close(&on_device(&graph, &Setup::default(), &inputs, 3), &exact, 1e-4).unwrap();
}

#[test]
fn a_cublas_that_does_not_open() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let settings = [("MQC_CUBLAS", "on"), ("FAKE_CUBLAS_BROKEN", "1")];
    mqc_cuda_standin::with_device(folder, "graphs::a_cublas_that_does_not_open", &settings, || {
        let error = Engine::open(BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("cuBLAS fails to open") && error.contains("MQC_CUBLAS=off"), "{error}");
    });
}

/// Steps and choices, on data that lie far from where they are made.
#[test]
fn choices_and_slices() {
    with_device("graphs::choices_and_slices", || {
        for seed in 0..6 {
            let mut random = Random::new(5, 33);
            for (i, kind) in [12, 2, 13, 26, 24, 5, 12, 26, 13].into_iter().enumerate() {
                random.grow(kind, i * 7 + seed, i * 3 + seed);
            }
            random.finish(&(0..64).collect::<Vec<_>>());
            let of = |shape: &[usize], i: usize| data::<f32>(shape, i + seed);
            let inputs: Vec<_> = random.inputs.iter().enumerate().map(|(i, s)| of(s, i)).collect();
            let exact: Vec<_> = inputs.iter().map(wide).collect();
            let exact = plain(&random.graph, &Setup::default(), &exact, 1);
            close(&on_device(&random.graph, &Setup::default(), &inputs, 1), &exact, 1e-4).unwrap();
        }
    });
}
