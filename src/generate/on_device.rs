//! A decoder on a CUDA device. Keys and values stay there: a program has room for so many positions, those that are not used
//! yet lie on the left and are masked. Programs read one token, or a run of the prompt.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::{Context as _, Result, bail};
use mqc_ir::graph::Output;
use mqc_ir::{Graph, Op, Tensor, Type, Value};
use mqc_step::cuda::Program;
use mqc_step::{Array, Setup};

use super::decoder::Widths;
use super::roles::{Integers, Roles};
use crate::device::DeviceSession;

/// Tokens of the prompt that are read at once.
const RUN: usize = 32;
/// The least room for positions; it doubles.
const LEAST: usize = 128;

/// Tokens that a program reads, and past positions that it has room for.
type Sizes = (usize, usize);

/// What was read, on the device.
#[derive(Default)]
pub struct DeviceMemory {
    programs: BTreeMap<Sizes, Program>,
    /// The program that has the keys and values.
    holder: Option<Sizes>,
    positions: usize,
    /// The sequence, for a model that remembers nothing.
    sequence: Vec<u32>,
}

impl DeviceMemory {
    /// Whether a model can be run so: the mask hides what is not used, positions are given.
    ///
    /// # Errors
    /// What it lacks.
    pub fn check(graph: &Graph, roles: &Roles) -> Result<()> {
        if roles.past.is_empty() {
            return Ok(());
        }
        let mask = roles.attention_mask.as_ref().filter(|mask| reads_values(graph, &mask.name));
        if mask.is_some_and(|mask| roles.positions.is_some() || counts(graph, &mask.name)) {
            return Ok(());
        }
        bail!(
            "on a CUDA device a model with past keys and values must hide what its input attention_mask is 0 for, and take \
             positions from the input position_ids or count them along the mask (CumSum); use --device cpu"
        )
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.holder = None;
        self.positions = 0;
        self.sequence.clear();
    }

    /// Bytes of keys and values that there is room for.
    pub fn bytes(&self, roles: &Roles) -> u64 {
        let room = self.holder.map_or(0, |(_, room)| room as u64);
        roles.past.iter().map(|past| 4 * past.heads * past.size * room).sum()
    }

    /// Reads tokens, at least one, and returns the logits after the last.
    ///
    /// # Errors
    /// Operations that have no form on the device, no room, a device that is lost. The sequence is then what it was before the
    /// run of tokens that failed.
    pub fn read(
        &mut self,
        session: &DeviceSession,
        graph: &Graph,
        roles: &Roles,
        tokens: &[u32],
        widths: &Widths,
    ) -> Result<Vec<f32>> {
        if roles.past.is_empty() {
            return self.read_all(session, graph, roles, tokens, widths);
        }
        let whole = tokens.len() / RUN * RUN;
        let runs = tokens[..whole].chunks(RUN).chain(tokens[whole..].chunks(1));
        let mut logits = vec![];
        for run in runs {
            logits = self.read_run(session, graph, roles, run, widths)?;
        }
        Ok(logits)
    }

    fn read_run(
        &mut self,
        session: &DeviceSession,
        graph: &Graph,
        roles: &Roles,
        tokens: &[u32],
        widths: &Widths,
    ) -> Result<Vec<f32>> {
        let end = self.positions + tokens.len();
        // The run that fills the room leaves all of it to the next.
        let room = self.holder.map_or(LEAST, |(_, room)| room).max(end.next_power_of_two());
        let sizes = (tokens.len(), room);
        if let Entry::Vacant(entry) = self.programs.entry(sizes) {
            entry.insert(session.program_of(|| remembering(graph, roles, sizes))?);
        }
        self.hand_over(roles, sizes)?;
        let program = self.programs.get_mut(&sizes).context("there is no program")?;
        let mut give = |input: &Integers, values: Vec<i64>| -> Result<()> {
            let index = input_of(program, &input.name)?;
            Ok(program.set(index, &Array::int(vec![1, values.len()], values)?)?)
        };
        give(&roles.tokens, tokens.iter().map(|token| i64::from(*token)).collect())?;
        if let Some(mask) = &roles.attention_mask {
            let unused = room - self.positions;
            give(mask, (0..room + tokens.len()).map(|i| i64::from(i >= unused)).collect())?;
        }
        if let Some(positions) = &roles.positions {
            give(positions, (self.positions..end).map(|position| position as i64).collect())?;
        }
        session.run_program(program, widths)?;
        self.positions = end;
        last_logits(program, tokens.len() - 1)
    }

    /// Keys and values go to the program that reads next, behind what it does not use.
    fn hand_over(&mut self, roles: &Roles, to: Sizes) -> Result<()> {
        if self.holder == Some(to) {
            return Ok(());
        }
        for past in &roles.past {
            let (heads, size) = (past.heads as usize, past.size as usize);
            let mut values = vec![0.0; heads * to.1 * size];
            if let Some(from) = self.holder {
                let program = self.programs.get(&from).context("there is no program")?;
                let held = program.input(input_of(program, &past.input)?)?;
                let held = held.as_real().context("keys and values are no floats")?;
                let kept = from.1.min(to.1) * size;
                for (new, old) in values.chunks_mut(to.1 * size).zip(held.chunks(from.1 * size)) {
                    let (new_start, old_start) = (new.len() - kept, old.len() - kept);
                    new[new_start..].copy_from_slice(&old[old_start..]);
                }
            }
            let program = self.programs.get_mut(&to).context("there is no program")?;
            let index = input_of(program, &past.input)?;
            program.set(index, &Array::real(vec![1, heads, to.1, size], values)?)?;
        }
        self.holder = Some(to);
        Ok(())
    }

    /// Every run is over the whole sequence; what lies behind a token does not change what comes after it.
    fn read_all(
        &mut self,
        session: &DeviceSession,
        graph: &Graph,
        roles: &Roles,
        tokens: &[u32],
        widths: &Widths,
    ) -> Result<Vec<f32>> {
        let sequence: Vec<u32> = self.sequence.iter().chain(tokens).copied().collect();
        let room = sequence.len().next_power_of_two().max(RUN);
        let sizes = (room, 0);
        if let Entry::Vacant(entry) = self.programs.entry(sizes) {
            let make = || Ok((graph.clone(), shapes(roles, sizes), Setup::default()));
            entry.insert(session.program_of(make)?);
        }
        let program = self.programs.get_mut(&sizes).context("there is no program")?;
        let mut give = |input: &Integers, value: &dyn Fn(usize) -> i64| -> Result<()> {
            let index = input_of(program, &input.name)?;
            Ok(program.set(index, &Array::int(vec![1, room], (0..room).map(value).collect())?)?)
        };
        give(&roles.tokens, &|i| sequence.get(i).map_or(0, |token| i64::from(*token)))?;
        if let Some(mask) = &roles.attention_mask {
            give(mask, &|i| i64::from(i < sequence.len()))?;
        }
        if let Some(positions) = &roles.positions {
            give(positions, &|i| i as i64)?;
        }
        session.run_program(program, widths)?;
        let logits = last_logits(program, sequence.len() - 1)?;
        self.sequence = sequence;
        Ok(logits)
    }
}

/// The shapes of all inputs.
fn shapes(roles: &Roles, (tokens, room): Sizes) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::from([(roles.tokens.name.clone(), vec![1, tokens])]);
    if let Some(mask) = &roles.attention_mask {
        shapes.insert(mask.name.clone(), vec![1, room + tokens]);
    }
    if let Some(positions) = &roles.positions {
        shapes.insert(positions.name.clone(), vec![1, tokens]);
    }
    for past in &roles.past {
        shapes.insert(past.input.clone(), vec![1, past.heads as usize, room, past.size as usize]);
    }
    shapes
}

/// A graph whose keys and values, less the oldest, are those of the next run.
fn remembering(
    graph: &Graph,
    roles: &Roles,
    sizes: Sizes,
) -> Result<(Graph, BTreeMap<String, Vec<usize>>, Setup)> {
    let (tokens, room) = sizes;
    let mut graph = graph.clone();
    let mut bounds = vec![];
    for (name, bound) in [("start", tokens), ("end", tokens + room), ("axis", 2)] {
        let constant = Tensor::i64_vector(&[i64::try_from(bound)?]);
        bounds.push(graph.apply(Op::Constant(constant), &format!("cache.{name}"), &[])?);
    }
    let mut outputs: Vec<Output> = graph.outputs().to_vec();
    let mut carried = vec![];
    for past in &roles.past {
        let name =
            |id: &mqc_ir::NodeId| graph.info(Value { node: *id, slot: 0 }).map(|info| info.name.clone());
        let input = graph.inputs().iter().position(|id| name(id).as_ref() == Some(&past.input));
        let output = outputs.iter().position(|output| output.name == past.output);
        let (Some(input), Some(output)) = (input, output) else {
            bail!("the model has no {} or no {}", past.input, past.output);
        };
        let all = outputs[output].value;
        let operands = [all, bounds[0], bounds[1], bounds[2]];
        // The name is that of what is kept from now on.
        let renamed = graph.fresh_name(&format!("{}.all", past.output));
        if let Some(info) = graph.node_mut(all.node).and_then(|node| node.outputs.get_mut(all.slot)) {
            info.name = renamed;
        }
        outputs[output].value = graph.apply(Op::Slice, &format!("{}.kept", past.output), &operands)?;
        outputs[output].declared = Type::Unknown;
        carried.push((input, output));
    }
    graph.set_outputs(outputs);
    Ok((graph, shapes(roles, sizes), Setup { threads: 0, carried }))
}

/// Whether more of an input than its shape is read.
fn reads_values(graph: &Graph, name: &str) -> bool {
    let value = |id: &mqc_ir::NodeId| Value { node: *id, slot: 0 };
    let input =
        graph.inputs().iter().map(value).find(|v| graph.info(*v).is_some_and(|info| info.name == name));
    let users = input.map(|input| graph.users(input)).unwrap_or_default();
    let is_shape = |id| matches!(graph.node(id).map(|node| &node.op), Some(Op::Shape { .. }));
    users.into_iter().any(|(user, _)| !is_shape(user))
}

/// Whether positions are counted along a mask.
fn counts(graph: &Graph, mask: &str) -> bool {
    let of_mask = |value: Value| graph.info(value).is_some_and(|info| info.name == mask);
    graph.ids().into_iter().any(|id| {
        let node = graph.node(id).map(|node| &node.op);
        matches!(node, Some(Op::Opaque(op)) if op.op_type == "CumSum")
            && graph.operand(id, 0).is_some_and(of_mask)
    })
}

fn input_of(program: &Program, name: &str) -> Result<usize> {
    let found = program.inputs().iter().position(|port| port.name == name);
    found.with_context(|| format!("the program has no input {name}"))
}

/// A row of the first output `[1, positions, vocabulary]`.
fn last_logits(program: &Program, row: usize) -> Result<Vec<f32>> {
    let at = program.outputs().iter().position(|port| port.shape.len() == 3);
    let logits = program.output(at.context("the model gave no logits")?)?;
    let width = logits.shape().last().copied().unwrap_or(0);
    let values = logits.as_real().context("the logits are no floats")?;
    let row = values.get(row * width..(row + 1) * width).context("the logits have too few rows")?;
    Ok(row.to_vec())
}
