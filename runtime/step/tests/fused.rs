//! Random graphs: the fast engine against the plain one, and against itself on more threads.

mod support;

use mqc_ir::graph::Output;
use mqc_ir::op::{Binary, Unary};
use mqc_ir::{DType, Graph, Op, Type};
use mqc_step::{Array, Program, Real, Setup};
use proptest::prelude::*;
use support::random::{KINDS, Random, close, data, dims, graphs};

fn run<T: Real>(mut program: Program<T>, inputs: &[Vec<usize>], times: usize) -> Vec<Array<T>> {
    for (i, shape) in inputs.iter().enumerate() {
        program.set(i, &data(shape, i)).unwrap();
    }
    for _ in 0..times {
        program.run().unwrap();
    }
    (0..program.outputs().len()).map(|i| program.output(i)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn fast_is_plain((rows, cols, nodes, wanted) in graphs()) {
        let mut random = Random::new(rows, cols);
        nodes.iter().for_each(|(kind, a, b)| random.grow(*kind, *a, *b));
        random.finish(&wanted);
        let setup = Setup { threads: 1, carried: vec![] };
        let plain = run(Program::<f64>::compile_plain(&random.graph, &setup).unwrap(), &random.inputs, 1);
        // Twice: buffers are used again.
        let fast = run(Program::<f64>::compile(&random.graph, &setup).unwrap(), &random.inputs, 2);
        close(&fast, &plain, 1e-9)?;
    }

    #[test]
    fn fused_is_unfused((rows, cols, nodes, wanted) in graphs()) {
        let mut random = Random::new(rows, cols);
        nodes.iter().for_each(|(kind, a, b)| random.grow(*kind, *a, *b));
        random.finish(&wanted);
        let setup = Setup { threads: 1, carried: vec![] };
        let unfused = run(Program::<f64>::compile_unfused(&random.graph, &setup).unwrap(), &random.inputs, 2);
        let fused = run(Program::<f64>::compile(&random.graph, &setup).unwrap(), &random.inputs, 2);
        close(&fused, &unfused, 1e-9)?;
    }

    #[test]
    fn state_is_carried_the_same((rows, cols, nodes, _) in graphs()) {
        let mut random = Random::new(rows, cols);
        nodes.iter().for_each(|(kind, a, b)| random.grow(*kind, *a, *b));
        // Every input becomes the last value of its shape, softened.
        let mut outputs = vec![];
        for (i, shape) in random.inputs.clone().iter().enumerate() {
            let (value, _) = random.values.iter().rev().find(|(_, s)| s == shape).cloned().unwrap();
            random.apply(Op::Unary(Unary::Tanh), &[value], shape.clone());
            let value = random.values[random.values.len() - 1].0;
            outputs.push(Output { value, name: format!("y{i}"), declared: Type::Unknown });
        }
        random.graph.set_outputs(outputs);
        let setup = Setup { threads: 1, carried: (0..random.inputs.len()).map(|i| (i, i)).collect() };
        let plain = run(Program::<f64>::compile_plain(&random.graph, &setup).unwrap(), &random.inputs, 3);
        let fast = run(Program::<f64>::compile(&random.graph, &setup).unwrap(), &random.inputs, 3);
        close(&fast, &plain, 1e-8)?;
    }

    #[test]
    fn f32_is_close_to_f64((rows, cols, nodes, wanted) in graphs()) {
        let mut random = Random::new(rows, cols);
        // Steps and choices amplify roundings.
        let smooth = |kind: u8| !matches!(kind % KINDS, 2 | 12 | 13 | 24 | 26);
        nodes.iter().filter(|n| smooth(n.0)).for_each(|(kind, a, b)| random.grow(*kind, *a, *b));
        random.finish(&wanted);
        let setup = Setup { threads: 1, carried: vec![] };
        let exact = run(Program::<f64>::compile(&random.graph, &setup).unwrap(), &random.inputs, 1);
        let found = run(Program::<f32>::compile(&random.graph, &setup).unwrap(), &random.inputs, 1);
        let wide: Vec<Array<f64>> = found.iter().map(|a| {
            Array::real(a.shape().to_vec(), a.as_real().unwrap().iter().map(|v| f64::from(*v)).collect()).unwrap()
        }).collect();
        let bounded = exact.iter().all(|a| a.as_real().unwrap().iter().all(|v| v.abs() < 1e3));
        prop_assume!(bounded);
        close(&wide, &exact, 2e-3)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn threads_do_not_change_results(rows in 60usize..400, cols in 60usize..400, nodes in prop::collection::vec((any::<u8>(), 0usize..64, 0usize..64), 5..25)) {
        let mut random = Random::new(rows, cols);
        nodes.iter().for_each(|(kind, a, b)| random.grow(*kind, *a, *b));
        random.grow(18, 0, 4);
        random.grow(18, 4, 1);
        random.finish(&(0..64).collect::<Vec<_>>());
        let on = |threads| {
            let setup = Setup { threads, carried: vec![] };
            run(Program::<f32>::compile(&random.graph, &setup).unwrap(), &random.inputs, 1)
        };
        let one = on(1);
        for threads in [2, 3, 5] {
            for (a, b) in one.iter().zip(on(threads)) {
                let bits = |a: &Array<f32>| a.as_real().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(a), bits(&b));
            }
        }
    }
}

/// Replicas that follow each other: each a chain of products whose every value its own backward pass reads again.
fn replicas(count: usize) -> Graph {
    let mut graph = Graph::new("replicas");
    let x = graph.add_input("x", Type::tensor(DType::F32, dims(&[64, 32])));
    let w = graph.add_input("w", Type::tensor(DType::F32, dims(&[32, 32])));
    let mut sum = None;
    for _ in 0..count {
        let mut kept = vec![x];
        for _ in 0..10 {
            let product = graph.apply(Op::MatMul, "p", &[kept[kept.len() - 1], w]).unwrap();
            kept.push(graph.apply(Op::Unary(Unary::Tanh), "t", &[product]).unwrap());
        }
        let mut back = kept[kept.len() - 1];
        for value in kept.iter().rev() {
            let product = graph.apply(Op::Binary(Binary::Mul), "b", &[back, *value]).unwrap();
            back = graph.apply(Op::MatMul, "d", &[product, w]).unwrap();
        }
        sum = Some(match sum {
            None => back,
            Some(sum) => graph.apply(Op::Binary(Binary::Add), "s", &[sum, back]).unwrap(),
        });
    }
    let output = Output { value: sum.unwrap(), name: "y".to_owned(), declared: Type::Unknown };
    graph.set_outputs(vec![output]);
    graph
}

#[test]
fn replicas_share_their_memory() {
    let peak = |count| Program::<f32>::compile(&replicas(count), &Setup::default()).unwrap().peak_bytes();
    let value = 64 * 32 * 4;
    // What must be there at once: the ten values of a replica.
    assert!(peak(1) >= 10 * value && peak(1) <= 16 * value, "{}", peak(1));
    assert!(peak(3) <= peak(1) + 2 * value, "{} and {}", peak(1), peak(3));
}
