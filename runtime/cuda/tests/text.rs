//! The text of kernels, as snapshots in the repository's `snapshots/cuda`. One for every select network and for every
//! family; the prelude and the bodies, which are files of their own, are left out where they repeat.
//!
//! To accept changes: `INSTA_UPDATE=always cargo test -p mqc-cuda --test text`, then read the difference.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use mqc_cuda::{
    Activation, Element, Emitted, Epilogue, Family, Kernel, Target, Tokens, emit, emit_general, emit_rows,
};
use mqc_ir::quant::SliceMode;
use support::kernels::{ELEMENTS, MODES, kernel};

fn check(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/cuda");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A function of a kernel's text.
fn function<'a>(emitted: &'a Emitted, signature: &str) -> &'a str {
    let from = emitted.text.find(signature).unwrap();
    let length = emitted.text[from..].find("\n}\n").unwrap();
    &emitted.text[from..from + length + 3]
}

#[test]
fn select_networks() {
    for mode in MODES {
        for bits in 1..=8 {
            let emitted = emit(&kernel(bits, mode, 0, Element::F16, Tokens::Eight));
            check(&format!("select-{mode}-{bits}"), function(&emitted, "DEVICE void select_pairs"));
        }
    }
}

#[test]
fn epilogues() {
    let mut text = String::new();
    let activations =
        [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];
    for (i, activation) in activations.into_iter().enumerate() {
        let epilogue = Epilogue { bias: i % 2 == 0, activation, gate: i % 3 == 1, residual: i > 2 };
        let emitted =
            emit(&Kernel { epilogue, ..kernel(2, SliceMode::Midpoint, 0, ELEMENTS[i % 3], Tokens::Four) });
        text.push_str(&format!("// {}\n{}", emitted.name, function(&emitted, "DEVICE void store_output")));
    }
    check("epilogues", &text);
}

#[test]
fn families() {
    let epilogue = Epilogue { bias: true, activation: Activation::Silu, gate: true, residual: true };
    let describe = |tokens| Kernel { epilogue, ..kernel(3, SliceMode::Midpoint, 128, Element::Bf16, tokens) };
    check("decode", &emit(&describe(Tokens::Eight)).text);
    check("prefill", &emit(&describe(Tokens::Many)).text);
    check("prefill-sm90a", &emit(&Kernel { target: Target::Sm90a, ..describe(Tokens::Many) }).text);
    check("rows", &emit_rows(describe(Tokens::Many).form()).text);
    check("general", &emit_general(&describe(Tokens::Many)).text);
}

#[test]
fn what_no_fast_kernel_serves_says_so() {
    for group in [8, 24, 96, 192, 320] {
        let emitted = emit(&kernel(4, SliceMode::Midpoint, group, Element::F16, Tokens::Eight));
        assert_eq!(emitted.family, Family::General);
        let note = emitted.note.unwrap();
        assert!(note.contains(&format!("groups of {group};")) && note.contains("general kernel"), "{note}");
    }
    for group in [0, 32, 64, 128, 256, 512, 768] {
        for tokens in [Tokens::Four, Tokens::Many] {
            assert_eq!(emit(&kernel(4, SliceMode::Midpoint, group, Element::F16, tokens)).note, None);
        }
    }
}

#[test]
fn different_kernels_have_different_names() {
    let mut seen = BTreeSet::new();
    for mode in MODES {
        for bits in 1..=8 {
            for group in [0, 32, 24] {
                for element in ELEMENTS {
                    for tokens in [Tokens::Four, Tokens::Eight, Tokens::Sixteen, Tokens::Many] {
                        for parts in 0..8 {
                            let epilogue = Epilogue {
                                bias: parts & 1 != 0,
                                gate: parts & 2 != 0,
                                residual: parts & 4 != 0,
                                ..Epilogue::default()
                            };
                            let emitted =
                                emit(&Kernel { epilogue, ..kernel(bits, mode, group, element, tokens) });
                            assert!(
                                seen.insert((emitted.name.clone(), emitted.text.clone()))
                                    || emitted.family == Family::General
                            );
                        }
                    }
                }
            }
        }
    }
    let names: BTreeSet<&String> = seen.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), seen.len());
}

#[test]
fn every_snapshot_is_of_this_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../snapshots/cuda");
    let expected: BTreeSet<String> = MODES
        .iter()
        .flat_map(|mode| (1..=8).map(move |bits| format!("select-{mode}-{bits}")))
        .chain(["epilogues", "decode", "prefill", "prefill-sm90a", "rows", "general"].map(String::from))
        .map(|name| format!("{name}.snap"))
        .collect();
    let found = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.filter(|name| name.ends_with(".snap")).collect::<BTreeSet<_>>(), expected);
}
