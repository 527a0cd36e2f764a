//! `mqc generate`: text from a decoder, at widths that may change on the way.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use mqc_ir::quant::Width;
use serde::Serialize;

use super::Outcome;
use super::device::Device;
use super::engine::EngineArgs;
use super::ui::{Ui, UsageError, bytes};
use crate::generate::{Decoder, Finish, Generated, Memory, Request, Sampling, Tokens, generate};
use crate::precision::Precision;
use crate::run::Setup;

#[derive(clap::Args)]
pub struct Args {
    /// An artifact, or an ONNX model to run in float: a decoder with input_ids and logits.
    model: PathBuf,
    /// The tokenizer.json that belongs to the model.
    #[arg(long)]
    tokenizer: PathBuf,
    /// The text to continue.
    #[arg(long, short)]
    prompt: String,
    /// A width from 1 to 8, or a TOML file with widths per layer; the widest that is stored if not given.
    #[arg(long)]
    bits: Option<String>,
    /// Change the width on the way: N:BITS, from N new tokens on at BITS (a width or a TOML file). Several times.
    #[arg(long, value_name = "N:BITS")]
    switch: Vec<String>,
    /// At most so many new tokens.
    #[arg(long, short = 'n', default_value_t = 128)]
    max_new_tokens: usize,
    /// At most so many positions, prompt included; what the config.json beside the tokenizer says if not given.
    #[arg(long)]
    context: Option<usize>,
    /// Flatten (above 1) or sharpen (below 1) the probabilities; at 0 the most likely token is taken.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Choose among the K most likely tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the fewest most likely tokens with so much probability together.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Choose among the tokens with at least so much of the probability of the most likely one.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Divide positive and multiply negative logits of tokens that occurred.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the random choices.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End before this text. Several times.
    #[arg(long)]
    stop: Vec<String>,
    /// A token that ends the text, or its id; `none` for no end. What the files beside the tokenizer say if not given.
    #[arg(long)]
    eos: Vec<String>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Where to run: auto takes a CUDA device where one can be used.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Print JSON at the end instead of the text as it comes.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    prompt_tokens: &'a [u32],
    tokens: &'a [u32],
    text: &'a str,
    finish: Finish,
    /// Width specifications and the number of new tokens from which each held.
    bits: Vec<(usize, String)>,
    memory: Memory,
    cache_bytes: u64,
    load_seconds: f64,
    plan_seconds: f64,
    prefill_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_seconds: f64,
    decode_tokens: usize,
    decode_tokens_per_second: f64,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let cuda = self.device.is_cuda(ui)?;
        // A mistake in the arguments shows before a large model is loaded.
        let sampling = Sampling {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
        };
        sampling.check()?;
        let mut precisions = vec![];
        if let Some(bits) = &self.bits {
            precisions.push((0, bits.clone(), Precision::parse(bits)?));
        }
        for text in &self.switch {
            let (from, bits) = switch(text)?;
            precisions.push((from, bits.to_owned(), Precision::parse(bits)?));
        }
        let tokens = Tokens::open(&self.tokenizer)?;
        let prompt = tokens.encode(&self.prompt)?;
        let ends = tokens.ends(&self.eos)?;

        let start = Instant::now();
        let mut decoder = Decoder::open(&self.model, &Setup { cuda, ..self.engine.setup() })?;
        let load = start.elapsed();
        if self.bits.is_none() {
            let widest = decoder.artifact().map_or(Width::MAX, |a| a.widest());
            precisions.insert(0, (0, widest.to_string(), Precision::uniform(widest)));
        }
        say_memory(ui, &decoder);
        let mut widths = vec![];
        for (from, _, precision) in &precisions {
            widths.push((*from, decoder.widths(precision)?));
        }
        let request = Request {
            prompt: &prompt,
            most_new: self.max_new_tokens,
            most_positions: self.context.or_else(|| tokens.most_positions()),
            sampling,
            ends,
            stops: self.stop,
            widths,
        };
        let json = self.json;
        let generated = generate(&mut decoder, &tokens, &request, &mut |text| {
            if json { Ok(true) } else { ui.stream(text) }
        })?;
        let bits: Vec<_> = precisions.into_iter().map(|(from, bits, _)| (from, bits)).collect();
        if json {
            ui.print(serde_json::to_string_pretty(&report(&prompt, &generated, &decoder, load, bits))?)?;
        } else {
            ui.stream("\n")?;
            summary(ui, &prompt, &generated, &decoder, load);
        }
        Ok(Outcome::Passed)
    }
}

/// `20:8` as 20 and `8`.
fn switch(text: &str) -> Result<(usize, &str)> {
    let parts = text.split_once(':').and_then(|(from, bits)| Some((from.parse().ok()?, bits)));
    let message =
        || UsageError(format!("--switch {text:?}, expected N:BITS: a number of new tokens and a width"));
    Ok(parts.ok_or_else(message)?)
}

fn say_memory(ui: &Ui, decoder: &Decoder) {
    match decoder.memory() {
        Memory::Resident => {}
        Memory::FedBack => ui.say(
            "attention of this model has a form that mqc does not know: keys and values are copied per token",
        ),
        Memory::None => {
            ui.say("this model takes no past keys and values: every token runs the whole sequence");
        }
    }
}

fn summary(ui: &Ui, prompt: &[u32], generated: &Generated, decoder: &Decoder, load: Duration) {
    let rate = |what: &str, count: usize, time: Duration| {
        format!("{what} {count} tokens, {:.1} tokens/s", per_second(count, time))
    };
    if let Some(error) = decoder.plan_error() {
        ui.say(format_args!("there is no plan for all lengths, so every token planned anew: {error:#}"));
    }
    ui.say(format_args!(
        "{}; {}; cache {} for {} positions; loaded in {:.2} s",
        rate("prompt", prompt.len(), generated.prefill),
        rate("decode", generated.decoded, generated.decode),
        bytes(decoder.memory_bytes()),
        decoder.positions(),
        load.as_secs_f64(),
    ));
}

fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

fn report<'a>(
    prompt: &'a [u32],
    generated: &'a Generated,
    decoder: &Decoder,
    load: Duration,
    bits: Vec<(usize, String)>,
) -> Report<'a> {
    Report {
        prompt_tokens: prompt,
        tokens: &generated.tokens,
        text: &generated.text,
        finish: generated.finish,
        bits,
        memory: decoder.memory(),
        cache_bytes: decoder.memory_bytes(),
        load_seconds: load.as_secs_f64(),
        plan_seconds: decoder.planning().as_secs_f64(),
        prefill_seconds: generated.prefill.as_secs_f64(),
        prefill_tokens_per_second: per_second(prompt.len(), generated.prefill),
        decode_seconds: generated.decode.as_secs_f64(),
        decode_tokens: generated.decoded,
        decode_tokens_per_second: per_second(generated.decoded, generated.decode),
    }
}
