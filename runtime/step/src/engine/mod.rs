//! The fast engine: fused passes and strided products on planned buffers.

mod apply;
mod block;
mod combine;
mod load;
pub(crate) mod memory;
mod pass;
mod prefetch;
mod registers;
mod single;
mod totals;

use std::sync::{Mutex, PoisonError};

use memory::Buffer;
use registers::Registers;

use crate::array::{Data, Slice};
use crate::fuse::Kernel;
use crate::graph::Net;
use crate::lower::task::{Source, Task};
use crate::lower::{self, Lowered};
use crate::view::Root;
use crate::workers::Workers;
use crate::{Error, Kind, Real, Setup};

#[derive(Debug)]
pub(crate) struct Engine<T> {
    net: Net,
    kernels: Vec<Kernel>,
    /// Buffer of each value.
    places: Vec<Option<Buffer>>,
    /// Elements of each value.
    lens: Vec<usize>,
    buffers: Vec<Data<T>>,
    inputs: Vec<Root>,
    outputs: Vec<Root>,
    given: Vec<bool>,
    /// Values to copy after a run: from an output to an input.
    copies: Vec<(Root, Root)>,
    carried: Vec<usize>,
    workers: Workers,
    registers: Mutex<Vec<Registers<T>>>,
    peak_bytes: usize,
}

impl<T: Real> Engine<T> {
    /// `schedule` chooses passes and their order.
    pub fn new(
        net: Net,
        setup: &Setup,
        schedule: fn(&Lowered<T>) -> Vec<Kernel>,
    ) -> Result<Engine<T>, Error> {
        let lowered = lower::lower::<T>(&net, setup)?;
        let mut kernels = schedule(&lowered);
        let memory = memory::plan(&lowered, &mut kernels, &setup.carried);
        let bytes = |(kind, len): &(Kind, usize)| len.checked_mul(kind.size::<T>());
        let peak = memory.sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(bytes(size)?));
        let peak_bytes = peak.ok_or(Error::Memory { bytes: usize::MAX })?;
        let mut buffers = Vec::with_capacity(memory.sizes.len());
        for (kind, len) in &memory.sizes {
            buffers.push(zeros(*kind, *len).ok_or(Error::Memory { bytes: peak_bytes })?);
        }
        for (place, buffer) in lowered.places.iter().zip(&memory.buffers) {
            if let (Source::Constant(data), Some(buffer)) = (&place.source, buffer) {
                buffers[*buffer] = data.clone();
            }
        }
        let mut copies = vec![];
        for (input, output) in &setup.carried {
            let (to, from) = (lowered.inputs[*input], lowered.outputs[*output]);
            if memory.buffers[to] != memory.buffers[from] {
                copies.push((from, to));
            }
        }
        let mut engine = Engine {
            given: vec![false; lowered.inputs.len()],
            lens: lowered.places.iter().map(|p| p.len).collect(),
            kernels,
            places: memory.buffers,
            buffers,
            inputs: lowered.inputs,
            outputs: lowered.outputs,
            copies,
            carried: setup.carried.iter().map(|(input, _)| *input).collect(),
            workers: Workers::new(setup.threads),
            registers: Mutex::new(vec![]),
            peak_bytes,
            net,
        };
        engine.defaults()?;
        Ok(engine)
    }

    /// Weights among the inputs are their first values.
    fn defaults(&mut self) -> Result<(), Error> {
        for index in 0..self.inputs.len() {
            let id = self.net.input_values[index];
            let step = self.net.steps.iter().find(|s| s.outputs.first() == Some(&id));
            if let Some(tensor) = step.and_then(|s| s.op.as_constant()) {
                let value = crate::Array::from_tensor(tensor)?;
                self.set(index, value.data());
            }
        }
        Ok(())
    }

    pub fn set(&mut self, input: usize, value: &Data<T>) {
        if let Some(buffer) = self.places[self.inputs[input]] {
            self.buffers[buffer].clone_from(value);
        }
        self.given[input] = true;
    }

    pub fn run(&mut self) -> Result<(), Error> {
        if let Some(index) = self.given.iter().position(|given| !given) {
            let message = "has no value, expected it to be set before the run".to_owned();
            return Err(Error::Input { index, name: self.net.inputs[index].name.clone(), message });
        }
        for index in 0..self.kernels.len() {
            if let Err(error) = self.kernel(index) {
                // What was to be written over may be half new.
                self.carried.iter().for_each(|input| self.given[*input] = false);
                return Err(error);
            }
        }
        // All at once: an output may be what another one is carried to.
        let values: Vec<Data<T>> = self.copies.iter().map(|(from, _)| self.value(*from).owned()).collect();
        for ((_, to), value) in self.copies.iter().zip(values) {
            if let Some(buffer) = self.places[*to] {
                self.buffers[buffer] = value;
            }
        }
        Ok(())
    }

    fn kernel(&mut self, index: usize) -> Result<(), Error> {
        let writes = memory::writes(&self.kernels[index]);
        // Taken out while the others are read.
        let mut taken: Vec<Data<T>> = writes.iter().map(|root| self.take(*root)).collect();
        let done = match &self.kernels[index] {
            Kernel::Fused(fused) => {
                self.pass(fused, &mut taken);
                Ok(())
            }
            Kernel::Single(task) => self.single(task, &mut taken),
        };
        for (root, data) in writes.iter().zip(taken) {
            if let Some(buffer) = self.places[*root] {
                self.buffers[buffer] = data;
            }
        }
        done
    }

    fn take(&mut self, root: Root) -> Data<T> {
        match self.places[root] {
            Some(buffer) => std::mem::replace(&mut self.buffers[buffer], Data::Real(vec![])),
            None => Data::Real(vec![]),
        }
    }

    /// The elements of a value.
    fn value(&self, root: Root) -> Slice<'_, T> {
        let len = self.lens[root];
        let Some(buffer) = self.places[root] else { return Slice::Real(&[]) };
        match &self.buffers[buffer] {
            // Shorter while it is written over.
            Data::Real(v) => Slice::Real(&v[..len.min(v.len())]),
            Data::Int(v) => Slice::Int(&v[..len.min(v.len())]),
            Data::Bool(v) => Slice::Bool(&v[..len.min(v.len())]),
        }
    }

    fn task_error(&self, task: &Task, message: String) -> Error {
        self.net.steps[task.step].error(message)
    }

    fn with_registers(&self, work: impl FnOnce(&mut Registers<T>)) {
        let lock = || self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut registers = lock().pop().unwrap_or_default();
        work(&mut registers);
        lock().push(registers);
    }

    pub fn input(&self, input: usize) -> Slice<'_, T> {
        self.value(self.inputs[input])
    }

    pub fn output(&self, output: usize) -> Slice<'_, T> {
        self.value(self.outputs[output])
    }

    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }
}

/// A buffer of zeros; `None` when there is not enough memory.
fn zeros<T: Real>(kind: Kind, len: usize) -> Option<Data<T>> {
    fn filled<E: Clone>(len: usize, value: E) -> Option<Vec<E>> {
        let mut values = Vec::new();
        values.try_reserve_exact(len).ok()?;
        values.resize(len, value);
        Some(values)
    }
    Some(match kind {
        Kind::Real => Data::Real(filled(len, T::ZERO)?),
        Kind::Int => Data::Int(filled(len, 0)?),
        Kind::Bool => Data::Bool(filled(len, false)?),
    })
}
