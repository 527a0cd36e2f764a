//! How well the next token of a text is predicted.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Models, Row, Windows};

/// Sums over scored tokens.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    tokens: u64,
    loss: f64,
    right: u64,
    not_finite: u64,
    bytes: Option<u64>,
    compared: Option<Compared>,
}

#[derive(Clone, Debug, Default)]
struct Compared {
    divergence: f64,
    same: u64,
}

/// What is known of a model on a text. Not finite is NaN, which JSON writes as null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// Tokens scored.
    pub tokens: u64,
    /// Mean negative log-likelihood of a token, in nats.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Negative log-likelihood of a byte of text, in bits; `None` where the text is not known.
    pub bits_per_byte: Option<f64>,
    /// Share of tokens that had the greatest probability.
    pub accuracy: f64,
    /// Mean Kullback-Leibler divergence from the reference for a token, in nats.
    pub kl: Option<f64>,
    /// Share of tokens where the reference finds the same token the most likely.
    pub top1_agreement: Option<f64>,
    /// Tokens whose logits were no distribution (NaN, infinity), of this model or of the reference.
    pub not_finite: u64,
}

impl Tally {
    /// Adds a token: the logits before it, those of the reference, and which it is.
    ///
    /// # Errors
    /// If the token is not in the vocabulary.
    pub fn add(&mut self, logits: &[f32], expected: Option<&[f32]>, token: u32) -> Result<()> {
        let row = Row::new(logits);
        let token = token as usize;
        let Some(log_likelihood) = row.log_likelihood(token) else {
            bail!("token {token} is outside of the model's vocabulary of {}", row.len());
        };
        let greatest = row.greatest();
        let mut finite = row.is_finite();
        if let Some(expected) = expected.map(Row::new) {
            let compared = self.compared.get_or_insert_default();
            compared.divergence += row.divergence(&expected);
            compared.same += u64::from(expected.greatest() == greatest);
            finite &= expected.is_finite();
        }
        self.tokens += 1;
        self.loss -= log_likelihood;
        self.right += u64::from(greatest == token);
        self.not_finite += u64::from(!finite);
        Ok(())
    }

    /// Adds bytes of text that the tokens stand for.
    pub fn add_bytes(&mut self, bytes: u64) {
        *self.bytes.get_or_insert_default() += bytes;
    }

    /// The means.
    pub fn finish(&self) -> Perplexity {
        let tokens = self.tokens as f64;
        let share = |count: u64| if self.not_finite > 0 { f64::NAN } else { count as f64 / tokens };
        let loss = if self.not_finite > 0 { f64::NAN } else { self.loss / tokens };
        let compared = self.compared.as_ref();
        Perplexity {
            tokens: self.tokens,
            loss,
            perplexity: loss.exp(),
            bits_per_byte: self.bytes.map(|bytes| loss * tokens / std::f64::consts::LN_2 / bytes as f64),
            accuracy: share(self.right),
            kl: compared.map(|c| if self.not_finite > 0 { f64::NAN } else { c.divergence / tokens }),
            top1_agreement: compared.map(|c| share(c.same)),
            not_finite: self.not_finite,
        }
    }
}

/// Tokens, and where in the text each stands if that is known.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The bytes of the text that each stands for.
    pub spans: Option<Vec<Range<usize>>>,
}

impl Tokens {
    fn bytes(&self, tokens: &Range<usize>) -> Option<u64> {
        let spans = self.spans.as_ref()?;
        let (first, last) = (spans.get(tokens.start)?, spans.get(tokens.end.checked_sub(1)?)?);
        Some(last.end.saturating_sub(first.start) as u64)
    }
}

/// Scores the windows with every model: one result each, the reference first. Calls `progress` with the number of
/// windows that are done.
///
/// # Errors
/// What the models say, windows that end after the tokens, and tokens outside of the vocabulary.
pub fn perplexity(
    tokens: &Tokens,
    windows: Windows,
    models: &mut Models,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Perplexity>> {
    let mut tallies = vec![Tally::default(); models.len()];
    let most = models.most_sequences(windows.length());
    let windows: Vec<_> = windows.collect();
    for batch in windows.chunks(most) {
        let sequence =
            |w: &super::Window| tokens.ids.get(w.read.clone()).context("a window ends after the text");
        let sequences = batch.iter().map(sequence).collect::<Result<Vec<_>>>()?;
        models.run(&sequences, &mut |index, logits, expected| {
            let Some(tally) = tallies.get_mut(index) else { return Ok(()) };
            for (number, (window, ids)) in batch.iter().zip(&sequences).enumerate() {
                let from = window.scored.start - window.read.start;
                for (position, token) in ids.iter().enumerate().skip(from) {
                    let row = logits.row(number, position - 1)?;
                    let expected = expected.map(|e| e.row(number, position - 1)).transpose()?;
                    tally.add(row, expected, *token)?;
                }
                if let Some(bytes) = tokens.bytes(&window.scored) {
                    tally.add_bytes(bytes);
                }
            }
            Ok(())
        })?;
        progress(batch.len() as u64);
    }
    Ok(tallies.iter().map(Tally::finish).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{LanguageModel, Logits};
    use super::*;

    /// Three tokens; after token t the logarithms of weights that depend on t, in any batch.
    fn table(weights: [[f32; 3]; 3]) -> impl LanguageModel {
        move |sequences: &[&[u32]]| {
            let positions = sequences[0].len();
            let rows = sequences.iter().copied().flatten().flat_map(|t| weights[*t as usize].map(f32::ln));
            Logits::new([sequences.len(), positions, 3], rows.collect())
        }
    }

    const FLOAT: [[f32; 3]; 3] = [[1.0, 2.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.0, 2.0]];
    const OTHER: [[f32; 3]; 3] = [[1.0, 1.0, 2.0], [2.0, 1.0, 1.0], [1.0, 1.0, 2.0]];

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn a_text_by_hand() {
        // Windows 0 1 0 1 and 0 1 2 2 score 0 1 and 2 2, after 1 0 and 1 2: 2/4, 2/4 and 1/4, 2/4.
        let spans = (0..6).map(|i| 2 * i..2 * i + 1).collect();
        let tokens = Tokens { ids: vec![0, 1, 0, 1, 2, 2], spans: Some(spans) };
        let windows = Windows::new(6, 4, 2).unwrap();
        let compared: Vec<Box<dyn LanguageModel>> = vec![Box::new(table(OTHER))];
        let mut models = Models { reference: Some(Box::new(table(FLOAT))), compared };
        let mut done = 0;
        let results = perplexity(&tokens, windows, &mut models, &mut |n| done += n).unwrap();
        assert_eq!(done, 2);
        let [float, other] = results.as_slice() else { panic!("{results:?}") };
        let bits = 1.0 + 1.0 + 2.0 + 1.0;
        close(float.loss, bits * 2f64.ln() / 4.0);
        close(float.perplexity, 2f64.powf(bits / 4.0));
        close(float.accuracy, 0.75);
        // Two tokens span three bytes with the one between them.
        close(float.bits_per_byte.unwrap(), bits / 6.0);
        assert_eq!((float.tokens, float.kl, float.top1_agreement, float.not_finite), (4, None, None, 0));
        // It differs after token 0 alone: of 4 scored tokens the second follows a 0.
        close(other.loss, (bits + 1.0) * 2f64.ln() / 4.0);
        close(other.kl.unwrap(), (0.5 - 0.25) * 2f64.ln() / 4.0);
        close(other.top1_agreement.unwrap(), 0.75);
    }

    #[test]
    fn nan_is_no_number() {
        let tokens = Tokens { ids: vec![0, 1, 2, 2], spans: None };
        let broken = [[1.0, 2.0, 1.0], [f32::NAN, 1.0, 1.0], [1.0, 1.0, 2.0]];
        let windows = Windows::new(4, 4, 4).unwrap();
        let result = perplexity(&tokens, windows, &mut Models::one(table(broken)), &mut |_| {}).unwrap();
        assert_eq!((result[0].tokens, result[0].not_finite), (3, 1));
        assert!([result[0].loss, result[0].perplexity, result[0].accuracy].iter().all(|x| x.is_nan()));
        let json = serde_json::to_value(&result[0]).unwrap();
        assert_eq!(json["perplexity"], serde_json::Value::Null);
    }

    #[test]
    fn a_token_outside_of_the_vocabulary() {
        let error = Tally::default().add(&[0.0; 3], None, 3).unwrap_err().to_string();
        assert!(error.contains("token 3") && error.contains("vocabulary of 3"), "{error}");
    }
}
