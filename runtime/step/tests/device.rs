//! Programs on a device (a stand-in: kernels run on the CPU, see `mqc-cuda-standin`) against the plain definition.

#![cfg(feature = "cuda")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use mqc_ir::graph::Output;
use mqc_ir::op::{Binary, GeluKind, Nested, Opaque, Reduction, ScatterReduction, Unary, Window};
use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_ir::{Attribute, DType, Graph, Node, Op, Tensor, Text, Type, Value, ValueInfo};
use mqc_kernels::cpu::Activation;
use mqc_kernels::nested::{self, AffineMap, NestedWeight};
use mqc_step::cuda::{self, Engine};
use mqc_step::{Array, Program, Setup};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::random::{KINDS, Random, close, data, dims, graphs};

type Widths = BTreeMap<String, Width>;

fn with_device(test: &str, body: impl FnOnce()) {
    mqc_cuda_standin::with_device(Path::new(env!("CARGO_TARGET_TMPDIR")), test, &[], body);
}

fn with_blas(test: &str, body: impl FnOnce()) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    mqc_cuda_standin::with_device(folder, test, &[("MQC_CUBLAS", "on")], || {
        assert!(Engine::open(BTreeMap::new()).unwrap().has_blas());
        body();
    });
}

fn wide(array: &Array<f32>) -> Array<f64> {
    let values = array.as_real().unwrap().iter().map(|v| f64::from(*v)).collect();
    Array::real(array.shape().to_vec(), values).unwrap()
}

fn outputs(graph: &mut Graph, values: &[mqc_ir::Value]) {
    let output = |(i, v): (usize, &mqc_ir::Value)| Output {
        value: *v,
        name: format!("y{i}"),
        declared: Type::Unknown,
    };
    graph.set_outputs(values.iter().enumerate().map(output).collect());
}

/// The outputs of some runs on the device.
fn on_device(graph: &Graph, setup: &Setup, inputs: &[Array<f32>], times: usize) -> Vec<Array<f64>> {
    let mut engine = Engine::open(BTreeMap::new()).unwrap();
    let mut program = cuda::Program::compile(graph, setup, &engine).unwrap();
    inputs.iter().enumerate().for_each(|(i, value)| program.set(i, value).unwrap());
    (0..times).for_each(|_| program.run(&mut engine, &Widths::new()).unwrap());
    (0..program.outputs().len()).map(|i| wide(&program.output(i).unwrap())).collect()
}

/// The same on the CPU, plainly.
fn plain(graph: &Graph, setup: &Setup, inputs: &[Array<f64>], times: usize) -> Vec<Array<f64>> {
    let mut program = Program::<f64>::compile_plain(graph, setup).unwrap();
    inputs.iter().enumerate().for_each(|(i, value)| program.set(i, value).unwrap());
    (0..times).for_each(|_| program.run().unwrap());
    (0..program.outputs().len()).map(|i| program.output(i)).collect()
}

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
    with_device("passes_products_and_reductions", || random_graphs(30));
}

#[test]
fn products_by_cublas() {
    with_blas("products_by_cublas", || {
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
    mqc_cuda_standin::with_device(folder, "a_cublas_that_does_not_open", &settings, || {
        let error = Engine::open(BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("cuBLAS fails to open") && error.contains("MQC_CUBLAS=off"), "{error}");
    });
}

/// Steps and choices, on data that lie far from where they are made.
#[test]
fn choices_and_slices() {
    with_device("choices_and_slices", || {
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

/// A training step: weights are carried from run to run, gradients are sums over rows, tables get rows added.
fn step() -> (Graph, Setup) {
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
    with_device("state_is_carried", carry_state);
}

fn carry_state() {
    let (graph, setup) = step();
    let ids: Vec<i64> = (0..130).map(|i| (i * 37) % 141 - 70).map(|i| if i == 70 { 0 } else { i }).collect();
    let ids64 = Array::int(vec![130], ids.clone()).unwrap();
    let exact = plain(&graph, &setup, &[data(&[70, 24], 0), data(&[24, 300], 1), data(&[300], 2), ids64], 4);
    let ids = Array::int(vec![130], ids).unwrap();
    let found =
        on_device(&graph, &setup, &[data(&[70, 24], 0), data(&[24, 300], 1), data(&[300], 2), ids], 4);
    close(&found, &exact, 1e-4).unwrap();
}

/// NVIDIA's compiler takes the text of a program, for both architectures.
#[test]
fn text_compiles() {
    let library = mqc_cuda_standin::nvrtc::library(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let compiler = mqc_cuda::device::Compiler::load(&library).unwrap();
    let mut random = Random::new(700, 6);
    for kind in 0..KINDS {
        (0..6).for_each(|i| random.grow(kind, i * 5 + usize::from(kind), i * 11));
    }
    random.finish(&(0..64).collect::<Vec<_>>());
    let (graph, setup) = step();
    for (graph, setup) in [(&graph, &setup), (&random.graph, &Setup::default())] {
        let text = cuda::text(graph, setup).unwrap();
        for architecture in ["sm_80", "sm_90a"] {
            compiler.compile(&text, architecture).unwrap();
        }
    }
}

#[test]
fn an_index_out_of_range() {
    with_device("an_index_out_of_range", || {
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

/// A weight of random codes.
fn weight(rows: usize, cols: usize, grouping: Grouping, mode: SliceMode) -> NestedWeight {
    let codes: Vec<u8> = (0..rows * cols).map(|i| ((i * 7919 + i / 13) % 256) as u8).collect();
    let planes = nested::pack(&codes, rows, cols).unwrap().map(Bytes::from).to_vec();
    let groups = match grouping {
        Grouping::PerChannel => 1,
        Grouping::Group(size) => cols.div_ceil(size as usize),
    };
    let scale: Vec<f32> = (0..rows * groups).map(|i| 0.001 + (i % 5) as f32 * 0.0004).collect();
    let zero: Vec<f32> = (0..rows * groups).map(|i| 120.0 + (i % 11) as f32).collect();
    let map = AffineMap { scale: scale.into(), zero: zero.into() };
    NestedWeight::new((rows, cols), grouping, mode, planes, map, BTreeMap::new()).unwrap()
}

/// The weight at a width, as floats.
fn floats(weight: &NestedWeight, width: Width) -> Tensor {
    let mut values = vec![0.0; weight.rows() * weight.cols()];
    for (row, out) in values.chunks_mut(weight.cols()).enumerate() {
        weight.dequantize_row_into(width, row, out).unwrap();
    }
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor::new(DType::F32, vec![weight.rows(), weight.cols()], bytes).unwrap()
}

/// A node with a nested weight.
fn nested_node(
    graph: &mut Graph,
    data: Value,
    weight: &NestedWeight,
    (op, layer): (fn(Nested) -> Op, &str),
) -> Value {
    let constant = |graph: &mut Graph, tensor| graph.apply(Op::Constant(tensor), "c", &[]).unwrap();
    let mut operands = vec![data, constant(graph, Tensor::i64_scalar(8))];
    let map = weight.map(Width::MAX);
    for values in [&map.scale, &map.zero] {
        let bytes = values.as_slice().iter().flat_map(|v| v.to_le_bytes()).collect();
        let groups = values.as_slice().len() / weight.rows();
        let tensor = Tensor::new(DType::F32, vec![weight.rows(), groups], bytes).unwrap();
        operands.push(constant(graph, tensor));
    }
    for plane in weight.planes() {
        let shape = vec![weight.rows(), weight.cols().div_ceil(8)];
        operands.push(constant(graph, Tensor::new(DType::U8, shape, plane.clone()).unwrap()));
    }
    graph.apply(op(nested_of(layer, weight)), layer, &operands).unwrap()
}

/// A nested table, a product with a nested weight, and with `None` for a width both as floats.
fn language_model(table: &NestedWeight, product: &NestedWeight, width: Option<Width>) -> Graph {
    let mut graph = Graph::new("language model");
    let ids = graph.add_input("ids", Type::tensor(DType::I64, dims(&[1, 3])));
    let part = |graph: &mut Graph, op: fn(Nested) -> Op, layer: &str, weight: &NestedWeight, data| match width
    {
        Some(width) => {
            let float = graph.apply(Op::Constant(floats(weight, width)), layer, &[]).unwrap();
            match op(nested_of("", weight)) {
                Op::NestedGather(_) => graph.apply(Op::Gather { axis: 0 }, "rows", &[float, data]).unwrap(),
                _ => {
                    let turned = graph.apply(Op::Transpose { perm: None }, "turned", &[float]).unwrap();
                    graph.apply(Op::MatMul, "product", &[data, turned]).unwrap()
                }
            }
        }
        None => nested_node(graph, data, weight, (op, layer)),
    };
    let rows = part(&mut graph, Op::NestedGather, "table", table, ids);
    let rows = graph.apply(Op::Unary(Unary::Tanh), "bounded", &[rows]).unwrap();
    let logits = part(&mut graph, Op::NestedMatMul, "head", product, rows);
    let logits = graph.apply(Op::Softmax { axis: -1, flatten: false }, "softmax", &[logits]).unwrap();
    outputs(&mut graph, &[logits]);
    graph
}

fn nested_of(layer: &str, weight: &NestedWeight) -> Nested {
    Nested {
        layer: layer.to_owned(),
        mode: weight.mode(),
        grouping: weight.grouping(),
        cols: weight.cols() as u64,
        map_widths: vec![],
    }
}

#[test]
fn nested_weights_at_every_width() {
    with_device("nested_weights_at_every_width", || {
        let table = weight(19, 40, Grouping::PerChannel, SliceMode::Midpoint);
        let head = weight(50, 40, Grouping::Group(32), SliceMode::Round);
        let mut graph = language_model(&table, &head, None);
        mqc_ir::infer::infer(&mut graph).unwrap();
        let bound = cuda::bind(
            &mut graph,
            |graph, id| -> Result<_, mqc_ir::Error> {
                let Some(node) = graph.node(id) else { return Ok(None) };
                Ok(Some(if matches!(node.op, Op::NestedGather(_)) { table.clone() } else { head.clone() }))
            },
            |_| None,
        );
        let bound = bound.unwrap();
        assert_eq!(bound.keys().collect::<Vec<_>>(), ["head", "table"]);
        let mut engine = Engine::open(bound).unwrap();
        let mut program = cuda::Program::compile(&graph, &Setup::default(), &engine).unwrap();
        assert_eq!(program.counts().1, 0, "the host reads nothing");
        let ids = Array::int(vec![1, 3], vec![4, -1, 11]).unwrap();
        program.set(0, &ids).unwrap();
        let error = program.run(&mut engine, &Widths::new()).unwrap_err().to_string();
        assert!(error.contains("has no width"), "{error}");
        let ids = Array::int(vec![1, 3], vec![4, -1, 11]).unwrap();
        for bits in [2, 8, 1, 3, 4, 5, 6, 7, 2] {
            let width = Width::new(bits).unwrap();
            let exact = plain(
                &language_model(&table, &head, Some(width)),
                &Setup::default(),
                std::slice::from_ref(&ids),
                1,
            );
            let widths = ["table", "head"].map(|layer| (layer.to_owned(), width)).into();
            // The second time it is recorded, the third time replayed.
            for _ in 0..3 {
                program.run(&mut engine, &widths).unwrap();
                close(&[wide(&program.output(0).unwrap())], &exact, 1e-5).unwrap();
            }
        }
        assert!(engine.resident_bytes() > 0 && engine.notes().is_empty());
    });
}

/// Rows of tables of odd sizes, to the last bit; names that no row has.
#[test]
fn rows_of_tables() {
    with_device("rows_of_tables", || {
        let forms = [
            (Grouping::PerChannel, SliceMode::Midpoint),
            (Grouping::Group(32), SliceMode::Round),
            (Grouping::Group(96), SliceMode::Extra),
        ];
        for (grouping, mode) in forms {
            let table = weight(37, 523, grouping, mode);
            let mut graph = Graph::new("table");
            let ids = graph.add_input("ids", Type::tensor(DType::I64, dims(&[2, 3])));
            let rows = nested_node(&mut graph, ids, &table, (Op::NestedGather, "table"));
            outputs(&mut graph, &[rows]);
            mqc_ir::infer::infer(&mut graph).unwrap();
            let weight_of = |_: &Graph, _| -> Result<_, mqc_ir::Error> { Ok(Some(table.clone())) };
            let mut engine = Engine::open(cuda::bind(&mut graph, weight_of, |_| None).unwrap()).unwrap();
            let mut program = cuda::Program::compile(&graph, &Setup::default(), &engine).unwrap();
            assert_eq!(program.counts(), (1, 0));
            let give = |program: &mut cuda::Program, ids: [i64; 6]| {
                program.set(0, &Array::int(vec![2, 3], ids.to_vec()).unwrap()).unwrap();
            };
            for bits in 1..=8 {
                let widths = [("table".to_owned(), Width::new(bits).unwrap())].into();
                give(&mut program, [4, -1, 36, 0, 15, 16]);
                program.run(&mut engine, &widths).unwrap();
                let mut exact = vec![0.0; 6 * 523];
                let rows = [4, 36, 36, 0, 15, 16];
                table.gather(Width::new(bits).unwrap(), &rows, &mut exact).unwrap();
                assert_eq!(program.output(0).unwrap().as_real().unwrap(), exact);
                for wrong in [37, -38, i64::MAX, i64::MIN] {
                    give(&mut program, [4, wrong, 36, 0, 15, 16]);
                    let error = program.run(&mut engine, &widths).unwrap_err().to_string();
                    assert!(error.contains("an index is out of range"), "{error}");
                }
            }
        }
    });
}

/// Convolutions of groups, steps and dilations, and poolings, of one to three dimensions.
#[test]
fn windows() {
    with_device("windows", || {
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

/// Epilogues as part of the product, and of one that has another user: all functions, all parts.
#[test]
fn epilogues() {
    with_device("epilogues", || {
        let weight = weight(37, 48, Grouping::PerChannel, SliceMode::Midpoint);
        let width = Width::new(3).unwrap();
        let functions: [(&str, Option<Op>); 5] = [
            ("identity", None),
            ("relu", Some(Op::Unary(Unary::Relu))),
            ("gelu", Some(Op::Gelu { approximate: GeluKind::Erf })),
            ("gelu_tanh", Some(Op::Gelu { approximate: GeluKind::Tanh })),
            ("silu", None),
        ];
        let (mut bound, mut exact) = (Graph::new("bound"), Graph::new("exact"));
        let mut ends = [vec![], vec![]];
        let float = exact.apply(Op::Constant(floats(&weight, width)), "w", &[]).unwrap();
        let float = exact.apply(Op::Transpose { perm: None }, "turned", &[float]).unwrap();
        let [of_bound, of_exact] = [&mut bound, &mut exact].map(|graph| {
            [("x", vec![5, 48]), ("bias", vec![37]), ("gate", vec![5, 37]), ("residual", vec![5, 37])]
                .map(|(name, shape)| graph.add_input(name, Type::tensor(DType::F32, dims(&shape))))
        });
        for (number, (name, function)) in functions.iter().enumerate() {
            // All parts with all functions would take a minute to compile.
            for parts in [number, 7 - number] {
                let given = |slot: usize| parts >> (slot - 1) & 1 == 1;
                let layer = format!("{name}.{parts}");
                let product = nested_node(&mut bound, of_bound[0], &weight, (Op::NestedMatMul, &layer));
                if parts == 7 - number {
                    // Another reads it.
                    ends[0].push(product);
                    ends[1].push(exact.apply(Op::MatMul, "p", &[of_exact[0], float]).unwrap());
                }
                let operands: Vec<_> = std::iter::once(Some(product))
                    .chain((1..4).map(|slot| given(slot).then_some(of_bound[slot])))
                    .collect();
                let attribute = Attribute::String(Text(name.as_bytes().to_vec()));
                let op = Op::Opaque(Opaque {
                    domain: "test".to_owned(),
                    op_type: "Epilogue".to_owned(),
                    overload: String::new(),
                    attributes: BTreeMap::from([("activation".to_owned(), attribute)]),
                });
                let ty = Type::tensor(DType::F32, dims(&[5, 37]));
                let name = format!("{layer}.y");
                let node = Node::new(op, name.clone(), vec![ValueInfo { name, ty }]);
                ends[0].push(Value { node: bound.insert(node, &operands).unwrap(), slot: 0 });

                let mut y = exact.apply(Op::MatMul, "p", &[of_exact[0], float]).unwrap();
                if given(1) {
                    y = exact.apply(Op::Binary(Binary::Add), "b", &[y, of_exact[1]]).unwrap();
                }
                y = match function {
                    Some(op) => exact.apply(op.clone(), "f", &[y]).unwrap(),
                    None if number == 0 => y,
                    None => {
                        let gate = exact.apply(Op::Unary(Unary::Sigmoid), "s", &[y]).unwrap();
                        exact.apply(Op::Binary(Binary::Mul), "f", &[y, gate]).unwrap()
                    }
                };
                for (slot, kind) in [(2, Binary::Mul), (3, Binary::Add)] {
                    if given(slot) {
                        y = exact.apply(Op::Binary(kind), "e", &[y, of_exact[slot]]).unwrap();
                    }
                }
                ends[1].push(y);
            }
        }
        outputs(&mut bound, &ends[0]);
        outputs(&mut exact, &ends[1]);
        mqc_ir::infer::infer(&mut bound).unwrap();
        let activation_of = |op: &Op| match op {
            Op::Opaque(opaque) if opaque.domain == "test" => match opaque.attributes.get("activation") {
                Some(Attribute::String(Text(name))) => Some(match name.as_slice() {
                    b"relu" => Activation::Relu,
                    b"gelu" => Activation::Gelu,
                    b"gelu_tanh" => Activation::GeluTanh,
                    b"silu" => Activation::Silu,
                    _ => Activation::Identity,
                }),
                _ => None,
            },
            _ => None,
        };
        let weights =
            cuda::bind(&mut bound, |_, _| Ok::<_, mqc_ir::Error>(Some(weight.clone())), activation_of);
        let weights = weights.unwrap();
        let widths = weights.keys().map(|layer| (layer.clone(), width)).collect();
        let mut engine = Engine::open(weights).unwrap();
        let mut program = cuda::Program::compile(&bound, &Setup::default(), &engine).unwrap();
        let shapes: Vec<_> = program.inputs().iter().map(|port| port.shape.clone()).collect();
        for (i, shape) in shapes.iter().enumerate() {
            program.set(i, &data(shape, i)).unwrap();
        }
        program.run(&mut engine, &widths).unwrap();
        let found: Vec<_> = (0..ends[0].len()).map(|i| wide(&program.output(i).unwrap())).collect();
        let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| data(shape, i)).collect();
        close(&found, &plain(&exact, &Setup::default(), &inputs, 1), 1e-5).unwrap();
    });
}

/// The host reads what is carried as the last run left it.
#[test]
fn the_host_reads_what_is_carried() {
    with_device("the_host_reads_what_is_carried", || {
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

/// A token of a decoder: a norm of one row, rotary positions, keys behind those of the past that several heads share.
fn token(past: usize) -> Graph {
    let mut g = Graph::new("token");
    let f32 = |shape: &[usize]| Type::tensor(DType::F32, dims(shape));
    let x = g.add_input("x", f32(&[1, 1, 32]));
    let [to_q, to_k] = [("to_q", 32), ("to_k", 16)].map(|(name, n)| g.add_input(name, f32(&[32, n])));
    let [cos, sin] = ["cos", "sin"].map(|name| g.add_input(name, f32(&[1, 1, 1, 8])));
    let before = g.add_input("before", f32(&[1, 2, past, 8]));
    let integers = |g: &mut Graph, name: &str, values: &[i64]| {
        g.apply(Op::Constant(Tensor::i64_vector(values)), name, &[]).unwrap()
    };
    let binary = |g: &mut Graph, kind, name: &str, a, b| g.apply(Op::Binary(kind), name, &[a, b]).unwrap();
    let reshape = |g: &mut Graph, name: &str, x, shape: &[i64]| {
        let shape = integers(g, "shape", shape);
        g.apply(Op::Reshape { allowzero: false }, name, &[x, shape]).unwrap()
    };
    let squares = binary(&mut g, Binary::Mul, "squares", x, x);
    let mean = Op::Reduce {
        kind: Reduction::Mean,
        axes: Some(vec![-1]),
        keepdims: true,
        noop_with_empty_axes: false,
    };
    let mean = g.apply(mean, "mean", &[squares]).unwrap();
    let root = g.apply(Op::Unary(Unary::Sqrt), "root", &[mean]).unwrap();
    let normal = binary(&mut g, Binary::Div, "normal", x, root);
    let mut heads = vec![];
    for (weight, count) in [(to_q, 4), (to_k, 2)] {
        let y = g.apply(Op::MatMul, "y", &[normal, weight]).unwrap();
        let y = reshape(&mut g, "apart", y, &[1, 1, count, 8]);
        let y = g.apply(Op::Transpose { perm: Some(vec![0, 2, 1, 3]) }, "heads", &[y]).unwrap();
        let half = Op::Split { axis: 3, sizes: None, num_outputs: Some(2) };
        let info = |name: &str| ValueInfo { name: name.to_owned(), ty: Type::Unknown };
        let names = ["first", "second"].map(|name| info(&format!("{name}{count}")));
        let split = g.insert(Node::new(half, "split", names.to_vec()), &[Some(y)]).unwrap();
        let [first, second] = [0, 1].map(|slot| Value { node: split, slot });
        let negated = g.apply(Op::Unary(Unary::Neg), "negated", &[second]).unwrap();
        let turned = g.apply(Op::Concat { axis: 3 }, "turned", &[negated, first]).unwrap();
        let turned = binary(&mut g, Binary::Mul, "turned_sin", turned, sin);
        let straight = binary(&mut g, Binary::Mul, "straight_cos", y, cos);
        heads.push(binary(&mut g, Binary::Add, "rotated", straight, turned));
    }
    let keys = g.apply(Op::Concat { axis: 2 }, "keys", &[before, heads[1]]).unwrap();
    let total = past as i64 + 1;
    let keys = reshape(&mut g, "alone", keys, &[1, 2, 1, total, 8]);
    let shape = integers(&mut g, "repeats", &[1, 2, 2, total, 8]);
    let keys = g.apply(Op::Expand, "repeated", &[keys, shape]).unwrap();
    let keys = reshape(&mut g, "of_heads", keys, &[1, 4, total, 8]);
    let turned = g.apply(Op::Transpose { perm: Some(vec![0, 1, 3, 2]) }, "keys_turned", &[keys]).unwrap();
    let scores = g.apply(Op::MatMul, "scores", &[heads[0], turned]).unwrap();
    let shares = g.apply(Op::Softmax { axis: -1, flatten: false }, "shares", &[scores]).unwrap();
    let y = g.apply(Op::MatMul, "picked", &[shares, keys]).unwrap();
    outputs(&mut g, &[y]);
    g
}

#[test]
fn a_token_takes_few_kernels() {
    with_device("a_token_takes_few_kernels", || {
        for past in [1, 6] {
            let graph = token(past);
            let shapes: [&[usize]; 6] =
                [&[1, 1, 32], &[32, 32], &[32, 16], &[1, 1, 1, 8], &[1, 1, 1, 8], &[1, 2, past, 8]];
            let exact: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| data(shape, i)).collect();
            let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| data(shape, i)).collect();
            let exact = plain(&graph, &Setup::default(), &exact, 1);
            close(&on_device(&graph, &Setup::default(), &inputs, 3), &exact, 1e-4).unwrap();
            let mut program = Program::<f64>::compile(&graph, &Setup::default()).unwrap();
            for (i, shape) in shapes.iter().enumerate() {
                program.set(i, &data(shape, i)).unwrap();
            }
            program.run().unwrap();
            close(&[program.output(0)], &exact, 1e-9).unwrap();
            // The norm, two products, two rotations, the keys, scores, their shares, what they pick.
            let engine = Engine::open(BTreeMap::new()).unwrap();
            let program = cuda::Program::compile(&graph, &Setup::default(), &engine).unwrap();
            assert_eq!(program.counts(), (9, 0));
        }
    });
}
