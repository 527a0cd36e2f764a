//! Quantized weights against the definition and against f64 references.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width, Widths};

use super::*;

const MODES: [SliceMode; 3] = [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra];
const SCHEMES: [Scheme; 2] = [Scheme::Asymmetric, Scheme::Symmetric];

fn minmax(scheme: Scheme, mode: SliceMode, grouping: Grouping) -> QuantizeSpec {
    QuantizeSpec {
        scheme,
        mode,
        grouping,
        range: RangeMethod::Minmax,
        widths: "8,4,2".parse().unwrap(),
        lambda: vec![1.0; 3],
        allow_nonfinite: false,
    }
}

fn mse(scheme: Scheme, mode: SliceMode, grouping: Grouping) -> QuantizeSpec {
    QuantizeSpec { range: RangeMethod::Mse, ..minmax(scheme, mode, grouping) }
}

fn quantize(weights: &[f32], spec: &QuantizeSpec) -> Codes {
    quantize_rows(&WeightView::row_major(weights, 1, weights.len()).unwrap(), 0..1, spec).unwrap()
}

fn read_back(codes: &Codes, width: Width, mode: SliceMode) -> Vec<f32> {
    codes.codes.iter().map(|&q| dequantize(q, width, mode, codes.scale[0], codes.zero[0])).collect()
}

/// Values with a bell shape, from a fixed generator.
fn bell(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| uniform()).sum()).collect()
}

fn groupings() -> impl Strategy<Value = Grouping> {
    prop_oneof![Just(Grouping::PerChannel), (1u32..6).prop_map(|eighth| Grouping::group(8 * eighth).unwrap())]
}

prop_compose! {
    fn specs()(
        scheme in prop::sample::select(SCHEMES.to_vec()),
        mode in prop::sample::select(MODES.to_vec()),
        grouping in groupings(),
        range in prop_oneof![3 => Just(RangeMethod::Minmax), 1 => Just(RangeMethod::Mse)],
    ) -> QuantizeSpec {
        QuantizeSpec { range, ..minmax(scheme, mode, grouping) }
    }
}

prop_compose! {
    fn matrices()(rows in 0usize..7, cols in prop_oneof![0usize..90, Just(1024), Just(1500)])(
        rows in Just(rows), cols in Just(cols),
        weights in prop::collection::vec(-3f32..2.0, rows * cols), shift in -5f32..5.0, exponent in -30i32..30,
    ) -> (usize, usize, Vec<f32>) {
        (rows, cols, weights.iter().map(|weight| (weight + shift) * 2f32.powi(exponent)).collect())
    }
}

proptest! {
    #[test]
    fn reading_few_planes_is_the_definition((rows, cols, weights) in matrices(), spec in specs()) {
        let view = WeightView::row_major(&weights, rows, cols).unwrap();
        let codes = quantize_rows(&view, 0..rows, &spec).unwrap();
        let whole = NestedWeight::quantize(&view, &spec).unwrap();
        prop_assert_eq!(whole.max_width(), Width::MAX);
        let groups = spec.grouping.groups(cols);
        let group_len = spec.grouping.size(cols);
        for width in Width::all() {
            let expected: Vec<f32> = codes.codes.iter().enumerate().map(|(at, &q)| {
                let map = at / cols * groups + at % cols / group_len;
                dequantize(q, width, spec.mode, codes.scale[map], codes.zero[map])
            }).collect();

            let planes = whole.planes()[..spec.mode.planes_read(width)].to_vec();
            let map = whole.map(width).clone();
            let part = NestedWeight::new((rows, cols), spec.grouping, spec.mode, planes, map, BTreeMap::new()).unwrap();
            prop_assert!(part.max_width() >= width);
            let mut out = vec![f32::NAN; rows * cols];
            part.dequantize_rows(width, 0..rows, &mut out).unwrap();
            prop_assert_eq!(&out, &expected);

            let reversed: Vec<usize> = (0..rows).rev().collect();
            part.gather(width, &reversed, &mut out).unwrap();
            let rows_back = out.chunks(cols.max(1)).rev().flatten().copied().collect::<Vec<f32>>();
            prop_assert_eq!(&rows_back, &expected);

            let (from, to) = (rows / 3, rows - rows / 3);
            part.dequantize_rows(width, from..to, &mut out[..(to - from) * cols]).unwrap();
            prop_assert_eq!(&out[..(to - from) * cols], &expected[from * cols..to * cols]);
        }
    }

    #[test]
    fn codes_are_the_nearest_of_the_formula((rows, cols, weights) in matrices(), spec in specs()) {
        let view = WeightView::row_major(&weights, rows, cols).unwrap();
        let codes = quantize_rows(&view, 0..rows, &spec).unwrap();
        let group_len = spec.grouping.size(cols);
        let mut maps = codes.scale.iter().zip(&codes.zero);
        for (weights, codes) in weights.chunks(cols.max(1)).zip(codes.codes.chunks(cols.max(1))) {
            for (weights, codes) in weights.chunks(group_len).zip(codes.chunks(group_len)) {
                let (&scale, &zero) = maps.next().unwrap();
                let most = weights.iter().fold(0f32, |most, weight| most.max(weight.abs()));
                let low = weights.iter().copied().reduce(f32::min).unwrap();
                let high = weights.iter().copied().reduce(f32::max).unwrap();
                if low == high {
                    continue;
                }
                if spec.range == RangeMethod::Minmax {
                    let (expected_scale, expected_zero) = match (spec.scheme, spec.mode) {
                        (Scheme::Asymmetric, _) => {
                            let scale = (f64::from(high) - f64::from(low)) / 255.0;
                            (scale, -f64::from(low) / scale)
                        }
                        (Scheme::Symmetric, SliceMode::Midpoint) => (2.0 * f64::from(most) / 255.0, 127.5),
                        (Scheme::Symmetric, SliceMode::Round | SliceMode::Extra) => (f64::from(most) / 127.0, 128.0),
                    };
                    prop_assert!((f64::from(scale) / expected_scale - 1.0).abs() < 1e-7);
                    prop_assert!((f64::from(zero) - expected_zero).abs() <= 2e-7 * expected_zero.abs());
                }
                for (&weight, &code) in weights.iter().zip(codes) {
                    let position = f64::from(weight) / f64::from(scale) + f64::from(zero);
                    let distance = (position.clamp(0.0, 255.0) - f64::from(code)).abs();
                    // Half a code, and the rounding of a position far from the zero point.
                    prop_assert!(distance <= 0.5 + 3e-7 * (256.0 + f64::from(zero).abs()), "{} {}", position, code);
                }
            }
        }
    }

    #[test]
    fn blocks_of_rows_and_any_layout_give_the_same_codes(
        (rows, cols, weights) in matrices(), spec in specs(), cut in 0usize..7,
    ) {
        let view = WeightView::row_major(&weights, rows, cols).unwrap();
        let whole = quantize_rows(&view, 0..rows, &spec).unwrap();
        let columns_first: Vec<f32> = (0..cols * rows).map(|at| weights[at % rows * cols + at / rows]).collect();
        let transposed = WeightView::transposed(&columns_first, cols, rows).unwrap();
        prop_assert_eq!(&quantize_rows(&transposed, 0..rows, &spec).unwrap(), &whole);

        let cut = cut.min(rows);
        let mut first = quantize_rows(&view, 0..cut, &spec).unwrap();
        let second = quantize_rows(&transposed, cut..rows, &spec).unwrap();
        first.codes.extend(second.codes);
        first.scale.extend(second.scale);
        first.zero.extend(second.zero);
        prop_assert_eq!(first, whole);
    }

    #[test]
    fn one_value_is_exact_at_every_width(
        bits in any::<u32>(), cols in 1usize..20,
        scheme in prop::sample::select(SCHEMES.to_vec()), mode in prop::sample::select(MODES.to_vec()),
        range in prop::sample::select(vec![RangeMethod::Minmax, RangeMethod::Mse]),
    ) {
        let value = f32::from_bits(bits);
        prop_assume!(value.is_finite() && value.abs() < 3.3e38);
        // Below 2^-95 the group is 0.
        let expected = if value.abs() < 2f32.powi(-95) { 0.0 } else { value };
        let spec = QuantizeSpec { range, ..minmax(scheme, mode, Grouping::PerChannel) };
        let codes = quantize(&vec![value; cols], &spec);
        for width in Width::all() {
            prop_assert_eq!(read_back(&codes, width, mode), vec![expected; cols], "width {}", width);
        }
    }

    #[test]
    fn any_finite_floats_give_finite_weights(
        bits in prop::collection::vec(any::<u32>(), 1..40), exponent in any::<u8>(), spec in specs(),
    ) {
        // Half the cases share an exponent, so that denormals and the largest floats meet their like.
        let mask = if exponent % 2 == 0 { 0x807f_ffff } else { 0xffff_ffff };
        let float = |bits: u32| f32::from_bits(bits & mask | (u32::from(exponent) << 23) & !mask);
        let weights: Vec<f32> = bits.into_iter().map(float).filter(|weight| weight.is_finite()).collect();
        prop_assume!(!weights.is_empty());
        let spec = QuantizeSpec { grouping: Grouping::PerChannel, ..spec };
        let codes = quantize(&weights, &spec);
        prop_assert!(codes.scale[0].is_finite() && codes.zero[0].is_finite());
        let most = weights.iter().fold(0f32, |most, weight| most.max(weight.abs()));
        for width in Width::all() {
            let read = read_back(&codes, width, spec.mode);
            prop_assert!(read.iter().all(|weight| weight.is_finite()), "{:?} {:?}", codes, read);
            if spec.range == RangeMethod::Minmax && most < 3.3e38 {
                // A group of one value under 2^-95 is 0.
                let step = codes.scale[0] * f32::from(step(width)) + 2f32.powi(-95);
                for (weight, read) in weights.iter().zip(&read) {
                    let error = (f64::from(*weight) - f64::from(*read)).abs();
                    prop_assert!(error <= 1.01 * f64::from(step) + 1e-6 * f64::from(most), "{weight} read as {read}");
                }
            }
        }
    }

    #[test]
    fn mse_is_never_worse_than_minmax(
        weights in prop::collection::vec(-1f32..1.0, 1..300), power in 1i32..6, shift in -2f32..2.0,
        scheme in prop::sample::select(SCHEMES.to_vec()), mode in prop::sample::select(MODES.to_vec()),
        widths in prop::sample::subsequence((1..=8).collect::<Vec<u8>>(), 1..=8), lambda in prop::array::uniform8(0.01f32..1.0),
    ) {
        let weights: Vec<f32> = weights.iter().map(|weight| weight.powi(power) + shift).collect();
        let widths = Widths::try_from(widths.into_iter().map(|bits| Width::new(bits).unwrap()).collect::<Vec<_>>()).unwrap();
        let lambda = lambda[..widths.count()].to_vec();
        let spec = QuantizeSpec { widths, lambda, ..minmax(scheme, mode, Grouping::PerChannel) };
        let full = weighted_error(&weights, &quantize(&weights, &spec), &spec);
        let searched = quantize(&weights, &QuantizeSpec { range: RangeMethod::Mse, ..spec.clone() });
        prop_assert!(weighted_error(&weights, &searched, &spec) <= full);
    }
}

/// The measure that `mse` minimises, in f64, on what is read back.
fn weighted_error(weights: &[f32], codes: &Codes, spec: &QuantizeSpec) -> f64 {
    let of_width = |(width, lambda): (Width, &f32)| {
        let read = read_back(codes, width, spec.mode);
        let squares = weights.iter().zip(read).map(|(&w, read)| (f64::from(w) - f64::from(read)).powi(2));
        f64::from(*lambda) * squares.sum::<f64>()
    };
    spec.widths.iter().zip(&spec.lambda).map(of_width).sum()
}

#[test]
fn mse_comes_near_an_exhaustive_search() {
    let mut heavy: Vec<f32> = bell(400, 5).iter().map(|weight| weight.powi(3)).collect();
    heavy[7] = 4.0;
    let one_sided: Vec<f32> = bell(400, 9).iter().map(|weight| weight.max(0.0) + 0.3).collect();
    for weights in [bell(400, 1), bell(64, 2), heavy, one_sided] {
        for mode in MODES {
            let spec = mse(Scheme::Asymmetric, mode, Grouping::PerChannel);
            let found = weighted_error(&weights, &quantize(&weights, &spec), &spec);
            let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
            let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut least = f64::INFINITY;
            for (i, j) in (0..80).flat_map(|i| (0..80).map(move |j| (i, j))) {
                let (from, to) = (-0.3 + 0.02 * i as f32, 1.3 - 0.02 * j as f32);
                if to - from < 0.03 {
                    continue;
                }
                let scale = (high - low) * (to - from) / 255.0;
                let zero = -(low + (high - low) * from) / scale;
                let code = |weight: &f32| (weight / scale + zero).round().clamp(0.0, 255.0) as u8;
                let codes =
                    Codes { codes: weights.iter().map(code).collect(), scale: vec![scale], zero: vec![zero] };
                least = least.min(weighted_error(&weights, &codes, &spec));
            }
            assert!(found <= 1.02 * least, "{mode}: found {found}, least {least}");
        }
    }
}

#[test]
fn nonfinite_weights_are_named_or_saturate() {
    let mut weights = bell(64 * 200, 3);
    (weights[64 * 150 + 40], weights[64 * 70 + 9], weights[64 * 70 + 50]) =
        (f32::INFINITY, f32::NAN, f32::NEG_INFINITY);
    let view = WeightView::row_major(&weights, 200, 64).unwrap();
    for grouping in [Grouping::PerChannel, Grouping::group(32).unwrap()] {
        for range in [RangeMethod::Minmax, RangeMethod::Mse] {
            let spec = QuantizeSpec { range, ..minmax(Scheme::Asymmetric, SliceMode::Midpoint, grouping) };
            let error = quantize_rows(&view, 0..200, &spec).unwrap_err();
            assert!(
                matches!(error, NestedError::NonFinite { row: 70, col: 9, value } if value.is_nan()),
                "{error}"
            );
            let error = quantize_rows(&view, 71..200, &spec).unwrap_err();
            assert_eq!(error, NestedError::NonFinite { row: 150, col: 40, value: f32::INFINITY });

            let spec = QuantizeSpec { allow_nonfinite: true, ..spec };
            let codes = quantize_rows(&view, 0..200, &spec).unwrap();
            let group = |row: usize, col: usize| &codes.codes[64 * row + col / 32 * 32..][..32];
            assert_eq!(Some(&codes.codes[64 * 150 + 40]), group(150, 40).iter().max());
            assert_eq!(Some(&codes.codes[64 * 70 + 50]), group(70, 50).iter().min());
            let zero = codes.zero[70 * grouping.groups(64)];
            assert_eq!(codes.codes[64 * 70 + 9], zero.round() as u8);
            assert!(codes.scale.iter().chain(&codes.zero).all(|value| value.is_finite()));
        }
    }
    let spec = QuantizeSpec {
        allow_nonfinite: true,
        ..minmax(Scheme::Symmetric, SliceMode::Round, Grouping::PerChannel)
    };
    assert_eq!(read_back(&quantize(&[f32::NAN; 9], &spec), Width::MAX, SliceMode::Round), [0.0; 9]);
    let codes = quantize(&[f32::NAN, 1.0, 2.0], &QuantizeSpec { scheme: Scheme::Asymmetric, ..spec });
    assert_eq!(codes.codes, [0, 0, 255]);
}

#[test]
fn empty_weights_are_weights() {
    for (rows, cols) in [(0, 5), (4, 0), (0, 0)] {
        for grouping in [Grouping::PerChannel, Grouping::group(8).unwrap()] {
            let spec = mse(Scheme::Asymmetric, SliceMode::Midpoint, grouping);
            let view = WeightView::row_major(&[], rows, cols).unwrap();
            let weight = NestedWeight::quantize(&view, &spec).unwrap();
            weight.dequantize_rows(Width::MAX, 0..rows, &mut []).unwrap();
            assert_eq!(weight.map(Width::MAX).scale.as_slice().len(), rows * grouping.groups(cols));
            assert_eq!(weight.sqnr_db(&view, Width::MAX), Ok(f64::INFINITY));
        }
    }
}

#[test]
fn lambda_must_fit_the_widths() {
    let spec = minmax(Scheme::Asymmetric, SliceMode::Midpoint, Grouping::PerChannel);
    let view = WeightView::row_major(&[1.0, 2.0], 1, 2).unwrap();
    for lambda in [vec![1.0; 2], vec![0.0; 3], vec![1.0, -1.0, 1.0], vec![f32::NAN; 3], vec![]] {
        let error = quantize_rows(&view, 0..1, &QuantizeSpec { lambda, ..spec.clone() }).unwrap_err();
        assert!(matches!(error, NestedError::Lambda { .. }), "{error}");
    }
    let error = quantize_rows(&view, 0..2, &spec).unwrap_err();
    assert_eq!(error.to_string(), "rows up to 1 are asked for, the weight has 1 rows counted from 0");
}

/// A weight of 5 rows by 37 columns in groups of 16, and its floats.
fn sample(mode: SliceMode) -> (Vec<f32>, NestedWeight) {
    let floats = bell(5 * 37, 4);
    let spec = minmax(Scheme::Asymmetric, mode, Grouping::group(16).unwrap());
    let weight = NestedWeight::quantize(&WeightView::row_major(&floats, 5, 37).unwrap(), &spec).unwrap();
    (floats, weight)
}

#[test]
fn parts_of_another_length_are_refused() {
    let (_, weight) = sample(SliceMode::Round);
    let width = Width::MAX;
    let build = |shape, planes: &[Bytes], map: AffineMap, own: Option<AffineMap>| {
        let own = own.map(|map| (width, map)).into_iter().collect();
        NestedWeight::new(shape, weight.grouping(), weight.mode(), planes.to_vec(), map, own)
    };
    let (planes, map) = (weight.planes(), weight.map(width).clone());
    let short = AffineMap { scale: vec![0.0; 14].into(), zero: map.zero.clone() };
    assert!(build((5, 37), planes, map.clone(), Some(map.clone())).is_ok());
    for (error, expected) in [
        (build((4, 37), planes, map.clone(), None), "plane 0: expected 20 bytes, found 25"),
        (build((5, 37), planes, short.clone(), None), "scale: expected 15 values, found 14"),
        (build((5, 37), planes, map.clone(), Some(short)), "scale at width 8: expected 15 values, found 14"),
        (
            build((5, 37), &planes[..1], map.clone(), None),
            "1 bit planes are given; slice mode round needs 2 to 8",
        ),
        (
            build((5, 37), &vec![planes[0].clone(); 9], map.clone(), None),
            "9 bit planes are given; slice mode round needs 2 to 8",
        ),
        (
            build((usize::MAX, 37), planes, map, None),
            &format!("a weight of [{}, 37] is too large to address", usize::MAX),
        ),
    ] {
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
}

#[test]
fn reading_outside_a_weight_is_an_error() {
    let (_, weight) = sample(SliceMode::Round);
    let map = weight.map(Width::MAX).clone();
    let planes = weight.planes()[..4].to_vec();
    let part =
        NestedWeight::new((5, 37), weight.grouping(), weight.mode(), planes, map, BTreeMap::new()).unwrap();
    let [three, four] = [3, 4].map(|bits| Width::new(bits).unwrap());
    let mut row = [0.0; 37];
    assert_eq!(part.max_width(), three);
    assert!(part.dequantize_row_into(three, 4, &mut row).is_ok());
    let absent = part.dequantize_row_into(four, 4, &mut row).unwrap_err();
    assert_eq!(absent.to_string(), "width 4 is asked for; the bit planes present reach width 3");
    assert_eq!(part.bytes_touched(four), Err(absent));
    assert_eq!(part.gather(three, &[5], &mut row), Err(NestedError::Row { last: 5, rows: 5 }));
    assert!(part.gather(three, &[usize::MAX], &mut row).is_err());
    assert!(part.dequantize_rows(three, 4..6, &mut row).is_err());
    assert!(matches!(
        part.dequantize_rows(three, 0..2, &mut row),
        Err(NestedError::Length { expected: 74, .. })
    ));
}

#[test]
fn a_width_uses_the_map_of_the_nearest_wider_one_and_touches_its_planes() {
    let (_, weight) = sample(SliceMode::Midpoint);
    // As many levels apart as the width has bits: the map is seen in what is read.
    let own = |bits: u8| AffineMap { scale: vec![f32::from(bits); 15].into(), zero: vec![31.5; 15].into() };
    let build = |planes: usize, widths: &[u8]| {
        let per_width = widths.iter().map(|bits| (Width::new(*bits).unwrap(), own(*bits))).collect();
        let planes = weight.planes()[..planes].to_vec();
        NestedWeight::new((5, 37), weight.grouping(), weight.mode(), planes, own(9), per_width).unwrap()
    };
    // The number of the map that widths 1 to 8 use.
    for (widths, used) in [
        (&[][..], [9; 8]),
        (&[8, 4, 2], [2, 2, 4, 4, 8, 8, 8, 8]),
        (&[6, 3], [3, 3, 3, 6, 6, 6, 9, 9]),
        (&[1], [1, 9, 9, 9, 9, 9, 9, 9]),
    ] {
        let tuned = build(8, widths);
        for (width, used) in Width::all().zip(used) {
            let mut row = [0.0; 37];
            tuned.dequantize_row_into(width, 1, &mut row).unwrap();
            let read = |code: u8| dequantize(code, width, weight.mode(), f32::from(used), 31.5);
            let codes = (0..=255).map(read).collect::<Vec<f32>>();
            assert!(row.iter().all(|weight| codes.contains(weight)), "{widths:?} at {width}: {row:?}");
            assert_eq!(tuned.map(width), &own(used), "{widths:?} at {width}");
        }
        assert_eq!(tuned.bytes_touched(Width::new(2).unwrap()), Ok(2 * 25 + 2 * 4 * 15));
    }
    let listed = |weight: &NestedWeight| -> Vec<(u8, f32)> {
        weight.maps().iter().map(|(width, map)| (width.bits(), map.scale.as_slice()[0])).collect()
    };
    assert_eq!(listed(&build(8, &[8, 4, 2])), [(8, 8.0), (4, 4.0), (2, 2.0)]);
    assert_eq!(listed(&build(8, &[4, 2])), [(8, 9.0), (4, 4.0), (2, 2.0)]);
    assert_eq!(listed(&build(3, &[8, 4, 2])), [(3, 4.0), (2, 2.0)], "three planes reach 3 bits");
    assert_eq!(listed(&build(4, &[])), [(4, 9.0)]);
}

proptest! {
    #[test]
    fn a_fitted_map_is_the_least_squares_and_never_worse(
        (rows, cols, mut weights) in matrices(), spec in specs(), bits in 1u8..=8, at: prop::sample::Index, nudge in -0.02f32..0.02,
    ) {
        // A constant group, and one that is not finite.
        weights.iter_mut().take(8).for_each(|weight| *weight = 0.25);
        if let Some(last) = weights.last_mut().filter(|_| spec.allow_nonfinite) { *last = f32::NAN; }
        let width = Width::new(bits).unwrap();
        let view = WeightView::row_major(&weights, rows, cols).unwrap();
        let shared = NestedWeight::quantize(&view, &spec).unwrap();
        let fitted = shared.clone().with_fitted_maps(&view, [width]).unwrap();
        let noise = |weight: &NestedWeight| {
            let mut read = vec![0.0; rows * cols];
            weight.dequantize_rows(width, 0..rows, &mut read).unwrap();
            let pairs = weights.iter().zip(read).filter(|(w, _)| w.is_finite());
            pairs.map(|(w, read)| (f64::from(*w) - f64::from(read)).powi(2)).sum::<f64>()
        };
        let least = noise(&fitted);
        prop_assert!(least <= noise(&shared) * (1.0 + 1e-12));
        prop_assert!(fitted.sqnr_db(&view, width).unwrap() >= shared.sqnr_db(&view, width).unwrap() - 1e-9);
        for other in Width::all().filter(|other| *other > width) {
            prop_assert_eq!(fitted.map(other), shared.map(other));
        }
        // No map near it is better, but for what f32 loses.
        let mut map = fitted.map(width).clone();
        if !map.scale.as_slice().is_empty() {
            let at = at.index(map.scale.as_slice().len());
            let mut scale = map.scale.as_slice().to_vec();
            scale[at] *= 1.0 + nudge;
            map.scale = scale.into();
            let planes = fitted.planes().to_vec();
            let nudged =
                NestedWeight::new((rows, cols), spec.grouping, spec.mode, planes, map, BTreeMap::new()).unwrap();
            let signal: f64 = weights.iter().filter(|w| w.is_finite()).map(|w| f64::from(*w).powi(2)).sum();
            prop_assert!(noise(&nudged) >= least - 1e-6 * signal, "{} under {least}", noise(&nudged));
        }
    }
}

#[test]
fn fitted_maps_gain_where_codes_are_few() {
    let floats = bell(64 * 200, 7);
    let view = WeightView::row_major(&floats, 64, 200).unwrap();
    let spec = minmax(Scheme::Asymmetric, SliceMode::Midpoint, Grouping::PerChannel);
    let shared = NestedWeight::quantize(&view, &spec).unwrap();
    let widths = [8, 4, 2].map(|bits| Width::new(bits).unwrap());
    let fitted = shared.clone().with_fitted_maps(&view, widths).unwrap();
    let gain = |width| fitted.sqnr_db(&view, width).unwrap() - shared.sqnr_db(&view, width).unwrap();
    assert!(widths.iter().all(|width| gain(*width) >= 0.0));
    assert!(gain(widths[2]) > 0.3, "{}", gain(widths[2]));
    let other = WeightView::row_major(&floats, 200, 64).unwrap();
    assert!(shared.with_fitted_maps(&other, widths).is_err());
}

#[test]
fn sqnr_is_signal_over_noise() {
    for mode in MODES {
        let (floats, weight) = sample(mode);
        let view = WeightView::row_major(&floats, 5, 37).unwrap();
        let mut previous = 0.0;
        for width in Width::all() {
            let mut read = vec![0.0; floats.len()];
            weight.dequantize_rows(width, 0..5, &mut read).unwrap();
            let signal: f64 = floats.iter().map(|&w| f64::from(w).powi(2)).sum();
            let noise: f64 =
                floats.iter().zip(&read).map(|(&w, &read)| (f64::from(w) - f64::from(read)).powi(2)).sum();
            let db = weight.sqnr_db(&view, width).unwrap();
            assert!((db - 10.0 * (signal / noise).log10()).abs() < 1e-9);
            assert!(width.bits() < 3 || db > previous + 3.0, "{mode} {width}: {previous} then {db} dB");
            previous = db;
        }
        let other = WeightView::row_major(&floats, 37, 5).unwrap();
        assert!(weight.sqnr_db(&other, Width::MAX).is_err());
        let silent = vec![0.0; 5 * 37];
        let silent = WeightView::row_major(&silent, 5, 37).unwrap();
        assert_eq!(weight.sqnr_db(&silent, Width::MAX), Ok(f64::NEG_INFINITY));
        let spec = minmax(Scheme::Asymmetric, mode, Grouping::PerChannel);
        let exact = NestedWeight::quantize(&silent, &spec).unwrap();
        assert_eq!(exact.sqnr_db(&silent, Width::MAX), Ok(f64::INFINITY));
    }
}
