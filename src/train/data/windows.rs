//! Windows of a token stream: each gives `sequence` inputs and the tokens that follow them.

use anyhow::{Result, bail};
use mqc_ir::{DType, Tensor};

use super::Stream;
use crate::data::Tensors;
use crate::usage::UsageError;

/// An integer input of shape [batch, sequence], made from a window.
#[derive(Clone, Debug)]
pub struct WindowInput {
    /// Its name in the model.
    pub name: String,
    /// i64 or i32.
    pub dtype: DType,
    /// What it holds.
    pub content: Content,
}

/// What an input of a language model holds at position `p` of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Token `p`.
    Ids,
    /// Token `p + 1`: the labels.
    NextIds,
    /// 1, as in an attention mask.
    Ones,
    /// 0, as in token types.
    Zeros,
    /// `p`.
    Positions,
}

/// Windows of `sequence + 1` tokens, which overlap by one: every token is predicted once.
#[derive(Clone)]
pub struct Windows {
    stream: Stream,
    sequence: usize,
    inputs: Vec<WindowInput>,
}

impl Windows {
    /// # Errors
    /// A sequence of no tokens, an input that is neither i64 nor i32.
    pub fn new(stream: Stream, sequence: usize, inputs: Vec<WindowInput>) -> Result<Windows> {
        if sequence == 0 {
            bail!(UsageError("the sequence has 0 tokens; expected at least 1".to_owned()));
        }
        if let Some(input) = inputs.iter().find(|i| !matches!(i.dtype, DType::I64 | DType::I32)) {
            bail!("input {} has elements of type {}; tokens are i64 or i32", input.name, input.dtype);
        }
        Ok(Windows { stream, sequence, inputs })
    }

    /// Number of windows one after the other from the start.
    pub fn len(&self) -> usize {
        self.stream.len().saturating_sub(1) / self.sequence
    }

    /// Whether the stream is too short for one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of windows wherever below [`Windows::sequence`] the first starts.
    pub fn len_at_any_offset(&self) -> usize {
        self.stream.len().saturating_sub(self.sequence) / self.sequence
    }

    /// Tokens of a window that are inputs.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The windows of the first part, and those of the last, which has `share` of the tokens.
    pub fn split(self, share: f64) -> (Windows, Windows) {
        let (first, last) = self.stream.split(share);
        let validation = Windows { stream: last, sequence: self.sequence, inputs: self.inputs.clone() };
        (Windows { stream: first, ..self }, validation)
    }

    /// A batch of windows by number, where window 0 starts at `offset`.
    pub fn gather(&self, windows: &[usize], offset: usize) -> Result<Tensors> {
        let shape = vec![windows.len(), self.sequence];
        let mut tokens: Vec<u32> = vec![];
        for &window in windows {
            tokens.extend(self.stream.tokens(offset + window * self.sequence, self.sequence + 1));
        }
        if tokens.len() != windows.len() * (self.sequence + 1) {
            bail!("a window reaches behind the end of the tokens");
        }
        let mut batch = Tensors::new();
        for input in &self.inputs {
            let window = |window: &[u32], p: usize| match input.content {
                Content::Ids => i64::from(window[p]),
                Content::NextIds => i64::from(window[p + 1]),
                Content::Ones => 1,
                Content::Zeros => 0,
                Content::Positions => p as i64,
            };
            let values = tokens
                .chunks_exact(self.sequence + 1)
                .flat_map(|tokens| (0..self.sequence).map(move |p| window(tokens, p)));
            let bytes: Vec<u8> = match input.dtype {
                // Tokens and positions that i32 cannot hold have no row in any table of a model.
                DType::I32 => values.flat_map(|v| (v as i32).to_le_bytes()).collect(),
                _ => values.flat_map(i64::to_le_bytes).collect(),
            };
            batch.insert(input.name.clone(), Tensor::new(input.dtype, shape.clone(), bytes.into())?);
        }
        Ok(batch)
    }
}
