//! Samples: arrays by input name with samples on the first axis.

use std::sync::Arc;

use anyhow::{Result, bail};
use mqc_ir::{DType, Tensor, Type};

use super::column::Column;
use super::{sampler, source};
use crate::data::Tensors;

/// An input that batches must have, labels too.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name, in the model and in the data.
    pub name: String,
    /// Element type that the model takes.
    pub dtype: DType,
    /// Shape of one sample, without the axis of the batch.
    pub shape: Vec<usize>,
    /// For class indices: which ones there are.
    pub classes: Option<Classes>,
}

impl Input {
    /// What a model's input of this type wants; `classes` is none.
    pub fn of(name: &str, ty: &Type) -> Input {
        let sizes = ty.shape().into_iter().flat_map(|s| s.iter().skip(1));
        let shape = sizes.filter_map(|d| d.size().map(|n| n as usize)).collect();
        Input { name: name.to_owned(), dtype: ty.dtype().unwrap_or(DType::F32), shape, classes: None }
    }
}

/// The class indices that labels may have: below `count`, or `ignore`.
#[derive(Clone, Copy, Debug)]
pub struct Classes {
    /// Number of classes.
    pub count: u64,
    /// The label of targets that do not count.
    pub ignore: Option<i64>,
}

/// Samples of a data set, all or a part.
#[derive(Clone)]
pub struct Samples {
    columns: Arc<Vec<Column>>,
    rows: Vec<usize>,
}

impl Samples {
    /// Checks arrays against the inputs of a model; arrays that it does not take are ignored. All values are looked at.
    ///
    /// # Errors
    /// A missing or misshapen array, different numbers of samples, no samples, elements of a type that does not become
    /// the model's, NaN or infinity, labels out of range.
    pub fn new(arrays: &Tensors, inputs: &[Input]) -> Result<Samples> {
        let mut columns: Vec<Column> = vec![];
        for input in inputs {
            let Some(array) = arrays.get(&input.name) else {
                let found: Vec<&str> = arrays.keys().map(String::as_str).collect();
                bail!("the data has no array {}; it has {}", input.name, found.join(", "));
            };
            let column = Column::new(input.clone(), array.clone())?;
            if let Some(first) = columns.first().filter(|first| first.rows() != column.rows()) {
                let (a, b) = (&first.input.name, &input.name);
                bail!("the data has {} samples of {a} but {} of {b}", first.rows(), column.rows());
            }
            columns.push(column);
        }
        let rows = columns.first().map_or(0, Column::rows);
        if rows == 0 {
            bail!("the data has no samples");
        }
        for column in &columns {
            column.check()?;
        }
        Ok(Samples { columns: Arc::new(columns), rows: (0..rows).collect() })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Two parts, chosen at random: to train on, and a share to validate on.
    pub fn split(self, share: f64, seed: u64) -> (Samples, Samples) {
        let (train, validation) = sampler::split(self.rows.len(), share, seed);
        let part = |rows: Vec<usize>| Samples {
            columns: self.columns.clone(),
            rows: rows.into_iter().map(|row| self.rows[row]).collect(),
        };
        (part(train), part(validation))
    }

    /// A batch of samples, which must be below [`Samples::len`].
    pub fn gather(&self, rows: &[usize]) -> Result<Tensors> {
        let mut batch = Tensors::new();
        for column in self.columns.iter() {
            let mut bytes = vec![];
            for &row in rows {
                column.append(self.rows[row], &mut bytes)?;
            }
            let shape = [&[rows.len()], column.input.shape.as_slice()].concat();
            let tensor = Tensor::new(column.input.dtype, shape, bytes.into())?;
            batch.insert(column.input.name.clone(), tensor);
        }
        Ok(batch)
    }

    /// Names, types, shapes and a digest.
    pub fn identity(&self) -> serde_json::Value {
        let describe = |column: &Column| {
            let (input, array) = (&column.input, column.array());
            let text = format!("{} {:?} {}", array.dtype(), array.shape(), source::digest(array.bytes()));
            (input.name.clone(), text.into())
        };
        let arrays: serde_json::Map<String, serde_json::Value> = self.columns.iter().map(describe).collect();
        serde_json::json!({ "samples": self.len(), "arrays": arrays })
    }
}
