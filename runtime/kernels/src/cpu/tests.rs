//! Every kernel against the definition.

use std::collections::BTreeMap;

use bytes::Bytes;
use mqc_ir::Activations;
use mqc_ir::quant::{Grouping, SliceMode, Width};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
#[cfg(target_os = "linux")]
mod guard;

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

/// The width that has an affine map of its own; narrower ones use it too.
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
        let map = if width.bits() <= OWN_MAP { &built.maps[1] } else { &built.maps[0] };
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
        self.check_in(isa, &Pages::default())
    }

    fn check_in(&self, isa: Isa, pages: &Pages) -> Result<(), TestCaseError> {
        let built = self.build();
        let packed = Packed::new(built.weight.clone(), pages);
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

fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

fn example(rows: usize, cols: usize, tokens: usize, activations: Activations) -> Case {
    Case {
        rows,
        cols,
        tokens,
        mode: SliceMode::Midpoint,
        grouping: Grouping::PerChannel,
        activations,
        codes: CodeKind::Random,
        seed: 5,
    }
}

/// Products of a case at a width, with changes to the call.
fn run_on(case: &Case, threads: &Threads, bits: u8, change: impl Fn(&mut MatMul)) -> Vec<f32> {
    let built = case.build();
    let packed = Packed::new(built.weight.clone(), &Pages::default());
    packed.load(width(bits)).unwrap();
    let mut matmul = MatMul { activations: case.activations, ..MatMul::new(&packed, width(bits), threads) };
    change(&mut matmul);
    let mut y = vec![0.0; case.tokens * matmul.rows.len()];
    matmul.run(&built.x, case.tokens, &mut y).unwrap();
    y
}

#[test]
fn integer_sums_are_exact() {
    // With a unit scale and zero the output is the sum of codes times activations, which float arithmetic holds.
    for isa in Isa::available() {
        for (cols, tokens) in [(4096, 1), (4096, 3), (700, 2), (31, 1)] {
            let mut random = Random(3);
            let codes: Vec<u8> = (0..8 * cols).map(|_| random.next() as u8).collect();
            let x: Vec<f32> = (0..tokens * cols)
                .map(|k| if k % cols == 0 { 127.0 } else { (random.next() % 255) as f32 - 127.0 })
                .collect();
            let planes = pack(&codes, 8, cols).unwrap().map(Bytes::from).to_vec();
            let map = AffineMap { scale: vec![1.0; 8].into(), zero: vec![0.0; 8].into() };
            let weight = NestedWeight::new(
                (8, cols),
                Grouping::PerChannel,
                SliceMode::Midpoint,
                planes,
                map,
                BTreeMap::new(),
            );
            let packed = Packed::new(weight.unwrap(), &Pages::default());
            packed.load(Width::MAX).unwrap();
            let threads = Threads::new(1);
            let mut y = vec![0.0; tokens * 8];
            MatMul { activations: Activations::Int8, isa, ..MatMul::new(&packed, Width::MAX, &threads) }
                .run(&x, tokens, &mut y)
                .unwrap();
            for (i, y) in y.iter().enumerate() {
                let (token, row) = (i / 8, i % 8);
                let sum: i64 =
                    (0..cols).map(|k| i64::from(codes[row * cols + k]) * x[token * cols + k] as i64).sum();
                assert_eq!(*y, sum as f32, "{isa} {cols} columns, token {token}, row {row}");
            }
        }
    }
}

#[test]
fn long_rows_do_not_overflow() {
    for codes in [CodeKind::Ones, CodeKind::Random] {
        for activations in [Activations::Int8, Activations::Int16] {
            let case = Case { codes, ..example(5, 70_000, 3, activations) };
            Isa::available().into_iter().for_each(|isa| case.check(isa).unwrap());
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for activations in [Activations::F32, Activations::Int16, Activations::Int8Group(64)] {
        for tokens in [1, 7, 40] {
            let case = example(133, 300, tokens, activations);
            let [one, three] = [1, 3].map(|count| run_on(&case, &Threads::new(count), 4, |_| {}));
            assert_eq!(one, three, "{activations} {tokens}");
        }
    }
}

#[test]
fn the_epilogue_is_applied_in_order() {
    let threads = Threads::new(2);
    for isa in Isa::available() {
        for tokens in [1, 2, 9, 20] {
            for activations in [Activations::F32, Activations::Int16] {
                let case = example(37, 100, tokens, activations);
                let plain = run_on(&case, &threads, 5, |call| call.isa = isa);
                let mut random = Random(9);
                let mut floats = |len| (0..len).map(|_| random.float()).collect::<Vec<f32>>();
                let (bias, gate, residual) = (floats(37), floats(37 * tokens), floats(37 * tokens));
                let kinds = [
                    Activation::Identity,
                    Activation::Relu,
                    Activation::Gelu,
                    Activation::GeluTanh,
                    Activation::Silu,
                ];
                for activation in kinds {
                    let fused = run_on(&case, &threads, 5, |call| {
                        call.isa = isa;
                        call.epilogue.bias = Some(leak(&bias));
                        call.epilogue.activation = activation;
                        call.epilogue.gate = Some(leak(&gate));
                        call.epilogue.residual = Some(leak(&residual));
                    });
                    for i in 0..plain.len() {
                        let mut y = [plain[i] + bias[i % 37]];
                        activation.apply(&mut y);
                        let expected = y[0] * gate[i] + residual[i];
                        let close = (fused[i] - expected).abs() <= 2e-6 * (1.0 + expected.abs());
                        assert!(close, "{isa} {activation:?} {i}: {} {expected}", fused[i]);
                    }
                }
            }
        }
    }
}

/// Borrowed for as long as a call asks; tests may leak.
fn leak(values: &[f32]) -> &'static [f32] {
    values.to_vec().leak()
}

#[test]
fn rows_and_layouts_pick_the_same_values() {
    let threads = Threads::new(1);
    for isa in Isa::available() {
        for tokens in [1, 5, 18] {
            for activations in [Activations::F32, Activations::Int8] {
                let case = example(50, 70, tokens, activations);
                let all = run_on(&case, &threads, 3, |call| call.isa = isa);
                for rows in [0..50, 3..4, 7..31, 16..48, 20..20] {
                    let part = run_on(&case, &threads, 3, |call| {
                        (call.isa, call.rows) = (isa, rows.clone());
                    });
                    let turned = run_on(&case, &threads, 3, |call| {
                        (call.isa, call.rows) = (isa, rows.clone());
                        call.layout = Layout::RowMajor { stride: tokens };
                    });
                    for token in 0..tokens {
                        for (i, row) in rows.clone().enumerate() {
                            let expected = all[token * 50 + row];
                            assert_eq!(part[token * rows.len() + i], expected, "{isa} {rows:?}");
                            assert_eq!(turned[i * tokens + token], expected, "{isa} {rows:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_values_do_as_they_must() {
    let threads = Threads::new(1);
    for isa in Isa::available() {
        for activations in
            [Activations::F32, Activations::Int16, Activations::Int8, Activations::Int8Group(32)]
        {
            let case = example(6, 90, 3, activations);
            let mut built = case.build();
            built.x[0] = f32::NAN;
            built.x[90..180].fill(0.0);
            built.x[180..].iter_mut().for_each(|x| *x *= 1e-41); // denormal
            let packed = Packed::new(built.weight.clone(), &Pages::default());
            packed.load(Width::MAX).unwrap();
            let mut y = vec![1.0; 18];
            MatMul { activations, isa, ..MatMul::new(&packed, Width::MAX, &threads) }
                .run(&built.x, 3, &mut y)
                .unwrap();
            assert!(y[..6].iter().all(|y| y.is_nan()), "{isa} {activations} {y:?}");
            assert!(y[6..12].iter().all(|y| *y == 0.0), "{isa} {activations} {y:?}");
            assert!(y[12..].iter().all(|y| y.abs() < 1e-30), "{isa} {activations} {y:?}");
        }
    }
}

#[test]
fn planes_become_resident_as_widths_need_them() {
    let case = example(20, 100, 1, Activations::Int8);
    let packed = Packed::new(case.build().weight, &Pages::default());
    assert_eq!(packed.resident_bytes(), 0);
    let plane = 20 * 16; // four cells of four bytes in each row
    let places = |count| packed.planes(count).unwrap().map(|plane| plane.as_ptr().addr())[..count].to_vec();
    let mut before = vec![];
    for (bits, planes) in [(2, 2), (1, 2), (4, 4), (4, 4), (8, 8), (3, 8)] {
        packed.load(width(bits)).unwrap();
        assert_eq!(packed.resident_bytes(), planes * plane);
        // What was there stays where it is.
        assert_eq!(places(before.len()), before);
        before = places(planes);
    }
}

#[test]
fn wrong_calls_are_errors() {
    let threads = Threads::new(1);
    let packed = Packed::new(example(8, 40, 1, Activations::Int8).build().weight, &Pages::default());
    let call = |width| MatMul::new(&packed, width, &threads);
    let (x, mut y) = (vec![0.0; 40], vec![0.0; 8]);
    assert!(matches!(call(width(2)).run(&x, 1, &mut y), Err(KernelError::NotResident)));
    packed.load(width(2)).unwrap();
    assert!(call(width(2)).run(&x, 1, &mut y).is_ok());
    assert!(matches!(call(width(3)).run(&x, 1, &mut y), Err(KernelError::NotResident)));
    assert!(matches!(call(width(2)).run(&x, 2, &mut y), Err(KernelError::Length { .. })));
    assert!(matches!(call(width(2)).run(&x, 1, &mut y[..7]), Err(KernelError::Length { .. })));
    let beyond = MatMul { rows: 4..9, ..call(width(2)) };
    assert!(matches!(beyond.run(&x, 1, &mut y), Err(KernelError::Rows { .. })));
    let narrow = MatMul { layout: Layout::RowMajor { stride: 1 }, ..call(width(2)) };
    assert!(matches!(narrow.run(&[0.0; 80], 2, &mut y), Err(KernelError::Length { .. })));
    assert!(call(width(2)).run(&[], 0, &mut []).is_ok());
}

#[test]
fn empty_weights_give_the_bias() {
    let threads = Threads::new(1);
    let maps = || AffineMap { scale: vec![1.0; 3].into(), zero: vec![0.0; 3].into() };
    let planes = vec![Bytes::new(); 8];
    let weight =
        NestedWeight::new((3, 0), Grouping::PerChannel, SliceMode::Midpoint, planes, maps(), BTreeMap::new());
    let packed = Packed::new(weight.unwrap(), &Pages::default());
    packed.load(width(4)).unwrap();
    for isa in Isa::available() {
        for activations in [Activations::F32, Activations::Int16, Activations::Int8Group(32)] {
            for tokens in [1, 4, 20] {
                let mut y = vec![7.0; 3 * tokens];
                let epilogue = Epilogue { bias: Some(&[1.0, 2.0, 3.0]), ..Epilogue::default() };
                MatMul { activations, isa, epilogue, ..MatMul::new(&packed, width(4), &threads) }
                    .run(&[], tokens, &mut y)
                    .unwrap();
                assert!(y.chunks(3).all(|y| y == [1.0, 2.0, 3.0]), "{isa} {activations} {tokens} {y:?}");
            }
        }
    }
}
