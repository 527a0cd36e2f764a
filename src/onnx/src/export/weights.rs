//! Where the bytes of weights go.

use mqc_ir::Tensor;

use crate::Error;
use crate::file::ExternalWriter;
use crate::proto::StringStringEntryProto;

/// Decides, weight by weight in graph order, where the bytes go.
pub trait WeightSink {
    /// The `external_data` entries of the weight `name`; `None` keeps its bytes in the model. Not asked for strings.
    ///
    /// # Errors
    /// The bytes cannot be stored.
    fn place(&mut self, name: &str, tensor: &Tensor) -> Result<Option<Vec<StringStringEntryProto>>, Error>;
}

/// All weights in the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl WeightSink for Inline {
    fn place(&mut self, _: &str, _: &Tensor) -> Result<Option<Vec<StringStringEntryProto>>, Error> {
        Ok(None)
    }
}

/// Weights of at least `external_from` bytes in one file beside the model.
#[derive(Debug)]
pub struct ToFile {
    /// The file; call its `finish` once the model is built.
    pub writer: ExternalWriter,
    /// Least number of bytes of a weight that is moved.
    pub external_from: usize,
}

impl WeightSink for ToFile {
    fn place(&mut self, _: &str, tensor: &Tensor) -> Result<Option<Vec<StringStringEntryProto>>, Error> {
        match tensor.bytes().len() >= self.external_from.max(1) {
            true => self.writer.append(tensor.bytes()).map(Some),
            false => Ok(None),
        }
    }
}

/// A place in a file in the folder of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalLocation {
    /// Path of the file, relative to the folder of the model.
    pub location: String,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl ExternalLocation {
    /// The place that `external_data` entries name.
    ///
    /// # Errors
    /// An entry is absent or no number.
    pub fn from_entries(entries: &[StringStringEntryProto]) -> Result<ExternalLocation, Error> {
        let entry = |key: &'static str, expected: &'static str| {
            let value = entries.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
            value.ok_or_else(|| bad_entry(key, "absent", expected))
        };
        let number = |key: &'static str| {
            let expected = "a number of bytes";
            let text = entry(key, expected)?;
            text.parse().map_err(|_| bad_entry(key, text, expected))
        };
        let location = entry("location", "a file name")?.to_owned();
        Ok(ExternalLocation { location, offset: number("offset")?, length: number("length")? })
    }

    /// The `external_data` entries.
    pub fn entries(&self) -> Vec<StringStringEntryProto> {
        let entry =
            |key: &str, value| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        vec![
            entry("location", self.location.clone()),
            entry("offset", self.offset.to_string()),
            entry("length", self.length.to_string()),
        ]
    }
}

fn bad_entry(key: &'static str, found: &str, expected: &'static str) -> Error {
    Error::ExternalEntry { tensor: String::new(), key, found: found.to_owned(), expected }
}

/// Weights that are already stored where the function says; those without a place stay in the model.
#[derive(Clone, Copy, Debug)]
pub struct Located<F>(pub F);

impl<F: FnMut(&str, &Tensor) -> Option<ExternalLocation>> WeightSink for Located<F> {
    fn place(&mut self, name: &str, tensor: &Tensor) -> Result<Option<Vec<StringStringEntryProto>>, Error> {
        Ok(self.0(name, tensor).map(|place| place.entries()))
    }
}
