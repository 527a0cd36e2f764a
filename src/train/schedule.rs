//! The learning rate of each step: linear warm-up, then constant or a decay.

use std::f64::consts::PI;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::usage::UsageError;

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Stays.
    Constant,
    /// Falls on a line.
    Linear,
    /// Falls on half a cosine.
    #[default]
    Cosine,
}

impl std::str::FromStr for Decay {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Decay, UsageError> {
        match text {
            "constant" => Ok(Decay::Constant),
            "linear" => Ok(Decay::Linear),
            "cosine" => Ok(Decay::Cosine),
            other => Err(UsageError(format!(
                "{other:?} is no schedule of learning rates; expected constant, linear or cosine"
            ))),
        }
    }
}

/// The learning rates of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest rate.
    pub rate: f32,
    /// Steps that climb to it from zero.
    pub warmup: u64,
    /// What follows.
    pub decay: Decay,
    /// What a decay ends at, as a share of `rate`.
    pub floor: f32,
    /// All steps.
    pub steps: u64,
}

impl Schedule {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<()> {
        if !(self.rate.is_finite() && self.rate > 0.0) {
            bail!(UsageError(format!("the learning rate is {}; expected more than 0", self.rate)));
        }
        if !(0.0..=1.0).contains(&self.floor) {
            bail!(UsageError(format!("the floor of the learning rate is {}; expected 0 to 1", self.floor)));
        }
        if self.steps == 0 {
            bail!(UsageError("the training has 0 steps; expected at least 1".to_owned()));
        }
        if self.warmup > self.steps {
            let (warmup, steps) = (self.warmup, self.steps);
            bail!(UsageError(format!("the warm-up of {warmup} steps is longer than the {steps} steps")));
        }
        Ok(())
    }

    /// The rate of a step; steps count from 1. The first step after the warm-up has the full rate, and no step has 0.
    pub fn rate(&self, step: u64) -> f32 {
        if step <= self.warmup {
            return (f64::from(self.rate) * step as f64 / self.warmup as f64) as f32;
        }
        let gone = (step - self.warmup - 1) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        let gone = gone.min(1.0);
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - gone,
            Decay::Cosine => 0.5 * (1.0 + (PI * gone).cos()),
        };
        let floor = f64::from(self.floor);
        (f64::from(self.rate) * (floor + (1.0 - floor) * left)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup: u64, decay: Decay, floor: f32) -> Schedule {
        Schedule { rate: 0.5, warmup, decay, floor, steps: 10 }
    }

    fn rates(schedule: Schedule) -> Vec<f32> {
        (1..=schedule.steps).map(|step| schedule.rate(step)).collect()
    }

    #[test]
    fn warm_up_climbs_and_the_decay_starts_at_the_full_rate() {
        let expected = [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5];
        assert_eq!(rates(schedule(4, Decay::Constant, 0.0)), expected);
        // Steps 6 to 10 have 5/5, 4/5, ... of the way left.
        let expected = [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1];
        assert_eq!(rates(schedule(5, Decay::Linear, 0.0)), expected);
        let floored = rates(schedule(5, Decay::Linear, 0.5));
        assert_eq!(floored[5..], [0.5, 0.45, 0.4, 0.35, 0.3]);
    }

    #[test]
    fn a_cosine_is_half_way_in_the_middle() {
        let rates = rates(schedule(0, Decay::Cosine, 0.2));
        assert_eq!((rates[0], rates[5]), (0.5, 0.3));
        assert!(rates.is_sorted_by(|a, b| a > b) && rates[9] > 0.1, "{rates:?}");
        // 1 + cos(0.9 pi) = 0.0489434837
        assert!((rates[9] - 0.5 * (0.2 + 0.8 * 0.024_471_74)).abs() < 1e-7);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = schedule(10, Decay::Cosine, 0.0);
        assert!(good.check().is_ok());
        let bad = [
            Schedule { rate: 0.0, ..good },
            Schedule { rate: f32::NAN, ..good },
            Schedule { floor: 1.5, ..good },
            Schedule { warmup: 11, ..good },
            Schedule { steps: 0, warmup: 0, ..good },
        ];
        assert!(bad.iter().all(|schedule| schedule.check().is_err()));
        assert_eq!("linear".parse::<Decay>().ok(), Some(Decay::Linear));
        assert!("step".parse::<Decay>().is_err());
    }
}
