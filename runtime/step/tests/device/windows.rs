//! Convolutions and poolings.

use std::collections::BTreeMap;

use mqc_ir::op::Window;
use mqc_ir::{DType, Graph, Op, Type};
use mqc_step::Setup;
use mqc_step::cuda::{self, Engine};

use crate::support::random::{close, data, dims};
use crate::{Widths, outputs, plain, wide, with_device};

/// Convolutions of groups, steps and dilations, and poolings, of one to three dimensions.
#[test]
fn windows() {
    with_device("windows::windows", || {
        let window = |kernel: &[i64], strides: &[i64], dilations: &[i64], pads: &[i64], group| Window {
            kernel_shape: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads: pads.to_vec(),
            group,
            ..Window::default()
        };
        let mut graph = Graph::new("windows");
        let x = graph.add_input("x", Type::tensor(DType::F32, dims(&[2, 6, 9, 11])));
        let w = graph.add_input("w", Type::tensor(DType::F32, dims(&[4, 3, 3, 2])));
        let bias = graph.add_input("bias", Type::tensor(DType::F32, dims(&[4])));
        let line = graph.add_input("line", Type::tensor(DType::F32, dims(&[2, 3, 40])));
        let line_w = graph.add_input("line_w", Type::tensor(DType::F32, dims(&[5, 3, 4])));
        let solid = graph.add_input("solid", Type::tensor(DType::F32, dims(&[1, 2, 4, 5, 6])));
        let solid_w = graph.add_input("solid_w", Type::tensor(DType::F32, dims(&[2, 1, 2, 2, 3])));
        let grouped = Op::Conv(window(&[3, 2], &[2, 1], &[1, 3], &[1, 0, 2, 1], 2));
        let mut found = vec![graph.apply(grouped, "grouped", &[x, w, bias]).unwrap()];
        let whole = Op::Conv(window(&[4], &[3], &[], &[2, 2], 1));
        found.push(graph.apply(whole, "whole", &[line, line_w]).unwrap());
        let deep = Op::Conv(window(&[2, 2, 3], &[], &[1, 2, 1], &[], 2));
        found.push(graph.apply(deep, "deep", &[solid, solid_w]).unwrap());
        let pool = || window(&[3, 4], &[2, 3], &[], &[1, 1, 1, 1], 0);
        let (ceil_mode, storage_order) = (true, 0);
        found.push(
            graph.apply(Op::MaxPool { window: pool(), ceil_mode, storage_order }, "max", &[x]).unwrap(),
        );
        for count_include_pad in [false, true] {
            let op = Op::AveragePool { window: pool(), ceil_mode, count_include_pad };
            found.push(graph.apply(op, "mean", &[x]).unwrap());
        }
        found.push(graph.apply(Op::GlobalAveragePool, "global_mean", &[solid]).unwrap());
        found.push(graph.apply(Op::GlobalMaxPool, "global_max", &[x]).unwrap());
        outputs(&mut graph, &found);
        let mut engine = Engine::open(BTreeMap::new()).unwrap();
        let mut program = cuda::Program::compile(&graph, &Setup::default(), &engine).unwrap();
        assert_eq!(program.counts(), (8, 0));
        let shapes: Vec<_> = program.inputs().iter().map(|port| port.shape.clone()).collect();
        for (i, shape) in shapes.iter().enumerate() {
            program.set(i, &data(shape, i)).unwrap();
        }
        program.run(&mut engine, &Widths::new()).unwrap();
        let found: Vec<_> = (0..8).map(|i| wide(&program.output(i).unwrap())).collect();
        let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| data(shape, i)).collect();
        close(&found, &plain(&graph, &Setup::default(), &inputs, 1), 1e-5).unwrap();
    });
}
