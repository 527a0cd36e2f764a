//! A stream of tokens: token files, texts through a tokenizer, or the bytes of a text.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rayon::prelude::*;

use super::map::map;
use super::source;
use crate::generate::tokens::Tokens;
use crate::usage::UsageError;

/// Bytes of text that are tokenized at once; the pieces end with a line.
const PIECE: usize = 1 << 20;

/// Tokens that are compared with the vocabulary at once.
const BLOCK: usize = 1 << 16;

/// How a text becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextTokens {
    /// Every byte is a token.
    Bytes,
    /// A `tokenizer.json`.
    Tokenizer(PathBuf),
}

impl From<&str> for TextTokens {
    fn from(text: &str) -> TextTokens {
        if text == "bytes" { TextTokens::Bytes } else { TextTokens::Tokenizer(text.into()) }
    }
}

/// Tokens one after the other, in their file where they have one.
#[derive(Clone)]
pub struct Stream {
    bytes: Bytes,
    /// Bytes of a token, which is little-endian.
    size: usize,
}

impl Stream {
    /// Opens a file of tokens (`.u16`, `.u32`: little-endian) or a text (any other), whose tokens `text` makes.
    ///
    /// # Errors
    /// An unreadable or empty file, a text without `text` or that is not UTF-8, half a token at the end, a token that is
    /// not below `vocabulary`.
    pub fn open(path: &Path, text: Option<&TextTokens>, vocabulary: usize) -> Result<Stream> {
        let file = map(path)?;
        let stream = match (path.extension().and_then(|e| e.to_str()), text) {
            (Some("u16"), _) => Stream { bytes: file, size: 2 },
            (Some("u32"), _) => Stream { bytes: file, size: 4 },
            (_, Some(TextTokens::Bytes)) => Stream { bytes: file, size: 1 },
            (_, Some(TextTokens::Tokenizer(tokenizer))) => Stream {
                bytes: tokenize(&file, &Tokens::open(tokenizer)?)
                    .with_context(|| format!("cannot tokenize {}", path.display()))?,
                size: 4,
            },
            (_, None) => bail!(UsageError(format!(
                "{} is neither .u16 nor .u32; to read it as text, say with which tokenizer",
                path.display()
            ))),
        };
        stream.check(vocabulary).with_context(|| format!("cannot train on {}", path.display()))?;
        Ok(stream)
    }

    fn check(&self, vocabulary: usize) -> Result<()> {
        if self.bytes.is_empty() {
            bail!("it has no tokens");
        }
        if !self.bytes.len().is_multiple_of(self.size) {
            let (length, size) = (self.bytes.len(), self.size);
            bail!("it was cut: {length} bytes are no whole number of tokens of {size} bytes");
        }
        let large = |block: usize| {
            let end = (block + BLOCK).min(self.len());
            (block..end).zip(self.tokens(block, end - block)).find(|(_, token)| *token as usize >= vocabulary)
        };
        let blocks = (0..self.len()).into_par_iter().step_by(BLOCK);
        if let Some((place, token)) = blocks.find_map_first(large) {
            bail!("token {token} at place {place} is not below the vocabulary of {vocabulary}");
        }
        Ok(())
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `count` tokens from `start` on, or those that are left.
    pub fn tokens(&self, start: usize, count: usize) -> impl Iterator<Item = u32> + '_ {
        self.bytes.chunks_exact(self.size).skip(start).take(count).map(|token| {
            let mut wide = [0; 4];
            wide[..token.len()].copy_from_slice(token);
            u32::from_le_bytes(wide)
        })
    }

    /// The first part, and the last, which has `share` of the tokens.
    pub fn split(self, share: f64) -> (Stream, Stream) {
        let last = (self.len() as f64 * share).round() as usize;
        let place = (self.len() - last.min(self.len())) * self.size;
        let part = |bytes| Stream { bytes, size: self.size };
        (part(self.bytes.slice(..place)), part(self.bytes.slice(place..)))
    }

    /// sha256 over samples of the tokens.
    pub fn digest(&self) -> String {
        source::digest(&self.bytes)
    }
}

/// Tokens of 4 bytes.
fn tokenize(text: &[u8], tokens: &Tokens) -> Result<Bytes> {
    let text = std::str::from_utf8(text).context("it is not UTF-8")?;
    let encode = |piece: &str| -> Result<Vec<u8>> {
        Ok(tokens.encode(piece)?.into_iter().flat_map(u32::to_le_bytes).collect())
    };
    let pieces: Vec<Vec<u8>> = pieces(text).into_par_iter().map(encode).collect::<Result<_>>()?;
    Ok(pieces.concat().into())
}

/// Cuts a text behind line ends; a longer line is one piece.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = vec![];
    let mut rest = text;
    while !rest.is_empty() {
        let tail = rest.as_bytes().get(PIECE..).unwrap_or_default();
        let line = tail.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |n| PIECE + n + 1);
        let (piece, after) = rest.split_at(line);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_with_lines_and_lose_nothing() {
        let line = "ab\u{e9}\n".repeat(PIECE / 4);
        let cut = pieces(&line);
        assert_eq!(cut.len(), 2);
        assert!(cut.iter().all(|piece| piece.ends_with('\n')));
        assert_eq!(cut.concat(), line);
        let one = "x".repeat(2 * PIECE);
        assert_eq!(pieces(&one), [one.as_str()]);
        assert!(pieces("").is_empty());
    }
}
