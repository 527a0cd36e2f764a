//! What follows a nested product joins it as an operator of the CPU session, `activation(product + bias) * gate + residual`:
//! the session does it before the result is stored.
//!
//! Before: `%p = nested_mat_mul %x, ..`, `%a = add %p, %b`, `%g = gelu %a`, `%y = add %g, %r`
//!
//! After:  `%p = nested_mat_mul %x, ..`, `%y = opaque %p, %b, , %r {domain = ai.mqc, op_type = Epilogue, activation = gelu}`
//!
//! Operands that are not there are left out at the end and empty in between.

use egg::Id;
use mqc_ir::op::{Binary, GeluKind, Unary};
use mqc_ir::{Attribute, DType, Op, Text};

use super::{Needs, Rule, gelu, is_epilogue, is_mul, one, session_op};
use crate::recognize::{Activation, silu};
use crate::{Expr, View};

/// See the module.
pub const EPILOGUE_BIAS: Rule = Rule {
    name: "epilogue-bias",
    about: "nested(x) + b -> Epilogue(nested(x), b) for a constant vector b",
    needs: Needs::Session,
    root: is_add,
    apply: |view, root| one(root, bias(view, root)),
};

/// See the module.
pub const EPILOGUE_ACTIVATION: Rule = Rule {
    name: "epilogue-activation",
    about: "ReLU, GELU (every spelling) or SiLU of nested(x) + b -> Epilogue with that activation",
    needs: Needs::Session,
    root: |op| is_mul(op) || matches!(op, Op::Unary(Unary::Relu) | Op::Gelu { .. }),
    apply: |view, root| one(root, activation(view, root)),
};

/// See the module.
pub const EPILOGUE_GATE: Rule = Rule {
    name: "epilogue-gate",
    about: "activation(nested(x) + b) g -> Epilogue with the gate g, of the same shape (SwiGLU)",
    needs: Needs::Session,
    root: is_mul,
    apply: gate,
};

/// See the module.
pub const EPILOGUE_RESIDUAL: Rule = Rule {
    name: "epilogue-residual",
    about: "activation(nested(x) + b) g + r -> Epilogue with the residual r, of the same shape",
    needs: Needs::Session,
    root: is_add,
    apply: residual,
};

/// The name of the operator.
pub(crate) const EPILOGUE: &str = "Epilogue";

/// A nested product and what is done to it.
#[derive(Clone, Copy)]
struct Finished {
    product: Id,
    bias: Option<Id>,
    activation: Activation,
    gate: Option<Id>,
    residual: Option<Id>,
}

impl Finished {
    fn expr(&self, view: View, root: Id) -> Expr {
        let mut parts = vec![self.bias, self.gate, self.residual];
        while parts.last() == Some(&None) {
            parts.pop();
        }
        let parts = parts.into_iter().map(|part| part.map_or(Expr::Absent, Expr::Class));
        let args = [Expr::Class(self.product)].into_iter().chain(parts).collect();
        let name = self.activation.name().map(|name| Attribute::String(Text(name.as_bytes().to_vec())));
        let attributes: Vec<_> = name.into_iter().map(|name| ("activation", name)).collect();
        Expr::Typed(session_op(EPILOGUE, &attributes), view.ty(root).clone(), args)
    }
}

/// Every way to read a class as a nested product of floats that is finished so far.
fn finished(view: View, id: Id) -> Vec<Finished> {
    if view.dtype(id) != Some(DType::F32) {
        return vec![];
    }
    let plain =
        Finished { product: id, bias: None, activation: Activation::Identity, gate: None, residual: None };
    let read = |(op, args): (&Op, crate::view::Args)| match op {
        Op::NestedMatMul(_) => Some(plain),
        Op::Opaque(opaque) if is_epilogue(op) => {
            let part = |slot: usize| args.get(slot).copied().filter(|id| !view.is_absent(*id));
            let activation = match opaque.attributes.get("activation") {
                Some(Attribute::String(Text(name))) => Activation::of_name(name)?,
                Some(_) => return None,
                None => Activation::Identity,
            };
            Some(Finished { product: part(0)?, bias: part(1), activation, gate: part(2), residual: part(3) })
        }
        _ => None,
    };
    view.ops(id).filter_map(read).collect()
}

fn is_add(op: &Op) -> bool {
    *op == Op::Binary(Binary::Add)
}

/// Both orders of the operands of a sum or a product of elements.
fn pairs(view: View, root: Id, is: fn(&Op) -> bool) -> Vec<(Id, Id)> {
    let pairs = view.ops(root).filter(|(op, _)| is(op)).flat_map(|(_, args)| match args.as_slice() {
        &[a, b] => vec![(a, b), (b, a)],
        _ => vec![],
    });
    pairs.collect()
}

fn bias(view: View, root: Id) -> Option<Expr> {
    pairs(view, root, is_add).into_iter().find_map(|(y, b)| {
        let fits = view.is_constant(b)
            && view.dtype(b) == Some(DType::F32)
            && view.rank(b) == Some(1)
            && view.last(b).is_some_and(|n| Some(n) == view.last(y));
        let plain = |f: &Finished| f.product == y;
        let found = finished(view, y).into_iter().find(plain).filter(|_| fits)?;
        Some(Finished { bias: Some(b), ..found }.expr(view, root))
    })
}

fn activation(view: View, root: Id) -> Option<Expr> {
    let relu = view.unary(root, Unary::Relu).map(|x| (x, Activation::Relu));
    let gelu = || {
        gelu::argument(view, root).map(|(x, kind)| match kind {
            GeluKind::Erf => (x, Activation::Gelu),
            GeluKind::Tanh => (x, Activation::GeluTanh),
        })
    };
    let silu = || silu(view, root).map(|x| (x, Activation::Silu));
    let (x, activation) = relu.or_else(gelu).or_else(silu)?;
    let open =
        |f: &Finished| f.activation == Activation::Identity && f.gate.is_none() && f.residual.is_none();
    let found = finished(view, x).into_iter().find(open)?;
    Some(Finished { activation, ..found }.expr(view, root))
}

fn gate(view: View, root: Id) -> Vec<(Id, Expr)> {
    let found = pairs(view, root, is_mul).into_iter().filter_map(|(y, gate)| {
        let open = |f: &Finished| f.gate.is_none() && f.residual.is_none();
        let found = finished(view, y).into_iter().find(open)?;
        fits(view, y, gate).then(|| (root, Finished { gate: Some(gate), ..found }.expr(view, root)))
    });
    found.collect()
}

fn residual(view: View, root: Id) -> Vec<(Id, Expr)> {
    let found = pairs(view, root, is_add).into_iter().filter_map(|(y, residual)| {
        let found = finished(view, y).into_iter().find(|f| f.residual.is_none())?;
        let with = Finished { residual: Some(residual), ..found };
        fits(view, y, residual).then(|| (root, with.expr(view, root)))
    });
    found.collect()
}

/// Whether an operand lies as the product does.
fn fits(view: View, product: Id, operand: Id) -> bool {
    product != operand && view.dtype(operand) == Some(DType::F32) && view.same_shape(product, operand)
}
