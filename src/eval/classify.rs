//! How often a classifier is right, and how often it agrees with another.

use anyhow::{Result, bail};
use serde::Serialize;

use super::Row;
use crate::usage::UsageError;

/// Places that count for top-5.
const FIRST: usize = 5;

/// Sums over samples.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    samples: u64,
    labelled: u64,
    right: u64,
    right_top5: u64,
    loss: f64,
    /// Whether there are more than five classes.
    many_classes: bool,
    not_finite: u64,
    compared: Option<Compared>,
}

#[derive(Clone, Debug, Default)]
struct Compared {
    divergence: f64,
    same: u64,
    in_top5: u64,
    cosine: f64,
}

/// What is known of a classifier. Not finite is NaN, which JSON writes as null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Rows of classes that were looked at.
    pub samples: u64,
    /// Share of samples whose label has the greatest logit; `None` without labels, like the next two.
    pub accuracy: Option<f64>,
    /// Share of samples whose label is among the five greatest; `None` with five classes or fewer.
    pub top5_accuracy: Option<f64>,
    /// Mean negative log-likelihood of the label, in nats.
    pub loss: Option<f64>,
    /// Mean Kullback-Leibler divergence from the reference, in nats; `None` without one, like those that follow.
    pub kl: Option<f64>,
    /// Share of samples where the reference finds the same class the most likely.
    pub top1_agreement: Option<f64>,
    /// Share of samples where the reference's most likely class is among the five greatest.
    pub reference_in_top5: Option<f64>,
    /// Mean cosine of the logits and the reference's.
    pub cosine: Option<f64>,
    /// Samples whose logits were no distribution (NaN, infinity), of this model or of the reference.
    pub not_finite: u64,
}

impl Tally {
    /// Adds a sample: its logits, those of the reference (of the same length), and its class.
    ///
    /// # Errors
    /// If the label is none of the classes.
    pub fn add(&mut self, logits: &[f32], expected: Option<&[f32]>, label: Option<usize>) -> Result<()> {
        let row = Row::new(logits);
        let mut finite = row.is_finite();
        if let Some(label) = label {
            let (Some(rank), Some(log_likelihood)) = (row.rank(label), row.log_likelihood(label)) else {
                bail!(UsageError(format!("label {label} is none of the {} classes", row.len())));
            };
            self.labelled += 1;
            self.right += u64::from(row.greatest() == label);
            self.right_top5 += u64::from(rank < FIRST);
            self.loss -= log_likelihood;
        }
        if let Some(values) = expected {
            let expected = Row::new(values);
            let compared = self.compared.get_or_insert_default();
            let answer = expected.greatest();
            compared.divergence += row.divergence(&expected);
            compared.same += u64::from(answer == row.greatest());
            compared.in_top5 += u64::from(row.rank(answer).is_some_and(|rank| rank < FIRST));
            compared.cosine += cosine(logits, values);
            finite &= expected.is_finite();
        }
        self.samples += 1;
        self.many_classes |= row.len() > FIRST;
        self.not_finite += u64::from(!finite);
        Ok(())
    }

    /// The means.
    pub fn finish(&self) -> Accuracy {
        let over =
            |count: u64| move |sum: f64| if self.not_finite > 0 { f64::NAN } else { sum / count as f64 };
        let labelled = (self.labelled > 0).then_some(over(self.labelled));
        let compared = self.compared.as_ref().map(|c| (c, over(self.samples)));
        Accuracy {
            samples: self.samples,
            accuracy: labelled.map(|mean| mean(self.right as f64)),
            top5_accuracy: labelled.filter(|_| self.many_classes).map(|mean| mean(self.right_top5 as f64)),
            loss: labelled.map(|mean| mean(self.loss)),
            kl: compared.map(|(c, mean)| mean(c.divergence)),
            top1_agreement: compared.map(|(c, mean)| mean(c.same as f64)),
            reference_in_top5: compared.filter(|_| self.many_classes).map(|(c, mean)| mean(c.in_top5 as f64)),
            cosine: compared.map(|(c, mean)| mean(c.cosine)),
            not_finite: self.not_finite,
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Option<f64>, b: f64) {
        assert!(a.is_some_and(|a| (a - b).abs() < 1e-6), "{a:?} is not {b}");
    }

    #[test]
    fn by_hand() {
        let mut tally = Tally::default();
        let row = [0.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        tally.add(&row, None, Some(1)).unwrap();
        tally.add(&row, None, Some(5)).unwrap();
        tally.add(&row, None, Some(6)).unwrap();
        tally.add(&[1.0; 7], None, Some(0)).unwrap();
        let found = tally.finish();
        assert_eq!((found.samples, found.accuracy, found.top5_accuracy), (4, Some(0.5), Some(0.75)));
        let log_sum = row.iter().map(|x: &f32| f64::from(*x).exp()).sum::<f64>().ln();
        close(found.loss, (3.0 * log_sum - 6.0 - 2.0 - 1.0 + 7f64.ln()) / 4.0);
        assert_eq!((found.kl, found.top1_agreement, found.cosine), (None, None, None));
    }

    #[test]
    fn few_classes_have_no_top_5() {
        let mut tally = Tally::default();
        tally.add(&[0.0, 1.0], Some(&[1.0, 0.0]), Some(0)).unwrap();
        tally.add(&[3.0, 4.0], Some(&[6.0, 8.0]), Some(1)).unwrap();
        let found = tally.finish();
        assert_eq!((found.accuracy, found.top5_accuracy, found.reference_in_top5), (Some(0.5), None, None));
        assert_eq!(found.top1_agreement, Some(0.5));
        close(found.cosine, 0.5);
    }

    #[test]
    fn without_labels() {
        let mut tally = Tally::default();
        tally.add(&[0.0, 1.0], Some(&[0.0, 1.0]), None).unwrap();
        let found = tally.finish();
        assert_eq!(
            (found.accuracy, found.loss, found.kl, found.top1_agreement),
            (None, None, Some(0.0), Some(1.0))
        );
    }

    #[test]
    fn nan_and_labels_that_are_no_class() {
        let mut tally = Tally::default();
        tally.add(&[0.0, f32::NAN], None, Some(0)).unwrap();
        let found = tally.finish();
        assert!(found.not_finite == 1 && found.accuracy.is_some_and(f64::is_nan));
        let error = tally.add(&[0.0, 1.0], None, Some(2)).unwrap_err().to_string();
        assert!(error.contains("label 2") && error.contains("2 classes"), "{error}");
    }
}
