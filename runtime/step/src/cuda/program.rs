//! A compiled graph on a device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mqc_cuda::Launch;
use mqc_cuda::device::{Buffer, Device, Graph as Recorded, Module};
use mqc_ir::Graph;

use super::blas::Blas;
use super::build::{self, Planned, Product, Rows};
use super::kernel::Slot;
use super::memory::Memory;
use super::run::Key;
use super::{DeviceProgramError as Error, Engine};
use crate::array::Data;
use crate::graph::{Net, op_name};
use crate::lower::task::{Source, Task};
use crate::lower::{self, Lowered};
use crate::view::Root;
use crate::{Array, Port, Setup};

/// A graph of known sizes, compiled for a device, with the values of its inputs and outputs there.
pub struct Program {
    pub(super) net: Net,
    pub(super) device: Arc<Device>,
    pub(super) module: Module,
    pub(super) steps: Vec<Step>,
    /// Steps of the host that come first.
    pub(super) before: usize,
    pub(super) memory: Memory,
    inputs: Vec<Root>,
    outputs: Vec<Root>,
    pub(super) given: Vec<bool>,
    /// What the host reads and has itself: inputs, constants, what its first steps make.
    pub(super) on_host: BTreeMap<Root, Data<f32>>,
    pub(super) copies: Vec<(Root, Root)>,
    pub(super) faultable: BTreeSet<usize>,
    pub(super) recorded: Vec<(Key, Recorded)>,
    /// What the last run that was not recorded depended on.
    pub(super) last: Option<Key>,
}

pub(super) enum Step {
    Kernel { number: usize, launch: Launch, addresses: Vec<u64> },
    Blas(Blas),
    Nested(Product),
    Rows(Rows),
    Host(Box<Task>),
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("steps", &self.steps.len()).finish_non_exhaustive()
    }
}

/// The CUDA C++ of a graph, as [`Program::compile`] gives it to the compiler; the kernels of nested weights are not in it.
///
/// # Errors
/// What is wrong with the graph; an operation that the engine has not.
pub fn text(graph: &Graph, setup: &Setup) -> Result<String, crate::Error> {
    let net = Net::new(graph, setup)?;
    let lowered = lower::lower::<f32>(&net, setup)?;
    let (plan, _) = build::plan(&net, &lowered, &setup.carried, false).map_err(crate::Error::Setup)?;
    Ok(plan.text.text())
}

impl Program {
    /// Compiles a graph of known sizes in f32, whose nested weights are named (see [`super::bind`]).
    ///
    /// # Errors
    /// What is wrong with the graph; an operation that the engine has not; text that does not compile; no room.
    pub fn compile(graph: &Graph, setup: &Setup, engine: &Engine) -> Result<Program, Error> {
        let net = Net::new(graph, setup)?;
        let lowered = lower::lower::<f32>(&net, setup)?;
        let planned = build::plan(&net, &lowered, &setup.carried, engine.has_blas());
        let (plan, buffers) = planned.map_err(crate::Error::Setup)?;
        let device = engine.device.clone();
        let kernels = plan.text.kernels();
        let tools = (&engine.compiler, &engine.cache);
        let module = Module::compile(&device, tools, "program", &plan.text.text(), &kernels)?;
        let memory = Memory::new(&device, &net, &lowered, &buffers, &plan)?;
        let mut faultable = BTreeSet::new();
        let mut steps = vec![];
        for step in plan.steps {
            steps.push(match step {
                Planned::Kernel { number, kernel, task } => {
                    let faults = kernel.slots.iter().any(|slot| matches!(slot, Slot::Fault(_)));
                    faultable.extend(task.filter(|_| faults));
                    let addresses = kernel.slots.iter().map(|slot| memory.address(&device, *slot)).collect();
                    Step::Kernel { number, launch: kernel.launch, addresses }
                }
                Planned::Blas(call) => Step::Blas(call),
                Planned::Nested(product) => Step::Nested(product),
                Planned::Rows(rows) => {
                    faultable.extend(rows.picked.map(|_| rows.task));
                    Step::Rows(rows)
                }
                Planned::Host(task) => Step::Host(task),
            });
        }
        let before = plan.before;
        let host = steps.iter().filter_map(|step| match step {
            Step::Host(task) => Some(task.reads()),
            Step::Kernel { .. } | Step::Blas(_) | Step::Nested(_) | Step::Rows(_) => None,
        });
        // What the device computes is read from there.
        let carried: Vec<Root> = setup.carried.iter().map(|(input, _)| lowered.inputs[*input]).collect();
        let mut on_host: BTreeMap<Root, Data<f32>> = BTreeMap::new();
        for root in host.flatten() {
            match &lowered.places[root].source {
                // What is carried changes on the device.
                Source::Input if carried.contains(&root) => {}
                Source::Input => drop(on_host.insert(root, Data::Real(vec![]))),
                Source::Constant(data) => drop(on_host.insert(root, data.clone())),
                Source::Computed => {}
            }
        }
        let is_read = |root: &Root| {
            steps[..before].iter().any(|step| matches!(step, Step::Host(task) if task.reads().contains(root)))
        };
        for step in &steps[..before] {
            if let Step::Host(task) = step {
                on_host.extend(
                    task.outputs.iter().filter(|root| is_read(root)).map(|root| (*root, Data::Real(vec![]))),
                );
            }
        }
        let copies = setup.carried.iter().map(|(to, from)| (lowered.outputs[*from], lowered.inputs[*to]));
        let copies = copies.filter(|(from, to)| memory.places[*from] != memory.places[*to]).collect();
        let given = vec![false; lowered.inputs.len()];
        let Lowered { inputs, outputs, .. } = lowered;
        let mut program = Program {
            net,
            device,
            module,
            steps,
            before,
            memory,
            inputs,
            outputs,
            given,
            on_host,
            copies,
            faultable,
            recorded: vec![],
            last: None,
        };
        program.defaults()?;
        Ok(program)
    }

    /// Weights among the inputs are their first values.
    fn defaults(&mut self) -> Result<(), Error> {
        for index in 0..self.inputs.len() {
            let id = self.net.input_values[index];
            let step = self.net.steps.iter().find(|step| step.outputs.first() == Some(&id));
            if let Some(tensor) = step.and_then(|step| step.op.as_constant()) {
                let value = Array::from_tensor(tensor)?;
                self.set(index, &value)?;
            }
        }
        Ok(())
    }

    /// The inputs, in the order of the graph.
    pub fn inputs(&self) -> &[Port] {
        &self.net.inputs
    }

    /// The outputs, in the order of the graph.
    pub fn outputs(&self) -> &[Port] {
        &self.net.outputs
    }

    /// Kernels that a run launches, and steps that the host does.
    pub fn counts(&self) -> (usize, usize) {
        let host = self.steps.iter().filter(|step| matches!(step, Step::Host(_))).count();
        (self.steps.len() - host, host)
    }

    /// The operations that the host does in a run, and how often.
    pub fn host_operations(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for step in &self.steps {
            if let Step::Host(task) = step {
                *counts.entry(op_name(&self.net.steps[task.step].op)).or_default() += 1;
            }
        }
        counts
    }

    /// Bytes of all its buffers on the device; nested weights are not among them.
    pub fn bytes(&self) -> usize {
        let Memory { buffers, workspaces, tables, faults, .. } = &self.memory;
        let of = |buffers: &[Buffer]| buffers.iter().map(|buffer| buffer.len()).sum::<usize>();
        buffers.iter().flatten().map(|buffer| buffer.len()).sum::<usize>()
            + of(workspaces)
            + of(tables)
            + faults.len()
    }

    /// Gives an input its value, until it is set again or carried.
    ///
    /// # Errors
    /// When there is no such input, shape or kind of elements differ, or the device is lost.
    pub fn set(&mut self, input: usize, value: &Array<f32>) -> Result<(), Error> {
        let port = self.net.inputs.get(input).ok_or_else(|| {
            let message = format!("there are {} inputs", self.net.inputs.len());
            crate::Error::Input { index: input, name: String::new(), message }
        })?;
        port.check(input, value)?;
        let root = self.inputs[input];
        if let Some(copy) = self.on_host.get_mut(&root) {
            copy.clone_from(value.data());
        }
        self.memory.write(&self.device, root, value.data())?;
        self.given[input] = true;
        Ok(())
    }

    /// The value of an input.
    ///
    /// # Errors
    /// When there is no such input, or the device is lost.
    pub fn input(&self, input: usize) -> Result<Array<f32>, Error> {
        self.array(self.net.inputs.get(input), self.inputs.get(input))
    }

    /// The value of an output after a run.
    ///
    /// # Errors
    /// When there is no such output, or the device is lost.
    pub fn output(&self, output: usize) -> Result<Array<f32>, Error> {
        self.array(self.net.outputs.get(output), self.outputs.get(output))
    }

    fn array(&self, port: Option<&Port>, root: Option<&Root>) -> Result<Array<f32>, Error> {
        let none = || Error::Program(crate::Error::Setup("there is no such input or output".to_owned()));
        let (port, root) = (port.ok_or_else(none)?, root.ok_or_else(none)?);
        Ok(Array::of(port.shape.clone(), self.memory.read(&self.device, *root)?))
    }
}
