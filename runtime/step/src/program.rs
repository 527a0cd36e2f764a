//! Compiles a graph and runs it.

use mqc_ir::{DType, Graph};

use crate::array::{Data, Slice};
use crate::engine::Engine;
use crate::fuse;
use crate::graph::Net;
use crate::reference::Reference;
use crate::{Array, Error, Kind, Real};

/// An input or output of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// The element type that the graph declares.
    pub dtype: DType,
    /// The sizes of its dimensions.
    pub shape: Vec<usize>,
}

impl Port {
    /// Whether a value is one for this port, the input of that number.
    pub(crate) fn check<T: Real>(&self, input: usize, value: &Array<T>) -> Result<(), Error> {
        let fail = |message| Err(Error::Input { index: input, name: self.name.clone(), message });
        if value.shape() != self.shape {
            return fail(format!("has shape {:?}, expected {:?}", value.shape(), self.shape));
        }
        if Some(value.data().kind()) != Kind::of(self.dtype) {
            return fail(format!("has {:?} elements, expected {}", value.data().kind(), self.dtype));
        }
        Ok(())
    }
}

/// How a program runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Threads in all; 0 takes as many as the machine has for this process.
    pub threads: usize,
    /// Pairs of a graph input and a graph output: after a run that output is that input of the next run.
    pub carried: Vec<(usize, usize)>,
}

/// A compiled graph with the values of its inputs and, after a run, of its outputs.
#[derive(Debug)]
pub struct Program<T> {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    engine: Way<T>,
}

#[derive(Debug)]
enum Way<T> {
    Fast(Box<Engine<T>>),
    Plain(Box<Reference<T>>),
}

impl<T: Real> Program<T> {
    /// Compiles a graph of known sizes. Constants are baked in; weights listed among the inputs are their first values.
    ///
    /// # Errors
    /// What is wrong with the graph; a size that is not known; an operation that the engine has not; carried pairs
    /// that do not fit.
    pub fn compile(graph: &Graph, setup: &Setup) -> Result<Program<T>, Error> {
        let net = Net::new(graph, setup)?;
        let (inputs, outputs) = (net.inputs.clone(), net.outputs.clone());
        Ok(Program { inputs, outputs, engine: Way::Fast(Box::new(Engine::new(net, setup, fuse::schedule)?)) })
    }

    /// The same program with a pass over memory for every operation: slower, to compare with.
    ///
    /// # Errors
    /// As [`Program::compile`].
    pub fn compile_unfused(graph: &Graph, setup: &Setup) -> Result<Program<T>, Error> {
        let net = Net::new(graph, setup)?;
        let (inputs, outputs) = (net.inputs.clone(), net.outputs.clone());
        Ok(Program { inputs, outputs, engine: Way::Fast(Box::new(Engine::new(net, setup, fuse::separate)?)) })
    }

    /// The same program computed node by node with simple loops: slow, to compare with.
    ///
    /// # Errors
    /// As [`Program::compile`].
    pub fn compile_plain(graph: &Graph, setup: &Setup) -> Result<Program<T>, Error> {
        let net = Net::new(graph, setup)?;
        let (inputs, outputs) = (net.inputs.clone(), net.outputs.clone());
        Ok(Program { inputs, outputs, engine: Way::Plain(Box::new(Reference::new(net, setup)?)) })
    }

    /// The inputs, in the order of the graph.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the order of the graph.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Gives an input its value, until it is set again or carried.
    ///
    /// # Errors
    /// When there is no such input, or shape or kind of elements differ.
    pub fn set(&mut self, input: usize, value: &Array<T>) -> Result<(), Error> {
        let Some(port) = self.inputs.get(input) else {
            let message = format!("there are {} inputs", self.inputs.len());
            return Err(Error::Input { index: input, name: String::new(), message });
        };
        port.check(input, value)?;
        match &mut self.engine {
            Way::Fast(engine) => engine.set(input, value.data()),
            Way::Plain(engine) => engine.set(input, value.data()),
        }
        Ok(())
    }

    /// Computes the outputs, and moves those that are carried to their inputs.
    ///
    /// # Errors
    /// When an input has no value, an index is out of range, an integer is divided by 0. Carried inputs then keep
    /// no promise: set them again.
    pub fn run(&mut self) -> Result<(), Error> {
        match &mut self.engine {
            Way::Fast(engine) => engine.run(),
            Way::Plain(engine) => engine.run(),
        }
    }

    /// The value of an input; zeros when it has none.
    ///
    /// # Panics
    /// When there is no such input.
    pub fn input(&self, input: usize) -> Array<T> {
        array(
            &self.inputs[input],
            match &self.engine {
                Way::Fast(engine) => Some(engine.input(input)),
                Way::Plain(engine) => engine.input(input).map(Data::slice),
            },
        )
    }

    /// The value of an output after a run; zeros before.
    ///
    /// # Panics
    /// When there is no such output.
    pub fn output(&self, output: usize) -> Array<T> {
        array(&self.outputs[output], self.result(output))
    }

    /// The first element of an output after a run, a loss say; 0 when there is none.
    ///
    /// # Panics
    /// When there is no such output.
    pub fn scalar(&self, output: usize) -> T {
        match self.result(output) {
            Some(Slice::Real(v)) => v.first().copied().unwrap_or(T::ZERO),
            Some(Slice::Int(v)) => T::of(v.first().map_or(0.0, |v| *v as f64)),
            Some(Slice::Bool(v)) => T::of(v.first().map_or(0.0, |v| f64::from(u8::from(*v)))),
            None => T::ZERO,
        }
    }

    fn result(&self, output: usize) -> Option<Slice<'_, T>> {
        match &self.engine {
            Way::Fast(engine) => Some(engine.output(output)),
            Way::Plain(engine) => engine.output(output).map(Data::slice),
        }
    }

    /// Bytes of all buffers that the program holds at once: inputs, constants, and what nodes compute.
    pub fn peak_bytes(&self) -> usize {
        match &self.engine {
            Way::Fast(engine) => engine.peak_bytes(),
            Way::Plain(engine) => engine.peak_bytes(),
        }
    }
}

fn array<T: Real>(port: &Port, data: Option<Slice<T>>) -> Array<T> {
    let len = port.shape.iter().product();
    let data = match (data, Kind::of(port.dtype)) {
        (Some(data), _) => data.owned(),
        (None, Some(Kind::Int)) => Data::Int(vec![0; len]),
        (None, Some(Kind::Bool)) => Data::Bool(vec![false; len]),
        (None, Some(Kind::Real) | None) => Data::Real(vec![T::ZERO; len]),
    };
    Array::of(port.shape.clone(), data)
}
