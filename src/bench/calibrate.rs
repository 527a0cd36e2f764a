//! The costs of this machine for `fuse`: what nodes of each kind take in a session, as a device of a cost table.
//!
//! Each is the difference of a long and a short chain of such nodes, so that what a run costs besides does not count, and the
//! least of several runs, so that a disturbance does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use mqc_ir::graph::Output;
use mqc_ir::op::{Binary, Nested, Unary};
use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_ir::{Activations, DType, Graph, Op, Tensor, Type, Value, infer};
use mqc_onnx::Model;
use mqc_passes::mqc_fuse::Device;
use mqc_runtime::Session;
use mqc_runtime::cpu::Engine;
use mqc_runtime::nested::{pack, row_bytes};
use mqc_runtime::roofline;

/// Nodes of the short chain and of the long one.
const CHAIN: [usize; 2] = [8, 40];
/// Runs of a chain.
const RUNS: usize = 40;
/// Rows and columns of a weight, and tokens that it is multiplied by: enough to be bound by arithmetic.
const SIZE: usize = 512;
const TOKENS: usize = 64;
/// Elements of values that stay in the second-level cache.
const ELEMENTS: usize = 1 << 16;
/// Operations of a sigmoid as `fuse` counts them.
const SIGMOID: f64 = 16.0;

/// The costs of sessions with so many threads.
///
/// # Errors
/// If there is no memory for the measurement.
pub fn calibrate(threads: usize) -> Result<Device> {
    let limits = roofline::measure(threads).context("cannot measure the machine's limits")?;
    let one = Tensor::from_f32(vec![1], &[0.5])?;
    let chain = |x: &Tensor, step: &Step| node_ns(x, threads, step);

    let unary = |kind: Unary| move |graph: &mut Graph, y, _| Ok(graph.apply(Op::Unary(kind), "y", &[y])?);
    let node_ns = chain(&one, &unary(Unary::Tanh))?;
    // Between two changes of shape something is computed, so that they do not cancel.
    let views = chain(&one, &|graph: &mut Graph, mut y, _| {
        for shape in [&[1, 1][..], &[1]] {
            let shape = graph.add_weight(graph.fresh_name("shape"), Tensor::i64_vector(shape));
            y = graph.apply(Op::Reshape { allowzero: false }, "view", &[y, shape])?;
            y = graph.apply(Op::Unary(Unary::Tanh), "y", &[y])?;
        }
        Ok(y)
    })?;

    // An addition reads two values and stores one, a sigmoid reads one and stores one; in seconds:
    //   addition = 12 elements / cache + elements / elementwise,  sigmoid = 8 elements / cache + 16 elements / elementwise
    let many = Tensor::from_f32(vec![1, ELEMENTS], &noise(ELEMENTS))?;
    let seconds = |ns: f64| (ns - node_ns).max(1.0) / 1e9;
    let addition = seconds(chain(&many, &|graph: &mut Graph, y, x| {
        Ok(graph.apply(Op::Binary(Binary::Add), "y", &[y, x])?)
    })?);
    let sigmoid = seconds(chain(&many, &unary(Unary::Sigmoid))?);
    let elements = ELEMENTS as f64;
    let operation = ((sigmoid - addition * 8.0 / 12.0) / (SIGMOID - 8.0 / 12.0)).max(sigmoid / SIGMOID / 4.0);
    let moved = (addition - operation).max(addition / 4.0);

    let tokens = Tensor::from_f32(vec![TOKENS, SIZE], &noise(TOKENS * SIZE))?;
    // Values neither grow nor vanish along the chain.
    let weight: Vec<f32> = noise(SIZE * SIZE).iter().map(|w| w * (3.0 / SIZE as f32).sqrt()).collect();
    let weight = Tensor::from_f32(vec![SIZE, SIZE], &weight)?;
    let float = chain(&tokens, &|graph: &mut Graph, y, _| {
        let weight = graph.add_weight(graph.fresh_name("weight"), weight.clone());
        Ok(graph.apply(Op::MatMul, "y", &[y, weight])?)
    })?;
    let nested = chain(&tokens, &|graph: &mut Graph, y, _| nested(graph, y))?;
    let operations = 2.0 * (TOKENS * SIZE * SIZE) as f64;
    Ok(Device {
        memory_bytes: limits.read_bytes,
        cache_bytes: 12.0 * elements / moved,
        float_products: operations / seconds(float),
        nested_products: operations / seconds(nested),
        elementwise: elements / operation,
        node_ns,
        view_ns: (views / 2.0 - node_ns).max(0.0),
    })
}

/// Adds a node that computes from the last value; the input is given, too.
type Step<'a> = dyn Fn(&mut Graph, Value, Value) -> Result<Value> + 'a;

/// Nanoseconds of one step.
fn node_ns(x: &Tensor, threads: usize, step: &Step) -> Result<f64> {
    let [short, long] = CHAIN.map(|count| run_ns(x, threads, count, step));
    Ok((long? - short?).max(1.0) / (CHAIN[1] - CHAIN[0]) as f64)
}

/// Nanoseconds of a run of so many steps.
fn run_ns(x: &Tensor, threads: usize, count: usize, step: &Step) -> Result<f64> {
    let mut graph = Graph::default();
    graph.opsets.insert(String::new(), 17);
    let input = graph.add_input("x", Type::of(x));
    let mut value = input;
    for _ in 0..count {
        value = step(&mut graph, value, input)?;
    }
    graph.set_outputs(vec![Output { value, name: "y".to_owned(), declared: Type::Unknown }]);
    infer::infer(&mut graph).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let engine = Arc::new(Engine::new(threads, Activations::default()));
    let session = Session::on(&Model::from_graph(graph), &engine)?;
    let widths = session.layers().keys().map(|layer| (layer.clone(), Width::MAX)).collect();
    let inputs = BTreeMap::from([("x".to_owned(), x.clone())]);
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        session.run(&widths, &inputs)?;
        least = least.min(start.elapsed().as_secs_f64() * 1e9);
    }
    Ok(least)
}

/// A product with a nested weight of its own.
fn nested(graph: &mut Graph, x: Value) -> Result<Value> {
    let layer = graph.fresh_name("layer");
    let codes: Vec<u8> = noise(SIZE * SIZE).iter().map(|value| (127.0 + 100.0 * value) as u8).collect();
    let map = |value: f32| Tensor::from_f32(vec![SIZE, 1], &vec![value; SIZE]);
    let mut tensors = vec![Tensor::i64_scalar(8), map((3.0 / SIZE as f32).sqrt() / 100.0)?, map(127.0)?];
    for plane in pack(&codes, SIZE, SIZE)? {
        tensors.push(Tensor::new(DType::U8, vec![SIZE, row_bytes(SIZE)], plane.into())?);
    }
    let mut operands = vec![x];
    for (part, tensor) in tensors.into_iter().enumerate() {
        operands.push(graph.add_weight(graph.fresh_name(&format!("{layer}.{part}")), tensor));
    }
    let (mode, grouping) = (SliceMode::Midpoint, Grouping::PerChannel);
    let nested = Nested { layer, mode, grouping, cols: SIZE as u64, map_widths: vec![] };
    Ok(graph.apply(Op::NestedMatMul(nested), "y", &operands)?)
}

/// Reproducible values in \[-1, 1).
fn noise(len: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
