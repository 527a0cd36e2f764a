//! What perplexity and questions need of a model: logits of sequences.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use mqc_ir::Tensor;

use crate::load::f32_values;

/// Tokens of one run unless a model says otherwise: with a vocabulary of 50,000 their logits are 0.2 GB.
const TOKENS: usize = 1024;

/// Something that predicts the next token after each of a sequence.
pub trait LanguageModel {
    /// Logits after every token of every sequence. Sequences may differ in length: rows past the end of one mean
    /// nothing.
    fn logits(&mut self, sequences: &[&[u32]]) -> Result<Logits>;

    /// Sequences of at most `positions` tokens for one run.
    fn most_sequences(&self, positions: usize) -> usize {
        sequences_of(positions)
    }
}

/// Sequences of a run of [`TOKENS`] tokens, at least one.
pub(super) fn sequences_of(positions: usize) -> usize {
    (TOKENS / positions.max(1)).max(1)
}

impl<F: FnMut(&[&[u32]]) -> Result<Logits>> LanguageModel for F {
    fn logits(&mut self, sequences: &[&[u32]]) -> Result<Logits> {
        self(sequences)
    }
}

/// Logits `[sequences, positions, vocabulary]`.
pub struct Logits {
    values: Values,
    shape: [usize; 3],
}

enum Values {
    /// f32 in memory order, aligned.
    Bytes(Bytes),
    Floats(Vec<f32>),
}

impl Logits {
    /// Values in row-major order.
    ///
    /// # Errors
    /// If their number is not that of the shape.
    pub fn new(shape: [usize; 3], values: Vec<f32>) -> Result<Logits> {
        if shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size)) != Some(values.len()) {
            bail!("{} logits are not {shape:?}", values.len());
        }
        Ok(Logits { values: Values::Floats(values), shape })
    }

    /// The elements of a tensor, not copied if they are f32.
    ///
    /// # Errors
    /// If it is not a float tensor of rank 3.
    pub fn from_tensor(tensor: Tensor) -> Result<Logits> {
        let &[sequences, positions, vocabulary] = tensor.shape() else {
            bail!("the logits are {:?}, expected [batch, positions, vocabulary]", tensor.shape());
        };
        let values = match f32_values(&tensor).context("logits")? {
            std::borrow::Cow::Borrowed(_) => Values::Bytes(tensor.bytes().clone()),
            std::borrow::Cow::Owned(values) => Values::Floats(values),
        };
        Ok(Logits { values, shape: [sequences, positions, vocabulary] })
    }

    /// Sequences, positions, vocabulary.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The logits after token `position` of a sequence, `[vocabulary]`.
    ///
    /// # Errors
    /// If the model gave no such row.
    pub fn row(&self, sequence: usize, position: usize) -> Result<&[f32]> {
        let [sequences, positions, vocabulary] = self.shape;
        let values = match &self.values {
            Values::Bytes(bytes) => bytemuck::try_cast_slice(bytes).unwrap_or_default(),
            Values::Floats(values) => values.as_slice(),
        };
        let start = (sequence * positions + position) * vocabulary;
        let row =
            values.get(start..start + vocabulary).filter(|_| sequence < sequences && position < positions);
        row.with_context(|| {
            format!("the logits are {:?}: nothing after token {position} of sequence {sequence}", self.shape)
        })
    }
}

/// Takes the number of a model, its logits and those of the reference.
pub type Visit<'a> = dyn FnMut(usize, &Logits, Option<&Logits>) -> Result<()> + 'a;

/// Models that read the same, and the one that they are compared with.
#[derive(Default)]
pub struct Models<'a> {
    /// What the others are compared with, usually the float model.
    pub reference: Option<Box<dyn LanguageModel + 'a>>,
    /// The others.
    pub compared: Vec<Box<dyn LanguageModel + 'a>>,
}

impl<'a> Models<'a> {
    /// One model, compared with nothing.
    pub fn one(model: impl LanguageModel + 'a) -> Models<'a> {
        Models { reference: None, compared: vec![Box::new(model)] }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.compared.len() + usize::from(self.reference.is_some())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sequences of at most `positions` tokens that every model takes in one run.
    pub fn most_sequences(&self, positions: usize) -> usize {
        let all = self.reference.iter().chain(&self.compared);
        all.map(|m| m.most_sequences(positions)).min().unwrap_or(1).max(1)
    }

    /// Runs every model, the reference first, and hands out its number, its logits and those of the reference. Logits
    /// of two models at a time are in memory.
    pub fn run(&mut self, sequences: &[&[u32]], visit: &mut Visit) -> Result<()> {
        let expected = self.reference.as_mut().map(|m| m.logits(sequences)).transpose()?;
        if let Some(logits) = &expected {
            visit(0, logits, None)?;
        }
        let first = usize::from(expected.is_some());
        for (index, model) in self.compared.iter_mut().enumerate() {
            let logits = model.logits(sequences)?;
            let [.., vocabulary] = logits.shape();
            if let Some([.., other]) = expected.as_ref().map(Logits::shape)
                && vocabulary != other
            {
                bail!("the model has a vocabulary of {vocabulary}, the float model of {other}");
            }
            visit(first + index, &logits, expected.as_ref())?;
        }
        Ok(())
    }
}
