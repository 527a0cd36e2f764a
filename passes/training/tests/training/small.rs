//! A small model, and its graphs on the engine.

use std::collections::BTreeMap;

use mqc_ir::op::{NestedQuantize, Unary, WeightLayout};
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width, Widths};
use mqc_ir::{DType, Dim, F32, Graph, Node, Op, Output, Tensor, Type, Value, ValueInfo};
use mqc_step::{Array, Program, Setup};
use mqc_training::options::{Loss, LossKind};
use mqc_training::{Builder, Options, StepGraph, Training};

pub const ROWS: usize = 12;
pub const INPUTS: usize = 6;
pub const HIDDEN: usize = 10;
pub const CLASSES: usize = 3;

pub fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

pub fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// x W1 + b1, relu, W2: both weights nested, as `matquant` leaves them.
pub fn model(layout: WeightLayout, grouping: Grouping, mode: SliceMode, scheme: Scheme) -> Graph {
    of_rows(ROWS, layout, grouping, mode, scheme)
}

/// The same for another number of rows.
pub fn of_rows(
    rows: usize,
    layout: WeightLayout,
    grouping: Grouping,
    mode: SliceMode,
    scheme: Scheme,
) -> Graph {
    let mut graph = Graph::new("mlp");
    graph.opsets.insert(String::new(), 20);
    let dims = [rows, INPUTS].map(|n| Dim::Size(n as u64)).to_vec();
    let x = graph.add_input("x", Type::tensor(DType::F32, dims));
    let mut b = Builder::new(&mut graph, "net");
    let spec = NestedQuantize {
        scheme,
        mode,
        grouping,
        range: RangeMethod::Minmax,
        widths: Widths::default(),
        lambda: vec![F32(1.0); 3],
        layout,
        allow_nonfinite: false,
    };
    let hidden = linear(&mut b, x, "first", [INPUTS, HIDDEN], &spec);
    let bias = b.graph.add_weight("first.bias", Tensor::from_f32(vec![HIDDEN], &random(3, HIDDEN)).unwrap());
    let hidden = b.add(hidden, bias).unwrap();
    let hidden = b.unary(Unary::Relu, hidden).unwrap();
    let logits = linear(&mut b, hidden, "second", [HIDDEN, CLASSES], &spec);
    let declared = graph.ty(logits).clone();
    graph.set_outputs(vec![Output { value: logits, name: "logits".into(), declared }]);
    graph
}

fn linear(b: &mut Builder, x: Value, name: &str, [from, to]: [usize; 2], spec: &NestedQuantize) -> Value {
    let shape = match spec.layout {
        WeightLayout::RowsFirst => vec![to, from],
        WeightLayout::RowsLast => vec![from, to],
    };
    let values = random(name.len() as u64, from * to);
    let weight =
        b.graph.add_weight(format!("{name}.weight"), Tensor::from_f32(shape.clone(), &values).unwrap());
    let outputs = ["codes", "scale", "zero"]
        .map(|p| ValueInfo { name: format!("{name}.{p}"), ty: Type::Unknown })
        .to_vec();
    let quantize = Node::new(Op::NestedQuantize(spec.clone()), name, outputs);
    let node = b.graph.insert(quantize, &[Some(weight)]).unwrap();
    mqc_ir::infer::infer_node(b.graph, node).unwrap();
    let [codes, scale, zero] = [0, 1, 2].map(|slot| Value { node, slot });
    let slice = b.op(Op::SliceBits { width: Width::MAX, mode: spec.mode }, &[codes]).unwrap();
    let dequantize = Op::Dequantize {
        width: Width::MAX,
        mode: spec.mode,
        grouping: spec.grouping,
        layout: spec.layout,
        shape: shape.iter().map(|&n| n as u64).collect(),
    };
    let mut float = b.op(dequantize, &[slice, scale, zero]).unwrap();
    if spec.layout == WeightLayout::RowsFirst {
        float = b.transpose(float, &[1, 0]).unwrap();
    }
    b.matmul(x, float).unwrap()
}

pub fn plain() -> Graph {
    model(WeightLayout::RowsLast, Grouping::PerChannel, SliceMode::Midpoint, Scheme::Asymmetric)
}

pub fn options(bits: &str) -> Options {
    let kind = LossKind::CrossEntropy { ignore: None, smoothing: 0.0, shift: false };
    let mut options = Options::new(bits.parse().unwrap(), Loss { kind, output: "logits".into() });
    options.optimizer.weight_decay = 0.0;
    options
}

/// A graph with the values of its state, fed by name.
pub struct Machine {
    pub program: Program<f32>,
    pub graph: StepGraph,
}

impl Machine {
    pub fn new(graph: StepGraph, state: &BTreeMap<String, Tensor>) -> Machine {
        let carried = graph.state.iter().filter_map(|s| Some((s.input, s.output?))).collect();
        let mut program = Program::compile(&graph.graph, &Setup { threads: 1, carried }).unwrap();
        for slot in &graph.state {
            program.set(slot.input, &Array::from_tensor(&state[&slot.name]).unwrap()).unwrap();
        }
        Machine { program, graph }
    }

    pub fn feed(&mut self, name: &str, tensor: &Tensor) {
        if let Some(&input) = self.graph.feeds.get(name) {
            self.program.set(input, &Array::from_tensor(tensor).unwrap()).unwrap();
        }
    }

    pub fn batch(&mut self) {
        self.feed("x", &Tensor::from_f32(vec![ROWS, INPUTS], &random(7, ROWS * INPUTS)).unwrap());
        let labels: Vec<i64> = (0..ROWS as i64).map(|i| i * i % CLASSES as i64).collect();
        self.feed("labels", &Tensor::from_i64(vec![ROWS], &labels).unwrap());
        self.feed("rows", &Tensor::from_f32(vec![ROWS], &[1.0; ROWS]).unwrap());
    }

    pub fn step(&mut self, number: i64, rate: f32) -> f32 {
        self.batch();
        self.feed("lr", &Tensor::f32_scalar(rate));
        self.feed("step", &Tensor::i64_scalar(number));
        self.program.run().unwrap();
        self.result("loss")
    }

    pub fn result(&self, name: &str) -> f32 {
        self.program.scalar(self.graph.results[name])
    }

    pub fn results(&self) -> BTreeMap<String, Tensor> {
        let tensor = |i: usize| self.program.output(i).to_tensor(DType::F32).unwrap();
        self.graph.results.iter().map(|(name, i)| (name.clone(), tensor(*i))).collect()
    }

    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let tensor = |i: usize| self.program.input(i).to_tensor(DType::F32).unwrap();
        self.graph.state.iter().map(|s| (s.name.clone(), tensor(s.input))).collect()
    }
}

pub fn initial(training: &Training) -> BTreeMap<String, Tensor> {
    training.state().iter().map(|s| (s.name.clone(), s.initial.clone())).collect()
}

pub fn train(training: &Training, steps: i64, rate: f32) -> (Machine, Vec<f32>) {
    let mut machine = Machine::new(training.step_graph().unwrap(), &initial(training));
    let losses = (1..=steps).map(|n| machine.step(n, rate)).collect();
    (machine, losses)
}

pub fn codes(training: &Training, state: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut machine = Machine::new(training.codes_graph().unwrap(), state);
    machine.program.run().unwrap();
    machine.results()
}
