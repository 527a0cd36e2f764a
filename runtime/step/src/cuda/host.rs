//! Work that has no kernel: its operands are copied to the host, the plain definition computes, results are copied back.

use crate::Kind;
use crate::array::Data;
use crate::graph::Net;
use crate::lower;
use crate::lower::task::{Task, Work};

/// The values that a task reads, in the order of `Task::reads`, to those that it writes.
pub(super) fn compute(net: &Net, task: &Task, read: &[Data<f32>]) -> Result<Vec<Data<f32>>, String> {
    match &task.work {
        Work::Plain(args) => {
            let mut read = read.iter().map(Data::slice);
            net.plain(task.step, args.iter().map(|view| view.as_ref().and_then(|_| read.next())))
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
        | Work::Nested { .. } => Err("the work has a kernel".to_owned()),
    }
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
