//! Nested weights: products with their epilogues, tables.

use std::collections::BTreeMap;

use bytes::Bytes;
use mqc_ir::op::{Binary, GeluKind, Nested, Opaque, Unary};
use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_ir::{Attribute, DType, Graph, Node, Op, Tensor, Text, Type, Value, ValueInfo};
use mqc_kernels::cpu::Activation;
use mqc_kernels::nested::{self, AffineMap, NestedWeight};
use mqc_step::cuda::{self, Engine};
use mqc_step::{Array, Setup};

use crate::support::random::{close, data, dims};
use crate::{Widths, outputs, plain, wide, with_device};

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
    with_device("nested::nested_weights_at_every_width", || {
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
    with_device("nested::rows_of_tables", || {
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

/// Epilogues as part of the product, and of one that has another user: all functions, all parts.
#[test]
fn epilogues() {
    with_device("nested::epilogues", || {
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
