//! A run of a program: steps in their order, or a recorded launch of all of them.

use std::collections::BTreeMap;

use mqc_cuda::device::{Buffer, DeviceError};
use mqc_ir::quant::Width;

use super::blas::Blas;
use super::engine::State;
use super::kernel::Slot;
use super::program::{Program, Step};
use super::{DeviceProgramError as Error, Engine, host};
use crate::view::Root;

/// Recorded runs that are kept: one for each choice of widths.
const RECORDED: usize = 8;

/// All on which a recorded run depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    widths: Vec<Width>,
    state: State,
}

impl Program {
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
            let width = width_of(widths, layer)?;
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
                let width = width_of(widths, &product.layer)?;
                let Some(to) = self.memory.places[product.y] else { return Ok(()) };
                let Some(mut written) = self.memory.buffers[to].take() else { return Ok(()) };
                let roots = std::iter::once(&product.x).chain(&product.parts);
                let read: Vec<&Buffer> = roots.filter_map(|root| self.memory.buffer(*root)).collect();
                let done = engine.product(product, width, &read, &mut written);
                self.memory.buffers[to] = Some(written);
                done
            }
            Step::Rows(rows) => {
                let width = width_of(widths, &rows.layer)?;
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
}

fn width_of(widths: &BTreeMap<String, Width>, layer: &str) -> Result<Width, Error> {
    widths.get(layer).copied().ok_or_else(|| Error::NoWidth { layer: layer.to_owned() })
}
