//! Tokens of texts, with the bytes that each stands for, and files of tokens.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use super::perplexity::Tokens;
use crate::usage::UsageError;

/// How a text becomes tokens.
pub enum Tokenizer {
    /// Every byte is a token.
    Bytes,
    /// A `tokenizer.json`.
    Trained(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; the path `bytes` is [`Tokenizer::Bytes`].
    ///
    /// # Errors
    /// If the file cannot be read or is no tokenizer.
    pub fn open(path: &Path) -> Result<Tokenizer> {
        if path.as_os_str() == "bytes" {
            return Ok(Tokenizer::Bytes);
        }
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut tokenizer =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| anyhow!(e.to_string())).with_context(
                || format!("{} is not a tokenizer (tokenizer.json of Hugging Face)", path.display()),
            )?;
        tokenizer.with_truncation(None).map_err(|e| anyhow!(e.to_string()))?;
        tokenizer.with_padding(None);
        Ok(Tokenizer::Trained(Box::new(tokenizer)))
    }

    /// The tokens of a text with what the tokenizer puts around it, none of an empty one.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let tokenizer = match self {
            Tokenizer::Bytes => {
                let ids = text.bytes().map(u32::from).collect();
                return Ok(Tokens { ids, spans: Some((0..text.len()).map(|i| i..i + 1).collect()) });
            }
            Tokenizer::Trained(tokenizer) => tokenizer,
        };
        let encoding = tokenizer.encode(text, true).map_err(|e| anyhow!(e.to_string()))?;
        let spans = spans(encoding.get_offsets());
        Ok(Tokens { ids: encoding.get_ids().to_vec(), spans: Some(spans) })
    }
}

/// Tokens that stand for nothing, such as the one that begins a text, lie where the token before them ends.
fn spans(offsets: &[(usize, usize)]) -> Vec<Range<usize>> {
    let mut end = 0;
    let place = |&(from, to): &(usize, usize)| {
        let span = if from < to { from..to } else { end..end };
        end = span.end;
        span
    };
    offsets.iter().map(place).collect()
}

/// The tokens of a text file.
///
/// # Errors
/// A file that cannot be read or is not UTF-8, and what the tokenizer says.
pub fn read_text(path: &Path, tokenizer: &Tokenizer) -> Result<Tokens> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    tokenizer.encode(&text).with_context(|| format!("cannot tokenize {}", path.display()))
}

/// The tokens of a file of little-endian integers: of 16 bits in a `.u16` file, of 32 in a `.u32` file.
///
/// # Errors
/// A file that cannot be read, of another name, or that ends inside of a token.
pub fn read_tokens(path: &Path) -> Result<Tokens> {
    let size = match path.extension().and_then(|e| e.to_str()) {
        Some("u16") => 2,
        Some("u32") => 4,
        Some(_) | None => bail!(UsageError(format!(
            "{} does not say what it holds; tokens lie in .u16 or .u32 files (little-endian)",
            path.display()
        ))),
    };
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !bytes.len().is_multiple_of(size) {
        bail!(UsageError(format!(
            "{} was cut: {} bytes are no whole number of tokens of {size} bytes",
            path.display(),
            bytes.len()
        )));
    }
    let ids = match size {
        2 => bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
    };
    Ok(Tokens { ids, spans: None })
}

/// Fails when a token is not below the size of the vocabulary.
///
/// # Errors
/// Names the first such token and its place.
pub fn check_vocabulary(tokens: &[u32], vocabulary: u64) -> Result<()> {
    match tokens.iter().enumerate().find(|(_, id)| u64::from(**id) >= vocabulary) {
        None => Ok(()),
        Some((place, id)) => bail!(UsageError(format!(
            "token {id} at place {place} is outside of the model's vocabulary of {vocabulary}; is the tokenizer the model's?"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_without_text_lie_where_the_last_one_ends() {
        assert_eq!(spans(&[(0, 0), (0, 2), (3, 5), (0, 0)]), [0..0, 0..2, 3..5, 5..5]);
    }

    #[test]
    fn bytes_are_tokens() {
        let tokens = Tokenizer::open(Path::new("bytes")).unwrap().encode("aé").unwrap();
        assert_eq!(tokens.ids, [97, 195, 169]);
        assert_eq!(tokens.spans.unwrap(), [0..1, 1..2, 2..3]);
    }

    #[test]
    fn token_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            read_tokens(&path).map(|t| t.ids).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(write("a.u16", &[1, 0, 0, 2]).unwrap(), [1, 512]);
        assert_eq!(write("a.u32", &[1, 0, 0, 2]).unwrap(), [1 + (2 << 24)]);
        assert!(write("b.u16", &[1, 0, 0]).unwrap_err().contains("b.u16 was cut: 3 bytes"));
        assert!(write("b.bin", &[1, 0]).unwrap_err().contains(".u16 or .u32"));
        assert!(check_vocabulary(&[3, 9, 4], 10).is_ok());
        let error = check_vocabulary(&[3, 9, 4], 9).unwrap_err().to_string();
        assert!(error.contains("token 9 at place 1") && error.contains("vocabulary of 9"), "{error}");
    }
}
