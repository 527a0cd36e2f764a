//! Which tokens are read together, and which of them are scored.

use std::ops::Range;

use anyhow::{Result, bail};

use crate::usage::UsageError;

/// Tokens that a model reads together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens that it reads.
    pub read: Range<usize>,
    /// Those of them whose probability counts; the others are context. Ends where `read` ends.
    pub scored: Range<usize>,
}

/// Windows of equal length that start every `stride` tokens; in each the last `stride` tokens are scored. Tokens after
/// the last whole window are left out. Fewer tokens than a window are one window, scored from the second token on.
#[derive(Clone, Debug)]
pub struct Windows {
    length: usize,
    unscored: usize,
    step: usize,
    next: usize,
    left: usize,
}

impl Windows {
    /// The windows of `tokens` tokens.
    ///
    /// # Errors
    /// Fewer than two tokens, a length below two, or a stride that is 0 or longer than the window.
    pub fn new(tokens: usize, length: usize, stride: usize) -> Result<Windows> {
        if length < 2 {
            bail!(UsageError(format!("a window of {length} tokens predicts none; it needs at least 2")));
        }
        if stride == 0 || stride > length {
            bail!(UsageError(format!("a stride of {stride} is not between 1 and the window of {length}")));
        }
        if tokens < 2 {
            bail!(UsageError(format!("{tokens} tokens are too few: the first of a text is not predicted")));
        }
        if tokens < length {
            return Ok(Windows { length: tokens, unscored: 1, step: stride, next: 0, left: 1 });
        }
        // Nothing predicts the first token of a window.
        let unscored = (length - stride).max(1);
        Ok(Windows { length, unscored, step: stride, next: 0, left: (tokens - length) / stride + 1 })
    }

    /// At most `limit` of them, evenly spaced.
    pub fn evenly(mut self, limit: usize) -> Windows {
        if limit > 0 && limit < self.left {
            self.step *= self.left / limit;
            self.left = limit;
        }
        self
    }

    /// Tokens that a window reads.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Iterator for Windows {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        self.left = self.left.checked_sub(1)?;
        let read = self.next..self.next + self.length;
        self.next += self.step;
        Some(Window { scored: read.start + self.unscored..read.end, read })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Windows {}

/// At most `limit` of the items, evenly spaced; all without a limit.
pub fn evenly<T>(items: Vec<T>, limit: Option<usize>) -> Vec<T> {
    match limit {
        Some(limit) if limit > 0 && limit < items.len() => {
            let step = items.len() / limit;
            items.into_iter().step_by(step).take(limit).collect()
        }
        Some(_) | None => items,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(tokens: usize, length: usize, stride: usize) -> Vec<(Range<usize>, Range<usize>)> {
        Windows::new(tokens, length, stride).unwrap().map(|w| (w.read, w.scored)).collect()
    }

    #[test]
    fn overlap_is_context() {
        assert_eq!(windows(11, 6, 2), [(0..6, 4..6), (2..8, 6..8), (4..10, 8..10)]);
        assert_eq!(windows(6, 6, 2), [(0..6, 4..6)]);
    }

    #[test]
    fn nothing_predicts_a_first_token() {
        assert_eq!(windows(9, 4, 4), [(0..4, 1..4), (4..8, 5..8)]);
        assert_eq!(windows(5, 6, 2), [(0..5, 1..5)]);
        assert_eq!(windows(2, 6, 6), [(0..2, 1..2)]);
    }

    #[test]
    fn a_limit_spaces_evenly() {
        let starts = |limit| {
            let windows = Windows::new(22, 4, 2).unwrap().evenly(limit);
            assert_eq!(windows.len(), windows.clone().count());
            windows.map(|w| w.read.start).collect::<Vec<_>>()
        };
        assert_eq!(starts(4), [0, 4, 8, 12]);
        assert_eq!(starts(3), [0, 6, 12]);
        assert_eq!(starts(100).len(), 10);
        let items: Vec<usize> = (0..10).map(|i| 2 * i).collect();
        assert_eq!(evenly(items.clone(), Some(4)), starts(4));
        assert_eq!(evenly(items.clone(), Some(3)), starts(3));
        assert_eq!(evenly(items.clone(), None), items);
    }

    #[test]
    fn sizes_that_cannot_be() {
        for (tokens, length, stride) in [(9, 1, 1), (9, 4, 0), (9, 4, 5), (1, 4, 2), (0, 4, 2)] {
            assert!(Windows::new(tokens, length, stride).is_err(), "{tokens} {length} {stride}");
        }
    }
}
