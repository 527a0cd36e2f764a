//! What the losses of widths and the rates of parameters count for.

use std::collections::BTreeMap;

use mqc_ir::Tensor;
use mqc_training::options::{Balance, Ramp, Range, Rates};
use mqc_training::training::names;
use mqc_training::{Options, Training};

use crate::small::{Machine, initial, options, plain, train, width};

#[test]
fn lambda_moves_over_the_steps() {
    let (from, to) = ([1.0f32, 1.0, 2.0], [0.0f32, 0.5, 1.0]);
    let mut options = options("8,4,2");
    options.lambda = from.to_vec();
    options.lambda_ramp = Some(Ramp { to: to.to_vec(), steps: 5 });
    let training = Training::new(plain(), options, &BTreeMap::new()).unwrap();
    let mut machine = Machine::new(training.step_graph().unwrap(), &initial(&training));
    for step in 1..=8 {
        let loss = machine.step(step, 0.01);
        let way = ((step - 1) as f32 / 4.0).min(1.0);
        let lambda: Vec<f32> = from.iter().zip(to).map(|(from, to)| from + way * (to - from)).collect();
        let losses = ["loss@8", "loss@4", "loss@2"].map(|name| machine.result(name));
        let mean =
            lambda.iter().zip(losses).map(|(l, loss)| l * loss).sum::<f32>() / lambda.iter().sum::<f32>();
        assert!((loss - mean).abs() < 1e-5, "step {step}: {loss}, expected {mean}");
    }
}

/// Gradients by name at the start, for state that was changed.
fn gradients(options: Options, state: &[(String, f32)]) -> BTreeMap<String, Vec<f32>> {
    let training = Training::new(plain(), options, &BTreeMap::new()).unwrap();
    let mut values = initial(&training);
    values.extend(state.iter().map(|(name, value)| (name.clone(), Tensor::f32_scalar(*value))));
    let mut machine = Machine::new(training.gradient_graph().unwrap(), &values);
    machine.batch();
    machine.program.run().unwrap();
    let vector = |(name, tensor): (String, Tensor)| (name, tensor.to_f32_vec().unwrap());
    machine.results().into_iter().map(vector).collect()
}

#[test]
fn balanced_gradients_are_those_of_the_widths_scaled_by_their_norms() {
    for range in [Range::Learned, Range::MinMax] {
        let options = Options { range, ..options("8,4,2") };
        // The gradient of each width alone.
        let alone: Vec<_> = (0..3)
            .map(|i| {
                let lambda = (0..3).map(|j| if i == j { 1.0 } else { 0.0 }).collect();
                gradients(Options { lambda, ..options.clone() }, &[])
            })
            .collect();
        let balanced = Options { balance: Balance::Norms, lambda: vec![1.0, 2.0, 1.0], ..options };
        let found = gradients(balanced.clone(), &[]);
        for (gradients, bits) in alone.iter().zip([8, 4, 2]) {
            let norm = found[&format!("{}.grad", names::norm(width(bits)))][0];
            assert!(norm > 0.0);
            if range == Range::MinMax {
                let weights = ["first.weight.grad", "second.weight.grad"].map(|name| &gradients[name]);
                let expected = weights.iter().flat_map(|g| g.iter()).map(|g| g * g).sum::<f32>().sqrt();
                assert!(
                    (norm - expected).abs() < 1e-4 * expected,
                    "{bits} bits: {norm}, expected {expected}"
                );
            }
        }
        // With averages that are known: mean 0.25 * 1 + 0.5 * 2 + 0.25 * 4 = 2.25.
        let norms = [(8, 1.0), (4, 2.0), (2, 4.0)].map(|(bits, norm)| (names::norm(width(bits)), norm));
        let found = gradients(balanced, &norms);
        for name in ["first.weight.grad", "second.weight.grad", "first.bias.grad"] {
            for (i, value) in found[name].iter().enumerate() {
                let factors = [0.25 * 2.25, 0.5 * 2.25 / 2.0, 0.25 * 2.25 / 4.0];
                let expected: f32 = alone.iter().zip(factors).map(|(g, f)| f * g[name][i]).sum();
                assert!((value - expected).abs() < 1e-5, "{range:?} {name}: {value}, expected {expected}");
            }
        }
    }
}

#[test]
fn norms_are_averaged_from_the_first_on() {
    let options = Options { balance: Balance::Norms, ..options("8,4,2") };
    let training = Training::new(plain(), options, &BTreeMap::new()).unwrap();
    let mut gradient = Machine::new(training.gradient_graph().unwrap(), &initial(&training));
    gradient.batch();
    gradient.program.run().unwrap();
    let mut machine = Machine::new(training.step_graph().unwrap(), &initial(&training));
    machine.step(1, 0.02);
    for bits in [8, 4, 2] {
        let name = names::norm(width(bits));
        let found = machine.state()[&name].to_f32_vec().unwrap();
        let first = gradient.results()[&format!("{name}.grad")].to_f32_vec().unwrap();
        assert!((found[0] - first[0]).abs() < 1e-5 * first[0], "{bits} bits: {found:?}, expected {first:?}");
    }
    let first = machine.result("loss");
    let last = (2..=120).map(|n| machine.step(n, 0.02)).last().unwrap();
    assert!(last < 0.6 * first, "{first} became {last}");
}

/// The first step of AdamW moves everything by its rate.
#[test]
fn rates_are_relative_to_that_of_the_weights() {
    let mut options = options("8,4,2");
    options.rates = Rates { range: 0.5, scale: 2.0, shift: 100.0, float: 0.0 };
    let training = Training::new(plain(), options, &BTreeMap::new()).unwrap();
    let (before, (machine, _)) = (initial(&training), train(&training, 1, 0.001));
    let after = machine.state();
    for (name, rate) in [
        ("first.weight".to_owned(), 1.0),
        (names::gamma("first.weight"), 0.5),
        (names::beta("second.weight"), 0.5),
        (names::width_scale("first.weight", width(2)), 2.0),
        (names::width_shift("second.weight", width(4)), 100.0),
        ("first.bias".to_owned(), 0.0),
    ] {
        let values = |state: &BTreeMap<String, Tensor>| state[&name].to_f32_vec().unwrap();
        let moved =
            values(&before).iter().zip(values(&after)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!((moved - 0.001 * rate).abs() < 0.00002 * rate.max(0.1), "{name} moved by {moved}");
    }
}
