//! A compiled graph on a device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mqc_cuda::Launch;
use mqc_cuda::device::{Buffer, Device, DeviceError, Graph as Recorded, Module};
use mqc_ir::Graph;
use mqc_ir::quant::Width;

use super::blas::Blas;
use super::build::{self, Planned, Product, Rows};
use super::engine::State;
use super::kernel::Slot;
use super::{DeviceProgramError as Error, Engine, host};
use crate::array::Data;
use crate::graph::{Net, op_name};
use crate::lower::task::{Source, Task};
use crate::lower::{self, Lowered};
use crate::view::Root;
use crate::{Array, Kind, Port, Setup};

/// Recorded runs that are kept: one for each choice of widths.
const RECORDED: usize = 8;

/// A graph of known sizes, compiled for a device, with the values of its inputs and outputs there.
pub struct Program {
    net: Net,
    device: Arc<Device>,
    module: Module,
    steps: Vec<Step>,
    /// Steps of the host that come first.
    before: usize,
    memory: Memory,
    inputs: Vec<Root>,
    outputs: Vec<Root>,
    given: Vec<bool>,
    /// What the host reads and has itself: inputs, constants, what its first steps make.
    on_host: BTreeMap<Root, Data<f32>>,
    copies: Vec<(Root, Root)>,
    faultable: BTreeSet<usize>,
    recorded: Vec<(Key, Recorded)>,
    /// What the last run that was not recorded depended on.
    last: Option<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    widths: Vec<Width>,
    state: State,
}

enum Step {
    Kernel { number: usize, launch: Launch, addresses: Vec<u64> },
    Blas(Blas),
    Nested(Product),
    Rows(Rows),
    Host(Box<Task>),
}

/// Where values lie.
struct Memory {
    places: Vec<Option<usize>>,
    kinds: Vec<Kind>,
    lens: Vec<usize>,
    /// Each is away while a product writes to it.
    buffers: Vec<Option<Buffer>>,
    workspaces: Vec<Buffer>,
    tables: Vec<Buffer>,
    /// A word for each node of the graph.
    faults: Buffer,
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

    /// Computes the outputs, each layer at its width, and moves those that are carried to their inputs.
    ///
    /// # Errors
    /// An input without a value, a layer without a width or planes for it, an index out of range, no room for planes, a device
    /// that is lost.
    pub fn run(&mut self, engine: &mut Engine, widths: &BTreeMap<String, Width>) -> Result<(), Error> {
        if let Some(index) = self.given.iter().position(|given| !given) {
            let message = "has no value, expected it to be set before the run".to_owned();
            let name = self.net.inputs[index].name.clone();
            return Err(crate::Error::Input { index, name, message }.into());
        }
        let used = self.widths(engine, widths)?;
        for step in 0..self.before {
            self.step(step, engine, widths)?;
        }
        let key = Key { widths: used, state: engine.state() };
        let has_host = self.steps[self.before..].iter().any(|step| matches!(step, Step::Host(_)));
        if let Some((_, recorded)) = self.recorded.iter().find(|(known, _)| *known == key) {
            recorded.replay()?;
        } else if !has_host && self.last.as_ref() == Some(&key) && self.steps.len() > self.before {
            let device = self.device.clone();
            let mut failed = None;
            let recorded = device.record(|| match self.rest(engine, widths) {
                Err(Error::Device(error) | Error::Layer { error, .. }) => Err(*error),
                Err(error) => {
                    failed = Some(error);
                    Ok(())
                }
                Ok(()) => Ok(()),
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            recorded.replay()?;
            if self.recorded.len() == RECORDED {
                self.recorded.remove(0);
            }
            self.recorded.push((key, recorded));
        } else {
            self.rest(engine, widths)?;
            let state = engine.state();
            self.last = Some(Key { state, ..key });
        }
        self.check_faults()?;
        self.carry()
    }

    fn rest(&mut self, engine: &mut Engine, widths: &BTreeMap<String, Width>) -> Result<(), Error> {
        (self.before..self.steps.len()).try_for_each(|step| self.step(step, engine, widths))
    }

    /// Makes planes resident and kernels ready, and returns the widths of the layers in the order of the steps.
    fn widths(&self, engine: &mut Engine, widths: &BTreeMap<String, Width>) -> Result<Vec<Width>, Error> {
        let mut used = vec![];
        for step in &self.steps {
            let (layer, product) = match step {
                Step::Nested(product) => (product.layer.as_str(), Some(product)),
                Step::Rows(rows) => (rows.layer.as_str(), None),
                Step::Kernel { .. } | Step::Blas(_) | Step::Host(_) => continue,
            };
            let width = *widths.get(layer).ok_or_else(|| Error::NoWidth { layer: layer.to_owned() })?;
            let most = engine.weight(layer).map(|weight| weight.max_width());
            if let Some(most) = most.filter(|most| width > *most) {
                return Err(Error::WidthNotStored { layer: layer.to_owned(), width, most });
            }
            match product {
                Some(product) => engine.prepare(product, width)?,
                None => engine.prepare_rows(layer, width)?,
            }
            used.push(width);
        }
        Ok(used)
    }

    fn step(
        &mut self,
        index: usize,
        engine: &mut Engine,
        widths: &BTreeMap<String, Width>,
    ) -> Result<(), Error> {
        match &self.steps[index] {
            Step::Kernel { number, launch, addresses } => {
                // SAFETY: addresses are of buffers of this program, as large as the values that the kernel was made for.
                unsafe { self.module.launch(&self.device, *number, *launch, addresses) }?;
                Ok(())
            }
            Step::Blas(Blas { gemm, factors, to }) => {
                let at = |root: Root, start: usize| {
                    self.memory.address(&self.device, Slot::Root(root)) + 4 * start as u64
                };
                let [(a, a_start), (b, b_start)] = *factors;
                let addresses = [at(a, a_start), at(b, b_start), at(*to, 0)];
                // SAFETY: the buffers are those of this program, and every element of the factors lies within theirs.
                unsafe { engine.multiply(gemm, addresses) }
            }
            Step::Nested(product) => {
                let layer = &product.layer;
                let width = *widths.get(layer).ok_or_else(|| Error::NoWidth { layer: layer.clone() })?;
                let Some(to) = self.memory.places[product.y] else { return Ok(()) };
                let Some(mut written) = self.memory.buffers[to].take() else { return Ok(()) };
                let roots = std::iter::once(&product.x).chain(&product.parts);
                let read: Vec<&Buffer> = roots.filter_map(|root| self.memory.buffer(*root)).collect();
                let done = engine.product(product, width, &read, &mut written);
                self.memory.buffers[to] = Some(written);
                done
            }
            Step::Rows(rows) => {
                let layer = &rows.layer;
                let width = *widths.get(layer).ok_or_else(|| Error::NoWidth { layer: layer.clone() })?;
                let Some(to) = self.memory.places[rows.y] else { return Ok(()) };
                let Some(mut written) = self.memory.buffers[to].take() else { return Ok(()) };
                let indices = rows.picked.and_then(|(root, _)| self.memory.buffer(root));
                let fault = self.memory.address(&self.device, Slot::Fault(rows.task));
                let done = engine.rows(rows, width, indices, &mut written, fault);
                self.memory.buffers[to] = Some(written);
                done
            }
            Step::Host(task) => {
                let read = task.reads().into_iter().map(|root| match self.on_host.get(&root) {
                    Some(data) => Ok(data.clone()),
                    None => self.memory.read(&self.device, root),
                });
                let read = read.collect::<Result<Vec<_>, DeviceError>>()?;
                let written = host::compute(&self.net, task, &read);
                let written = written.map_err(|message| self.net.steps[task.step].error(message))?;
                for (root, data) in task.outputs.iter().zip(written) {
                    self.memory.write(&self.device, *root, &data)?;
                    if let Some(kept) = self.on_host.get_mut(root) {
                        *kept = data;
                    }
                }
                Ok(())
            }
        }
    }

    /// Kernels leave a word where an index was out of range.
    fn check_faults(&mut self) -> Result<(), Error> {
        if self.faultable.is_empty() {
            return Ok(());
        }
        let words = self.device.read(&self.memory.faults, 4 * self.net.steps.len())?;
        let found = self.faultable.iter().find(|step| words.get(4 * **step) == Some(&1));
        let Some(step) = found else { return Ok(()) };
        self.given.iter_mut().for_each(|given| *given = false);
        self.device.write(&vec![0; words.len()], &mut self.memory.faults)?;
        Err(self.net.steps[*step].error("an index is out of range".to_owned()).into())
    }

    /// All at once: an output may be what another one is carried to.
    fn carry(&mut self) -> Result<(), Error> {
        let mut values = vec![];
        for (from, _) in &self.copies {
            values.push(self.memory.copy(&self.device, *from)?);
        }
        for ((_, to), value) in self.copies.iter().zip(values) {
            let bytes = self.memory.bytes(*to);
            if let (Some(value), Some(buffer)) = (value, self.memory.buffer_mut(*to)) {
                self.device.copy_bytes(&value, buffer, bytes)?;
            }
        }
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

impl Memory {
    fn new(
        device: &Device,
        net: &Net,
        lowered: &Lowered<f32>,
        planned: &crate::engine::memory::Memory,
        plan: &build::Plan,
    ) -> Result<Memory, DeviceError> {
        let mut buffers = vec![];
        for (kind, len) in &planned.sizes {
            buffers.push(Some(device.zeros("the values of a program", host::size(*kind, *len))?));
        }
        let floats = |len: &usize| device.zeros("the workspace of a program", 4 * len);
        let table = |table: &Vec<u64>| device.upload("a table of a program", bytemuck::cast_slice(table));
        let mut memory = Memory {
            places: planned.buffers.clone(),
            kinds: lowered.places.iter().map(|place| place.kind).collect(),
            lens: lowered.places.iter().map(|place| place.len).collect(),
            buffers,
            workspaces: plan.workspaces.iter().map(floats).collect::<Result<_, _>>()?,
            tables: plan.tables.iter().map(table).collect::<Result<_, _>>()?,
            faults: device.zeros("the faults of a program", 4 * net.steps.len())?,
        };
        for (root, place) in lowered.places.iter().enumerate() {
            if let Source::Constant(data) = &place.source {
                memory.write(device, root, data)?;
            }
        }
        Ok(memory)
    }

    fn address(&self, device: &Device, slot: Slot) -> u64 {
        match slot {
            Slot::Root(root) => self.buffer(root).map_or(0, |buffer| device.address(buffer)),
            Slot::Workspace(number) => device.address(&self.workspaces[number]),
            Slot::Table(number) => device.address(&self.tables[number]),
            Slot::Fault(step) => device.address(&self.faults) + 4 * step as u64,
        }
    }

    fn bytes(&self, root: Root) -> usize {
        host::size(self.kinds[root], self.lens[root])
    }

    fn buffer(&self, root: Root) -> Option<&Buffer> {
        self.buffers[self.places[root]?].as_ref()
    }

    fn buffer_mut(&mut self, root: Root) -> Option<&mut Buffer> {
        self.buffers[self.places[root]?].as_mut()
    }

    fn write(&mut self, device: &Device, root: Root, data: &Data<f32>) -> Result<(), DeviceError> {
        match self.buffer_mut(root) {
            Some(buffer) => device.write(&host::bytes(data), buffer),
            None => Ok(()),
        }
    }

    fn read(&self, device: &Device, root: Root) -> Result<Data<f32>, DeviceError> {
        let bytes = match self.buffer(root) {
            Some(buffer) => device.read(buffer, self.bytes(root))?,
            None => vec![0; self.bytes(root)],
        };
        Ok(host::elements(self.kinds[root], &bytes))
    }

    fn copy(&self, device: &Device, root: Root) -> Result<Option<Buffer>, DeviceError> {
        let Some(from) = self.buffer(root) else { return Ok(None) };
        let mut to = device.zeros("a value that is carried", self.bytes(root))?;
        device.copy_bytes(from, &mut to, self.bytes(root))?;
        Ok(Some(to))
    }
}
