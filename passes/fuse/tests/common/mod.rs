//! Parsing graphs under test, and running two of them on the same random numbers.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod decoder;
pub mod nested;
pub mod session;

use std::collections::BTreeMap;
use std::error::Error;

use mqc_fuse::{Devices, FuseOptions};
use mqc_ir::{Dim, Graph, Type, Value, infer, text, verify};
use mqc_step::{Array, Data, Kind, Program, Setup};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a file is tested: `# fuse --only gelu-erf,rms-norm --device cpu --opset 23 --sizes batch=2,seq=3 --assume 1 --tolerance 1e-9`.
pub struct Options {
    pub fuse: FuseOptions,
    pub sizes: BTreeMap<String, u64>,
    pub tolerance: f64,
}

impl Options {
    pub fn of(line: &str) -> Result<Options, Box<dyn Error>> {
        let words = line.strip_prefix("# fuse").ok_or("the first line is not `# fuse ..`")?;
        let mut options = Options { fuse: fuse_options("cpu"), sizes: BTreeMap::new(), tolerance: 1e-6 };
        options.fuse.opset = Some(24);
        let words: Vec<&str> = words.split_whitespace().collect();
        for pair in words.chunks(2) {
            let &[name, value] = pair else { return Err(format!("{line}: a word too many").into()) };
            match name {
                "--only" => options.fuse.only = value.split(',').map(str::to_owned).collect(),
                "--device" => options.fuse.device = fuse_options(value).device,
                "--assume" => options.fuse.unknown_size = value.parse()?,
                "--opset" => options.fuse.opset = Some(value.parse()?),
                "--session" => options.fuse.session = value == "yes",
                "--stop-after" => options.fuse.stop_after = Some(value.parse()?),
                "--tolerance" => options.tolerance = value.parse()?,
                "--sizes" => {
                    for pair in value.split(',') {
                        let (name, size) = pair.split_once('=').ok_or("NAME=SIZE")?;
                        options.sizes.insert(name.to_owned(), size.parse()?);
                    }
                }
                other => return Err(format!("{line}: {other}?").into()),
            }
        }
        Ok(options)
    }
}

pub fn fuse_options(device: &str) -> FuseOptions {
    FuseOptions::new(Devices::builtin().unwrap().get(device).unwrap().clone())
}

/// A valid graph with its types.
pub fn parse(source: &str) -> Result<Graph, Box<dyn Error>> {
    let mut graph = text::parse(&with_random_bytes(source), &text::NoWeights)?;
    infer::infer(&mut graph).map_err(|errors| format!("{errors:?}"))?;
    let errors = verify::verify(&graph);
    if errors.is_empty() { Ok(graph) } else { Err(format!("{errors:?}").into()) }
}

/// `: u8[2, 3] = random(1)` with its elements written out: of random constants the text form itself knows f32 only.
fn with_random_bytes(source: &str) -> String {
    let mut text = String::new();
    let mut parts = source.split(": u8[");
    text.extend(parts.next());
    for part in parts {
        text.push_str(": u8[");
        let random = part.split_once("] = random(").filter(|(dims, _)| !dims.contains(['[', '\n']));
        let parsed = random.and_then(|(dims, rest)| {
            let (seed, rest) = rest.split_once(')')?;
            let len: usize =
                dims.split(", ").map(|dim| dim.parse::<usize>().ok()).product::<Option<usize>>()?;
            Some((dims, len, seed.parse().ok()?, rest))
        });
        match parsed {
            Some((dims, len, seed, rest)) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let bytes: Vec<u8> = (0..len).map(|_| random.random()).collect();
                text.push_str(&format!("{dims}] = {bytes:?}{rest}"));
            }
            None => text.push_str(part),
        }
    }
    text
}

/// Runs both graphs in f64 on the same numbers.
pub fn equal_on_random_numbers(
    before: &Graph,
    after: &Graph,
    options: &Options,
) -> Result<(), Box<dyn Error>> {
    for seed in 0..3 {
        let (left, right) = (run(before, options, seed)?, run(after, options, seed)?);
        if left.len() != right.len() {
            return Err("the graphs have different numbers of results".into());
        }
        for (name, expected) in &left {
            let found = right.get(name).ok_or_else(|| format!("no result {name}"))?;
            compare(name, expected, found, options.tolerance)?;
        }
    }
    Ok(())
}

fn compare(name: &str, expected: &Array<f64>, found: &Array<f64>, tolerance: f64) -> Result<(), String> {
    if expected.shape() != found.shape() {
        return Err(format!("{name} is {:?}, expected {:?}", found.shape(), expected.shape()));
    }
    let (Data::Real(a), Data::Real(b)) = (expected.data(), found.data()) else {
        let same = expected.data() == found.data();
        return if same { Ok(()) } else { Err(format!("{name} differs")) };
    };
    let scale = a.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    if !a.is_empty() && (scale == 0.0 || !scale.is_finite()) {
        return Err(format!("{name} proves nothing: its largest element is {scale}"));
    }
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        if (a - b).abs() > tolerance * scale {
            return Err(format!("{name}[{i}]: found {b}, expected {a}, largest {scale}"));
        }
    }
    Ok(())
}

/// The results by name.
pub fn run(
    graph: &Graph,
    options: &Options,
    seed: u64,
) -> Result<BTreeMap<String, Array<f64>>, Box<dyn Error>> {
    let graph = session::with_standard_operators(&with_sizes(graph, &options.sizes)?)?;
    let graph = nested::without_nested(&graph)?;
    let mut program = Program::<f64>::compile(&graph, &Setup { threads: 1, ..Setup::default() })?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for index in 0..program.inputs().len() {
        let port = &program.inputs()[index];
        let len = port.shape.iter().product();
        let data = match Kind::of(port.dtype) {
            Some(Kind::Int) => Data::Int((0..len).map(|_| random.random_range(0..4)).collect()),
            Some(Kind::Bool) => Data::Bool((0..len).map(|_| random.random()).collect()),
            Some(Kind::Real) | None => Data::Real((0..len).map(|_| random.random_range(-2.0..2.0)).collect()),
        };
        let value = Array::new(port.shape.clone(), data)?;
        program.set(index, &value)?;
    }
    program.run()?;
    let names = program.outputs().iter().map(|port| port.name.clone());
    Ok(names.enumerate().map(|(index, name)| (name, program.output(index))).collect())
}

/// The graph with numbers for its symbols; types are inferred anew.
fn with_sizes(graph: &Graph, sizes: &BTreeMap<String, u64>) -> Result<Graph, Box<dyn Error>> {
    let mut graph = graph.clone();
    for id in graph.ids() {
        let is_input = graph.inputs().contains(&id);
        for slot in 0..graph.node(id).map_or(0, |n| n.outputs.len()) {
            let value = Value { node: id, slot };
            let sized = match (is_input, graph.ty(value).dtype(), graph.ty(value).shape()) {
                (true, Some(dtype), Some(shape)) => {
                    let dim = |dim: &Dim| match dim {
                        Dim::Symbol(name) => Dim::Size(*sizes.get(&**name).unwrap_or(&3)),
                        Dim::Size(_) | Dim::Unknown => dim.clone(),
                    };
                    Type::tensor(dtype, shape.iter().map(dim).collect())
                }
                _ if graph.node(id).is_some_and(|n| n.op.as_constant().is_some()) => continue,
                _ => Type::Unknown,
            };
            graph.set_type(value, sized);
        }
    }
    let mut outputs = graph.outputs().to_vec();
    outputs.iter_mut().for_each(|output| output.declared = Type::Unknown);
    graph.set_outputs(outputs);
    infer::infer(&mut graph).map_err(|errors| format!("{errors:?}"))?;
    Ok(graph)
}
