//! Text to tokens and back, from a `tokenizer.json` and the configuration files that lie beside it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::usage::UsageError;

/// Tokens that end a text in models that do not say which one does.
const WELL_KNOWN_ENDS: [&str; 8] = [
    "<|endoftext|>",
    "<|im_end|>",
    "</s>",
    "<eos>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
];

/// Files beside a tokenizer that say what a text ends with and how long it may be.
const CONFIGURATIONS: [&str; 2] = ["generation_config.json", "config.json"];

/// Prompt tokens that the text of the first new ones may depend on.
const CONTEXT: usize = 8;

/// A tokenizer.
pub struct Tokens {
    tokenizer: Tokenizer,
    configurations: Vec<Value>,
}

impl Tokens {
    /// Reads `tokenizer.json`, and `generation_config.json` and `config.json` where they lie beside it.
    pub fn open(path: &Path) -> Result<Tokens> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|e| anyhow!(e.to_string())).with_context(|| {
                format!("{} is not a tokenizer (tokenizer.json of Hugging Face)", path.display())
            })?;
        tokenizer.with_truncation(None).map_err(|e| anyhow!(e.to_string()))?;
        tokenizer.with_padding(None);
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut configurations = vec![];
        for path in CONFIGURATIONS.map(|name| folder.join(name)).iter().filter(|path| path.is_file()) {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let value =
                serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
            configurations.push(value);
        }
        Ok(Tokens { tokenizer, configurations })
    }

    /// Number of tokens; ids are below it.
    pub fn vocabulary(&self) -> usize {
        let largest = self.tokenizer.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// The most positions that the configuration beside the tokenizer allows.
    pub fn most_positions(&self) -> Option<usize> {
        let field = |c: &Value| c.get("max_position_embeddings").or(c.get("n_positions"))?.as_u64();
        self.configurations.iter().find_map(field).and_then(|n| usize::try_from(n).ok())
    }

    /// The tokens of a prompt, with what the tokenizer puts before a text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, true).map_err(|e| anyhow!(e.to_string()));
        let encoding = encoding.context("cannot tokenize the prompt")?;
        if encoding.get_ids().is_empty() {
            bail!(UsageError("the prompt has no tokens; give one with --prompt".to_owned()));
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens that end a text: `given` as texts of tokens or ids (`none` for none at all); without any, what the
    /// configuration says, else the tokens with well-known names.
    pub fn ends(&self, given: &[String]) -> Result<BTreeSet<u32>> {
        let mut ends = BTreeSet::new();
        for text in given.iter().filter(|text| *text != "none") {
            let id = self.tokenizer.token_to_id(text);
            let id = id.or_else(|| text.parse().ok().filter(|id| self.tokenizer.id_to_token(*id).is_some()));
            let message =
                || UsageError(format!("--eos {text:?} is no token of the tokenizer and not the id of one"));
            ends.insert(id.ok_or_else(message)?);
        }
        if !given.is_empty() {
            return Ok(ends);
        }
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        for configured in self.configurations.iter().filter_map(|c| c.get("eos_token_id")) {
            ends.extend(id(configured));
            ends.extend(configured.as_array().into_iter().flatten().filter_map(id));
        }
        if ends.is_empty() {
            ends.extend(WELL_KNOWN_ENDS.iter().filter_map(|token| self.tokenizer.token_to_id(token)));
        }
        Ok(ends)
    }

    /// Starts the text that follows `prompt`.
    pub fn stream(&self, prompt: &[u32]) -> Result<Stream<'_>> {
        let context = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        let mut stream = Stream { tokens: self, window: context, known: 0, shown: String::new() };
        stream.settle(stream.text()?)?;
        Ok(stream)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let text = self.tokenizer.decode(tokens, true).map_err(|e| anyhow!(e.to_string()));
        text.context("cannot turn tokens into text")
    }
}

/// Text out of tokens as they come. A character whose bytes are spread over tokens comes with the last of them.
pub struct Stream<'a> {
    tokens: &'a Tokens,
    /// The last tokens: those whose text is out, as context, and those that wait.
    window: Vec<u32>,
    /// How many of them are out.
    known: usize,
    /// The text of the window that is out.
    shown: String,
}

/// What stands for bytes that are no character (yet).
const INCOMPLETE: char = '\u{FFFD}';

impl Stream<'_> {
    /// Adds a token; returns the text that is now certain.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.window.push(token);
        let text = self.text()?;
        if text.ends_with(INCOMPLETE) {
            return Ok(String::new());
        }
        let new = self.unseen(&text);
        self.settle(text)?;
        Ok(new)
    }

    /// What is left at the end: characters that were never completed.
    pub fn finish(self) -> Result<String> {
        Ok(self.unseen(&self.text()?))
    }

    fn text(&self) -> Result<String> {
        self.tokens.decode(&self.window)
    }

    fn unseen(&self, text: &str) -> String {
        text.strip_prefix(&self.shown).or(text.get(self.shown.len()..)).unwrap_or_default().to_owned()
    }

    /// All of the window, `text`, is out: what was out before is no longer needed as context.
    fn settle(&mut self, text: String) -> Result<()> {
        self.shown = text;
        if self.known > 0 && self.known < self.window.len() {
            self.window.drain(..self.known);
            self.shown = self.text()?;
        }
        self.known = self.window.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as tokens in the spelling of byte-level BPE: 0 and 1 are the bytes of é, 2 is a, 3 is a space, 4 ends.
    const BYTES: &str = r#"{"version": "1.0", "added_tokens": [{"id": 4, "content": "</s>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"Ã": 0, "©": 1, "a": 2, "Ġ": 3}, "merges": []}}"#;

    fn open(files: &[(&str, &str)]) -> Result<Tokens> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Tokens::open(&folder.path().join("tokenizer.json"))
    }

    #[test]
    fn a_character_comes_with_its_last_byte() {
        let tokens = open(&[("tokenizer.json", BYTES)]).unwrap();
        assert_eq!(tokens.encode("é a").unwrap(), [0, 1, 3, 2]);
        let mut stream = tokens.stream(&[2, 3]).unwrap();
        let pieces: Vec<String> = [2, 0, 1, 3, 2, 4, 0].iter().map(|t| stream.push(*t).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "é", " ", "a", "", ""]);
        assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
    }

    #[test]
    fn ends_come_from_the_option_the_configuration_or_the_name() {
        let ends = |files: &[(&str, &str)], given: &[&str]| {
            let given: Vec<String> = given.iter().map(|g| g.to_string()).collect();
            open(&[&[("tokenizer.json", BYTES)], files].concat()).unwrap().ends(&given)
        };
        let list = ("generation_config.json", r#"{"eos_token_id": [2, 3]}"#);
        assert_eq!(ends(&[], &[]).unwrap(), BTreeSet::from([4]));
        assert_eq!(
            ends(&[list, ("config.json", r#"{"eos_token_id": 1}"#)], &[]).unwrap(),
            BTreeSet::from([1, 2, 3])
        );
        assert_eq!(ends(&[list], &["a", "1"]).unwrap(), BTreeSet::from([1, 2]));
        assert_eq!(ends(&[list], &["none"]).unwrap(), BTreeSet::new());
        assert!(ends(&[], &["b"]).is_err());
        assert!(ends(&[], &["5"]).is_err());
    }

    #[test]
    fn configurations_say_how_long_a_text_may_be() {
        let config = ("config.json", r#"{"max_position_embeddings": 2048}"#);
        assert_eq!(open(&[("tokenizer.json", BYTES), config]).unwrap().most_positions(), Some(2048));
        assert_eq!(open(&[("tokenizer.json", BYTES)]).unwrap().most_positions(), None);
        assert_eq!(open(&[("tokenizer.json", BYTES)]).unwrap().vocabulary(), 5);
        assert!(open(&[("tokenizer.json", BYTES), ("config.json", "{")]).is_err());
        assert!(open(&[("tokenizer.json", "{}")]).is_err());
    }
}
