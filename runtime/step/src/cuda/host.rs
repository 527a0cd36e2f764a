//! Work that has no kernel: its operands are copied to the host, the plain definition computes, results are copied back.

use mqc_ir::quant::Width;
use mqc_kernels::nested::NestedWeight;

use super::Engine;
use crate::Kind;
use crate::array::Data;
use crate::graph::Net;
use crate::lower;
use crate::lower::task::{Nested, Task, Work};
use crate::plain::gather;

/// The values that a task reads, in the order of `Task::reads`, to those that it writes.
pub(super) fn compute(
    net: &Net,
    task: &Task,
    read: &[Data<f32>],
    engine: &Engine,
    width: Option<Width>,
) -> Result<Vec<Data<f32>>, String> {
    match &task.work {
        Work::Plain(args) => {
            let mut read = read.iter().map(Data::slice);
            net.plain(task.step, args.iter().map(|view| view.as_ref().and_then(|_| read.next())))
        }
        Work::Nested { kind: Nested::Gather { layer }, .. } => {
            let weight = engine.weight(layer).ok_or_else(|| format!("layer {layer} has no weight"))?;
            let Some(Data::Int(indices)) = read.first() else {
                return Err("the indices are no integers".to_owned());
            };
            let rows: Vec<usize> =
                indices.iter().map(|index| gather::place(*index, weight.rows())).collect::<Result<_, _>>()?;
            picked(weight, &rows, layer, width)
        }
        Work::Nested { kind: Nested::Whole { layer }, .. } => {
            let weight = engine.weight(layer).ok_or_else(|| format!("layer {layer} has no weight"))?;
            picked(weight, &(0..weight.rows()).collect::<Vec<_>>(), layer, width)
        }
        Work::Copy(view) => {
            let data = read.first().ok_or("a copy has no operand")?;
            Ok(vec![lower::elements(data, view)])
        }
        Work::Map { .. }
        | Work::Fold { .. }
        | Work::Product(_)
        | Work::Gather { .. }
        | Work::AddRows { .. }
        | Work::Concat { .. }
        | Work::Nested { kind: Nested::MatMul { .. }, .. } => Err("the work has a kernel".to_owned()),
    }
}

/// Rows of a weight at a width, as floats.
fn picked(
    weight: &NestedWeight,
    rows: &[usize],
    layer: &str,
    width: Option<Width>,
) -> Result<Vec<Data<f32>>, String> {
    let width = width.ok_or_else(|| format!("layer {layer} has no width"))?;
    let mut out = vec![0.0; rows.len() * weight.cols()];
    weight.gather(width, rows, &mut out).map_err(|error| error.to_string())?;
    Ok(vec![Data::Real(out)])
}

/// Bytes as they are on the device.
pub(super) fn bytes(data: &Data<f32>) -> Vec<u8> {
    match data {
        Data::Real(v) => bytemuck::cast_slice(v).to_vec(),
        Data::Int(v) => bytemuck::cast_slice(v).to_vec(),
        Data::Bool(v) => v.iter().map(|v| u8::from(*v)).collect(),
    }
}

/// Elements from the bytes that the device has.
pub(super) fn elements(kind: Kind, bytes: &[u8]) -> Data<f32> {
    match kind {
        Kind::Real => Data::Real(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Kind::Int => Data::Int(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        Kind::Bool => Data::Bool(bytes.iter().map(|b| *b != 0).collect()),
    }
}

/// Bytes of so many elements.
pub(super) fn size(kind: Kind, len: usize) -> usize {
    len * kind.size::<f32>()
}
