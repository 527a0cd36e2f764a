//! The data that the command line names, checked against the model.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mqc_ir::{DType, Graph};
use mqc_training::options::{Loss, LossKind};

use super::Args;
use crate::cli::ui::UsageError;
use crate::data::required_inputs;
use crate::method::prepare;
use crate::train::Source;
use crate::train::data::{
    Classes, Content, Input, Samples, Stream, TextTokens, WindowInput, Windows, arrays,
};

impl Args {
    /// Samples or windows, checked against the model.
    pub(super) fn source(
        &self,
        graph: &Graph,
        loss: &Loss,
        text: Option<&PathBuf>,
        files: &[String],
    ) -> Result<Source> {
        let inputs = required_inputs(graph);
        let classes = prepare::classes(graph, &loss.output);
        if let Some(text) = text {
            let tokens = self.data.tokenizer.as_deref().map(TextTokens::from);
            let vocabulary = classes.unwrap_or(u64::from(u32::MAX)) as usize;
            let stream = Stream::open(text, tokens.as_ref(), vocabulary)?;
            let sequence = self.data.sequence.context(UsageError("--text needs --sequence".to_owned()))?;
            let mut columns = vec![];
            for (name, ty) in &inputs {
                columns.push(WindowInput {
                    name: name.clone(),
                    dtype: ty.dtype().unwrap_or(DType::I64),
                    content: content(name, inputs.len())?,
                });
            }
            if !loss.kind.has_teacher() {
                let content = if self.what.shift_labels { Content::Ids } else { Content::NextIds };
                columns.push(WindowInput { name: "labels".to_owned(), dtype: DType::I64, content });
            }
            return Ok(Source::Windows(Windows::new(stream, sequence, columns)?));
        }
        if files.is_empty() {
            bail!(UsageError("there is nothing to train on: give --data or --text".to_owned()));
        }
        let only = if inputs.len() == 1 { inputs.first().map(|(n, _)| n.as_str()) } else { None };
        let mut tensors = arrays::read(files, only)?;
        if let Some(labels) = tensors.remove(&self.data.labels) {
            tensors.insert("labels".to_owned(), labels);
        }
        let mut wanted: Vec<Input> = inputs.iter().map(|(name, ty)| Input::of(name, ty)).collect();
        if !loss.kind.has_teacher() {
            let output = graph.outputs().iter().find(|o| o.name == loss.output);
            let mut shape = output.map(|o| Input::of(&o.name, graph.ty(o.value)).shape).unwrap_or_default();
            let (dtype, classes) = match loss.kind {
                LossKind::CrossEntropy { ignore, .. } => {
                    shape.pop();
                    (DType::I64, classes.map(|count| Classes { count, ignore }))
                }
                _ => (DType::F32, None),
            };
            wanted.push(Input { name: "labels".to_owned(), dtype, shape, classes });
        }
        Ok(Source::Samples(Samples::new(&tensors, &wanted)?))
    }
}

/// What an input of a language model holds, by the names that exporters give.
fn content(name: &str, inputs: usize) -> Result<Content> {
    Ok(match name {
        "attention_mask" => Content::Ones,
        "token_type_ids" => Content::Zeros,
        "position_ids" => Content::Positions,
        "input_ids" | "tokens" => Content::Ids,
        _ if inputs == 1 => Content::Ids,
        _ => bail!(
            "input {name} is none that a text can fill (input_ids, attention_mask, token_type_ids, position_ids)"
        ),
    })
}
