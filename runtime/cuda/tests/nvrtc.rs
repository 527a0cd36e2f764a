//! NVIDIA's compiler takes every kernel: no spills, and no more instructions for a weight than are recorded in
//! `tests/nvrtc/recorded.tsv`.
//!
//! To accept changes: `MQC_RECORD=1 cargo test -p mqc-cuda --test nvrtc`, then read the difference.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use mqc_cuda::{Activation, Element, Emitted, Epilogue, Family, Kernel, Target, Tokens, emit, emit_general};
use mqc_ir::quant::SliceMode;
use support::kernels::{ELEMENTS, MODES, kernel};
use support::nvrtc::{Compiled, compile};

/// What a thread can have.
const MOST_REGISTERS: u32 = 255;

/// All widths and modes, with one scale a channel; groups of 128 at midpoint; some of every group, element and number of
/// tokens; every activation.
fn kernels() -> Vec<Emitted> {
    let mut described = vec![];
    for bits in 1..=8 {
        for mode in MODES {
            described.push(kernel(bits, mode, 0, Element::F16, Tokens::Eight));
        }
        described.push(kernel(bits, SliceMode::Midpoint, 128, Element::F16, Tokens::Eight));
    }
    let groups = [0, 32, 64, 128, 256, 1024];
    for (i, tokens) in [Tokens::Four, Tokens::Eight, Tokens::Sixteen, Tokens::Many].into_iter().enumerate() {
        for (j, element) in ELEMENTS.into_iter().enumerate() {
            // The most registers are needed for all planes, and for many groups.
            described.push(kernel(8, SliceMode::Midpoint, groups[(i + j) % 6], element, tokens));
            described.push(kernel(7, MODES[(i + j) % 3], 32, element, tokens));
            described.push(kernel(4, MODES[(i + j + 1) % 3], groups[(i + j + 3) % 6], element, tokens));
        }
    }
    let activations =
        [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];
    for (i, activation) in activations.into_iter().enumerate() {
        let epilogue = Epilogue { bias: true, activation, gate: true, residual: true };
        described
            .push(Kernel { epilogue, ..kernel(3, SliceMode::Midpoint, 0, ELEMENTS[i % 3], Tokens::Eight) });
    }
    let general = [(SliceMode::Midpoint, 24), (SliceMode::Round, 0), (SliceMode::Extra, 128)]
        .map(|(mode, group)| emit_general(&kernel(5, mode, group, Element::Bf16, Tokens::Many)));
    let on_hopper = |kernel: &Kernel| emit(&Kernel { target: Target::Sm90a, ..*kernel });
    let emitted = described.iter().map(emit).chain(described.iter().map(on_hopper)).chain(general);
    emitted.map(|made| (made.name.clone(), made)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Of decode: instructions of a lane for each weight. Of prefill: for each tensor core instruction.
fn cost(kernel: &Emitted, compiled: &Compiled) -> f64 {
    let each = f64::from(compiled.instructions) / f64::from(compiled.tensor);
    match kernel.family {
        Family::Decode => {
            let columns = kernel.kernel.tokens.most().unwrap() * kernel.kernel.element.parts();
            // 16 x 16 weights in 32 lanes, once for every eight columns of activations.
            each * columns.div_ceil(8) as f64 / 8.0
        }
        Family::Prefill => each,
        Family::General => 0.0,
    }
}

#[test]
fn every_kernel_compiles_and_none_gets_worse() {
    let kernels = kernels();
    let compiled = compile("nvrtc", &kernels, &[Target::Sm80, Target::Sm90a]);
    let by_name: BTreeMap<&str, &Emitted> = kernels.iter().map(|k| (k.name.as_str(), k)).collect();
    let mut wrong = vec![];
    let mut table = String::from("kernel\ttarget\tregisters\tinstructions\n");
    let mut costs = BTreeMap::new();
    for compiled in &compiled {
        let Compiled { name, target, registers, spills, tensor, .. } = compiled;
        let kernel = by_name[name.as_str()];
        if *spills > 0 || *registers > MOST_REGISTERS {
            wrong.push(format!("{name} for {target}: {registers} registers, {spills} bytes of spills"));
        }
        assert_eq!(*tensor > 0, kernel.family != Family::General, "tensor core loop of {name} for {target}");
        let found = cost(kernel, compiled);
        let _ = writeln!(table, "{name}\t{target}\t{registers}\t{found:.3}");
        costs.insert((name.clone(), target.clone()), found);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvrtc/recorded.tsv");
    if std::env::var_os("MQC_RECORD").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let mut names = vec![];
    for line in recorded.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (key, most) = ((fields[0].to_owned(), fields[1].to_owned()), fields[3].parse::<f64>().unwrap());
        match costs.get(&key) {
            Some(found) if *found <= most + 0.0005 => {}
            Some(found) => {
                wrong.push(format!("{} for {}: {found:.3} instructions, recorded {most}", key.0, key.1))
            }
            None => wrong.push(format!("{} for {} is recorded and was not compiled", key.0, key.1)),
        }
        names.push(key);
    }
    wrong.extend(
        costs.keys().filter(|key| !names.contains(key)).map(|key| format!("{key:?} is not recorded")),
    );
    wrong.extend(bars(&costs));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the project promised: for up to 8 tokens, at midpoint, per channel; groups of 128 cost at most 0.15 more than that.
fn bars(costs: &BTreeMap<(String, String), f64>) -> Vec<String> {
    let mut wrong = vec![];
    for target in ["sm_80", "sm_90a"] {
        for (bits, bar) in [(2, 1.7), (3, 2.0), (4, 2.1), (8, 3.0)] {
            let of = |group: &str| {
                let name = format!("nested_r{bits}_midpoint_{group}_f16_m8");
                costs[&(name, target.to_owned())]
            };
            let (channel, group) = (of("channel"), of("g128"));
            if channel > bar || group > channel + 0.15 {
                wrong.push(format!(
                    "width {bits} for {target}: {channel:.3} and {group:.3} in groups, at most {bar}"
                ));
            }
        }
    }
    wrong
}
