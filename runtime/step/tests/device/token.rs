//! How many kernels a token of a decoder takes.

use std::collections::BTreeMap;

use mqc_ir::op::{Binary, Reduction, Unary};
use mqc_ir::{DType, Graph, Node, Op, Tensor, Type, Value, ValueInfo};
use mqc_step::cuda::{self, Engine};
use mqc_step::{Program, Setup};

use crate::support::random::{close, data, dims};
use crate::{on_device, outputs, plain, with_device};

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
    with_device("token::a_token_takes_few_kernels", || {
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
