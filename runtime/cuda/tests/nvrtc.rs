//! NVIDIA's compiler takes every kernel: no spills, and no more instructions for a weight than are recorded in
//! `tests/nvrtc/recorded.tsv`.
//!
//! To accept changes: `MQC_RECORD=1 cargo test -p mqc-cuda --test nvrtc`, then read the difference.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use mqc_cuda::{
    Activation, Element, Emitted, Epilogue, Family, Kernel, Target, Tokens, emit, emit_general, emit_rows,
};
use mqc_ir::quant::SliceMode;
use support::kernels::{ELEMENTS, MODES, kernel};
use support::nvrtc::{Compiled, compile};

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
    // Where registers are short: these set the limits of blocks that share a multiprocessor.
    let (midpoint, round) = (SliceMode::Midpoint, SliceMode::Round);
    let limits = [
        (Element::Bf16, Tokens::Eight, vec![(6, midpoint, 64), (5, round, 64), (2, midpoint, 32)]),
        (Element::Bf16, Tokens::Eight, vec![(1, round, 32), (7, round, 0), (7, round, 128)]),
        (Element::F32, Tokens::Eight, vec![(6, midpoint, 128), (5, round, 128), (3, midpoint, 64)]),
        (
            Element::F32,
            Tokens::Eight,
            vec![(2, round, 64), (7, midpoint, 256), (6, round, 256), (7, round, 0)],
        ),
        (Element::F32, Tokens::Sixteen, vec![(4, midpoint, 0), (3, round, 0), (1, midpoint, 256)]),
    ];
    for (element, tokens, limits) in limits {
        described
            .extend(limits.into_iter().map(|(bits, mode, group)| kernel(bits, mode, group, element, tokens)));
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

/// What came out of one kernel for one target.
struct Row {
    registers: u32,
    spills: u32,
    cost: f64,
}

/// All kernels, compiled once for all tests, by name and target.
static ROWS: LazyLock<BTreeMap<(String, String), Row>> = LazyLock::new(|| {
    let kernels = kernels();
    let by_name: BTreeMap<&str, &Emitted> = kernels.iter().map(|k| (k.name.as_str(), k)).collect();
    let texts: Vec<_> = kernels.iter().map(|k| (k.name.as_str(), k.text.as_str())).collect();
    let rows = compile("nvrtc", &texts, &[Target::Sm80, Target::Sm90a]).into_iter().map(|compiled| {
        let kernel = by_name[compiled.name.as_str()];
        let (tensor, cost) = (compiled.tensor > 0, cost(kernel, &compiled));
        assert_eq!(tensor, kernel.family != Family::General, "tensor core loop of {}", kernel.name);
        let Compiled { name, target, registers, spills, .. } = compiled;
        ((name, target), Row { registers, spills, cost })
    });
    rows.collect()
});

/// Kernels that read rows of tables.
#[test]
fn rows_compile() {
    let forms = [(8, SliceMode::Midpoint, 0), (3, SliceMode::Round, 64), (5, SliceMode::Extra, 96)];
    let emitted = forms
        .map(|(bits, mode, group)| emit_rows(kernel(bits, mode, group, Element::F32, Tokens::Many).form()));
    let texts: Vec<_> = emitted.iter().map(|e| (e.name.as_str(), e.text.as_str())).collect();
    for compiled in compile("nvrtc-rows", &texts, &[Target::Sm80, Target::Sm90a]) {
        assert_eq!((compiled.spills, compiled.tensor), (0, 0), "{compiled:?}");
    }
}

/// More registers than `__launch_bounds__` leaves show as spills.
#[test]
fn no_kernel_spills() {
    let spills = ROWS.iter().filter(|(_, row)| row.spills > 0);
    let wrong: Vec<String> = spills
        .map(|((name, target), row)| {
            format!("{name} for {target}: {} bytes beyond {} registers", row.spills, row.registers)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_kernel_takes_more_instructions_than_recorded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvrtc/recorded.tsv");
    if std::env::var_os("MQC_RECORD").is_some() {
        let lines = ROWS
            .iter()
            .map(|((name, target), row)| format!("{name}\t{target}\t{}\t{:.3}\n", row.registers, row.cost));
        let table = format!("kernel\ttarget\tregisters\tinstructions\n{}", lines.collect::<String>());
        std::fs::write(&path, table).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let mut recorded = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        recorded.insert((fields[0].to_owned(), fields[1].to_owned()), fields[3].parse::<f64>().unwrap());
    }
    let keys = ROWS.keys().chain(recorded.keys()).collect::<BTreeSet<_>>();
    let wrong: Vec<String> = keys
        .into_iter()
        .filter_map(|key| match (ROWS.get(key), recorded.get(key)) {
            (Some(row), Some(most)) if row.cost <= most + 0.0005 => None,
            (Some(row), Some(most)) => {
                Some(format!("{key:?}: {:.3} instructions, recorded {most}", row.cost))
            }
            (Some(_), None) => Some(format!("{key:?} is not recorded")),
            (None, _) => Some(format!("{key:?} is recorded and was not compiled")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the project promised: for up to 8 tokens, at midpoint, per channel; groups of 128 cost at most 0.15 more than that.
#[test]
fn instructions_for_a_weight_are_within_the_bars() {
    for target in ["sm_80", "sm_90a"] {
        for (bits, bar) in [(2, 1.7), (3, 2.0), (4, 2.1), (8, 3.0)] {
            let of = |group: &str| {
                let name = format!("nested_r{bits}_midpoint_{group}_f16_m8");
                ROWS[&(name, target.to_owned())].cost
            };
            let (channel, group) = (of("channel"), of("g128"));
            assert!(
                channel <= bar && group <= channel + 0.15,
                "width {bits} for {target}: {channel:.3}, {group:.3} in groups; at most {bar} and 0.15 more"
            );
        }
    }
}
