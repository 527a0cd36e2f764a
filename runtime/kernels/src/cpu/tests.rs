//! Every kernel against the definition.

use std::collections::BTreeMap;

use bytes::Bytes;
use mqc_ir::Activations;
use mqc_ir::quant::{Grouping, SliceMode, Width};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::nested::{AffineMap, NestedWeight, dequantize, pack};

/// Deterministic values from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 16
    }

    /// In -1..1.
    fn float(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0
    }
}

#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    cols: usize,
    tokens: usize,
    mode: SliceMode,
    grouping: Grouping,
    activations: Activations,
    codes: CodeKind,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum CodeKind {
    Random,
    Ones,
    Zeros,
}

struct Built {
    codes: Vec<u8>,
    maps: [AffineMap; 2],
    weight: NestedWeight,
    x: Vec<f32>,
}

/// The width that has an affine map of its own.
const OWN_MAP: u8 = 3;

impl Case {
    fn build(&self) -> Built {
        let mut random = Random(self.seed);
        let codes: Vec<u8> = (0..self.rows * self.cols)
            .map(|_| match self.codes {
                CodeKind::Random => random.next() as u8,
                CodeKind::Ones => 255,
                CodeKind::Zeros => 0,
            })
            .collect();
        let groups = self.grouping.groups(self.cols);
        let maps = [(); 2].map(|()| AffineMap {
            scale: (0..self.rows * groups).map(|_| 0.02 * random.float()).collect::<Vec<_>>().into(),
            zero: (0..self.rows * groups).map(|_| 128.0 + 100.0 * random.float()).collect::<Vec<_>>().into(),
        });
        let planes = pack(&codes, self.rows, self.cols).unwrap().map(Bytes::from).to_vec();
        let per_width = BTreeMap::from([(Width::new(OWN_MAP).unwrap(), maps[1].clone())]);
        let shape = (self.rows, self.cols);
        let weight =
            NestedWeight::new(shape, self.grouping, self.mode, planes, maps[0].clone(), per_width).unwrap();
        let x = (0..self.tokens * self.cols).map(|_| random.float() * 3.0).collect();
        Built { codes, maps, weight, x }
    }

    /// The activations that the integers stand for.
    fn rounded(&self, x: &[f32]) -> Vec<f64> {
        let mut out = vec![];
        for token in x.chunks(self.cols.max(1)) {
            let (limit, run) = match self.activations {
                Activations::F32 => {
                    out.extend(token.iter().map(|x| f64::from(*x)));
                    continue;
                }
                Activations::Int16 => (32_512.0, usize::MAX),
                Activations::Int8 => (127.0, usize::MAX),
                Activations::Int8Group(size) => (127.0, size as usize),
            };
            // Groups of activations are counted in cells of 32, which begin anew with each group of the weight.
            let group = self.grouping.size(self.cols);
            let cells_per_group = group.div_ceil(32);
            let run_of = |k: usize| (k / group * cells_per_group + k % group / 32) * 32 / run;
            let mut start = 0;
            while start < token.len() {
                let end = (start..token.len()).find(|&k| run_of(k) != run_of(start)).unwrap_or(token.len());
                let largest = token[start..end].iter().fold(0f32, |most, x| most.max(x.abs()));
                let inverse = if largest > 1e-30 { limit / largest } else { 0.0 };
                let rounded = token[start..end].iter().map(|x| f64::from((x * inverse).round_ties_even()));
                out.extend(rounded.map(|q| q * f64::from(largest / limit)));
                start = end;
            }
        }
        out
    }

    /// Products, and the sums of the magnitudes of their terms.
    fn reference(&self, built: &Built, width: Width) -> Vec<(f64, f64)> {
        let map = if width.bits() == OWN_MAP { &built.maps[1] } else { &built.maps[0] };
        let x = self.rounded(&built.x);
        let groups = self.grouping.groups(self.cols);
        let mut out = vec![];
        for token in 0..self.tokens {
            for row in 0..self.rows {
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for k in 0..self.cols {
                    let at = row * groups + k / self.grouping.size(self.cols);
                    let (scale, zero) = (map.scale.as_slice()[at], map.zero.as_slice()[at]);
                    let q = built.codes[row * self.cols + k];
                    let term =
                        f64::from(dequantize(q, width, self.mode, scale, zero)) * x[token * self.cols + k];
                    sum += term;
                    // Offsets and indices are summed apart: their parts, not their difference, set the rounding.
                    let parts = f64::from(scale.abs()) * 256.0 * x[token * self.cols + k].abs();
                    magnitude += term.abs().max(parts);
                }
                out.push((sum, magnitude));
            }
        }
        out
    }

    fn check(&self, isa: Isa) -> Result<(), TestCaseError> {
        let built = self.build();
        let packed = Packed::new(built.weight.clone(), &Pages::default());
        let threads = Threads::new(1);
        for width in Width::all().filter(|width| *width <= built.weight.max_width()) {
            packed.load(width).unwrap();
            let mut y = vec![f32::NAN; self.tokens * self.rows];
            let matmul =
                MatMul { activations: self.activations, isa, ..MatMul::new(&packed, width, &threads) };
            matmul.run(&built.x, self.tokens, &mut y).unwrap();
            for (i, (found, (expected, magnitude))) in y.iter().zip(self.reference(&built, width)).enumerate()
            {
                let error = (f64::from(*found) - expected).abs();
                prop_assert!(
                    error <= 1e-6 * magnitude + 1e-30,
                    "{isa} int{width} output {i}: {found}, expected {expected}"
                );
            }
        }
        Ok(())
    }
}

fn groupings() -> impl Strategy<Value = Grouping> {
    select(vec![0u32, 8, 32, 40, 64, 96, 128, 256, 1024]).prop_map(|size| Grouping::group(size).unwrap())
}

fn activations() -> impl Strategy<Value = Activations> {
    select(vec![
        Activations::F32,
        Activations::Int16,
        Activations::Int8,
        Activations::Int8Group(32),
        Activations::Int8Group(128),
    ])
}

fn cases() -> impl Strategy<Value = Case> {
    let modes = select(vec![SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra]);
    let codes = select(vec![CodeKind::Random, CodeKind::Random, CodeKind::Ones, CodeKind::Zeros]);
    let sizes = (1usize..40, 1usize..1200, select(vec![1usize, 2, 3, 5, 8, 13, 17]));
    (sizes, modes, groupings(), activations(), codes, any::<u64>()).prop_map(
        |((rows, cols, tokens), mode, grouping, activations, codes, seed)| Case {
            rows,
            cols,
            tokens,
            mode,
            grouping,
            activations,
            codes,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn kernels_are_the_definition(case in cases()) {
        for isa in Isa::available() {
            case.check(isa)?;
        }
    }
}
