//! A decoder that is fed tokens and gives the logits of the next one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mqc_ir::infer::symbolic::Expr;
use mqc_ir::quant::Width;
use mqc_ir::{DType, Dim, Graph, Op, Tensor, Type, Value};
use mqc_passes::Pipeline;
use mqc_passes::decoder::cache_attention::PAST_POSITIONS;
use serde::Serialize;

use super::on_device::DeviceMemory;
use super::roles::{Integers, Roles};
use crate::artifact::Artifact;
use crate::data::Tensors;
use crate::precision::Precision;
use crate::run::{Loaded, Setup};

/// How earlier positions are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// In caches of the session, appended in place.
    Resident,
    /// As results that are fed back, copied for each token: attention of some layer has a form that mqc does not know.
    FedBack,
    /// Not at all: the model has no inputs for it, and every token runs the whole sequence.
    None,
}

/// A decoder and the sequence that it has read.
pub struct Decoder {
    loaded: Loaded,
    roles: Roles,
    memory: Memory,
    /// Keys and values that the session does not keep, by input.
    past: BTreeMap<String, Tensor>,
    /// The sequence, when nothing remembers it.
    sequence: Vec<u32>,
    positions: usize,
    planning: Duration,
    plan_error: Option<anyhow::Error>,
    /// Whether the plan has run without error.
    plan_runs: bool,
    /// What a device remembers, where it runs the model.
    on_device: Option<DeviceMemory>,
}

/// The width of every layer.
pub type Widths = BTreeMap<String, Width>;

impl Decoder {
    /// Opens an artifact or an ONNX model.
    ///
    /// # Errors
    /// What [`Loaded::open`] finds, and models that are no decoders.
    pub fn open(path: &Path, setup: &Setup) -> Result<Decoder> {
        let mut before = None;
        let loaded = Loaded::open_changed(path, setup, |graph| {
            before = Some(prepare(graph, setup.cuda)?);
            Ok(())
        })?;
        let roles = Roles::of(loaded.graph())?;
        if setup.cuda {
            return Decoder::on_device(loaded, roles);
        }
        let cached = before.is_some_and(|before| before.past.len() > roles.past.len());
        let memory = match (cached, roles.past.is_empty()) {
            (true, true) => Memory::Resident,
            (_, false) => Memory::FedBack,
            (false, true) => Memory::None,
        };
        let start = Instant::now();
        let plan_error = loaded.session()?.plan_symbolic(&roles.sizes(memory != Memory::None)).err();
        let plan_error = plan_error.map(anyhow::Error::from);
        let planning = start.elapsed();
        let (past, sequence) = (BTreeMap::new(), vec![]);
        let mut decoder = Decoder {
            loaded,
            roles,
            memory,
            past,
            sequence,
            positions: 0,
            planning,
            plan_error,
            plan_runs: false,
            on_device: None,
        };
        decoder.reset();
        Ok(decoder)
    }

    fn on_device(loaded: Loaded, roles: Roles) -> Result<Decoder> {
        DeviceMemory::check(loaded.graph(), &roles)?;
        let memory = if roles.past.is_empty() { Memory::None } else { Memory::Resident };
        Ok(Decoder {
            loaded,
            roles,
            memory,
            past: BTreeMap::new(),
            sequence: vec![],
            positions: 0,
            planning: Duration::ZERO,
            plan_error: None,
            plan_runs: true,
            on_device: Some(DeviceMemory::default()),
        })
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.positions = 0;
        if let Some(memory) = &mut self.on_device {
            memory.reset();
            return;
        }
        if let Ok(session) = self.loaded.session() {
            session.truncate(0);
        }
        let empty = |past: &super::roles::Past| {
            let shape = vec![1, past.heads as usize, 0, past.size as usize];
            Tensor::new(past.dtype, shape, Default::default()).ok().map(|tensor| (past.input.clone(), tensor))
        };
        self.past = self.roles.past.iter().filter_map(empty).collect();
        self.sequence.clear();
    }

    /// The width of every layer; the planes that they read are compared with their checksums the first time.
    pub fn widths(&self, precision: &Precision) -> Result<Widths> {
        self.loaded.prepare(precision)
    }

    /// The artifact, when it is one.
    pub fn artifact(&self) -> Option<&Artifact> {
        self.loaded.opened()
    }

    /// How earlier positions are remembered.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Bytes of keys and values of the sequence so far.
    pub fn memory_bytes(&self) -> u64 {
        if let Some(memory) = &self.on_device {
            return memory.bytes(&self.roles);
        }
        let fed: usize = self.past.values().map(|t| t.bytes().len()).sum();
        self.loaded.session().map_or(0, |session| session.cache_bytes()) + fed as u64
    }

    /// Positions read.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The size of the vocabulary, when the model says.
    pub fn vocabulary(&self) -> Option<u64> {
        self.roles.vocabulary
    }

    /// How long the plan for all sizes took.
    pub fn planning(&self) -> Duration {
        self.planning
    }

    /// Why there is no plan for all sizes: each token then plans anew.
    pub fn plan_error(&self) -> Option<&anyhow::Error> {
        self.plan_error.as_ref()
    }

    /// Reads tokens, at least one; returns the logits after the last, `[vocabulary]`. After an error the sequence is
    /// what it was before.
    pub fn read(&mut self, tokens: &[u32], widths: &Widths) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            bail!("no tokens to read");
        }
        if let (Some(memory), Some(session)) = (&mut self.on_device, self.loaded.device()) {
            let logits = memory.read(session, self.loaded.graph(), &self.roles, tokens, widths)?;
            self.positions += tokens.len();
            return Ok(logits);
        }
        let new: Vec<u32> = match self.memory {
            Memory::None => self.sequence.iter().chain(tokens).copied().collect(),
            Memory::Resident | Memory::FedBack => tokens.to_vec(),
        };
        let before = if self.memory == Memory::None { 0 } else { self.positions };
        let inputs = self.inputs(&new, before)?;
        let outputs = self.run(widths, &inputs)?;
        let mut outputs: BTreeMap<String, Tensor> = outputs.into_iter().collect();
        let logits = outputs.remove(&self.roles.logits).context("the model gave no logits")?;
        let logits = last_row(&logits)?;
        for past in &self.roles.past {
            let present =
                outputs.remove(&past.output).with_context(|| format!("the model gave no {}", past.output))?;
            self.past.insert(past.input.clone(), present);
        }
        self.positions += tokens.len();
        if self.memory == Memory::None {
            self.sequence = new;
        }
        Ok(logits)
    }

    /// Runs the session. tract plans some graphs for all lengths and cannot run the plan: where a plan for these very
    /// lengths runs, it does from then on.
    fn run(&mut self, widths: &Widths, inputs: &Tensors) -> Result<Vec<(String, Tensor)>> {
        let session = self.loaded.session()?;
        let error = match session.run(widths, inputs) {
            Err(error @ mqc_runtime::Error::Cpu(_)) if self.plan_error.is_none() && !self.plan_runs => error,
            result => {
                self.plan_runs |= result.is_ok();
                return Ok(result?);
            }
        };
        session.forget_symbolic();
        let outputs = session.run(widths, inputs)?;
        self.plan_error = Some(error.into());
        Ok(outputs)
    }

    fn inputs(&self, tokens: &[u32], before: usize) -> Result<Tensors> {
        let positions = before..before + tokens.len();
        let mut inputs: Tensors = self.past.iter().map(|(name, t)| (name.clone(), t.clone())).collect();
        let mut add = |input: &Integers, values: &mut dyn Iterator<Item = i64>| -> Result<()> {
            inputs.insert(input.name.clone(), row(input.dtype, values)?);
            Ok(())
        };
        add(&self.roles.tokens, &mut tokens.iter().map(|t| i64::from(*t)))?;
        if let Some(mask) = &self.roles.attention_mask {
            add(mask, &mut std::iter::repeat_n(1, positions.end))?;
        }
        if let Some(input) = &self.roles.positions {
            add(input, &mut positions.map(|p| p as i64))?;
        }
        if self.roles.past_positions {
            let carrier = Tensor::new(DType::U8, vec![before], vec![0; before].into())?;
            inputs.insert(PAST_POSITIONS.to_owned(), carrier);
        }
        Ok(inputs)
    }
}

/// Keeps what generating needs: the logits of the last position, and keys and values in the session where possible.
/// Returns what inputs and outputs were for before. Programs of a device have the memory of their own.
fn prepare(graph: &mut Graph, cuda: bool) -> Result<Roles> {
    mqc_ir::infer::infer(graph).map_err(mqc_passes::Error::InvalidInput)?;
    let roles = Roles::of(graph)?;
    if let Some(sized) = with_sizes(graph, &roles) {
        *graph = sized;
    }
    let wanted = |name: &str| roles.past.iter().any(|p| p.output == name);
    let outputs = graph.outputs();
    let logits = outputs.iter().filter(|o| o.name == roles.logits);
    let kept = logits.chain(outputs.iter().filter(|o| wanted(&o.name))).cloned().collect();
    graph.set_outputs(kept);
    graph.erase_dead();
    if cuda {
        return Ok(roles);
    }
    let options = mqc_passes::Options::default();
    let mut context = mqc_passes::Context::new(&options, None);
    Pipeline::decode().run(graph, &mut context, &mqc_passes::Debug::default())?;
    Ok(roles)
}

/// The graph with the sizes that generating gives its inputs: one sequence, and a mask of past and new positions. With them
/// shapes agree that the model alone leaves open, which `fuse` needs. `None` where they do not fit the model.
fn with_sizes(graph: &Graph, roles: &Roles) -> Option<Graph> {
    let mut graph = graph.clone();
    let sizes = roles.sizes(!roles.past.is_empty());
    let mut symbols: BTreeMap<String, Dim> = BTreeMap::new();
    let part = |text: &str| match text.parse() {
        Ok(size) => Dim::Size(size),
        Err(_) => Dim::Symbol(text.into()),
    };
    let given = |text: &String| {
        let sum = text.split('+').map(|text| Expr::of(&part(text))).reduce(|a, b| a?.add(&b?));
        sum.flatten().map_or(Dim::Unknown, |sum| sum.dim())
    };
    for id in graph.inputs().to_vec() {
        let value = Value { node: id, slot: 0 };
        let sizes = graph.info(value).and_then(|info| sizes.get(&info.name));
        let (Some(sizes), Some(dtype)) = (sizes, graph.ty(value).dtype()) else { continue };
        for (dim, text) in graph.ty(value).shape()?.iter().zip(sizes) {
            if let Dim::Symbol(name) = dim {
                symbols.insert(name.to_string(), given(text));
            }
        }
        let dims = sizes.iter().map(given).collect();
        graph.set_type(value, Type::tensor(dtype, dims));
    }
    for id in graph.ids() {
        let node = graph.node(id)?;
        if matches!(node.op, Op::Input) || node.op.as_constant().is_some() {
            continue;
        }
        // The types of nodes that the compiler does not know are not inferred.
        let is_kept = matches!(node.op, Op::Opaque(_));
        for slot in 0..node.outputs.len() {
            let value = Value { node: id, slot };
            let ty = match (is_kept, graph.ty(value).dtype(), graph.ty(value).shape()) {
                (true, Some(dtype), Some(dims)) => {
                    let dim = |dim: &Dim| match dim {
                        Dim::Size(_) => dim.clone(),
                        Dim::Symbol(name) => symbols.get(&**name).cloned().unwrap_or(Dim::Unknown),
                        Dim::Unknown => Dim::Unknown,
                    };
                    Type::tensor(dtype, dims.iter().map(dim).collect())
                }
                _ => Type::Unknown,
            };
            graph.set_type(value, ty);
        }
    }
    let mut outputs = graph.outputs().to_vec();
    outputs.iter_mut().for_each(|output| output.declared = Type::Unknown);
    graph.set_outputs(outputs);
    mqc_ir::infer::infer(&mut graph).ok().map(|()| graph)
}

fn row(dtype: DType, values: &mut dyn Iterator<Item = i64>) -> Result<Tensor> {
    let values: Vec<i64> = values.collect();
    if dtype == DType::I32 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect();
        return Ok(Tensor::new(dtype, vec![1, values.len()], bytes.into())?);
    }
    Ok(Tensor::from_i64(vec![1, values.len()], &values)?)
}

/// The last row of `[1, positions, vocabulary]`.
fn last_row(logits: &Tensor) -> Result<Vec<f32>> {
    let &[1, _, vocabulary] = logits.shape() else {
        bail!("the logits are {:?}, expected [1, positions, vocabulary]", logits.shape());
    };
    let mut values = logits.to_f32_vec().context("the logits are no floats")?;
    match values.len().checked_sub(vocabulary) {
        Some(start) if vocabulary > 0 => Ok(values.split_off(start)),
        _ => bail!("the logits are {:?}, expected at least one position", logits.shape()),
    }
}
