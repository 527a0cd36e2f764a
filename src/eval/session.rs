//! A decoder in the CPU session as a language model: logits of every position, at one width of every layer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, Tensor, Value};

use super::language_model::{LanguageModel, Logits, sequences_of};
use crate::artifact::Artifact;
use crate::data::{self, Tensors};
use crate::generate::Widths;
use crate::generate::roles::{Integers, Roles};
use crate::precision::Precision;
use crate::run::{Loaded, Setup};
use crate::usage::UsageError;

/// An input that tells sentences of a pair apart; there is one sentence.
const TOKEN_TYPES: &str = "token_type_ids";

/// A decoder: `input_ids [batch, positions]` to logits `[batch, positions, vocabulary]`. Every other input is filled:
/// `attention_mask` with 1, `position_ids` with 0, 1, ..., `token_type_ids` with 0, past keys and values with nothing.
pub struct SessionModel {
    loaded: Loaded,
    roles: Roles,
    token_types: Option<Integers>,
    /// Sequences of every run, where the model says.
    batch: Option<usize>,
    /// Positions of every run, where the model says.
    positions: Option<usize>,
    /// Whether there is a plan for all lengths that has not run yet.
    untried_plan: Cell<bool>,
    plan_error: RefCell<Option<anyhow::Error>>,
}

impl SessionModel {
    /// Opens an artifact or an ONNX model.
    ///
    /// # Errors
    /// What [`Loaded::open`] finds, and models that are no decoders or have inputs that cannot be filled.
    pub fn open(path: &Path, setup: &Setup) -> Result<SessionModel> {
        let mut found = None;
        let loaded = Loaded::open_changed(path, setup, |graph| {
            mqc_ir::infer::infer(graph).map_err(mqc_passes::Error::InvalidInput)?;
            let token_types = token_types(graph)?;
            let mut others = graph.clone();
            others.retain_inputs(|_, id| name_of(graph, id) != TOKEN_TYPES);
            let roles = Roles::of(&others)
                .with_context(|| format!("cannot evaluate {} on texts or questions", path.display()))?;
            let outputs = graph.outputs().iter().filter(|o| o.name == roles.logits).cloned().collect();
            graph.set_outputs(outputs);
            graph.erase_dead();
            found = Some((token_types, roles, sizes(graph)));
            Ok(())
        })?;
        let (token_types, roles, sizes) = found.context("the model was not looked at")?;
        let size = |name: &str, axis: usize| sizes.get(name)?.get(axis).copied().flatten();
        let (batch, positions) = (size(&roles.tokens.name, 0), size(&roles.tokens.name, 1));
        let (untried_plan, plan_error) = (Cell::new(false), RefCell::new(None));
        Ok(SessionModel { loaded, roles, token_types, batch, positions, untried_plan, plan_error })
    }

    /// The artifact, when it is one.
    pub fn artifact(&self) -> Option<&Artifact> {
        self.loaded.opened()
    }

    /// The size of the vocabulary, when the model says.
    pub fn vocabulary(&self) -> Option<u64> {
        self.roles.vocabulary
    }

    /// The most positions that the model takes, when it says.
    pub fn positions(&self) -> Option<usize> {
        self.positions
    }

    /// Plans once for sequences of any length and number, instead of once for each. Where that does not work, runs plan
    /// for their own sizes as before.
    pub fn plan_any_length(&self) {
        if self.batch.is_some() && self.positions.is_some() {
            return;
        }
        let text =
            |fixed: Option<usize>, name: &str| fixed.map_or_else(|| name.to_owned(), |n| n.to_string());
        let [batch, positions] = [text(self.batch, "batch"), text(self.positions, "positions")];
        let mut sizes = BTreeMap::new();
        for input in self.integers() {
            sizes.insert(input.name.clone(), vec![batch.clone(), positions.clone()]);
        }
        for past in &self.roles.past {
            let [heads, size] = [past.heads, past.size].map(|n| n.to_string());
            sizes.insert(past.input.clone(), vec![batch.clone(), heads, "0".to_owned(), size]);
        }
        let planned = self.loaded.session().and_then(|session| Ok(session.plan_symbolic(&sizes)?));
        self.untried_plan.set(planned.is_ok());
        *self.plan_error.borrow_mut() = planned.err();
    }

    /// Why there is no plan for all lengths.
    pub fn plan_error(&self) -> Option<String> {
        self.plan_error.borrow().as_ref().map(|error| format!("{error:#}"))
    }

    /// The model at these widths. The planes that they read are compared with their checksums the first time.
    ///
    /// # Errors
    /// Widths that are not stored, globs that match no layer, damaged planes.
    pub fn at(&self, precision: &Precision) -> Result<impl LanguageModel + '_> {
        Ok(At { model: self, widths: self.loaded.prepare(precision)? })
    }

    fn integers(&self) -> impl Iterator<Item = &Integers> {
        let roles = &self.roles;
        [&roles.tokens]
            .into_iter()
            .chain(&roles.attention_mask)
            .chain(&roles.positions)
            .chain(&self.token_types)
    }

    fn inputs(&self, sequences: &[&[u32]], batch: usize, positions: usize) -> Result<Tensors> {
        let mut inputs = Tensors::new();
        let count = batch * positions;
        let mut add = |input: &Integers, values: Vec<i64>| -> Result<()> {
            inputs.insert(input.name.clone(), integers(input.dtype, vec![batch, positions], &values)?);
            Ok(())
        };
        // A decoder never looks to the right: what stands after the end of a sequence changes nothing before it.
        let mut tokens = vec![0; count];
        for (row, sequence) in tokens.chunks_mut(positions.max(1)).zip(sequences) {
            row.iter_mut().zip(*sequence).for_each(|(place, token)| *place = i64::from(*token));
        }
        add(&self.roles.tokens, tokens)?;
        if let Some(mask) = &self.roles.attention_mask {
            add(mask, vec![1; count])?;
        }
        if let Some(input) = &self.roles.positions {
            add(input, (0..count).map(|i| (i % positions.max(1)) as i64).collect())?;
        }
        if let Some(types) = &self.token_types {
            add(types, vec![0; count])?;
        }
        for past in &self.roles.past {
            let shape = vec![batch, past.heads as usize, 0, past.size as usize];
            inputs.insert(past.input.clone(), Tensor::new(past.dtype, shape, Default::default())?);
        }
        Ok(inputs)
    }

    /// Runs the session. tract plans some graphs for all lengths and cannot run the plan: then each length is planned.
    fn run(&self, widths: &Widths, inputs: &Tensors) -> Result<Vec<(String, Tensor)>> {
        let session = self.loaded.session()?;
        match session.run(widths, inputs) {
            Err(error @ mqc_runtime::Error::Cpu(_)) if self.untried_plan.take() => {
                session.forget_symbolic();
                let outputs = session.run(widths, inputs)?;
                *self.plan_error.borrow_mut() = Some(error.into());
                Ok(outputs)
            }
            result => {
                self.untried_plan.set(false);
                Ok(result?)
            }
        }
    }
}

/// A model at one width of every layer.
struct At<'a> {
    model: &'a SessionModel,
    widths: BTreeMap<String, Width>,
}

impl LanguageModel for At<'_> {
    fn logits(&mut self, sequences: &[&[u32]]) -> Result<Logits> {
        let model = self.model;
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        let batch = model.batch.unwrap_or(sequences.len());
        let positions = model.positions.unwrap_or(longest);
        if longest > positions {
            bail!(UsageError(format!(
                "the model takes {positions} positions, a sequence has {longest}; choose a shorter --window"
            )));
        }
        if sequences.len() > batch {
            bail!("the model takes {batch} sequences at a time, not {}", sequences.len());
        }
        let inputs = model.inputs(sequences, batch, positions)?;
        let outputs = model
            .run(&self.widths, &inputs)
            .with_context(|| format!("cannot run {batch} sequences of {positions} tokens"))?;
        let logits = outputs.into_iter().find(|(name, _)| *name == model.roles.logits);
        let (_, logits) = logits.context("the model gave no logits")?;
        if logits.shape().get(..2) != Some(&[batch, positions]) {
            let shape = logits.shape();
            bail!("the logits are {shape:?}, expected [{batch}, {positions}, vocabulary]");
        }
        Logits::from_tensor(logits)
    }

    fn most_sequences(&self, positions: usize) -> usize {
        self.model.batch.unwrap_or_else(|| sequences_of(positions))
    }
}

fn name_of(graph: &Graph, id: mqc_ir::NodeId) -> String {
    graph.info(Value { node: id, slot: 0 }).map(|i| i.name.clone()).unwrap_or_default()
}

/// The input `token_type_ids`, which decoders have rarely.
fn token_types(graph: &Graph) -> Result<Option<Integers>> {
    let inputs = data::required_inputs(graph);
    let Some((name, ty)) = inputs.into_iter().find(|(name, _)| name == TOKEN_TYPES) else { return Ok(None) };
    match ty.dtype() {
        Some(dtype @ (DType::I64 | DType::I32)) => Ok(Some(Integers { name, dtype })),
        _ => bail!("the input {name:?} is {ty}, expected integers [batch, positions]"),
    }
}

/// The known sizes of every input.
fn sizes(graph: &Graph) -> BTreeMap<String, Vec<Option<usize>>> {
    let known = |dim: &mqc_ir::Dim| dim.size().and_then(|n| usize::try_from(n).ok());
    let sizes =
        |ty: &mqc_ir::Type| ty.shape().map(|dims| dims.iter().map(known).collect()).unwrap_or_default();
    data::required_inputs(graph).into_iter().map(|(name, ty)| (name, sizes(&ty))).collect()
}

fn integers(dtype: DType, shape: Vec<usize>, values: &[i64]) -> Result<Tensor> {
    if dtype == DType::I32 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect();
        return Ok(Tensor::new(dtype, shape, bytes.into())?);
    }
    Ok(Tensor::from_i64(shape, values)?)
}
