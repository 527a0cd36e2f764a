use mqc_ir::op::{Opaque, PadMode, ScatterReduction};
use mqc_ir::{Attribute, Op, Tensor};
use proptest::prelude::*;

use super::*;

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..5, 1..5)
}

proptest! {
    #[test]
    fn transposes(shape in shapes(), seed in any::<u64>()) {
        let rank = shape.len();
        let mut perm: Vec<usize> = (0..rank).collect();
        for i in (1..rank).rev() {
            perm.swap(i, (seed >> (8 * i)) as usize % (i + 1));
        }
        let to: Vec<usize> = perm.iter().map(|p| shape[*p]).collect();
        let x = numbers(count(&shape));
        let expected: Vec<f64> = places(&to).iter().map(|place| {
            let mut from = vec![0; rank];
            perm.iter().zip(place).for_each(|(p, i)| from[*p] = *i);
            at(&x, &shape, &from)
        }).collect();
        let perm = Some(perm.iter().map(|p| *p as i64).collect());
        close(&reals(Op::Transpose { perm }, &[(&shape, &x)]), &expected, 0.0);
    }

    #[test]
    fn slices(shape in shapes(), bounds in prop::collection::vec((-7i64..8, -7i64..8, prop::sample::select(vec![1i64, 2, 3, -1, -2])), 4)) {
        let rank = shape.len();
        let x = numbers(count(&shape));
        // As Python slices: https://docs.python.org/3/reference/datamodel.html, slice.indices.
        let kept: Vec<Vec<usize>> = (0..rank).map(|i| {
            let (n, (start, end, step)) = (shape[i] as i64, bounds[i]);
            let fix = |v: i64| if v < 0 { v + n } else { v };
            if step > 0 {
                let (a, b) = (fix(start).clamp(0, n), fix(end).clamp(0, n));
                (a..b).step_by(step as usize).map(|v| v as usize).collect()
            } else {
                let (a, b) = (fix(start).clamp(0, n - 1), fix(end).clamp(-1, n - 1));
                let mut list = vec![];
                let mut v = a;
                while v > b { list.push(v as usize); v += step; }
                list
            }
        }).collect();
        let to: Vec<usize> = kept.iter().map(Vec::len).collect();
        let expected: Vec<f64> = places(&to).iter().map(|p| {
            let from: Vec<usize> = p.iter().enumerate().map(|(i, v)| kept[i][*v]).collect();
            at(&x, &shape, &from)
        }).collect();
        let mut model = Model::default();
        let data = model.real(&shape, &x);
        let pick = |f: fn(&(i64, i64, i64)) -> i64| bounds[..rank].iter().map(f).rev().collect::<Vec<_>>();
        let (starts, ends) = (model.ints(&pick(|b| b.0)), model.ints(&pick(|b| b.1)));
        let axes = model.ints(&(0..rank as i64).map(|a| a - rank as i64).rev().collect::<Vec<_>>());
        let steps = model.ints(&pick(|b| b.2));
        let cut = model.apply(Op::Slice, &[data, starts, ends, axes, steps]);
        close(&model.reals(cut), &expected, 0.0);
    }

    #[test]
    fn concat_undoes_split(shape in shapes(), axis in 0usize..4, cut in 0usize..5) {
        let axis = axis % shape.len();
        let cut = cut.min(shape[axis]);
        let x = numbers(count(&shape));
        let mut model = Model::default();
        let data = model.real(&shape, &x);
        let sizes = model.ints(&[cut as i64, (shape[axis] - cut) as i64]);
        let axis = axis as i64 - shape.len() as i64;
        let parts = model.node(Op::Split { axis, sizes: None, num_outputs: None }, &[Some(data), Some(sizes)], 2);
        let whole = model.apply(Op::Concat { axis }, &parts);
        let first = model.apply(Op::Concat { axis }, &[parts[1], parts[0]]);
        let found = model.run(&[whole, first, parts[0]]).unwrap();
        close(found[0].as_real().unwrap(), &x, 0.0);
        let at_axis = (axis + shape.len() as i64) as usize;
        let expected: Vec<f64> = places(&shape).iter().map(|p| {
            let mut from = p.clone();
            from[at_axis] = (p[at_axis] + cut) % shape[at_axis];
            at(&x, &shape, &from)
        }).collect();
        close(found[1].as_real().unwrap(), &expected, 0.0);
    }

    #[test]
    fn pads(len in 2usize..5, before in -1i64..4, after in -1i64..4) {
        prop_assume!(len as i64 + before + after >= 0);
        let x = numbers(2 * len);
        let to = (len as i64 + before + after) as usize;
        for (mode, name) in [(PadMode::Constant, "constant"), (PadMode::Edge, "edge"), (PadMode::Wrap, "wrap"), (PadMode::Reflect, "reflect")] {
            let source = |i: i64| -> Option<usize> {
                let mut v = i - before;
                let n = len as i64;
                match name {
                    "constant" if !(0..n).contains(&v) => return None,
                    "edge" => v = v.clamp(0, n - 1),
                    "wrap" => v = (v + 10 * n) % n,
                    // Bounce until inside.
                    "reflect" => while !(0..n).contains(&v) {
                        v = if v < 0 { -v } else { 2 * (n - 1) - v };
                    },
                    _ => {}
                }
                Some(v as usize)
            };
            let expected: Vec<f64> = (0..2).flat_map(|row| (0..to as i64).map(move |i| (row, i)))
                .map(|(row, i)| source(i).map_or(7.0, |v| x[row * len + v])).collect();
            let mut model = Model::default();
            let data = model.real(&[2, len], &x);
            let pads = model.ints(&[before, after]);
            let value = model.constant(Tensor::f32_scalar(7.0));
            let axes = model.ints(&[-1]);
            let padded = model.apply(Op::Pad { mode }, &[data, pads, value, axes]);
            close(&model.reals(padded), &expected, 0.0);
        }
    }

    #[test]
    fn gathers(shape in shapes(), axis in 0usize..4, picks in prop::collection::vec(-20i64..20, 1..6)) {
        let axis = axis % shape.len();
        let n = shape[axis] as i64;
        let picks: Vec<i64> = picks.iter().map(|p| (p.rem_euclid(2 * n)) - n).collect();
        let x = numbers(count(&shape));
        let mut to = shape.clone();
        to[axis] = picks.len();
        let expected: Vec<f64> = places(&to).iter().map(|p| {
            let mut from = p.clone();
            from[axis] = picks[p[axis]].rem_euclid(n) as usize;
            at(&x, &shape, &from)
        }).collect();
        let mut model = Model::default();
        let data = model.real(&shape, &x);
        let rows = model.int(&[picks.len()], &picks);
        let gathered = model.apply(Op::Gather { axis: axis as i64 }, &[data, rows]);
        // The same through elements: the picks repeated over all other axes.
        let all: Vec<i64> = places(&to).iter().map(|p| picks[p[axis]]).collect();
        let all = model.int(&to, &all);
        let elements = model.apply(Op::GatherElements { axis: axis as i64 }, &[data, all]);
        // And through coordinates.
        let vectors: Vec<i64> = places(&to).iter().flat_map(|p| {
            let mut from: Vec<i64> = p.iter().map(|v| *v as i64).collect();
            from[axis] = picks[p[axis]];
            from
        }).collect();
        let vectors = model.int(&[to.as_slice(), &[shape.len()]].concat(), &vectors);
        let nd = model.apply(Op::GatherNd { batch_dims: 0 }, &[data, vectors]);
        let zeros = model.real(&shape, &vec![0.0; x.len()]);
        let scattered = model.apply(Op::ScatterNd { reduction: ScatterReduction::Add }, &[zeros, vectors, gathered]);
        let by_element = model.apply(Op::ScatterElements { axis: axis as i64, reduction: ScatterReduction::Add }, &[zeros, all, gathered]);
        let found = model.run(&[gathered, elements, nd, scattered, by_element]).unwrap();
        for array in &found[..3] {
            close(array.as_real().unwrap(), &expected, 0.0);
        }
        let times = |i: usize| picks.iter().filter(|p| p.rem_euclid(n) as usize == i).count() as f64;
        let sums: Vec<f64> = places(&shape).iter().zip(&x).map(|(p, v)| times(p[axis]) * v).collect();
        close(found[3].as_real().unwrap(), &sums, 1e-12);
        close(found[4].as_real().unwrap(), &sums, 1e-12);
    }

    #[test]
    fn tiles(shape in shapes(), times in prop::collection::vec(0usize..3, 4)) {
        let x = numbers(count(&shape));
        let to: Vec<usize> = shape.iter().zip(&times).map(|(a, b)| a * b).collect();
        let expected: Vec<f64> = places(&to).iter().map(|p| {
            at(&x, &shape, &p.iter().zip(&shape).map(|(i, n)| i % n).collect::<Vec<_>>())
        }).collect();
        let mut model = Model::default();
        let data = model.real(&shape, &x);
        let repeats = model.ints(&times[..shape.len()].iter().map(|t| *t as i64).collect::<Vec<_>>());
        let tiled = model.apply(Op::Tile, &[data, repeats]);
        close(&model.reals(tiled), &expected, 0.0);
    }
}

#[test]
fn shapes_stay_in_order() {
    let x = numbers(12);
    let mut model = Model::default();
    let data = model.real(&[3, 4], &x);
    let shape = model.ints(&[0, 2, -1]);
    let reshaped = model.apply(Op::Reshape { allowzero: false }, &[data, shape]);
    let wide = model.apply(Op::Unsqueeze { axes: Some(vec![0, -1]) }, &[reshaped]);
    let flat = model.apply(Op::Flatten { axis: 2 }, &[wide]);
    let narrow = model.apply(Op::Squeeze { axes: None }, &[wide]);
    let dims = model.apply(Op::Shape { start: 1, end: None }, &[wide]);
    let size = model.apply(Op::Size, &[wide]);
    let found = model.run(&[flat, narrow, dims, size]).unwrap();
    assert_eq!(found[0].shape(), [3, 4]);
    assert_eq!(found[1].shape(), [3, 2, 2]);
    close(found[1].as_real().unwrap(), &x, 0.0);
    assert_eq!(found[2].as_int().unwrap(), [3, 2, 2, 1]);
    assert_eq!(found[3].as_int().unwrap(), [12]);
}

#[test]
fn made_tensors() {
    let mut model = Model::default();
    let shape = model.ints(&[2, 2]);
    let filled = model.apply(Op::ConstantOfShape { value: Some(Tensor::i64_vector(&[5])) }, &[shape]);
    let zeros = model.apply(Op::ConstantOfShape { value: None }, &[shape]);
    let [a, b, c] = [7, -2, -3].map(|v| model.constant(Tensor::i64_scalar(v)));
    let range = model.apply(Op::Range, &[a, b, c]);
    let row = model.real(&[2, 1], &[1.0, 2.0]);
    let wide = model.ints(&[2, 2, 2]);
    let expanded = model.apply(Op::Expand, &[row, wide]);
    let found = model.run(&[filled, zeros, range, expanded]).unwrap();
    assert_eq!(found[0].as_int().unwrap(), [5; 4]);
    assert_eq!(found[1].as_real().unwrap(), [0.0; 4]);
    assert_eq!(found[2].as_int().unwrap(), [7, 4, 1]);
    assert_eq!(found[3].as_real().unwrap(), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
}

#[test]
fn scatters_combine_in_order() {
    let run = |reduction| {
        let mut model = Model::default();
        let data = model.real(&[3], &[1.0, 2.0, 3.0]);
        let places = model.int(&[3, 1], &[2, 0, 2]);
        let updates = model.real(&[3], &[5.0, -4.0, 2.0]);
        let scattered = model.apply(Op::ScatterNd { reduction }, &[data, places, updates]);
        model.reals(scattered)
    };
    assert_eq!(run(ScatterReduction::None), [-4.0, 2.0, 2.0]);
    assert_eq!(run(ScatterReduction::Add), [-3.0, 2.0, 10.0]);
    assert_eq!(run(ScatterReduction::Mul), [-4.0, 2.0, 30.0]);
    assert_eq!(run(ScatterReduction::Max), [1.0, 2.0, 5.0]);
    assert_eq!(run(ScatterReduction::Min), [-4.0, 2.0, 2.0]);
}

#[test]
fn batches_of_gather_nd() {
    let mut model = Model::default();
    let data = model.real(&[2, 2, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let places = model.int(&[2, 1], &[1, 0]);
    let rows = model.apply(Op::GatherNd { batch_dims: 1 }, &[data, places]);
    assert_eq!(model.reals(rows), [2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn indices_out_of_range_are_errors() {
    let mut model = Model::default();
    let data = model.real(&[3, 2], &[0.0; 6]);
    for index in [3, -4] {
        let rows = model.int(&[1], &[index]);
        let gathered = model.apply(Op::Gather { axis: 0 }, &[data, rows]);
        let error = model.run(&[gathered]).unwrap_err().to_string();
        assert!(error.contains(&format!("index {index} is out of range")), "{error}");
    }
}

#[test]
fn running_sums() {
    let x = numbers(24);
    for (axis, exclusive, reverse) in [(0, 0, 0), (1, 1, 0), (-1, 0, 1), (1, 1, 1)] {
        let mut model = Model::default();
        let data = model.real(&[2, 3, 4], &x);
        let at = model.ints(&[axis]);
        let number = |value| Attribute::Int(value);
        let op = Op::Opaque(Opaque {
            domain: String::new(),
            op_type: "CumSum".to_owned(),
            overload: String::new(),
            attributes: [("exclusive", exclusive), ("reverse", reverse)]
                .map(|(name, value)| (name.to_owned(), number(value)))
                .into(),
        });
        let node = Node::new(
            op,
            "sums".to_owned(),
            vec![ValueInfo {
                name: "y".to_owned(),
                ty: Type::tensor(DType::F32, [2, 3, 4].map(Dim::Size).to_vec()),
            }],
        );
        let node = model.graph.insert(node, &[Some(data), Some(at)]).unwrap();
        let axis = axis.rem_euclid(3) as usize;
        let expected: Vec<f64> = places(&[2, 3, 4])
            .iter()
            .map(|place| {
                let taken = |other: &Vec<usize>| {
                    let along = other[axis].cmp(&place[axis]);
                    let along = if reverse == 1 { along.reverse() } else { along };
                    let same = (0..3).all(|i| i == axis || other[i] == place[i]);
                    same && (along.is_lt() || along.is_eq() && exclusive == 0)
                };
                places(&[2, 3, 4]).iter().filter(|other| taken(other)).map(|other| at_place(&x, other)).sum()
            })
            .collect();
        close(&model.reals(Value { node, slot: 0 }), &expected, 1e-12);
    }
}

fn at_place(x: &[f64], place: &[usize]) -> f64 {
    super::at(x, &[2, 3, 4], place)
}
