//! A node as its gradient rule sees it.

use mqc_ir::{DType, NodeId, Op, Operands, Value, text};

use crate::{Builder, Error};

/// A node whose outputs have cotangents.
pub(super) struct Site {
    pub id: NodeId,
    pub operands: Operands,
    /// Which operands' cotangents are asked for.
    pub wanted: Vec<bool>,
    /// The cotangents of the outputs.
    pub dys: Vec<Option<Value>>,
}

impl Site {
    /// An operand that may be absent.
    pub fn operand(&self, slot: usize) -> Option<Value> {
        self.operands.get(slot).copied().flatten()
    }

    /// An operand that must be there.
    pub fn x(&self, b: &Builder, slot: usize) -> Result<Value, Error> {
        self.operand(slot).ok_or_else(|| self.no(b, format!("operand {slot} is absent")))
    }

    /// The first output.
    pub fn y(&self) -> Value {
        Value { node: self.id, slot: 0 }
    }

    /// The cotangent of the first output.
    pub fn dy(&self, b: &Builder) -> Result<Value, Error> {
        let first = self.dys.first().copied().flatten();
        first.ok_or_else(|| self.no(b, "only outputs behind the first are differentiated"))
    }

    /// Whether the cotangent of an operand is asked for.
    pub fn wants(&self, slot: usize) -> bool {
        self.wanted.get(slot).copied().unwrap_or(false)
    }

    /// What `f` gives, when the cotangent of the operand is asked for.
    pub fn when(
        &self,
        slot: usize,
        f: impl FnOnce() -> Result<Value, Error>,
    ) -> Result<Option<Value>, Error> {
        if self.wants(slot) { f().map(Some) } else { Ok(None) }
    }

    /// The elements of an operand that must be constant integers, when it is there.
    pub fn ints(&self, b: &Builder, slot: usize) -> Result<Option<Vec<i64>>, Error> {
        let Some(value) = self.operand(slot) else { return Ok(None) };
        match b.graph.constant(value).and_then(|t| t.to_i64_vec()) {
            Some(ints) => Ok(Some(ints)),
            None => Err(self.no(b, format!("operand {slot} is not a constant"))),
        }
    }

    /// An integer operand as i64.
    pub fn indices(&self, b: &mut Builder, slot: usize) -> Result<Value, Error> {
        let indices = self.x(b, slot)?;
        if b.dtype(indices)? == DType::I64 { Ok(indices) } else { b.cast(indices, DType::I64) }
    }

    /// Gives every cotangent the full shape of its output.
    pub fn fill(&mut self, b: &mut Builder) -> Result<(), Error> {
        for (slot, dy) in self.dys.iter_mut().enumerate() {
            if let Some(dy) = dy {
                let shape = b.shape(Value { node: self.id, slot })?;
                *dy = b.expand(*dy, &shape)?;
            }
        }
        Ok(())
    }

    /// The error that names the node.
    pub fn no(&self, b: &Builder, reason: impl Into<String>) -> Error {
        no_gradient(b, self.id, reason)
    }
}

/// The error that names a node.
pub(crate) fn no_gradient(b: &Builder, id: NodeId, reason: impl Into<String>) -> Error {
    let op = match b.graph.node(id).map(|n| &n.op) {
        Some(Op::Opaque(op)) if op.domain.is_empty() => op.op_type.clone(),
        Some(Op::Opaque(op)) => format!("{}::{}", op.domain, op.op_type),
        Some(op) => text::mnemonic(op),
        None => String::new(),
    };
    Error::NoGradient { node: b.graph.label(id), op, reason: reason.into() }
}

/// The place of an axis that may count from the end.
pub(crate) fn axis(at: i64, rank: usize) -> Option<usize> {
    let place = if at < 0 { at.checked_add_unsigned(rank as u64) } else { Some(at) };
    place.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < rank)
}
