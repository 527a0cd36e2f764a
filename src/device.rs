//! A model on a CUDA device: a program for each set of input shapes, all over the same resident nested weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use mqc_ir::graph::Output;
use mqc_ir::quant::Width;
use mqc_ir::{Attribute, DType, Graph, Op, Tensor, Text, Value};
use mqc_kernels::cpu::Activation;
use mqc_passes::mqc_fuse::recognize;
use mqc_passes::mqc_fuse::rules::is_epilogue;
use mqc_passes::widen_floats::widen_floats;
use mqc_passes::{FuseSettings, Pipeline};
use mqc_runtime::nested_node::nested_weight;
use mqc_step::cuda::{Engine, Program, bind};
use mqc_step::{Array, Port, Setup};
use mqc_training::static_shapes::fix_shapes;

use crate::data::Tensors;

/// Programs kept at a time: each has the model's float constants on the device.
const PROGRAMS: usize = 4;

/// The shape of every input.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A loaded model. Runs are serialised.
pub struct DeviceSession {
    graph: Graph,
    inputs: Vec<String>,
    /// The types of elements of the outputs.
    outputs: BTreeMap<String, DType>,
    /// What `fuse` does with a graph before it is compiled, if anything.
    fuse: Option<FuseSettings>,
    state: Mutex<State>,
}

struct State {
    engine: Engine,
    programs: Vec<(Shapes, Program)>,
}

/// What a run costs besides time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Kernels that a run launches.
    pub kernels: usize,
    /// Steps that the host does.
    pub host: usize,
    /// The operations of these steps, and how often each.
    pub host_operations: BTreeMap<String, usize>,
    /// Bytes of bit planes on the device.
    pub resident_bytes: u64,
}

impl DeviceSession {
    /// Opens the device and uploads what all widths share. Planes follow when a width reads them. Graphs are fused before they
    /// are compiled, `without` some rules, unless they are to be as they are. `kernels` is a folder with compiled ones.
    ///
    /// # Errors
    /// Why there is no device; nested weights that are malformed.
    pub fn open(
        graph: &Graph,
        kernels: Option<&Path>,
        unfused: bool,
        without: &[String],
    ) -> Result<DeviceSession> {
        let weights = bind(&mut graph.clone(), nested_weight, activation_of)?;
        let is_input = |id: &&mqc_ir::NodeId| graph.node(**id).is_some_and(|node| node.op == Op::Input);
        let name = |id: &mqc_ir::NodeId| Some(graph.info(Value { node: *id, slot: 0 })?.name.clone());
        let inputs = graph.inputs().iter().filter(is_input).filter_map(name).collect();
        let mut engine = Engine::open(weights)?;
        if let Some(folder) = kernels {
            engine.take_kernels_from(folder);
        }
        let state = State { engine, programs: vec![] };
        let target = state.engine.device().target();
        let settings = FuseSettings::program(&format!("cuda:{target}"))?;
        let fuse = (!unfused).then(|| FuseSettings { without: without.to_vec(), ..settings });
        let dtype = |output: &Output| {
            let inferred = || graph.info(output.value)?.ty.dtype();
            Some((output.name.clone(), output.declared.dtype().or_else(inferred)?))
        };
        let outputs = graph.outputs().iter().filter_map(dtype).collect();
        Ok(DeviceSession { graph: graph.clone(), inputs, outputs, fuse, state: Mutex::new(state) })
    }

    /// What the device is called.
    pub fn name(&self) -> String {
        self.lock().engine.device().name().to_owned()
    }

    /// Whether cuBLAS multiplies floats there.
    pub fn has_blas(&self) -> bool {
        self.lock().engine.has_blas()
    }

    /// Layers that no fast kernel serves, with the reason.
    pub fn notes(&self) -> Vec<String> {
        self.lock().engine.notes().to_vec()
    }

    /// Runs the model with each layer at its width in `widths`.
    ///
    /// # Errors
    /// Inputs that are missing, unknown or of the wrong type; operations that have no form on the device; no room; a device
    /// that is lost.
    pub fn run(&self, widths: &BTreeMap<String, Width>, inputs: &Tensors) -> Result<Vec<(String, Tensor)>> {
        let mut state = self.lock();
        let State { engine, programs } = &mut *state;
        let program = self.program(engine, programs, inputs)?;
        for (index, port) in program.inputs().to_vec().iter().enumerate() {
            if let Some(tensor) = inputs.get(&port.name) {
                program.set(index, &Array::from_tensor(tensor)?)?;
            }
        }
        program.run(engine, widths)?;
        let outputs: Vec<Port> = program.outputs().to_vec();
        let tensor = |(index, port): (usize, Port)| {
            // Half precision is f32 on the device.
            let dtype = self.outputs.get(&port.name).copied().unwrap_or(port.dtype);
            Ok((port.name, program.output(index)?.to_tensor(dtype)?))
        };
        outputs.into_iter().enumerate().map(tensor).collect()
    }

    /// A program of a graph that its maker keeps: with shapes of its own, and values that are carried.
    ///
    /// # Errors
    /// Those of `make`, and as [`compile`].
    pub fn program_of(&self, make: impl FnOnce() -> Result<(Graph, Shapes, Setup)>) -> Result<Program> {
        let (graph, shapes, setup) = make()?;
        compile(&graph, &shapes, &setup, &self.lock().engine, self.fuse.as_ref())
    }

    /// Runs such a program.
    ///
    /// # Errors
    /// Inputs without a value, no room for planes, a device that is lost.
    pub fn run_program(&self, program: &mut Program, widths: &BTreeMap<String, Width>) -> Result<()> {
        Ok(program.run(&mut self.lock().engine, widths)?)
    }

    /// What a run with such inputs costs, after one.
    ///
    /// # Errors
    /// As [`DeviceSession::run`].
    pub fn counts(&self, inputs: &Tensors) -> Result<Counts> {
        let mut state = self.lock();
        let State { engine, programs } = &mut *state;
        let program = self.program(engine, programs, inputs)?;
        let ((kernels, host), host_operations) = (program.counts(), program.host_operations());
        Ok(Counts { kernels, host, host_operations, resident_bytes: engine.resident_bytes() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program for inputs of these shapes, compiled now if it is not among those used last.
    fn program<'a>(
        &self,
        engine: &Engine,
        programs: &'a mut Vec<(Shapes, Program)>,
        inputs: &Tensors,
    ) -> Result<&'a mut Program> {
        let mut shapes = Shapes::new();
        for name in &self.inputs {
            let tensor = inputs.get(name).with_context(|| format!("input {name} is missing"))?;
            shapes.insert(name.clone(), tensor.shape().to_vec());
        }
        if let Some(name) = inputs.keys().find(|name| !shapes.contains_key(*name)) {
            bail!("the model has no input {name}; it has {}", self.inputs.join(", "));
        }
        let found = programs.iter().position(|(known, _)| *known == shapes);
        let entry = match found {
            Some(at) => programs.remove(at),
            None => {
                let program = compile(&self.graph, &shapes, &Setup::default(), engine, self.fuse.as_ref())?;
                if programs.len() == PROGRAMS {
                    programs.remove(0);
                }
                (shapes, program)
            }
        };
        programs.push(entry);
        programs.last_mut().map(|(_, program)| program).context("there is no program")
    }
}

/// The program of a graph for inputs of these shapes.
///
/// # Errors
/// Shapes that the graph contradicts; operations that have no form on the device; no room.
pub fn compile(
    graph: &Graph,
    shapes: &Shapes,
    setup: &Setup,
    engine: &Engine,
    fuse: Option<&FuseSettings>,
) -> Result<Program> {
    let mut graph = graph.clone();
    widen_floats(&mut graph)?;
    fix_shapes(&mut graph, shapes)?;
    if let Some(settings) = fuse {
        let options = mqc_passes::Options::default();
        let mut context = mqc_passes::Context::new(&options, None);
        context.fuse = Some(settings.clone());
        Pipeline::fuse().run(&mut graph, &mut context, &mqc_passes::Debug::default())?;
    }
    bind(&mut graph, nested_weight, activation_of)?;
    Ok(Program::compile(&graph, setup, engine)?)
}

/// The function of an epilogue that `fuse` made; `None` for all other nodes.
pub fn activation_of(op: &Op) -> Option<Activation> {
    let Op::Opaque(opaque) = op else { return None };
    if !is_epilogue(op) {
        return None;
    }
    let found = match opaque.attributes.get("activation") {
        Some(Attribute::String(Text(name))) => recognize::Activation::of_name(name)?,
        Some(_) => return None,
        None => recognize::Activation::Identity,
    };
    Some(match found {
        recognize::Activation::Identity => Activation::Identity,
        recognize::Activation::Relu => Activation::Relu,
        recognize::Activation::Gelu => Activation::Gelu,
        recognize::Activation::GeluTanh => Activation::GeluTanh,
        recognize::Activation::Silu => Activation::Silu,
    })
}
