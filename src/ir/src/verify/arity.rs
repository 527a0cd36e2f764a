//! How many operands and outputs each operation has.

use std::ops::RangeInclusive;

use crate::{Op, Value};

/// Operands and outputs of an operation.
pub(super) struct Arity {
    /// Names of the operands in order; those that end in `?` may be absent, at the end also missing.
    operands: &'static [&'static str],
    /// What follows them: the name of each and how many.
    rest: (&'static str, RangeInclusive<usize>),
    outputs: RangeInclusive<usize>,
}

const NO_REST: (&str, RangeInclusive<usize>) = ("", 0..=0);
const PLANES: (&str, RangeInclusive<usize>) = ("plane", 1..=8);

fn fixed(operands: &'static [&'static str]) -> Arity {
    Arity { operands, rest: NO_REST, outputs: 1..=1 }
}

fn with_outputs(operands: &'static [&'static str], outputs: RangeInclusive<usize>) -> Arity {
    Arity { operands, rest: NO_REST, outputs }
}

pub(super) fn arity(op: &Op) -> Arity {
    match op {
        Op::Input | Op::Weight(_) | Op::Constant(_) => fixed(&[]),
        Op::Identity
        | Op::Unary(_)
        | Op::LeakyRelu { .. }
        | Op::Elu { .. }
        | Op::HardSigmoid { .. }
        | Op::Cast { .. }
        | Op::Transpose { .. }
        | Op::Flatten { .. }
        | Op::Shape { .. }
        | Op::Size
        | Op::AveragePool { .. }
        | Op::GlobalAveragePool
        | Op::GlobalMaxPool
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Gelu { .. } => fixed(&["x"]),
        Op::Binary(_) | Op::Compare(_) | Op::MatMul => fixed(&["a", "b"]),
        Op::Variadic(_) | Op::Concat { .. } => {
            Arity { operands: &[], rest: ("operand", 1..=usize::MAX), outputs: 1..=1 }
        }
        Op::Select => fixed(&["condition", "a", "b"]),
        Op::Clip => fixed(&["x", "min?", "max?"]),
        Op::Reduce { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } => fixed(&["x", "axes?"]),
        Op::Reshape { .. } | Op::Expand => fixed(&["x", "shape"]),
        Op::Slice => fixed(&["x", "starts", "ends", "axes?", "steps?"]),
        Op::Split { .. } => with_outputs(&["x", "sizes?"], 1..=usize::MAX),
        Op::Pad { .. } => fixed(&["x", "pads", "value?", "axes?"]),
        Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. } => fixed(&["x", "indices"]),
        Op::ScatterElements { .. } | Op::ScatterNd { .. } => fixed(&["x", "indices", "updates"]),
        Op::Tile => fixed(&["x", "repeats"]),
        Op::ConstantOfShape { .. } => fixed(&["shape"]),
        Op::Range => fixed(&["start", "limit", "delta"]),
        Op::Conv(_) => fixed(&["x", "weight", "bias?"]),
        Op::MaxPool { .. } => with_outputs(&["x"], 1..=2),
        Op::Gemm { .. } => fixed(&["a", "b", "c?"]),
        Op::BatchNormalization { .. } => with_outputs(&["x", "scale", "bias", "mean", "variance"], 1..=5),
        Op::LayerNormalization { .. } => with_outputs(&["x", "scale", "bias?"], 1..=3),
        Op::RmsNormalization { .. } => fixed(&["x", "scale"]),
        Op::Dropout { .. } => with_outputs(&["x", "ratio?", "training_mode?"], 1..=2),
        Op::NestedQuantize(_) => with_outputs(&["weight"], 3..=3),
        Op::SliceBits { .. } => fixed(&["codes"]),
        Op::Dequantize { .. } => fixed(&["slice", "scale", "zero"]),
        Op::FakeSlice { .. } => fixed(&["position"]),
        Op::NestedMatMul(_) => {
            Arity { operands: &["x", "width", "scale", "zero"], rest: PLANES, outputs: 1..=1 }
        }
        Op::NestedConv { .. } => {
            Arity { operands: &["x", "width", "scale", "zero", "bias?"], rest: PLANES, outputs: 1..=1 }
        }
        Op::NestedGather(_) => {
            Arity { operands: &["indices", "width", "scale", "zero"], rest: PLANES, outputs: 1..=1 }
        }
        Op::Opaque(_) => Arity { operands: &[], rest: ("operand?", 0..=usize::MAX), outputs: 0..=usize::MAX },
    }
}

impl Arity {
    /// What errors call an operand: its number and name.
    pub fn operand(&self, slot: usize) -> String {
        match self.operands.get(slot) {
            Some(name) => format!("operand {slot} ({})", name.trim_end_matches('?')),
            None => format!("operand {slot}"),
        }
    }

    /// What is wrong with the numbers of operands and outputs, and which required operands are absent.
    pub fn check(&self, operands: &[Option<Value>], outputs: usize) -> Vec<String> {
        let mut messages = Vec::new();
        let (rest, rest_count) = &self.rest;
        let required = self.operands.iter().rposition(|name| !name.ends_with('?')).map_or(0, |last| last + 1);
        let least = if *rest_count.start() > 0 { self.operands.len() + rest_count.start() } else { required };
        let most = self.operands.len().saturating_add(*rest_count.end());
        if operands.len() < least || operands.len() > most {
            let mut names = self.operands.join(", ");
            if *rest_count.end() > 0 {
                names = format!("{names}{}{rest}..", if names.is_empty() { "" } else { ", " });
            }
            let range = range(&(least..=most));
            let names = if names.is_empty() { names } else { format!(" ({names})") };
            messages.push(format!("has {} operands, expected {range}{names}", operands.len()));
        }
        for (slot, _) in operands.iter().enumerate().filter(|(_, operand)| operand.is_none()) {
            if !self.operands.get(slot).copied().unwrap_or(rest).ends_with('?') {
                messages.push(format!("{} is absent", self.operand(slot)));
            }
        }
        if !self.outputs.contains(&outputs) {
            messages.push(format!("has {outputs} outputs, expected {}", range(&self.outputs)));
        }
        messages
    }
}

fn range(range: &RangeInclusive<usize>) -> String {
    match (*range.start(), *range.end()) {
        (least, most) if least == most => least.to_string(),
        (least, usize::MAX) => format!("at least {least}"),
        (least, most) => format!("{least} to {most}"),
    }
}
