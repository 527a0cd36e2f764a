//! Choosing the next token from logits.

use anyhow::{Result, bail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::usage::UsageError;

/// How tokens are chosen. The filters apply in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides positive and multiplies negative logits of tokens that occurred, prompt included; 1 for none.
    pub repetition_penalty: f32,
    /// Divides the logits; at 0 the most likely token is taken and nothing below matters.
    pub temperature: f32,
    /// Only so many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the fewest most likely tokens whose probabilities add up to this; 1 for all.
    pub top_p: f32,
    /// Only tokens at least so likely as this times the most likely one; 0 for all.
    pub min_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token, always.
    pub fn greedy() -> Sampling {
        Sampling { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }

    /// # Errors
    /// A parameter outside of its range.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("--repetition-penalty", self.repetition_penalty, 1e-3, 1e3),
            ("--temperature", self.temperature, 0.0, 1e3),
            ("--top-p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("--min-p", self.min_p, 0.0, 1.0),
        ];
        for (option, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                bail!(UsageError(format!("{option} is {value}, expected a number from {least} to {most}")));
            }
        }
        Ok(())
    }
}

/// Chooses tokens one after the other: the same choices for the same seed and logits.
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    /// Whether a token occurred, by id.
    occurred: Vec<bool>,
}

impl Sampler {
    /// A sampler at its first choice.
    pub fn new(sampling: Sampling) -> Sampler {
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        Sampler { sampling, rng, occurred: vec![] }
    }

    /// Counts a token as occurred.
    pub fn observe(&mut self, token: u32) {
        let index = token as usize;
        if index >= self.occurred.len() {
            self.occurred.resize(index + 1, false);
        }
        self.occurred[index] = true;
    }

    /// The next token; counts as occurred. The lowest id wins among equals.
    ///
    /// # Errors
    /// A logit that is NaN, or none that is finite.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        if let Some(index) = logits.iter().position(|l| l.is_nan()) {
            bail!(
                "the model gives NaN as the logit of token {index}: a width that is too low, or a damaged model"
            );
        }
        let penalized = self.penalized(logits);
        let logits = penalized.as_deref().unwrap_or(logits);
        let Some(best) = largest(logits) else {
            bail!("the model gives no logits");
        };
        if !best.1.is_finite() {
            bail!("the largest logit is {}: a width that is too low, or a damaged model", best.1);
        }
        let token = if self.sampling.temperature == 0.0 {
            best.0
        } else {
            self.draw((0u32..).zip(logits.iter().copied()).collect(), best.1)
        };
        self.observe(token);
        Ok(token)
    }

    /// The logits after the penalty of tokens that occurred; none without a penalty.
    fn penalized(&self, logits: &[f32]) -> Option<Vec<f32>> {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 {
            return None;
        }
        let mut penalized = logits.to_vec();
        for (logit, _) in penalized.iter_mut().zip(&self.occurred).filter(|(_, occurred)| **occurred) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        Some(penalized)
    }

    /// Draws from the candidates that the filters leave. `most` is the largest logit.
    fn draw(&mut self, mut candidates: Vec<(u32, f32)>, most: f32) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_logit);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(by_logit);
        let mut weights: Vec<f64> =
            candidates.iter().map(|(_, logit)| f64::from((logit - most) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        if top_p < 1.0 {
            let mut sum = 0.0;
            let reaches = |weight: &f64| {
                sum += weight;
                sum >= f64::from(top_p) * total
            };
            let kept = weights.iter().position(reaches).map_or(weights.len(), |last| last + 1);
            weights.truncate(kept);
        }
        let kept = weights.iter().take_while(|w| **w >= f64::from(min_p)).count().max(1);
        weights.truncate(kept);
        let mut at = self.rng.random_range(0.0..1.0) * weights.iter().sum::<f64>();
        for (weight, (token, _)) in weights.iter().zip(&candidates) {
            if at < *weight {
                return *token;
            }
            at -= weight;
        }
        // Rounding may leave a remainder behind the last candidate.
        candidates[weights.len() - 1].0
    }
}

/// The first of the largest logits and its token.
fn largest(logits: &[f32]) -> Option<(u32, f32)> {
    (0u32..).zip(logits.iter().copied()).reduce(|a, b| if b.1 > a.1 { b } else { a })
}

#[cfg(test)]
mod tests {
    use std::f32::consts::LN_2;

    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..count).map(|_| sampler.choose(logits).unwrap()).collect()
    }

    fn hot() -> Sampling {
        Sampling { temperature: 1.0, seed: 7, ..Sampling::greedy() }
    }

    /// Log-probabilities of 1/2, 1/4, 1/8, 1/8, out of order.
    const LOGITS: [f32; 4] = [-3.0 * LN_2, -LN_2, -3.0 * LN_2, -2.0 * LN_2];

    #[test]
    fn temperature_zero_takes_the_largest_and_the_lowest_id_among_equals() {
        assert_eq!(draws(Sampling::greedy(), &LOGITS, 3), [1, 1, 1]);
        assert_eq!(draws(Sampling::greedy(), &[1.0, 2.0, 2.0], 1), [1]);
    }

    #[test]
    fn a_seed_gives_the_same_draws_and_another_seed_others() {
        let draws_of = |seed| draws(Sampling { seed, ..hot() }, &LOGITS, 64);
        assert_eq!(draws_of(1), draws_of(1));
        assert_ne!(draws_of(1), draws_of(2));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let drawn = draws(hot(), &LOGITS, 20_000);
        for (token, expected) in [(0, 0.125), (1, 0.5), (2, 0.125), (3, 0.25)] {
            let share = drawn.iter().filter(|t| **t == token).count() as f64 / drawn.len() as f64;
            assert!((share - expected).abs() < 0.015, "token {token}: {share}, expected {expected}");
        }
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let share = |temperature| {
            let drawn = draws(Sampling { temperature, ..hot() }, &LOGITS, 20_000);
            drawn.iter().filter(|t| **t == 1).count() as f64 / drawn.len() as f64
        };
        // At 1/2 the probabilities are squared: (1/4) / (1/4 + 1/16 + 2/64).
        assert!((share(0.5) - 0.25 / 0.34375).abs() < 0.015);
        assert!((share(100.0) - 0.25).abs() < 0.02);
    }

    #[test]
    fn top_k_keeps_the_k_most_likely() {
        let kept = |top_k| {
            let mut drawn = draws(Sampling { top_k, ..hot() }, &LOGITS, 2000);
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        assert_eq!(kept(1), [1]);
        assert_eq!(kept(2), [1, 3]);
        assert_eq!(kept(3), [0, 1, 3]);
        assert_eq!(kept(4), [0, 1, 2, 3]);
        assert_eq!(kept(0), [0, 1, 2, 3]);
        assert_eq!(kept(9), [0, 1, 2, 3]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_p() {
        let kept = |top_p| {
            let mut drawn = draws(Sampling { top_p, ..hot() }, &LOGITS, 2000);
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        assert_eq!(kept(0.01), [1]);
        assert_eq!(kept(0.49), [1]);
        assert_eq!(kept(0.51), [1, 3]);
        assert_eq!(kept(0.8), [0, 1, 3]);
        assert_eq!(kept(1.0), [0, 1, 2, 3]);
    }

    #[test]
    fn min_p_keeps_those_near_the_most_likely() {
        let kept = |min_p| {
            let mut drawn = draws(Sampling { min_p, ..hot() }, &LOGITS, 2000);
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        assert_eq!(kept(0.6), [1]);
        assert_eq!(kept(0.4), [1, 3]);
        assert_eq!(kept(0.2), [0, 1, 2, 3]);
        assert_eq!(kept(1.0), [1]);
    }

    #[test]
    fn a_repetition_penalty_lowers_what_occurred() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
        assert_eq!(draws(sampling.clone(), &[3.0, 2.0, 1.9], 3), [0, 1, 2]);
        assert_eq!(draws(sampling, &[-1.0, -1.5, -9.0], 2), [0, 1]);
    }

    #[test]
    fn logits_that_are_no_numbers_are_errors() {
        let choose = |logits: &[f32]| Sampler::new(Sampling::greedy()).choose(logits);
        assert!(choose(&[0.0, f32::NAN]).unwrap_err().to_string().contains("token 1"));
        assert!(choose(&[f32::NEG_INFINITY; 2]).is_err());
        assert!(choose(&[0.0, f32::INFINITY]).is_err());
        assert!(choose(&[]).is_err());
        assert_eq!(choose(&[f32::NEG_INFINITY, 0.0]).unwrap(), 1);
    }

    #[test]
    fn parameters_out_of_range_are_errors() {
        assert!(hot().check().is_ok());
        for wrong in [
            Sampling { temperature: -1.0, ..hot() },
            Sampling { temperature: f32::NAN, ..hot() },
            Sampling { top_p: 0.0, ..hot() },
            Sampling { top_p: 1.5, ..hot() },
            Sampling { min_p: -0.1, ..hot() },
            Sampling { repetition_penalty: 0.0, ..hot() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
