//! The plain engine: node after node, every value its own array, freed after its last use.

use mqc_ir::Op;

use crate::array::Data;
use crate::graph::{Id, Net};
use crate::plain::{self, Arg, Call, Spec};
use crate::{Error, Real, Setup};

#[derive(Debug)]
pub(crate) struct Reference<T> {
    net: Net,
    carried: Vec<(usize, usize)>,
    /// Inputs and constants always, others from their node to their last use.
    values: Vec<Option<Data<T>>>,
    results: Vec<Option<Data<T>>>,
    /// For each step the values that nothing reads after it.
    last: Vec<Vec<Id>>,
    peak_bytes: usize,
}

impl<T: Real> Reference<T> {
    pub fn new(mut net: Net, setup: &Setup) -> Result<Reference<T>, Error> {
        let mut values: Vec<Option<Data<T>>> = vec![None; net.values.len()];
        for step in net.steps.iter().filter(|s| s.op.as_constant().is_some()) {
            let outputs = plain::compute(&step.op, &Call { args: &[], outputs: &[] });
            let outputs = outputs.map_err(|message| step.error(message))?;
            for (id, data) in step.outputs.iter().zip(outputs) {
                values[*id] = Some(data);
            }
        }
        net.steps.retain(|s| s.op.as_constant().is_none());
        let kept: Vec<bool> = values.iter().map(Option::is_some).collect();
        let mut last = vec![vec![]; net.steps.len()];
        let mut seen = kept;
        for id in net.input_values.iter().chain(&net.output_values) {
            seen[*id] = true;
        }
        for (i, step) in net.steps.iter().enumerate().rev() {
            for id in step.args.iter().flatten().chain(&step.outputs) {
                if !std::mem::replace(&mut seen[*id], true) {
                    last[i].push(*id);
                }
            }
        }
        let bytes = |id: &Id| plain::bytes::<T>(&net.values[*id].spec, net.values[*id].kind);
        let mut now: usize = (0..values.len()).filter(|i| values[*i].is_some()).map(|i| bytes(&i)).sum();
        now += net.input_values.iter().map(bytes).sum::<usize>();
        let mut peak_bytes = now;
        for (step, last) in net.steps.iter().zip(&last) {
            now += step.outputs.iter().map(bytes).sum::<usize>();
            peak_bytes = peak_bytes.max(now);
            now -= last.iter().map(bytes).sum::<usize>();
        }
        let results = vec![None; net.outputs.len()];
        Ok(Reference { net, carried: setup.carried.clone(), values, results, last, peak_bytes })
    }

    pub fn set(&mut self, input: usize, value: &Data<T>) {
        self.values[self.net.input_values[input]] = Some(value.clone());
    }

    pub fn run(&mut self) -> Result<(), Error> {
        for (index, (id, port)) in self.net.input_values.iter().zip(&self.net.inputs).enumerate() {
            if self.values[*id].is_none() {
                let message = "has no value, expected it to be set before the run".to_owned();
                return Err(Error::Input { index, name: port.name.clone(), message });
            }
        }
        for (step, last) in self.net.steps.iter().zip(&self.last) {
            let outputs = compute(&self.net, &self.values, &step.op, &step.args, &step.outputs);
            for (id, data) in step.outputs.iter().zip(outputs.map_err(|message| step.error(message))?) {
                self.values[*id] = Some(data);
            }
            for id in last {
                self.values[*id] = None;
            }
        }
        for (result, id) in self.results.iter_mut().zip(&self.net.output_values) {
            result.clone_from(&self.values[*id]);
        }
        for (input, output) in &self.carried {
            self.values[self.net.input_values[*input]] = self.results[*output].clone();
        }
        Ok(())
    }

    pub fn input(&self, input: usize) -> Option<&Data<T>> {
        self.values[self.net.input_values[input]].as_ref()
    }

    pub fn output(&self, output: usize) -> Option<&Data<T>> {
        self.results[output].as_ref()
    }

    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }
}

fn compute<T: Real>(
    net: &Net,
    values: &[Option<Data<T>>],
    op: &Op,
    args: &[Option<Id>],
    outputs: &[Id],
) -> Result<Vec<Data<T>>, String> {
    let arg = |id: &Option<Id>| {
        let Some(id) = id else { return Ok(None) };
        let place = &net.values[*id];
        let data = values[*id].as_ref().ok_or("an operand has no value")?.slice();
        let known = place.known.as_deref();
        Ok(Some(Arg { shape: &place.spec.shape, dtype: place.spec.dtype, data, known }))
    };
    let args = args.iter().map(arg).collect::<Result<Vec<_>, String>>()?;
    let specs: Vec<Spec> = outputs.iter().map(|id| net.values[*id].spec.clone()).collect();
    let results = plain::compute(op, &Call { args: &args, outputs: &specs })?;
    plain::check(&results, &specs)?;
    Ok(results)
}
