//! The operators that stand for several nodes against their formulas in f64.

use std::f64::consts::{PI, SQRT_2};
use std::sync::Arc;

use tract_onnx::pb::{AttributeProto, NodeProto};

use super::fixture::*;
use crate::cpu::{DOMAIN, Resident, TractModel};

/// The one output of a graph of one node, whose inputs are floats of these shapes.
fn evaluate(proto: NodeProto, inputs: &[(&str, &[usize], &[f32])], weights: &[&Arc<Resident>]) -> Vec<f32> {
    let sizes: Vec<Vec<String>> =
        inputs.iter().map(|(_, shape, _)| shape.iter().map(usize::to_string).collect()).collect();
    let values = inputs.iter().zip(&sizes).map(|((name, ..), sizes)| {
        let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
        value(name, FLOAT, &sizes)
    });
    let proto = model(graph(vec![proto], values.collect(), &["y"]));
    let loaded = TractModel::from_proto(&proto, vec![], &residents(weights), &engine()).unwrap();
    let given = inputs.iter().map(|(name, shape, data)| ((*name).to_owned(), tensor(shape, data)));
    slice(&loaded.run(given.collect()).unwrap()[0].1).to_vec()
}

fn ours(op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: DOMAIN.to_owned(), ..node(op, inputs, &["y"], attributes) }
}

#[test]
fn norms_are_their_formulas() {
    for (rows, size) in [(1, 1), (3, 5), (7, 64), (200, 401)] {
        let (x, scale, bias) = (noise(rows * size, 1), noise(size, 2), noise(size, 3));
        for (op, centred, with_bias) in
            [("RmsNorm", false, false), ("LayerNorm", true, true), ("LayerNorm", true, false)]
        {
            let (shape, vector) = ([1, rows, size], [size]);
            let mut inputs: Vec<(&str, &[usize], &[f32])> = vec![("x", &shape, &x), ("s", &vector, &scale)];
            if with_bias {
                inputs.push(("b", &vector, &bias));
            }
            let names: Vec<&str> = inputs.iter().map(|(name, ..)| *name).collect();
            let found = evaluate(ours(op, &names, vec![float("epsilon", 1e-3)]), &inputs, &[]);
            let mut expected = vec![];
            for row in x.chunks(size) {
                let mean =
                    |f: &dyn Fn(f64) -> f64| row.iter().map(|x| f(f64::from(*x))).sum::<f64>() / size as f64;
                let middle = if centred { mean(&|x| x) } else { 0.0 };
                let root = (mean(&|x| (x - middle).powi(2)) + f64::from(1e-3f32)).sqrt();
                expected.extend(row.iter().enumerate().map(|(i, x)| {
                    let bias = if with_bias { f64::from(bias[i]) } else { 0.0 };
                    (f64::from(*x) - middle) / root * f64::from(scale[i]) + bias
                }));
            }
            close(&found, &expected, 1e-5);
        }
    }
}

/// `activation(y + bias) * gate + residual`, element by element.
fn finished(y: f64, activation: &str, bias: f64, gate: f64, residual: f64) -> f64 {
    let y = y + bias;
    let y = match activation {
        "relu" => y.max(0.0),
        "gelu" => y / 2.0 * (1.0 + erf(y / SQRT_2)),
        "gelu_tanh" => y / 2.0 * (1.0 + ((2.0 / PI).sqrt() * (y + 0.044715 * y.powi(3))).tanh()),
        "silu" => y / (1.0 + (-y).exp()),
        _ => y,
    };
    y * gate + residual
}

/// The error function by its series.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / PI.sqrt() * sum
}

#[test]
fn epilogues_are_their_formulas_in_a_product_and_alone() {
    let weight = resident("w", 21, 13);
    let (tokens, rows) = (5, 21);
    let (x, bias) = (noise(tokens * 13, 1), noise(rows, 2));
    let (gate, residual) = (noise(tokens * rows, 3), noise(tokens * rows, 4));
    for (at, activation) in ["", "relu", "gelu", "gelu_tanh", "silu"].into_iter().enumerate() {
        for parts in 0..8 {
            weight.set_width(width(1 + ((at + parts) % 8) as u8));
            let product = matmul(&weight, &x);
            let single: Vec<f32> = product.iter().map(|y| *y as f32).collect();
            let with = |part: usize| parts >> part & 1 == 1;
            let expected: Vec<f64> = product
                .iter()
                .enumerate()
                .map(|(i, y)| {
                    let part = |part, values: &[f32], i: usize, none| {
                        if with(part) { f64::from(values[i]) } else { none }
                    };
                    let (bias, gate) = (part(0, &bias, i % rows, 0.0), part(1, &gate, i, 1.0));
                    finished(*y, activation, bias, gate, part(2, &residual, i, 0.0))
                })
                .collect();
            let mut attributes = vec![];
            if !activation.is_empty() {
                attributes.push(text("activation", activation));
            }
            let shape = [1, tokens, rows];
            let all: [(&str, &[usize], &[f32]); 3] =
                [("b", &[rows], &bias), ("g", &shape, &gate), ("r", &shape, &residual)];
            let named = |first: &'static str| -> Vec<&str> {
                let parts = all.iter().enumerate().map(|(i, (name, ..))| if with(i) { *name } else { "" });
                [first].into_iter().chain(parts).collect()
            };
            let given = all.iter().enumerate().filter(|(i, _)| with(*i)).map(|(_, part)| *part);
            let inputs: Vec<_> = [("p", &shape[..], &single[..])].into_iter().chain(given.clone()).collect();
            close(
                &evaluate(ours("Epilogue", &named("p"), attributes.clone()), &inputs, &[]),
                &expected,
                1e-5,
            );
            attributes.push(text("layer", "w"));
            let tokens = [1, tokens, 13];
            let inputs: Vec<_> = [("x", &tokens[..], &x[..])].into_iter().chain(given).collect();
            let found = evaluate(ours("NestedMatMul", &named("x"), attributes), &inputs, &[&weight]);
            close(&found, &expected, 1e-4);
        }
    }
}

#[test]
fn unknown_activations_are_errors() {
    let weight = resident("w", 2, 3);
    let node = ours("NestedMatMul", &["x"], vec![text("layer", "w"), text("activation", "swish")]);
    let proto = model(graph(vec![node], vec![value("x", FLOAT, &["n", "3"])], &["y"]));
    let error = TractModel::from_proto(&proto, vec![], &residents(&[&weight]), &engine()).unwrap_err();
    assert!(error.to_string().contains("activation is swish, expected relu"), "{error}");
}
