//! Where the graphs of a training run, and one of them there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use mqc_ir::Graph;
use mqc_step::{Array, Data, Port, Program, Setup, cuda};

/// Where the graphs of a training run.
#[derive(Clone, Debug)]
pub enum Place {
    /// On so many threads, 0 for as many as there are processors.
    Cpu {
        /// Their number.
        threads: usize,
    },
    /// On a CUDA device.
    Cuda(Arc<Mutex<cuda::Engine>>),
}

impl Place {
    /// The first CUDA device.
    ///
    /// # Errors
    /// Why there is none.
    pub fn cuda() -> Result<Place> {
        Ok(Place::Cuda(Arc::new(Mutex::new(cuda::Engine::open(BTreeMap::new())?))))
    }
}

/// A compiled graph.
#[derive(Debug)]
pub enum Runner {
    /// On the processors.
    Cpu(Box<Program<f32>>),
    /// On a device.
    Cuda {
        /// The graph.
        program: Box<cuda::Program>,
        /// The device.
        engine: Arc<Mutex<cuda::Engine>>,
    },
}

impl Runner {
    /// Compiles a graph; `carried` are pairs of an input and the output that becomes it.
    ///
    /// # Errors
    /// Operations that the engine has not; no room.
    pub fn compile(graph: &Graph, carried: Vec<(usize, usize)>, place: &Place) -> Result<Runner> {
        Ok(match place {
            Place::Cpu { threads } => {
                Runner::Cpu(Box::new(Program::compile(graph, &Setup { threads: *threads, carried })?))
            }
            Place::Cuda(engine) => {
                let setup = Setup { threads: 0, carried };
                let open = engine.lock().unwrap_or_else(PoisonError::into_inner);
                let program = Box::new(cuda::Program::compile(graph, &setup, &open)?);
                Runner::Cuda { program, engine: engine.clone() }
            }
        })
    }

    /// Gives an input its value, until it is set again or carried.
    ///
    /// # Errors
    /// Another shape or kind of elements.
    pub fn set(&mut self, input: usize, value: &Array<f32>) -> Result<()> {
        match self {
            Runner::Cpu(program) => program.set(input, value)?,
            Runner::Cuda { program, .. } => program.set(input, value)?,
        }
        Ok(())
    }

    /// Computes the outputs.
    ///
    /// # Errors
    /// Inputs without a value, indices out of range.
    pub fn run(&mut self) -> Result<()> {
        match self {
            Runner::Cpu(program) => program.run()?,
            Runner::Cuda { program, engine } => {
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                program.run(&mut engine, &BTreeMap::new())?;
            }
        }
        Ok(())
    }

    /// The inputs.
    pub fn inputs(&self) -> &[Port] {
        match self {
            Runner::Cpu(program) => program.inputs(),
            Runner::Cuda { program, .. } => program.inputs(),
        }
    }

    /// The value of an input.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn input(&self, input: usize) -> Result<Array<f32>> {
        Ok(match self {
            Runner::Cpu(program) => program.input(input),
            Runner::Cuda { program, .. } => program.input(input)?,
        })
    }

    /// The value of an output after a run.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn output(&self, output: usize) -> Result<Array<f32>> {
        Ok(match self {
            Runner::Cpu(program) => program.output(output),
            Runner::Cuda { program, .. } => program.output(output)?,
        })
    }

    /// The first element of an output, a loss say.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn scalar(&self, output: usize) -> Result<f32> {
        if let Runner::Cpu(program) = self {
            return Ok(program.scalar(output));
        }
        Ok(match self.output(output)?.into_data() {
            Data::Real(v) => v.first().copied().unwrap_or(0.0),
            Data::Int(v) => v.first().copied().unwrap_or(0) as f32,
            Data::Bool(v) => f32::from(u8::from(v.first().copied().unwrap_or(false))),
        })
    }

    /// Bytes that it holds at once.
    pub fn peak_bytes(&self) -> usize {
        match self {
            Runner::Cpu(program) => program.peak_bytes(),
            Runner::Cuda { program, .. } => program.bytes(),
        }
    }
}
