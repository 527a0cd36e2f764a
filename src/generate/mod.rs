//! Generating text with a decoder, token by token, at widths that may change on the way.

pub mod decoder;
mod on_device;
pub mod roles;
pub mod sampling;
pub mod stop;
pub mod tokens;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::usage::UsageError;
pub use decoder::{Decoder, Memory, Widths};
pub use sampling::{Sampler, Sampling};
use stop::{Passed, StopFilter};
pub use tokens::Tokens;

/// What to generate.
pub struct Request<'a> {
    /// Tokens of the prompt, at least one.
    pub prompt: &'a [u32],
    /// At most so many new tokens.
    pub most_new: usize,
    /// At most so many positions, prompt included.
    pub most_positions: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the text.
    pub ends: BTreeSet<u32>,
    /// Texts that end the text.
    pub stops: Vec<String>,
    /// Widths, each from a number of new tokens on; the first from 0.
    pub widths: Vec<(usize, Widths)>,
}

/// Why generating ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A token that ends texts.
    End,
    /// A stop string.
    Stop,
    /// As many tokens as were asked for, or as fit.
    Length,
    /// Nobody reads on.
    Closed,
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generated {
    /// New tokens, the one that ended the text included.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Reading the prompt.
    pub prefill: Duration,
    /// Reading the new tokens.
    pub decode: Duration,
    /// Tokens that `decode` is the time of: the last one is chosen but not read.
    pub decoded: usize,
}

/// Generates; `show` gets the text piece by piece and says whether anybody reads on.
///
/// # Errors
/// A prompt that is empty or too long; what the model, the sampler or the tokenizer find.
pub fn generate(
    decoder: &mut Decoder,
    tokens: &Tokens,
    request: &Request,
    show: &mut dyn FnMut(&str) -> Result<bool>,
) -> Result<Generated> {
    check(decoder, tokens, request)?;
    decoder.reset();
    let widths_at = |count: usize| {
        let started = request.widths.iter().filter(|(from, _)| *from <= count);
        started
            .max_by_key(|(from, _)| *from)
            .map(|(_, widths)| widths)
            .context("no widths from the first token on")
    };
    let mut sampler = Sampler::new(request.sampling.clone());
    request.prompt.iter().for_each(|token| sampler.observe(*token));
    let mut stream = tokens.stream(request.prompt)?;
    let mut filter = StopFilter::new(&request.stops);
    let fits = request.most_positions.map_or(usize::MAX, |most| most - request.prompt.len());
    let most_new = request.most_new.min(fits);

    let start = Instant::now();
    let mut logits = decoder.read(request.prompt, widths_at(0)?).context("cannot read the prompt")?;
    let prefill = start.elapsed();
    let (mut decode, mut decoded) = (Duration::ZERO, 0);
    let (mut new, mut text, mut finish) = (vec![], String::new(), Finish::Length);
    while new.len() < most_new {
        let token =
            sampler.choose(&logits).with_context(|| format!("at position {}", decoder.positions()))?;
        new.push(token);
        if request.ends.contains(&token) {
            finish = Finish::End;
            break;
        }
        let (piece, stopped) = match filter.push(&stream.push(token)?) {
            Passed::Text(piece) => (piece, false),
            Passed::Stopped(piece) => (piece, true),
        };
        text.push_str(&piece);
        if !piece.is_empty() && !show(&piece)? {
            finish = Finish::Closed;
            break;
        }
        if stopped {
            finish = Finish::Stop;
            break;
        }
        if new.len() == most_new {
            break;
        }
        let start = Instant::now();
        logits = decoder
            .read(&[token], widths_at(new.len())?)
            .with_context(|| format!("at new token {}", new.len()))?;
        decode += start.elapsed();
        decoded += 1;
    }
    if matches!(finish, Finish::Length | Finish::End) {
        let rest = match filter.push(&stream.finish()?) {
            Passed::Text(piece) => piece + &filter.finish(),
            Passed::Stopped(piece) => piece,
        };
        show(&rest)?;
        text.push_str(&rest);
    }
    Ok(Generated { tokens: new, text, finish, prefill, decode, decoded })
}

fn check(decoder: &Decoder, tokens: &Tokens, request: &Request) -> Result<()> {
    let known = tokens.vocabulary() as u64;
    if let Some(vocabulary) = decoder.vocabulary().filter(|v| *v < known) {
        bail!(UsageError(format!(
            "the tokenizer has {known} tokens, but the model has logits for {vocabulary}: they do not belong together"
        )));
    }
    if request.prompt.is_empty() {
        bail!(UsageError("the prompt has no tokens; give one with --prompt".to_owned()));
    }
    if let Some(most) = request.most_positions.filter(|most| *most <= request.prompt.len()) {
        bail!(UsageError(format!(
            "the prompt has {} tokens, which leaves no room for new ones: the context is {most}",
            request.prompt.len()
        )));
    }
    request.sampling.check()
}
