//! Values that are carried from run to run, and runs that fail.

use std::collections::BTreeMap;

use mqc_ir::op::{Binary, Reduction, ScatterReduction, Unary};
use mqc_ir::{DType, Graph, Op, Tensor, Type};
use mqc_step::cuda::{self, Engine};
use mqc_step::{Array, Setup};

use crate::support::random::{close, data, dims};
use crate::{Widths, on_device, outputs, plain, with_device};

/// A training step: weights are carried from run to run, gradients are sums over rows, tables get rows added.
pub fn step() -> (Graph, Setup) {
    let mut graph = Graph::new("step");
    let table = graph.add_input("table", Type::tensor(DType::F32, dims(&[70, 24])));
    let w = graph.add_input("w", Type::tensor(DType::F32, dims(&[24, 300])));
    let bias = graph.add_input("bias", Type::tensor(DType::F32, dims(&[300])));
    let ids = graph.add_input("ids", Type::tensor(DType::I64, dims(&[130])));
    let x = graph.apply(Op::Gather { axis: 0 }, "x", &[table, ids]).unwrap();
    let y = graph.apply(Op::MatMul, "y", &[x, w]).unwrap();
    let y = graph.apply(Op::Binary(Binary::Add), "biased", &[y, bias]).unwrap();
    let y = graph.apply(Op::Unary(Unary::Tanh), "tanh", &[y]).unwrap();
    let reduce =
        |axes| Op::Reduce { kind: Reduction::Mean, axes, keepdims: false, noop_with_empty_axes: false };
    let loss = graph.apply(reduce(None), "loss", &[y]).unwrap();
    let of_bias = graph.apply(reduce(Some(vec![0])), "of_bias", &[y]).unwrap();
    let turned = graph.apply(Op::Transpose { perm: None }, "turned", &[x]).unwrap();
    let of_w = graph.apply(Op::MatMul, "of_w", &[turned, y]).unwrap();
    let w_turned = graph.apply(Op::Transpose { perm: None }, "w_turned", &[w]).unwrap();
    let of_x = graph.apply(Op::MatMul, "of_x", &[y, w_turned]).unwrap();
    let column = graph.apply(Op::Constant(Tensor::i64_vector(&[130, 1])), "shape", &[]).unwrap();
    let places = graph.apply(Op::Reshape { allowzero: false }, "places", &[ids, column]).unwrap();
    let zeros = Tensor::new(DType::F32, vec![70, 24], vec![0; 70 * 24 * 4].into()).unwrap();
    let zeros = graph.apply(Op::Constant(zeros), "zeros", &[]).unwrap();
    let add = Op::ScatterNd { reduction: ScatterReduction::Add };
    let of_table = graph.apply(add, "of_table", &[zeros, places, of_x]).unwrap();
    let rate = graph.apply(Op::Constant(Tensor::f32_scalar(0.01)), "rate", &[]).unwrap();
    let mut results = vec![];
    for (value, gradient) in [(table, of_table), (w, of_w), (bias, of_bias)] {
        let change = graph.apply(Op::Binary(Binary::Mul), "change", &[gradient, rate]).unwrap();
        results.push(graph.apply(Op::Binary(Binary::Sub), "new", &[value, change]).unwrap());
    }
    results.push(loss);
    outputs(&mut graph, &results);
    (graph, Setup { threads: 1, carried: vec![(0, 0), (1, 1), (2, 2)] })
}

#[test]
fn state_is_carried() {
    with_device("state::state_is_carried", carry_state);
}

pub fn carry_state() {
    let (graph, setup) = step();
    let ids: Vec<i64> = (0..130).map(|i| (i * 37) % 141 - 70).map(|i| if i == 70 { 0 } else { i }).collect();
    let ids64 = Array::int(vec![130], ids.clone()).unwrap();
    let exact = plain(&graph, &setup, &[data(&[70, 24], 0), data(&[24, 300], 1), data(&[300], 2), ids64], 4);
    let ids = Array::int(vec![130], ids).unwrap();
    let found =
        on_device(&graph, &setup, &[data(&[70, 24], 0), data(&[24, 300], 1), data(&[300], 2), ids], 4);
    close(&found, &exact, 1e-4).unwrap();
}

#[test]
fn an_index_out_of_range() {
    with_device("state::an_index_out_of_range", || {
        let mut graph = Graph::new("gather");
        let table = graph.add_input("table", Type::tensor(DType::F32, dims(&[7, 2])));
        let ids = graph.add_input("ids", Type::tensor(DType::I64, dims(&[3])));
        let x = graph.apply(Op::Gather { axis: 0 }, "x", &[table, ids]).unwrap();
        outputs(&mut graph, &[x]);
        let mut engine = Engine::open(BTreeMap::new()).unwrap();
        let mut program = cuda::Program::compile(&graph, &Setup::default(), &engine).unwrap();
        let error = program.run(&mut engine, &Widths::new()).unwrap_err().to_string();
        assert!(error.contains("has no value"), "{error}");
        let table: Array<f32> = data(&[7, 2], 0);
        program.set(0, &table).unwrap();
        for (ids, good) in [([0, -7, 6], true), ([0, 7, 0], false), ([-8, 0, 0], false), ([1, 2, 3], true)] {
            // What an error may have spoilt is set again.
            program.set(0, &table).unwrap();
            program.set(1, &Array::int(vec![3], ids.to_vec()).unwrap()).unwrap();
            match program.run(&mut engine, &Widths::new()) {
                Ok(()) => assert!(good),
                Err(error) => {
                    assert!(!good && error.to_string().ends_with("an index is out of range"), "{error}");
                }
            }
        }
    });
}

/// The host reads what is carried as the last run left it.
#[test]
fn the_host_reads_what_is_carried() {
    with_device("state::the_host_reads_what_is_carried", || {
        let mut graph = Graph::new("counter");
        let count = graph.add_input("count", Type::tensor(DType::I64, dims(&[2])));
        let one = graph.apply(Op::Constant(Tensor::i64_vector(&[1])), "one", &[]).unwrap();
        let next = graph.apply(Op::Binary(Binary::Add), "next", &[count, one]).unwrap();
        outputs(&mut graph, &[next]);
        let setup = Setup { threads: 1, carried: vec![(0, 0)] };
        let mut engine = Engine::open(BTreeMap::new()).unwrap();
        let mut program = cuda::Program::compile(&graph, &setup, &engine).unwrap();
        assert_eq!(program.counts(), (0, 1));
        program.set(0, &Array::int(vec![2], vec![5, -3]).unwrap()).unwrap();
        for runs in 1..4 {
            program.run(&mut engine, &Widths::new()).unwrap();
            assert_eq!(program.output(0).unwrap().as_int().unwrap(), [5 + runs, -3 + runs]);
        }
    });
}
