//! Expansions of operators that stay ONNX nodes in the IR: the one place of this crate that looks at their names.

use mqc_ir::op::{GeluKind, Opaque, Unary};
use mqc_ir::{Attribute, Value};

use super::attention;
use super::composite::{Call, gelu_of, inverse_root_mean_square, normalized};
use super::rotary;
use crate::{Builder, Error};

/// The operators that are known; semantics are those of the newest ONNX specification and of onnxruntime's contrib
/// operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Attention,
    BiasGelu,
    FastGelu,
    GroupQueryAttention,
    MicrosoftAttention,
    MicrosoftRotaryEmbedding,
    MultiHeadAttention,
    QuickGelu,
    RotaryEmbedding,
    SimplifiedLayerNormalization,
    SkipLayerNormalization,
    SkipSimplifiedLayerNormalization,
}

const ONNX: &str = "";
const MICROSOFT: &str = "com.microsoft";

const OPERATORS: [(&str, &str, Operator); 13] = [
    (ONNX, "Attention", Operator::Attention),
    (ONNX, "RotaryEmbedding", Operator::RotaryEmbedding),
    // Where onnxruntime has it.
    (ONNX, "SimplifiedLayerNormalization", Operator::SimplifiedLayerNormalization),
    (MICROSOFT, "Attention", Operator::MicrosoftAttention),
    (MICROSOFT, "BiasGelu", Operator::BiasGelu),
    (MICROSOFT, "FastGelu", Operator::FastGelu),
    (MICROSOFT, "GroupQueryAttention", Operator::GroupQueryAttention),
    (MICROSOFT, "MultiHeadAttention", Operator::MultiHeadAttention),
    (MICROSOFT, "QuickGelu", Operator::QuickGelu),
    (MICROSOFT, "RotaryEmbedding", Operator::MicrosoftRotaryEmbedding),
    (MICROSOFT, "SimplifiedLayerNormalization", Operator::SimplifiedLayerNormalization),
    (MICROSOFT, "SkipLayerNormalization", Operator::SkipLayerNormalization),
    (MICROSOFT, "SkipSimplifiedLayerNormalization", Operator::SkipSimplifiedLayerNormalization),
];

fn operator(op: &Opaque) -> Option<Operator> {
    let domain = if op.domain == "ai.onnx" { ONNX } else { op.domain.as_str() };
    let found = OPERATORS.iter().find(|(d, name, _)| *d == domain && *name == op.op_type);
    found.filter(|_| op.overload.is_empty()).map(|(_, _, operator)| *operator)
}

/// Whether an operator has an expansion.
pub(super) fn is_known(op: &Opaque) -> bool {
    operator(op).is_some()
}

/// An attribute that is an integer.
pub(super) fn int(op: &Opaque, name: &str, default: i64) -> i64 {
    match op.attributes.get(name) {
        Some(Attribute::Int(value)) => *value,
        Some(_) | None => default,
    }
}

/// An attribute that is a number.
pub(super) fn float(op: &Opaque, name: &str, default: f32) -> f32 {
    match op.attributes.get(name) {
        Some(Attribute::Float(value)) => value.0,
        Some(_) | None => default,
    }
}

pub(super) fn expand(b: &mut Builder, call: &Call, op: &Opaque) -> Result<Option<Vec<Value>>, Error> {
    let Some(operator) = operator(op) else { return Ok(None) };
    let values = match operator {
        Operator::Attention => attention::onnx(b, call, op),
        Operator::BiasGelu => biased_gelu(b, call, GeluKind::Erf),
        Operator::FastGelu => biased_gelu(b, call, GeluKind::Tanh),
        Operator::GroupQueryAttention => attention::group_query(b, call, op),
        Operator::MicrosoftAttention => attention::microsoft(b, call, op),
        Operator::MicrosoftRotaryEmbedding => rotary::microsoft(b, call, op),
        Operator::MultiHeadAttention => attention::multi_head(b, call, op),
        Operator::QuickGelu => quick_gelu(b, call, float(op, "alpha", 1.702)),
        Operator::RotaryEmbedding => rotary::onnx(b, call, op),
        Operator::SimplifiedLayerNormalization => {
            let x = call.x(b, 0)?;
            simplified(b, call, x, int(op, "axis", -1), 1, float(op, "epsilon", 1e-5))
        }
        Operator::SkipLayerNormalization => skip_layer_normalization(b, call, float(op, "epsilon", 1e-12)),
        Operator::SkipSimplifiedLayerNormalization => {
            let x = skipped(b, call, 3)?;
            let values = simplified(b, call, x, -1, 2, float(op, "epsilon", 1e-12))?;
            // Output, mean (which there is not), inverse deviation, sum.
            Ok(vec![values[0], values[1], values[1], x])
        }
    }?;
    let node = b.graph.node(call.id);
    let unexplained = node.and_then(|n| n.outputs.get(values.len()..)?.iter().find(|o| !o.name.is_empty()));
    match unexplained {
        Some(output) => Err(call.no(b, format!("its output {:?} has no expansion", output.name))),
        None => Ok(Some(values)),
    }
}

fn biased_gelu(b: &mut Builder, call: &Call, kind: GeluKind) -> Result<Vec<Value>, Error> {
    let mut x = call.x(b, 0)?;
    if let Some(bias) = call.operand(1) {
        x = b.add(x, bias)?;
    }
    Ok(vec![gelu_of(b, x, kind)?])
}

/// x sigmoid(alpha x).
fn quick_gelu(b: &mut Builder, call: &Call, alpha: f32) -> Result<Vec<Value>, Error> {
    let x = call.x(b, 0)?;
    let scaled = b.scale(x, alpha)?;
    let gate = b.unary(Unary::Sigmoid, scaled)?;
    Ok(vec![b.mul(x, gate)?])
}

/// Input, skip and a bias, added.
fn skipped(b: &mut Builder, call: &Call, bias: usize) -> Result<Value, Error> {
    let (x, skip) = (call.x(b, 0)?, call.x(b, 1)?);
    let sum = b.add(x, skip)?;
    match call.operand(bias) {
        Some(bias) => b.add(sum, bias),
        None => Ok(sum),
    }
}

fn skip_layer_normalization(b: &mut Builder, call: &Call, epsilon: f32) -> Result<Vec<Value>, Error> {
    let x = skipped(b, call, 4)?;
    let (y, mean, inverse) = normalized(b, call, x, -1, epsilon)?;
    let gamma = call.x(b, 2)?;
    let mut y = b.mul(y, gamma)?;
    if let Some(beta) = call.operand(3) {
        y = b.add(y, beta)?;
    }
    Ok(vec![y, mean, inverse, x])
}

/// x / sqrt(mean(x^2) + epsilon), scaled; and the inverse deviation.
fn simplified(
    b: &mut Builder,
    call: &Call,
    x: Value,
    axis: i64,
    scale: usize,
    epsilon: f32,
) -> Result<Vec<Value>, Error> {
    let rank = b.shape(x)?.len();
    let axes = call.axes(b, rank, axis, true)?;
    let inverse = inverse_root_mean_square(b, x, &axes, epsilon)?;
    let normal = b.mul(x, inverse)?;
    let scale = call.x(b, scale)?;
    Ok(vec![b.mul(normal, scale)?, inverse])
}
