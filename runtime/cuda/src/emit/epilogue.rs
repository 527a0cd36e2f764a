//! The function that finishes an output and stores it.

use mqc_kernels::cpu::Activation;

use crate::Epilogue;

/// `store_output`: the parts of the epilogue that are wanted, in their order.
pub fn store_output(epilogue: &Epilogue) -> String {
    let Epilogue { bias, activation, gate, residual } = *epilogue;
    let lines = [
        bias.then_some("v += a.bias[row];"),
        formula(activation),
        gate.then_some("v *= load_element(((const Element*)a.gate)[at]);"),
        residual.then_some("v += load_element(((const Element*)a.residual)[at]);"),
    ];
    let lines: String = lines.into_iter().flatten().map(|line| format!("    {line}\n")).collect();
    format!(
        "DEVICE void store_output(const Arguments& a, int token, int row, float v) {{\n\
         \x20   const i64 at = (i64)token * a.rows + row;\n{lines}\
         \x20   ((Element*)a.y)[at] = store_element(v);\n}}\n"
    )
}

fn formula(activation: Activation) -> Option<&'static str> {
    match activation {
        Activation::Identity => None,
        Activation::Relu => Some("v = v < 0.f ? 0.f : v;"),
        Activation::Gelu => Some("v = 0.5f * v * (1.f + erff(0.70710678f * v));"),
        Activation::GeluTanh => {
            Some("v = 0.5f * v * (1.f + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));")
        }
        Activation::Silu => Some("v = v / (1.f + expf(-v));"),
    }
}

/// The parts in the order of their use, for names.
pub fn suffix(epilogue: &Epilogue) -> String {
    let Epilogue { bias, activation, gate, residual } = *epilogue;
    let activation = match activation {
        Activation::Identity => "",
        Activation::Relu => "_relu",
        Activation::Gelu => "_gelu",
        Activation::GeluTanh => "_gelu_tanh",
        Activation::Silu => "_silu",
    };
    let part = |wanted, name| if wanted { name } else { "" };
    format!("{}{activation}{}{}", part(bias, "_bias"), part(gate, "_gate"), part(residual, "_residual"))
}
