//! Blocks cut at what everything passes through; equivalent transformations change no float output.

use std::collections::BTreeMap;

use mqc_ir::op::{NestedQuantize, Unary, WeightLayout};
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width, Widths};
use mqc_ir::{DType, Dim, F32, Graph, Node, Op, Output, Tensor, Type, Value, ValueInfo};
use mqc_step::{Array, Program, Setup};
use mqc_training::blocks::blocks;
use mqc_training::options::{Latent, Loss, LossKind};
use mqc_training::{Builder, Options, StepGraph, Training};

const ROWS: usize = 9;
const SIZE: usize = 12;

fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn weight(b: &mut Builder, name: &str, shape: &[usize]) -> Value {
    let values = random(name.len() as u64 * 31 + shape[0] as u64, shape.iter().product());
    b.graph.add_weight(name, Tensor::from_f32(shape.to_vec(), &values).unwrap())
}

/// x W + bias.
fn linear(b: &mut Builder, x: Value, name: &str, layout: WeightLayout) -> Value {
    let spec = NestedQuantize {
        scheme: Scheme::Asymmetric,
        mode: SliceMode::Midpoint,
        grouping: Grouping::PerChannel,
        range: RangeMethod::Minmax,
        widths: Widths::default(),
        lambda: vec![F32(1.0); 3],
        layout,
        allow_nonfinite: false,
    };
    let float = weight(b, &format!("{name}.weight"), &[SIZE, SIZE]);
    let outputs = ["codes", "scale", "zero"]
        .map(|p| ValueInfo { name: format!("{name}.{p}"), ty: Type::Unknown })
        .to_vec();
    let node = Node::new(Op::NestedQuantize(spec), name, outputs);
    let node = b.graph.insert(node, &[Some(float)]).unwrap();
    mqc_ir::infer::infer_node(b.graph, node).unwrap();
    let [codes, scale, zero] = [0, 1, 2].map(|slot| Value { node, slot });
    let (width, mode) = (Width::MAX, SliceMode::Midpoint);
    let slice = b.op(Op::SliceBits { width, mode }, &[codes]).unwrap();
    let shape = vec![SIZE as u64; 2];
    let dequantize = Op::Dequantize { width, mode, grouping: Grouping::PerChannel, layout, shape };
    let dequantized = b.op(dequantize, &[slice, scale, zero]).unwrap();
    let product = match layout {
        WeightLayout::RowsLast => b.matmul(x, dequantized).unwrap(),
        WeightLayout::RowsFirst => {
            let gemm = Op::Gemm { alpha: F32(1.0), beta: F32(1.0), trans_a: false, trans_b: true };
            let bias = weight(b, &format!("{name}.bias"), &[SIZE]);
            return b.op(gemm, &[x, dequantized, bias]).unwrap();
        }
    };
    let bias = weight(b, &format!("{name}.bias"), &[SIZE]);
    b.add(product, bias).unwrap()
}

/// Two residual blocks: x + second(relu(first(norm(x)) * gate(norm(x)))).
fn model() -> Graph {
    let mut graph = Graph::new("residual");
    graph.opsets.insert(String::new(), 20);
    let dims = [ROWS, SIZE].map(|n| Dim::Size(n as u64)).to_vec();
    let mut x = graph.add_input("x", Type::tensor(DType::F32, dims));
    let mut b = Builder::new(&mut graph, "net");
    for (index, layout) in [WeightLayout::RowsLast, WeightLayout::RowsFirst].into_iter().enumerate() {
        let gain = weight(&mut b, &format!("{index}.gain"), &[SIZE]);
        let shift = weight(&mut b, &format!("{index}.shift"), &[SIZE]);
        let centred = b.unary(Unary::Tanh, x).unwrap();
        let scaled = b.mul(centred, gain).unwrap();
        let norm = b.add(scaled, shift).unwrap();
        let first = linear(&mut b, norm, &format!("{index}.first"), layout);
        let gate = linear(&mut b, norm, &format!("{index}.gate"), layout);
        let hidden = b.mul(first, gate).unwrap();
        let hidden = b.unary(Unary::Relu, hidden).unwrap();
        let second = linear(&mut b, hidden, &format!("{index}.second"), layout);
        x = b.add(x, second).unwrap();
    }
    let declared = graph.ty(x).clone();
    graph.set_outputs(vec![Output { value: x, name: "y".into(), declared }]);
    graph
}

fn options(output: &str) -> Options {
    let loss = Loss { kind: LossKind::DistillMse, output: output.to_owned() };
    let mut options = Options::new("8,4,2".parse().unwrap(), loss);
    options.trainable.latent = Latent::Given;
    options.trainable.floats = false;
    options.trainable.equivalent = true;
    options
}

struct Machine {
    program: Program<f32>,
    graph: StepGraph,
}

impl Machine {
    fn new(graph: StepGraph, state: &BTreeMap<String, Tensor>) -> Machine {
        let carried = graph.state.iter().filter_map(|s| Some((s.input, s.output?))).collect();
        let mut program = Program::compile(&graph.graph, &Setup { threads: 1, carried }).unwrap();
        for slot in &graph.state {
            program.set(slot.input, &Array::from_tensor(&state[&slot.name]).unwrap()).unwrap();
        }
        Machine { program, graph }
    }

    fn feed(&mut self, name: &str, tensor: &Tensor) {
        if let Some(&input) = self.graph.feeds.get(name) {
            self.program.set(input, &Array::from_tensor(tensor).unwrap()).unwrap();
        }
    }

    fn run(&mut self, input: &str, x: &Tensor) {
        self.feed(input, x);
        self.feed("rows", &Tensor::from_f32(vec![ROWS], &[1.0; ROWS]).unwrap());
        self.program.run().unwrap();
    }

    fn scalar(&self, name: &str) -> f32 {
        self.program.scalar(self.graph.results[name])
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let output = self.program.output(self.graph.results[name]);
        output.to_tensor(DType::F32).unwrap().to_f32_vec().unwrap()
    }
}

fn initial(training: &Training) -> BTreeMap<String, Tensor> {
    training.state().iter().map(|s| (s.name.clone(), s.initial.clone())).collect()
}

fn batch() -> Tensor {
    Tensor::from_f32(vec![ROWS, SIZE], &random(5, ROWS * SIZE)).unwrap()
}

#[test]
fn blocks_are_the_residual_parts_and_compose_to_the_model() {
    let model = model();
    let parts = blocks(&model, "y", None).unwrap();
    assert_eq!(parts.iter().map(|b| b.layers).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(parts[0].input, None);
    assert_eq!(parts[1].output, "y");
    let output = |graph: &Graph, name: &str, input: &str, x: &Tensor| {
        let training = Training::new(graph.clone(), options(name), &BTreeMap::new()).unwrap();
        let mut machine = Machine::new(training.output_graph().unwrap(), &initial(&training));
        machine.run(input, x);
        machine.tensor("output")
    };
    let whole = output(&model, "y", "x", &batch());
    let first = output(&parts[0].graph, &parts[0].output, "x", &batch());
    let between = Tensor::from_f32(vec![ROWS, SIZE], &first).unwrap();
    assert_eq!(output(&parts[1].graph, "y", parts[1].input.as_ref().unwrap(), &between), whole);
}

#[test]
fn ends_can_be_chosen() {
    let set = |text: &str| {
        let mut set = globset::GlobSetBuilder::new();
        set.add(globset::Glob::new(text).unwrap());
        set.build().unwrap()
    };
    let message = blocks(&model(), "y", Some(&set("nothing"))).unwrap_err().to_string();
    assert!(message.contains("matches no value"), "{message}");
    assert_eq!(blocks(&model(), "y", Some(&set("*"))).unwrap().len(), 2);
    assert!(blocks(&model(), "z", None).unwrap_err().to_string().contains("output \"z\""));
}

#[test]
fn equivalent_transformations_keep_the_float_function() {
    let training = Training::new(model(), options("y"), &BTreeMap::new()).unwrap();
    let transformed: Vec<&str> =
        training.state().iter().map(|s| s.name.as_str()).filter(|n| n.ends_with("/log_scale")).collect();
    assert_eq!(transformed.len(), 2, "{transformed:?}");
    assert_eq!(training.state().iter().filter(|s| s.name.ends_with("/delta")).count(), 2);
    let width = Width::MAX;
    let error = |state: &BTreeMap<String, Tensor>| {
        let graph = training.evaluation_graph(&[Some(width)]).unwrap();
        let mut machine = Machine::new(graph, state);
        machine.run("x", &batch());
        machine.scalar("sum@8") / machine.scalar("count@8")
    };
    let plain = error(&initial(&training));
    let moved = |what: &str| {
        let mut state = initial(&training);
        for (name, tensor) in &mut state {
            if name.ends_with(what) {
                let values: Vec<f32> = random(9, SIZE).into_iter().map(|v| 0.7 * v).collect();
                *tensor = Tensor::from_f32(tensor.shape().to_vec(), &values).unwrap();
            }
        }
        state
    };
    for what in ["/log_scale", "/delta"] {
        let error = error(&moved(what));
        assert!(error < 4.0 * plain && error != plain, "{what}: {error} beside {plain}");
    }
}

#[test]
fn calibration_brings_narrow_widths_closer() {
    let part = blocks(&model(), "y", None).unwrap().remove(0);
    let training = Training::new(part.graph, options(&part.output), &BTreeMap::new()).unwrap();
    let mut machine = Machine::new(training.step_graph().unwrap(), &initial(&training));
    let mut step = |number: i64, rate: f32| {
        machine.feed("lr", &Tensor::f32_scalar(rate));
        machine.feed("step", &Tensor::i64_scalar(number));
        machine.run("x", &batch());
        machine.scalar("loss@2")
    };
    let first = step(1, 0.0);
    (2..200).for_each(|n| {
        step(n, 0.01);
    });
    let last = step(200, 0.0);
    assert!(last < 0.5 * first, "{first} became {last}");
    let value = |name: &str| {
        let slot = machine.graph.state.iter().find(|s| s.name.ends_with(name)).unwrap();
        machine.program.input(slot.input).to_tensor(DType::F32).unwrap().to_f32_vec().unwrap()
    };
    for learned in ["/gamma", "/beta", "/log_scale", "/delta"] {
        let start = if learned.starts_with("/l") || learned == "/delta" { 0.0 } else { 1.0 };
        assert!(value(learned).iter().any(|v| *v != start), "{learned} did not move");
    }
    let weight = "0.first.weight";
    assert_eq!(value(weight), initial(&training)[weight].to_f32_vec().unwrap());
}
