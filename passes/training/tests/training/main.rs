//! Training graphs on the engine: steps learn, halves make the whole, codes are those of the artifact's definition.

mod lines;
mod small;
mod weighing;

use std::collections::BTreeMap;

use mqc_ir::op::WeightLayout;
use mqc_ir::quant::{Affine, Grouping, Scheme, SliceMode, Width};
use mqc_ir::{Graph, Tensor};
use mqc_step::Array;
use mqc_training::options::{Balance, Codistill, Latent, Ramp, Range, Rule};
use mqc_training::training::names;
use mqc_training::{Options, Training};

use small::{
    CLASSES, HIDDEN, INPUTS, Machine, ROWS, codes, initial, model, options, plain, random, train, width,
};

#[test]
fn every_width_learns_jointly() {
    for (range, affine) in [
        (Range::Learned, Affine::PerWidth),
        (Range::Learned, Affine::Shared),
        (Range::MinMax, Affine::PerWidth),
        (Range::MinMax, Affine::Shared),
        (Range::Levels, Affine::Shared),
    ] {
        let options = Options { range, affine, ..options("8,4,2") };
        let training = Training::new(plain(), options, &BTreeMap::new()).unwrap();
        let mut machine = Machine::new(training.step_graph().unwrap(), &initial(&training));
        machine.step(1, 0.0);
        let before = ["loss@8", "loss@4", "loss@2"].map(|name| machine.result(name));
        (2..=120).for_each(|n| {
            machine.step(n, 0.02);
        });
        let after = ["loss@8", "loss@4", "loss@2"].map(|name| machine.result(name));
        for (before, after) in before.into_iter().zip(after) {
            assert!(after < 0.6 * before, "{range:?} {affine:?}: {before} became {after}");
        }
    }
}

#[test]
fn gradients_and_update_are_the_step() {
    for rule in [
        Rule::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8 },
        Rule::Sgd { momentum: 0.9 },
        Rule::Sgd { momentum: 0.0 },
    ] {
        let mut options = options("8,4,2");
        options.optimizer.rule = rule;
        options.optimizer.weight_decay = 0.1;
        options.codistill = vec![
            Codistill { teacher: width(8), student: width(4), with_truth: true },
            Codistill { teacher: width(8), student: width(2), with_truth: false },
        ];
        options.balance = Balance::Norms;
        options.lambda_ramp = Some(Ramp { to: vec![0.1, 0.5, 1.0], steps: 3 });
        let training = Training::new(plain(), options, &BTreeMap::new()).unwrap();
        let (whole, losses) = train(&training, 3, 0.05);
        let start = initial(&training);
        let mut gradient = Machine::new(training.gradient_graph().unwrap(), &start);
        let mut update = Machine::new(training.update_graph().unwrap(), &start);
        for number in 1..=3 {
            gradient.batch();
            gradient.feed("step", &Tensor::i64_scalar(number));
            gradient.program.run().unwrap();
            assert_eq!(gradient.result("loss"), losses[number as usize - 1]);
            for (name, value) in gradient.results() {
                update.feed(&name, &value);
            }
            update.feed("lr", &Tensor::f32_scalar(0.05));
            update.feed("step", &Tensor::i64_scalar(number));
            update.program.run().unwrap();
            let state = update.state();
            for slot in gradient.graph.state.clone() {
                if let Some(tensor) = state.get(&slot.name) {
                    gradient.program.set(slot.input, &Array::from_tensor(tensor).unwrap()).unwrap();
                }
            }
        }
        let halves = update.state();
        for (name, tensor) in whole.state() {
            if let Some(half) = halves.get(&name) {
                assert_eq!(tensor, *half, "{name}");
            }
        }
    }
}

/// `weight = scale (level - zero)` of the codes graph is the weight that the training reads.
#[test]
fn codes_and_maps_are_what_evaluation_reads() {
    for layout in [WeightLayout::RowsFirst, WeightLayout::RowsLast] {
        for grouping in [Grouping::PerChannel, Grouping::group(8).unwrap()] {
            for mode in [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra] {
                for scheme in [Scheme::Asymmetric, Scheme::Symmetric] {
                    check_codes(model(layout, grouping, mode, scheme), mode, grouping);
                }
            }
        }
    }
}

fn check_codes(graph: Graph, mode: SliceMode, grouping: Grouping) {
    let training = Training::new(graph, options("8,4,2"), &BTreeMap::new()).unwrap();
    let (machine, _) = train(&training, 20, 0.02);
    let state = machine.state();
    let widths: Vec<Option<Width>> = [8, 6, 4, 3, 2].map(|b| Some(width(b))).to_vec();
    let mut evaluation = Machine::new(training.evaluation_graph(&widths).unwrap(), &state);
    evaluation.batch();
    evaluation.program.run().unwrap();
    let codes = codes(&training, &state);
    for at in widths.into_iter().flatten() {
        let map = if at >= width(5) {
            8
        } else if at >= width(3) {
            4
        } else {
            2
        };
        let first = weight(&codes, "first.weight", at, map, mode, grouping);
        let second = weight(&codes, "second.weight", at, map, mode, grouping);
        let bias = state["first.bias"].to_f32_vec().unwrap();
        let mut sum = 0.0;
        let x = random(7, ROWS * INPUTS);
        for row in 0..ROWS {
            let input = &x[row * INPUTS..(row + 1) * INPUTS];
            let hidden: Vec<f64> = (0..HIDDEN)
                .map(|h| {
                    let product: f64 = (0..INPUTS).map(|k| f64::from(input[k]) * first[h * INPUTS + k]).sum();
                    (product + f64::from(bias[h])).max(0.0)
                })
                .collect();
            let logits: Vec<f64> =
                (0..CLASSES).map(|c| (0..HIDDEN).map(|k| hidden[k] * second[c * HIDDEN + k]).sum()).collect();
            let log_sum = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
            sum += log_sum - logits[row * row % CLASSES];
        }
        let found = f64::from(evaluation.result(&format!("sum@{at}")));
        assert!((found - sum).abs() < 1e-3 * sum.abs().max(1.0), "width {at}: {found}, expected {sum}");
        assert_eq!(evaluation.result(&format!("count@{at}")), ROWS as f32);
    }
}

/// The weight [rows, cols] of a width by the definition, from codes and maps.
fn weight(
    codes: &BTreeMap<String, Tensor>,
    name: &str,
    at: Width,
    map: u8,
    mode: SliceMode,
    grouping: Grouping,
) -> Vec<f64> {
    let get = |name: String| codes[&name].to_f32_vec().unwrap();
    let shape = codes[&format!("{name}.codes")].shape().to_vec();
    let (scale, zero) = (get(format!("{name}.scale@{map}")), get(format!("{name}.zero@{map}")));
    let (groups, size) = (grouping.groups(shape[1]), grouping.size(shape[1]));
    let step = f64::from(1u32 << (8 - at.bits()));
    let level = |q: f64| match mode {
        SliceMode::Midpoint => (q / step).floor() * step + (step - 1.0) / 2.0,
        SliceMode::Round => (q / step + 0.5).floor().min(256.0 / step - 1.0) * step,
        SliceMode::Extra => (q / step + 0.5).floor() * step,
    };
    let one = |(i, &q): (usize, &f32)| {
        let at = i / shape[1] * groups + i % shape[1] / size;
        f64::from(scale[at]) * (level(f64::from(q)) - f64::from(zero[at]))
    };
    let codes = get(format!("{name}.codes"));
    assert!(codes.iter().all(|q| q.fract() == 0.0 && (0.0..=255.0).contains(q)));
    codes.iter().enumerate().map(one).collect()
}

/// What a stage leaves to the next.
fn handed_on(training: &Training, machine: &Machine) -> BTreeMap<String, Tensor> {
    let mut state = machine.state();
    let codes = codes(training, &state);
    state.retain(|name, _| !names::is_moment(name));
    for weight in ["first.weight", "second.weight"] {
        for name in [names::code(weight), names::scale(weight), names::zero(weight)] {
            state.insert(name.clone(), codes[&name].clone());
        }
    }
    state
}

/// The sum of losses of the batch at a width.
fn evaluate(training: &Training, state: &BTreeMap<String, Tensor>, bits: &str) -> f32 {
    let at = width(bits.parse().unwrap());
    let mut machine = Machine::new(training.evaluation_graph(&[Some(at)]).unwrap(), state);
    machine.batch();
    machine.program.run().unwrap();
    machine.result(&format!("sum@{bits}"))
}

#[test]
fn planes_in_turn_stay_in_their_buckets() {
    let first = Training::new(plain(), options("2"), &BTreeMap::new()).unwrap();
    let (machine, _) = train(&first, 60, 0.02);
    let earlier = handed_on(&first, &machine);
    let before = codes(&first, &earlier);
    let mut second = options("8,4");
    second.trainable.latent = Latent::Codes { prefix: width(2), rate: 50.0 };
    second.trainable.floats = false;
    second.frozen_maps = vec![width(2)];
    let second = Training::new(plain(), second, &earlier).unwrap();
    let (machine, losses) = train(&second, 100, 0.02);
    assert!(losses[99] < losses[0], "{} became {}", losses[0], losses[99]);
    let state = machine.state();
    let after = codes(&second, &state);
    let mut moved = 0;
    for weight in ["first.weight", "second.weight"] {
        let name = format!("{weight}.codes");
        let (old, new) = (before[&name].to_f32_vec().unwrap(), after[&name].to_f32_vec().unwrap());
        for (old, new) in old.iter().zip(&new) {
            assert_eq!((old / 64.0).floor(), (new / 64.0).floor(), "{weight}: {old} became {new}");
            moved += usize::from(old != new);
        }
        for map in [format!("{weight}.scale@2"), format!("{weight}.zero@2")] {
            assert_eq!(before[&map], after[&map], "{map}");
        }
    }
    assert!(moved > 20, "only {moved} codes moved");
    // What the first stage ended with is what 2 bits still are.
    assert_eq!(evaluate(&first, &earlier, "2"), evaluate(&second, &state, "2"));
}

#[test]
fn every_stage_keeps_what_those_before_it_trained() {
    let mut trained: Vec<(&str, f32)> = vec![];
    let mut earlier = BTreeMap::new();
    for bits in ["2", "4", "8"] {
        let mut stage = options(bits);
        if let Some((narrower, _)) = trained.last() {
            let prefix = narrower.parse().unwrap();
            stage.trainable.latent = Latent::Codes { prefix: width(prefix), rate: 50.0 };
            stage.trainable.floats = false;
            stage.frozen_maps = trained.iter().map(|(w, _)| width(w.parse().unwrap())).collect();
        }
        let training = Training::new(plain(), stage, &earlier).unwrap();
        let (machine, losses) = train(&training, 60, 0.02);
        assert!(losses[59] < losses[0], "{bits} bits: {} became {}", losses[0], losses[59]);
        let state = machine.state();
        for (width, loss) in &trained {
            assert_eq!(evaluate(&training, &state, width), *loss, "{width} bits after those of {bits}");
        }
        trained.push((bits, evaluate(&training, &state, bits)));
        earlier = handed_on(&training, &machine);
    }
}

#[test]
fn frozen_codes_train_their_maps_only() {
    let whole = Training::new(plain(), options("8,4,2"), &BTreeMap::new()).unwrap();
    let mut earlier = initial(&whole);
    let before = codes(&whole, &earlier);
    earlier.extend(before.clone());
    let mut frozen = options("8,4,2");
    frozen.trainable.latent = Latent::Frozen;
    let training = Training::new(plain(), frozen, &earlier).unwrap();
    let (machine, losses) = train(&training, 100, 0.02);
    assert!(losses[99] < 0.9 * losses[0], "{} became {}", losses[0], losses[99]);
    let after = codes(&training, &machine.state());
    assert_eq!(before["first.weight.codes"], after["first.weight.codes"]);
}

#[test]
fn contradictions_are_errors_that_say_what_is_wrong() {
    let message = |options: Options| match Training::new(plain(), options, &BTreeMap::new()) {
        Ok(training) => training.step_graph().err().map(|e| e.to_string()).unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    let mut frozen = options("8,4,2");
    frozen.trainable.exclude = vec!["*".into()];
    assert!(message(frozen).contains("nothing is left to train"));
    let mut lambda = options("8,4,2");
    lambda.lambda = vec![1.0];
    assert!(message(lambda).contains("1 weights for 3 widths"));
    let mut ramp = options("8,4,2");
    ramp.lambda_ramp = Some(Ramp { to: vec![0.0; 3], steps: 10 });
    assert!(message(ramp).contains("not all 0"));
    let mut rates = options("8,4,2");
    rates.rates.shift = f32::NAN;
    assert!(message(rates).contains("expected numbers from 0 on"));
    let mut pair = options("8,4");
    pair.codistill = vec![Codistill { teacher: width(4), student: width(8), with_truth: true }];
    assert!(message(pair).contains("the wider one first"));
    let mut output = options("8");
    output.loss.output = "logitz".into();
    assert!(message(output).contains("the model has logits"));
    let mut codes = options("8");
    codes.trainable.latent = Latent::Codes { prefix: width(2), rate: 1.0 };
    assert!(message(codes).contains("an earlier stage"));
}
