//! Every kernel, run on the CPU, against the numeric definition. See `docs/cuda.md`.

mod support;

use mqc_cuda::{
    Activation, Element, Emitted, Epilogue, Family, Kernel, Problem, Target, Tokens, emit, emit_general,
};
use mqc_ir::quant::SliceMode;
use support::case::{Case, Data};
use support::kernels::{ELEMENTS, MODES, kernel};
use support::shim::Program;

fn problem(rows: usize, cols: usize, tokens: usize) -> Problem {
    Problem { rows, cols, tokens, multiprocessors: 2, shared_limit: 160 << 10 }
}

/// Compiles kernels and runs each on all problems and kinds of data.
fn check(name: &str, kernels: Vec<Emitted>, problems: &[(usize, usize, usize)], data: &[Data]) {
    let mut cases = vec![];
    for (i, emitted) in kernels.iter().enumerate() {
        for &(rows, cols, tokens) in problems {
            for &data in data {
                let tokens = tokens.min(emitted.kernel.tokens.most().unwrap_or(tokens));
                cases.push((i, Case::new(emitted.kernel, problem(rows, cols, tokens), data, i as u64)));
            }
        }
    }
    Program::compile(name, kernels).check(&cases);
}

fn every_width(mode: SliceMode) {
    let kernels = (1..=8).map(|bits| emit(&kernel(bits, mode, 0, Element::F16, Tokens::Eight))).collect();
    check(&format!("decode-{mode}"), kernels, &[(16, 256, 8), (37, 523, 3)], &[Data::Exact]);
}

#[test]
fn every_width_at_midpoint() {
    every_width(SliceMode::Midpoint);
}

#[test]
fn every_width_rounded() {
    every_width(SliceMode::Round);
}

#[test]
fn every_width_with_an_extra_level() {
    every_width(SliceMode::Extra);
}

#[test]
fn groups_and_elements() {
    let tokens = [Tokens::Four, Tokens::Eight, Tokens::Sixteen];
    let mut kernels = vec![];
    for (i, group) in [0, 32, 64, 128, 256, 768].into_iter().enumerate() {
        for (j, element) in ELEMENTS.into_iter().enumerate() {
            let bits = 1 + (3 * i + j) as u8 % 8;
            kernels.push(emit(&kernel(bits, MODES[(i + j) % 3], group, element, tokens[(i + 2 * j) % 3])));
        }
    }
    assert!(kernels.iter().all(|emitted| emitted.family == Family::Decode && emitted.note.is_none()));
    // Odd sizes; columns that are split between blocks; more tiles than warps; one of everything.
    let problems = [(33, 777, 16), (16, 4113, 5), (1, 1, 1), (18, 2600, 2)];
    check("groups", kernels, &problems, &[Data::Exact, Data::Random, Data::Wide]);
}

#[test]
fn many_tokens_on_sm_80() {
    many_tokens(Target::Sm80);
}

#[test]
fn many_tokens_on_sm_90a() {
    many_tokens(Target::Sm90a);
}

fn many_tokens(target: Target) {
    let mut kernels = vec![];
    for (i, group) in [0, 32, 64, 128, 256, 768].into_iter().enumerate() {
        for j in 0..2 {
            let bits = 1 + (3 * i + 4 * j) as u8 % 8;
            let described = kernel(bits, MODES[(i + j) % 3], group, ELEMENTS[(i + 2 * j) % 3], Tokens::Many);
            kernels.push(emit(&Kernel { target, ..described }));
        }
    }
    assert!(kernels.iter().all(|emitted| emitted.family == Family::Prefill && emitted.prepare.is_some()));
    check(&format!("many-{target}"), kernels, &[(130, 523, 70), (1, 1, 17)], &[Data::Exact, Data::Wide]);
}

#[test]
fn epilogues() {
    let activations =
        [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];
    let mut kernels = vec![];
    for (i, activation) in activations.into_iter().enumerate() {
        for parts in 0..8 {
            let epilogue =
                Epilogue { bias: parts & 1 != 0, activation, gate: parts & 2 != 0, residual: parts & 4 != 0 };
            let described = kernel(2, SliceMode::Midpoint, 0, ELEMENTS[(i + parts) % 3], Tokens::Four);
            kernels.push(emit_general(&Kernel { epilogue, ..described }));
            // The text that finishes outputs is the same in all families.
            if [0, 7].contains(&parts) || parts == i {
                kernels.push(emit(&Kernel { epilogue, ..described }));
            }
        }
    }
    check("epilogues", kernels, &[(19, 300, 3)], &[Data::Exact, Data::Random]);
}

#[test]
fn the_general_kernel() {
    let mut kernels = vec![];
    for (i, group) in [0, 8, 24, 96, 192, 320].into_iter().enumerate() {
        for (j, mode) in MODES.into_iter().enumerate() {
            let described =
                kernel(1 + (i + 3 * j) as u8 % 8, mode, group, ELEMENTS[(i + j) % 3], Tokens::Many);
            let emitted = if group == 0 { emit_general(&described) } else { emit(&described) };
            assert_eq!(emitted.family, Family::General);
            assert_eq!(emitted.note.is_some(), group != 0, "{group}");
            kernels.push(emitted);
        }
    }
    check("general", kernels, &[(33, 777, 17), (1, 1, 1)], &[Data::Exact, Data::Random, Data::Wide]);
}
