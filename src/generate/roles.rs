//! What the inputs and outputs of a decoder are for.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mqc_ir::{DType, Graph, Op, Value};
use mqc_passes::decoder::cache_attention::PAST_POSITIONS;

/// The inputs and outputs of a decoder by what they are for.
#[derive(Clone, Debug, PartialEq)]
pub struct Roles {
    /// Tokens, `[1, positions]`.
    pub tokens: Integers,
    /// 1 for every position so far and the new ones.
    pub attention_mask: Option<Integers>,
    /// Positions of the new tokens.
    pub positions: Option<Integers>,
    /// Keys and values that are fed back.
    pub past: Vec<Past>,
    /// Whether an input has the number of past positions as its size.
    pub past_positions: bool,
    /// The output with the logits, `[1, positions, vocabulary]`.
    pub logits: String,
    /// The size of the vocabulary, when the model says.
    pub vocabulary: Option<u64>,
}

/// An integer input, `[1, any]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// Its name.
    pub name: String,
    /// i64 or i32.
    pub dtype: DType,
}

/// Keys or values of one layer that the model takes and returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The input, `[1, heads, past, size]`.
    pub input: String,
    /// The output with past and new ones.
    pub output: String,
    /// Element type.
    pub dtype: DType,
    /// Heads.
    pub heads: u64,
    /// Elements of a key or value.
    pub size: u64,
}

impl Roles {
    /// Tells the inputs and outputs apart: by name those that exporters agree on, keys and values by how they are used.
    ///
    /// # Errors
    /// The model is no decoder; the message says what it lacks or has too much.
    pub fn of(graph: &Graph) -> Result<Roles> {
        let (mut tokens, mut attention_mask, mut positions) = (None, None, None);
        let (mut past, mut past_positions) = (vec![], false);
        for id in graph.inputs() {
            let value = Value { node: *id, slot: 0 };
            if graph.node(*id).is_none_or(|n| n.op != Op::Input) {
                continue;
            }
            let name = graph.info(value).map(|i| i.name.clone()).unwrap_or_default();
            if name == PAST_POSITIONS {
                past_positions = true;
                continue;
            }
            let integers = integers(graph, value, &name);
            let role = match name.as_str() {
                "input_ids" | "input_ids:0" | "tokens" | "input" => &mut tokens,
                "attention_mask" => &mut attention_mask,
                "position_ids" | "positions" => &mut positions,
                _ => match past_input(graph, value, &name)? {
                    Some(input) => {
                        past.push(input);
                        continue;
                    }
                    None => bail!(
                        "this is not a decoder that generates text: nothing is known of its input {name:?} ({}); expected \
                         input_ids, attention_mask, position_ids and past keys and values of rank 4",
                        graph.ty(value)
                    ),
                },
            };
            *role = Some(integers?);
        }
        let Some(tokens) = tokens else {
            bail!("this is not a decoder that generates text: it has no input input_ids");
        };
        let presents: Vec<&str> = past.iter().map(|p: &Past| p.output.as_str()).collect();
        let is_logits = |o: &&mqc_ir::graph::Output| {
            let ty = graph.ty(o.value);
            !presents.contains(&o.name.as_str())
                && ty.rank() == Some(3)
                && ty.dtype().is_some_and(|d| d.is_float())
        };
        let named = graph.outputs().iter().filter(is_logits).find(|o| o.name == "logits");
        let Some(logits) = named.or_else(|| graph.outputs().iter().find(is_logits)) else {
            let others =
                graph.outputs().iter().map(|o| o.name.as_str()).filter(|name| !presents.contains(name));
            let outputs: Vec<_> = others.collect();
            bail!(
                "this is not a decoder that generates text: none of its outputs ({}) is logits [batch, positions, vocabulary]",
                outputs.join(", ")
            );
        };
        let vocabulary = graph.ty(logits.value).shape().and_then(|s| s.get(2)?.size());
        Ok(Roles {
            tokens,
            attention_mask,
            positions,
            past,
            past_positions,
            logits: logits.name.clone(),
            vocabulary,
        })
    }

    /// Sizes of every input for a plan of all sizes, see [`mqc_runtime::Session::plan_symbolic`]; `remembers`: earlier
    /// positions count, whether they are inputs or lie in caches.
    pub fn sizes(&self, remembers: bool) -> BTreeMap<String, Vec<String>> {
        let text = |sizes: &[&str]| sizes.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let all = if remembers { "past+new" } else { "new" };
        let mut sizes = BTreeMap::from([(self.tokens.name.clone(), text(&["1", "new"]))]);
        sizes.extend(self.attention_mask.iter().map(|i| (i.name.clone(), text(&["1", all]))));
        sizes.extend(self.positions.iter().map(|i| (i.name.clone(), text(&["1", "new"]))));
        let past = |p: &Past| text(&["1", &p.heads.to_string(), "past", &p.size.to_string()]);
        sizes.extend(self.past.iter().map(|p| (p.input.clone(), past(p))));
        if self.past_positions {
            sizes.insert(PAST_POSITIONS.to_owned(), text(&["past"]));
        }
        sizes
    }
}

fn integers(graph: &Graph, value: Value, name: &str) -> Result<Integers> {
    match graph.ty(value).dtype() {
        Some(dtype @ (DType::I64 | DType::I32)) if matches!(graph.ty(value).rank(), Some(2) | None) => {
            Ok(Integers { name: name.to_owned(), dtype })
        }
        _ => bail!(
            "this is not a decoder that generates text: its input {name:?} is {}, expected integers [batch, positions]",
            graph.ty(value)
        ),
    }
}

/// Past keys or values: an input of rank 4 that a Concat extends, or whose name has its like among the outputs.
fn past_input(graph: &Graph, value: Value, name: &str) -> Result<Option<Past>> {
    let ty = graph.ty(value);
    let (Some(dtype), Some([_, heads, _, size])) = (ty.dtype(), ty.shape()) else { return Ok(None) };
    if !dtype.is_float() {
        return Ok(None);
    }
    let extended = graph.users(value).into_iter().find_map(|(user, _)| {
        let is_concat = matches!(graph.node(user)?.op, Op::Concat { .. });
        graph.outputs().iter().find(|o| is_concat && o.value == Value { node: user, slot: 0 })
    });
    let alike =
        ["present", "present_key_values"].map(|p| name.replace("past_key_values", p).replace("past", p));
    let named = || graph.outputs().iter().find(|o| alike.contains(&o.name));
    let Some(output) = extended.or_else(named) else { return Ok(None) };
    let (Some(heads), Some(size)) = (heads.size(), size.size()) else {
        bail!("the input {name:?} is {}, expected known heads and size: [batch, heads, past, size]", ty);
    };
    Ok(Some(Past { input: name.to_owned(), output: output.name.clone(), dtype, heads, size }))
}
