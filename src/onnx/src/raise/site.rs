//! One node that is raised, with what the conversions need around it.

use std::collections::BTreeMap;

use mqc_ir::op::Opaque;
use mqc_ir::{Attribute, DType, F32, Graph, NodeId, Op, Tensor, Text, Type, Value};

use crate::{Error, ops};

pub(super) struct Site<'a> {
    pub graph: &'a mut Graph,
    /// The graph as it was, its types inferred.
    pub types: &'a Graph,
    pub id: NodeId,
    /// Operator set of the model.
    pub from: i64,
    /// The one it is raised to.
    pub to: i64,
    /// The one that is dealt with.
    pub version: i64,
}

impl Site<'_> {
    /// Whether the model is raised from before `version` to it or beyond. Errors then name that version.
    pub fn crosses(&mut self, version: i64) -> bool {
        let crosses = self.from < version && version <= self.to;
        if crosses {
            self.version = version;
        }
        crosses
    }

    /// The error that the node cannot be raised, for a reason that says what to do.
    pub fn refuse(&self, reason: impl Into<String>) -> Error {
        let op = self.graph.node(self.id).map(|n| match &n.op {
            Op::Opaque(opaque) => opaque.op_type.clone(),
            op => {
                let form = ops::write(op, self.graph.operands(self.id).len(), self.from, &n.name);
                form.map(|form| form.op_type).unwrap_or_default()
            }
        });
        Error::Raise {
            node: self.graph.label(self.id),
            op: op.unwrap_or_default(),
            from: self.from,
            version: self.version,
            reason: reason.into(),
        }
    }

    // ---- Attributes of a verbatim node.

    fn attributes(&mut self) -> Option<&mut BTreeMap<String, Attribute>> {
        let Op::Opaque(opaque) = &mut self.graph.node_mut(self.id)?.op else { return None };
        Some(&mut opaque.attributes)
    }

    fn take<T>(
        &mut self,
        name: &str,
        kind: &str,
        value: impl Fn(Attribute) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.attributes().and_then(|attributes| attributes.remove(name)) {
            None => Ok(None),
            Some(attribute) => match value(attribute) {
                Some(value) => Ok(Some(value)),
                None => Err(self.refuse(format!("its attribute '{name}' is not {kind}"))),
            },
        }
    }

    /// Removes an attribute. Error when it is of another kind.
    pub fn take_int(&mut self, name: &str) -> Result<Option<i64>, Error> {
        self.take(name, "an integer", |a| if let Attribute::Int(i) = a { Some(i) } else { None })
    }

    pub fn take_ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, Error> {
        self.take(name, "a list of integers", |a| if let Attribute::Ints(v) = a { Some(v) } else { None })
    }

    pub fn take_float(&mut self, name: &str) -> Result<Option<f32>, Error> {
        self.take(name, "a number", |a| if let Attribute::Float(F32(f)) = a { Some(f) } else { None })
    }

    pub fn take_floats(&mut self, name: &str) -> Result<Option<Vec<f32>>, Error> {
        let floats =
            |a| if let Attribute::Floats(v) = a { Some(v.iter().map(|f| f.0).collect()) } else { None };
        self.take(name, "a list of numbers", floats)
    }

    /// An attribute that stays.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        let Op::Opaque(opaque) = &self.graph.node(self.id)?.op else { return None };
        opaque.attributes.get(name)
    }

    /// A text that stays, `default` when it is not there.
    pub fn text<'b>(&'b self, name: &str, default: &'b str) -> &'b [u8] {
        match self.attribute(name) {
            Some(Attribute::String(Text(text))) => text,
            _ => default.as_bytes(),
        }
    }

    pub fn set_text(&mut self, name: &str, value: &str) {
        if let Some(attributes) = self.attributes() {
            attributes.insert(name.to_owned(), text(value));
        }
    }

    /// Makes it another operator with the same attributes.
    pub fn rename(&mut self, op_type: &str) {
        if let Some(Op::Opaque(opaque)) = self.graph.node_mut(self.id).map(|n| &mut n.op) {
            opaque.op_type = op_type.to_owned();
        }
    }

    // ---- The node.

    pub fn set_op(&mut self, op: Op) {
        if let Some(node) = self.graph.node_mut(self.id) {
            node.op = op;
        }
    }

    pub fn outputs(&self) -> usize {
        self.graph.node(self.id).map_or(0, |n| n.outputs.len())
    }

    pub fn operand(&self, slot: usize) -> Option<Value> {
        self.graph.operand(self.id, slot)
    }

    /// An operand that must be there.
    pub fn required(&self, slot: usize) -> Result<Value, Error> {
        self.operand(slot).ok_or_else(|| self.refuse(format!("its input {slot} is absent")))
    }

    pub fn set_operand(&mut self, slot: usize, value: Value) {
        self.graph.set_operand(self.id, slot, value);
    }

    /// What is known of the type of an operand of the graph as it was.
    pub fn ty(&self, value: Value) -> &Type {
        self.types.ty(value)
    }

    /// Refuses a node whose first operand is known not to be of floats, for an operator that no longer takes those.
    pub fn refuse_integers(&self) -> Result<(), Error> {
        match self.ty(self.required(0)?).dtype().filter(|dtype| !dtype.is_float()) {
            Some(dtype) => Err(self.refuse(format!("its input is {dtype}, expected floats; cast it"))),
            None => Ok(()),
        }
    }

    // ---- New nodes.

    /// A value name after the node and what the value is for.
    fn name(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.graph.label(self.id))
    }

    /// A constant that an attribute becomes.
    pub fn weight(&mut self, suffix: &str, tensor: Tensor) -> Value {
        let name = self.graph.fresh_name(&self.name(suffix));
        self.graph.add_weight(name, tensor)
    }

    pub fn integers(&mut self, suffix: &str, values: &[i64]) -> Value {
        self.weight(suffix, Tensor::i64_vector(values))
    }

    pub fn numbers(&mut self, suffix: &str, values: &[f32]) -> Result<Value, Error> {
        let tensor = Tensor::from_f32(vec![values.len()], values)?;
        Ok(self.weight(suffix, tensor))
    }

    /// A scalar of the element type of `like`, which must be known where there is no `CastLike` (before opset 15).
    pub fn scalar_like(&mut self, suffix: &str, value: f32, like: Value) -> Result<Value, Error> {
        let scalar = self.weight(suffix, Tensor::f32_scalar(value));
        match self.ty(like).dtype() {
            Some(DType::F32) => Ok(scalar),
            Some(dtype) => self.apply(Op::Cast { to: dtype, saturate: true }, suffix, &[scalar]),
            None if self.to >= 15 => self.apply(verbatim("CastLike", []), suffix, &[scalar, like]),
            None => {
                Err(self.refuse("the element type of its input is unknown; add it to the model's value_info"))
            }
        }
    }

    /// Makes a list an operand; an empty one stands for the default, which is no operand.
    pub fn list_to_operand(&mut self, name: &str, slot: usize, list: &[i64]) {
        if !list.is_empty() {
            let list = self.integers(name, list);
            self.set_operand(slot, list);
        }
    }

    pub fn apply(&mut self, op: Op, suffix: &str, operands: &[Value]) -> Result<Value, Error> {
        let name = self.name(suffix);
        Ok(self.graph.apply(op, &name, operands)?)
    }
}

pub(super) fn text(value: &str) -> Attribute {
    Attribute::String(Text(value.as_bytes().to_vec()))
}

/// A node of ONNX's own domain that is kept verbatim.
pub(super) fn verbatim<const N: usize>(op_type: &str, attributes: [(&str, Attribute); N]) -> Op {
    Op::Opaque(Opaque {
        domain: String::new(),
        op_type: op_type.to_owned(),
        overload: String::new(),
        attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    })
}
