//! What is read off one row of logits.

/// A row of logits with the logarithm of the sum of its exponentials.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    logits: &'a [f32],
    log_sum: f64,
}

impl<'a> Row<'a> {
    /// Reads the row once.
    pub fn new(logits: &'a [f32]) -> Row<'a> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from((x - most).exp())).sum();
        Row { logits, log_sum: f64::from(most) + sum.ln() }
    }

    /// Whether it is a distribution: no NaN, no positive infinity, not all negative infinity.
    pub fn is_finite(&self) -> bool {
        self.log_sum.is_finite()
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.logits.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.logits.is_empty()
    }

    /// The logarithm of the probability of a class, in nats; `None` if there is no such class.
    pub fn log_likelihood(&self, class: usize) -> Option<f64> {
        Some(f64::from(*self.logits.get(class)?) - self.log_sum)
    }

    /// The class with the greatest logit, the first of equals.
    pub fn greatest(&self) -> usize {
        let better = |best: (usize, f32), (i, x): (usize, &f32)| if *x > best.1 { (i, *x) } else { best };
        self.logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better).0
    }

    /// How many classes come before this one: those with a greater logit, and equals with a smaller number.
    pub fn rank(&self, class: usize) -> Option<usize> {
        let own = *self.logits.get(class)?;
        let before = |(i, x): &(usize, &f32)| **x > own || (**x == own && *i < class);
        Some(self.logits.iter().enumerate().filter(before).count())
    }

    /// Kullback-Leibler divergence of this distribution from `expected`, in nats: sum of p log(p / q) with p expected.
    /// Both have equally many classes.
    pub fn divergence(&self, expected: &Row) -> f64 {
        let term = |(p, q): (&f32, &f32)| {
            let log_p = f64::from(*p) - expected.log_sum;
            match f64::from((log_p as f32).exp()) {
                0.0 => 0.0,
                probability => probability * (log_p - (f64::from(*q) - self.log_sum)),
            }
        };
        expected.logits.iter().zip(self.logits).map(term).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn probabilities_by_hand() {
        // Probabilities 1/8, 2/8, 5/8.
        let logits = [1.0f32, 2.0, 5.0].map(f32::ln);
        let row = Row::new(&logits);
        close(row.log_likelihood(0).unwrap(), -(8f64.ln()));
        close(row.log_likelihood(2).unwrap(), (5.0f64 / 8.0).ln());
        // Far from zero, where a plain exp would overflow.
        close(Row::new(&[1000.0, 1000.0]).log_likelihood(1).unwrap(), -(2f64.ln()));
        assert_eq!(row.log_likelihood(3), None);
        assert_eq!(row.greatest(), 2);
        assert_eq!([0, 1, 2].map(|c| row.rank(c).unwrap()), [2, 1, 0]);
    }

    #[test]
    fn divergence_by_hand() {
        let p = [0.5f32, 0.25, 0.25].map(f32::ln);
        let q = [0.25f32, 0.25, 0.5].map(|q| q.ln() - 3.0);
        let (p, q) = (Row::new(&p), Row::new(&q));
        close(q.divergence(&p), 0.5 * 2f64.ln() - 0.25 * 2f64.ln());
        assert_eq!(p.divergence(&p), 0.0);
    }

    #[test]
    fn classes_without_probability() {
        let p = [0.0f32, f32::NEG_INFINITY];
        let q = [0.0f32, 0.0];
        let (p, q) = (Row::new(&p), Row::new(&q));
        assert!(p.is_finite());
        close(q.divergence(&p), 2f64.ln());
        assert_eq!(p.divergence(&q), f64::INFINITY);
        assert_eq!(p.log_likelihood(1), Some(f64::NEG_INFINITY));
    }

    #[test]
    fn rows_that_are_no_distribution() {
        for bad in [[0.0, f32::NAN], [f32::NAN, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(!Row::new(&bad).is_finite(), "{bad:?}");
        }
        assert!(!Row::new(&[]).is_finite());
    }

    #[test]
    fn equals_are_ordered_by_number() {
        let row = Row::new(&[1.0, 3.0, 3.0, 1.0]);
        assert_eq!(row.greatest(), 1);
        assert_eq!([0, 1, 2, 3].map(|c| row.rank(c).unwrap()), [2, 0, 1, 3]);
    }
}
