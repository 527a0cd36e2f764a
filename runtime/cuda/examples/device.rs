//! Checks the kernels on this machine's device against the numeric definition, or measures them; see `docs/cuda.md`.
//!
//! ```text
//! cargo run --release -p mqc-cuda --example device -- check
//! cargo run --release -p mqc-cuda --example device -- bench
//! ```

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/support/case.rs"]
mod case;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/support/kernels.rs"]
mod kernels;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use case::{Case, Data, Values};
use kernels::{ELEMENTS, MODES, kernel};
use mqc_cuda::device::{Cache, Compiler, Device, DeviceError, Operands, Program, Weights, Workspace};
use mqc_cuda::{Activation, Element, Epilogue, Kernel, Problem, Tokens, emit};
use mqc_ir::quant::{SliceMode, Width};
use mqc_kernels::nested::{self, AffineMap, NestedWeight};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let done = Machine::open().and_then(|machine| match command.as_deref() {
        Some("check") => machine.check(),
        Some("bench") => machine.bench(),
        _ => Err("expected check or bench".into()),
    });
    done.map_or_else(
        |error| {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// The device, its compiler and compiled kernels.
struct Machine {
    device: Arc<Device>,
    compiler: Compiler,
    cache: Cache,
}

impl Machine {
    fn open() -> Outcome<Machine> {
        let device = Arc::new(Device::open(0)?);
        let (compiler, cache) = (Compiler::find()?, Cache::of_user());
        say(format_args!(
            "{}, {} multiprocessors, kernels for {}",
            device.name(),
            device.multiprocessors(),
            device.architecture()
        ))?;
        Ok(Machine { device, compiler, cache })
    }

    fn program(&self, kernel: &Kernel) -> Result<Program, DeviceError> {
        let kernel = Kernel { target: self.device.target(), ..*kernel };
        Program::compile(&self.device, emit(&kernel), &self.compiler, &self.cache)
    }

    /// Every width, mode, group and number of tokens, elements and epilogues in turn.
    fn check(&self) -> Outcome<()> {
        let activations = [
            Activation::Identity,
            Activation::Relu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Silu,
        ];
        let mut described = vec![];
        for bits in 1..=8 {
            for mode in MODES {
                for group in [0, 24, 32, 64, 128, 256, 768] {
                    for tokens in [Tokens::Four, Tokens::Eight, Tokens::Sixteen, Tokens::Many] {
                        let i = described.len();
                        let part = |bit: usize| ((i / 3) >> bit) & 1 == 1;
                        let activation = activations[i % 5];
                        let epilogue =
                            Epilogue { bias: part(0), activation, gate: part(1), residual: part(2) };
                        let plain = kernel(bits, mode, group, ELEMENTS[i % 3], tokens);
                        described.push(Kernel { epilogue, ..plain });
                    }
                }
            }
        }
        let programs = described.par_iter().map(|kernel| self.program(kernel));
        let programs = programs.collect::<Result<Vec<_>, _>>()?;
        say(format_args!("{} kernels are compiled", programs.len()))?;
        let mut workspace = Workspace::default();
        let (mut cases, mut wrong) = (0, 0);
        for (i, program) in programs.iter().enumerate() {
            for (rows, cols, tokens) in [(130, 777, 70), (33, 4113, 5), (1, 1, 1)] {
                for data in [Data::Exact, Data::Random, Data::Wide] {
                    let kernel = program.emitted().kernel;
                    let tokens = tokens.min(kernel.tokens.most().unwrap_or(tokens));
                    let (multiprocessors, shared_limit) =
                        (self.device.multiprocessors(), self.device.shared_limit());
                    let problem = Problem { rows, cols, tokens, multiprocessors, shared_limit };
                    let case = Case::new(kernel, problem, data, i as u64);
                    cases += 1;
                    if let Err(message) = self.check_case(program, &case, &mut workspace)? {
                        wrong += 1;
                        say(format_args!("{} {problem:?} {data:?}: {message}", program.emitted().name))?;
                    }
                }
            }
        }
        say(format_args!("{} of {cases} products agree with the definition", cases - wrong))?;
        if wrong == 0 { Ok(()) } else { Err(format!("{wrong} products are wrong").into()) }
    }

    fn check_case(
        &self,
        program: &Program,
        case: &Case,
        workspace: &mut Workspace,
    ) -> Outcome<Result<(), String>> {
        let Kernel { grouping, mode, width, element, epilogue, .. } = case.kernel;
        let Problem { rows, cols, tokens, .. } = case.problem;
        let planes = nested::pack(&case.codes, rows, cols)?.map(Bytes::from).to_vec();
        let map = AffineMap { scale: case.scale.clone().into(), zero: case.zero.clone().into() };
        let mut weights = Weights::new(self.device.clone());
        weights.add(NestedWeight::new((rows, cols), grouping, mode, planes, map, BTreeMap::new())?)?;
        weights.load(0, width)?;
        let upload = |values: &[f64]| self.device.upload("a check's values", &element.bytes_of(values));
        let (x, gate, residual) = (upload(&case.x)?, upload(&case.gate)?, upload(&case.residual)?);
        let bias: Vec<u8> = case.bias.iter().flat_map(|v| v.to_le_bytes()).collect();
        let bias = self.device.upload("a check's bias", &bias)?;
        let operands = Operands {
            x: &x,
            bias: epilogue.bias.then_some(&bias),
            gate: epilogue.gate.then_some(&gate),
            residual: epilogue.residual.then_some(&residual),
        };
        let mut y = self.device.zeros("a check's outputs", rows * tokens * element.bytes())?;
        let weight = weights.get(0).ok_or("no weight")?;
        program.launch(&self.device, weight, &operands, tokens, &mut y, workspace)?;
        Ok(case.check(&self.device.download(&y)?))
    }

    /// Replays of recorded products whose weights do not fit into the caches; medians. The peer is a copy on the device.
    fn bench(&self) -> Outcome<()> {
        let copied = self.copy_bandwidth()?;
        say(format_args!("a copy reads and writes {:.2} TB/s", copied / 1e12))?;
        say("rows\tcols\ttokens\tbits\tgroup\tmicroseconds\tof a copy's bandwidth\tTFLOP/s")?;
        for (rows, cols) in [(4096, 4096), (14336, 4096), (28672, 8192)] {
            for group in [0, 128] {
                let weight = random_weight(rows, cols, group)?;
                for bits in [8, 4, 3, 2] {
                    for tokens in [1, 2, 4, 8, 16, 512, 2048] {
                        let seconds = self.measure(&weight, bits, tokens)?;
                        let read = weight.bytes_touched(width(bits)?)? as f64;
                        let operations = 2.0 * (rows * cols * tokens) as f64;
                        say(format_args!(
                            "{rows}\t{cols}\t{tokens}\t{bits}\t{group}\t{:.2}\t{:.2}\t{:.1}",
                            1e6 * seconds,
                            read / seconds / copied,
                            operations / seconds / 1e12
                        ))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Seconds of one product.
    fn measure(&self, weight: &NestedWeight, bits: u8, tokens: usize) -> Outcome<f64> {
        const ROTATED: usize = 256 << 20;
        let (rows, cols) = (weight.rows(), weight.cols());
        let plain = kernel(bits, SliceMode::Midpoint, 0, Element::F16, Tokens::of(tokens));
        let program = self.program(&Kernel { grouping: weight.grouping(), ..plain })?;
        let copies = ROTATED.div_ceil(weight.bytes_touched(width(bits)?)?);
        let mut weights = Weights::new(self.device.clone());
        for i in 0..copies {
            weights.add(weight.clone())?;
            weights.load(i, width(bits)?)?;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let values: Vec<f64> =
            (0..tokens * cols).map(|_| f64::from(rng.next_u32()) / 2f64.powi(32)).collect();
        let x = self.device.upload("activations", &Element::F16.bytes_of(&values))?;
        let mut y = self.device.zeros("outputs", tokens * rows * 2)?;
        let operands = Operands { x: &x, bias: None, gate: None, residual: None };
        let mut workspace = Workspace::default();
        let mut all = || -> Result<(), DeviceError> {
            (0..copies).filter_map(|i| weights.get(i)).try_for_each(|weight| {
                program.launch(&self.device, weight, &operands, tokens, &mut y, &mut workspace)
            })
        };
        all()?;
        let graph = self.device.record(&mut all)?;
        graph.replay()?;
        let mut times = vec![];
        for _ in 0..21 {
            times.push(self.device.time(|| graph.replay())?);
        }
        Ok(f64::from(median(times)) / 1e3 / copies as f64)
    }

    /// Bytes that a copy on the device reads and writes in a second.
    fn copy_bandwidth(&self) -> Outcome<f64> {
        const BYTES: usize = 1 << 30;
        let from = self.device.zeros::<u8>("a copy", BYTES)?;
        let mut to = self.device.zeros::<u8>("a copy", BYTES)?;
        let mut times = vec![];
        for _ in 0..11 {
            times.push(self.device.time(|| self.device.copy(&from, &mut to))?);
        }
        Ok(2.0 * BYTES as f64 / (f64::from(median(times)) / 1e3))
    }
}

fn width(bits: u8) -> Outcome<Width> {
    Ok(Width::new(bits)?)
}

fn random_weight(rows: usize, cols: usize, group: u32) -> Outcome<NestedWeight> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let grouping = kernel(8, SliceMode::Midpoint, group, Element::F16, Tokens::Four).grouping;
    let planes = (0..8).map(|_| {
        let mut plane = vec![0; rows * cols.div_ceil(8)];
        rng.fill_bytes(&mut plane);
        Bytes::from(plane)
    });
    let planes = planes.collect();
    let maps = rows * grouping.groups(cols);
    let map = AffineMap { scale: vec![0.01; maps].into(), zero: vec![128.0; maps].into() };
    Ok(NestedWeight::new((rows, cols), grouping, SliceMode::Midpoint, planes, map, BTreeMap::new())?)
}

fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values[values.len() / 2]
}

fn say(line: impl std::fmt::Display) -> Outcome<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
