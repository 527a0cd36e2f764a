//! Checks gradients against central differences, in f64 on the training engine.

use mqc_ir::{DType, Graph, Op, Output, Tensor, Type, Value};
use mqc_step::{Array, Program, Setup};
use mqc_training::autodiff::vjp;
use mqc_training::expand::expand;
use mqc_training::{Builder, Error};

/// An operand of a node under test.
#[derive(Clone, Debug)]
pub enum Arg {
    /// An input that is differentiated.
    Real(Vec<usize>, Vec<f32>),
    /// A constant.
    Fixed(Tensor),
    Absent,
}

/// A node under test.
#[derive(Clone, Debug)]
pub struct Case {
    pub op: Op,
    pub args: Vec<Arg>,
    pub outputs: usize,
}

impl Case {
    pub fn new(op: Op, args: Vec<Arg>) -> Case {
        Case { op, args, outputs: 1 }
    }

    pub fn outputs(self, outputs: usize) -> Case {
        Case { outputs, ..self }
    }

    /// The inputs in order.
    pub fn reals(&self) -> Vec<(Vec<usize>, Vec<f64>)> {
        let real = |arg: &Arg| match arg {
            Arg::Real(shape, values) => Some((shape.clone(), values.iter().map(|v| f64::from(*v)).collect())),
            Arg::Fixed(_) | Arg::Absent => None,
        };
        self.args.iter().filter_map(real).collect()
    }

    /// Adds inputs and node; the inputs and the outputs that are real.
    pub fn build(&self, b: &mut Builder) -> Result<(Vec<Value>, Vec<Value>), Error> {
        let mut inputs = vec![];
        let mut operands = vec![];
        for (i, arg) in self.args.iter().enumerate() {
            operands.push(match arg {
                Arg::Real(shape, _) => {
                    inputs.push(b.input(format!("x{i}"), DType::F32, shape));
                    inputs.last().copied()
                }
                Arg::Fixed(tensor) => Some(b.constant(tensor.clone())),
                Arg::Absent => None,
            });
        }
        let mut outputs = b.node(self.op.clone(), &operands, self.outputs)?;
        outputs.retain(|v| b.graph.ty(*v).dtype().is_some_and(DType::is_float));
        Ok((inputs, outputs))
    }
}

/// Numbers between `low` and `high` that are not near a multiple of a half, where kinks are.
pub fn numbers(seed: u64, count: usize, low: f32, high: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..3).for_each(|_| {
        next();
    });
    let cells = ((high - low) * 2.0).round().max(1.0);
    (0..count).map(|_| low + ((next() * cells).floor() + 0.2 + 0.6 * next()) / 2.0).collect()
}

pub fn real(seed: u64, shape: &[usize], low: f32, high: f32) -> Arg {
    Arg::Real(shape.to_vec(), numbers(seed, shape.iter().product(), low, high))
}

pub fn ints(values: &[i64]) -> Arg {
    Arg::Fixed(Tensor::i64_vector(values))
}

pub fn indices(shape: &[usize], values: &[i64]) -> Arg {
    Arg::Fixed(Tensor::from_i64(shape.to_vec(), values).unwrap())
}

pub fn outputs(values: &[Value]) -> Vec<Output> {
    let output = |(i, value): (usize, &Value)| Output {
        value: *value,
        name: format!("out{i}"),
        declared: Type::Unknown,
    };
    values.iter().enumerate().map(output).collect()
}

/// A weighted sum of values, each element with a weight of its own.
pub fn weighted(b: &mut Builder, values: &[Value]) -> Result<Value, Error> {
    let mut total = b.scalar(0.0);
    for (i, value) in values.iter().enumerate() {
        let shape = b.shape(*value)?;
        let weights = numbers(77 + i as u64, shape.iter().product(), -1.0, 1.0);
        let weights = b.constant(Tensor::from_f32(shape, &weights)?);
        let value = if b.dtype(*value)? == DType::F32 { *value } else { b.cast(*value, DType::F32)? };
        let product = b.mul(value, weights)?;
        let sum = b.sum_all(product)?;
        total = b.add(total, sum)?;
    }
    Ok(total)
}

/// Runs a graph of real inputs; the outputs.
pub fn run(program: &mut Program<f64>, inputs: &[(Vec<usize>, Vec<f64>)]) -> Vec<Vec<f64>> {
    for (i, (shape, values)) in inputs.iter().enumerate() {
        let array = Array::new(shape.clone(), mqc_step::Data::Real(values.clone())).unwrap();
        program.set(i, &array).unwrap();
    }
    program.run().unwrap();
    let read = |i| program.output(i).as_real().unwrap().to_vec();
    (0..program.outputs().len()).map(read).collect()
}

pub fn compile(graph: &Graph) -> Program<f64> {
    Program::compile(graph, &Setup { threads: 1, carried: vec![] })
        .unwrap_or_else(|e| panic!("{e}\n{}", mqc_ir::text::print(graph)))
}

pub fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 2e-6 * (1.0 + expected.abs())
}

/// Compares the gradient of a weighted sum of what `f` computes with central differences.
pub fn check(
    name: &str,
    reals: &[(Vec<usize>, Vec<f64>)],
    f: impl FnOnce(&mut Builder) -> Result<(Vec<Value>, Vec<Value>), Error>,
) {
    let mut graph = Graph::new("test");
    let mut b = Builder::new(&mut graph, "t");
    let (inputs, values) = f(&mut b).unwrap_or_else(|e| panic!("{name}: {e}"));
    let loss = weighted(&mut b, &values).unwrap();
    graph.set_outputs(outputs(&[loss]));
    let mut b = Builder::new(&mut graph, "grad");
    let one = b.scalar(1.0);
    let found = vjp(&mut b, &[(loss, one)], &inputs, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (input, gradient) in inputs.iter().zip(&found) {
        if let Some(gradient) = gradient {
            assert_eq!(graph.ty(*input), graph.ty(*gradient), "{name}: the gradient has another type");
        }
    }
    // What is differentiated through its expansion is computed by it from here on.
    let mut forward = graph.clone();
    forward.erase_dead();
    let mut forward = compile(&forward);
    let some: Vec<Value> = found.iter().flatten().copied().collect();
    graph.set_outputs(outputs(&some));
    graph.erase_dead();
    assert_eq!(mqc_ir::verify::verify(&graph), [], "{name}");
    let mut computed = run(&mut compile(&graph), reals).into_iter();

    for (which, gradient) in found.iter().enumerate() {
        let zeros = vec![0.0; reals[which].1.len()];
        let gradient = if gradient.is_some() { computed.next().unwrap() } else { zeros };
        for (element, found) in gradient.iter().enumerate() {
            let h = 1e-5;
            let mut at = |by: f64| {
                let mut moved = reals.to_vec();
                moved[which].1[element] += by;
                run(&mut forward, &moved)[0][0]
            };
            let expected = (at(h) - at(-h)) / (2.0 * h);
            assert!(
                close(*found, expected),
                "{name}: input {which} element {element}: found {found}, expected {expected}"
            );
        }
    }
}

pub fn check_case(case: &Case) {
    check(&format!("{case:?}"), &case.reals(), |b| case.build(b));
}

/// Compares a composite with its expansion. Whether it has one.
pub fn check_expansion(case: &Case) -> bool {
    let mut graph = Graph::new("test");
    let mut b = Builder::new(&mut graph, "t");
    let (_, values) = case.build(&mut b).unwrap();
    let id = values[0].node;
    let Some(expanded) = expand(&mut b, id).unwrap_or_else(|e| panic!("{case:?}: {e}")) else { return false };
    let expanded: Vec<Value> = values.iter().map(|v| expanded[v.slot]).collect();
    let all: Vec<Value> = values.iter().chain(&expanded).copied().collect();
    graph.set_outputs(outputs(&all));
    for (value, expanded) in values.iter().zip(&expanded) {
        assert_eq!(graph.ty(*value), graph.ty(*expanded), "{case:?}");
    }
    let results = run(&mut compile(&graph), &case.reals());
    let (own, theirs) = results.split_at(values.len());
    for (own, theirs) in own.iter().flatten().zip(theirs.iter().flatten()) {
        assert!(close(*own, *theirs), "{case:?}: the expansion gives {theirs}, expected {own}");
    }
    true
}
