//! The table of rules. A rule reads the e-graph and says what is equal to which class; it never takes anything away.
//!
//! Rules have a direction and end: none of them makes nodes without bound. There is no rule of commutativity or
//! associativity: [`crate::View::products`] and [`crate::View::sums`] read every spelling.

mod attention;
mod epilogue;
mod gelu;
mod layout;
mod merge;
mod nested;
mod norm;
mod past_layout;
mod rotary;
mod scale;

use egg::Id;
use mqc_ir::op::Opaque;
use mqc_ir::{Attribute, Op};

pub(crate) use epilogue::EPILOGUE;

use crate::{Expr, View};

/// A rewrite rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// One line: what becomes what.
    pub about: &'static str,
    /// What has the operations that it makes.
    pub needs: Needs,
    /// Which operations it looks at.
    pub root: fn(&Op) -> bool,
    /// What is equal to which class, given a class with such an operation.
    pub apply: fn(View, Id) -> Vec<(Id, Expr)>,
}

/// What has the operations that a rule makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// ONNX, from this operator set on.
    Opset(i64),
    /// The CPU session alone: operators of [`DOMAIN`].
    Session,
}

/// The ONNX domain of the operators that only the CPU session has.
pub const DOMAIN: &str = "ai.mqc";

/// Every rule, in the order in which they are tried.
#[rustfmt::skip]
pub const RULES: &[&Rule] = &[
    // Composites, from the spellings of exporters.
    &gelu::GELU_ERF,
    &gelu::GELU_TANH,
    &norm::LAYER_NORM,
    &norm::RMS_NORM,
    &norm::SESSION_LAYER_NORM,
    &norm::SESSION_RMS_NORM,
    &attention::ATTENTION,
    &rotary::ROTARY,
    // Layout.
    &layout::DROP_IDENTITY,
    &layout::MERGE_RESHAPES,
    &layout::MERGE_TRANSPOSES,
    &layout::MERGE_CASTS,
    &past_layout::TRANSPOSE_PAST_MAP,
    &past_layout::TRANSPOSE_PAST_PAIR,
    &past_layout::RESHAPE_PAST_MAP,
    &past_layout::RESHAPE_PAST_PAIR,
    &past_layout::TRANSPOSE_PAST_PRODUCT,
    &past_layout::TRANSPOSED_PRODUCT,
    &past_layout::RESHAPE_PAST_PRODUCT,
    // Products.
    &merge::MERGE_PRODUCTS,
    &merge::MERGE_NESTED_PRODUCTS,
    &nested::NESTED_PRODUCT,
    &scale::FOLD_SCALE_AFTER,
    &scale::FOLD_SCALE_BEFORE,
    &scale::FOLD_SCALE_NESTED,
    &scale::FOLD_SCALE_BEFORE_NESTED,
    &scale::SCALE_OUT_OF_PRODUCT,
    &scale::ZERO_OUT_OF_PRODUCT,
    // What is done to products before they are stored.
    &epilogue::EPILOGUE_BIAS,
    &epilogue::EPILOGUE_ACTIVATION,
    &epilogue::EPILOGUE_GATE,
    &epilogue::EPILOGUE_RESIDUAL,
];

/// Whether an operation is what follows a nested product, its first operand.
pub fn is_epilogue(op: &Op) -> bool {
    matches!(op, Op::Opaque(opaque) if opaque.domain == DOMAIN && opaque.op_type == EPILOGUE)
}

/// An operator of [`DOMAIN`].
fn session_op(op_type: &str, attributes: &[(&str, Attribute)]) -> Op {
    Op::Opaque(Opaque {
        domain: DOMAIN.to_owned(),
        op_type: op_type.to_owned(),
        overload: String::new(),
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    })
}

/// At most one finding, for the class itself.
fn one(root: Id, expr: Option<Expr>) -> Vec<(Id, Expr)> {
    expr.into_iter().map(|expr| (root, expr)).collect()
}

/// The rule's name is said once.
fn is_mul(op: &Op) -> bool {
    *op == Op::Binary(mqc_ir::op::Binary::Mul)
}
