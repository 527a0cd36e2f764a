//! Whole graphs through tract: binding, widths, subgraphs, shapes, names and errors.

use std::sync::Arc;

use bytes::Bytes;
use mqc_ir::DType;
use tract_onnx::prelude::*;

use super::fixture::*;
use crate::cpu::{CpuError, Resident, TractModel, tensor_from_tract, tensor_to_tract};

fn load(graph: tract_onnx::pb::GraphProto, all: &[&Arc<Resident>]) -> Result<TractModel, CpuError> {
    TractModel::from_proto(&model(graph), vec![], &residents(all), &engine())
}

fn run(model: &TractModel, inputs: &[(&str, Tensor)]) -> Vec<(String, Tensor)> {
    model.run(inputs.iter().map(|(name, value)| (name.to_string(), value.clone())).collect()).unwrap()
}

fn truth(value: bool) -> Tensor {
    tensor0(value)
}

#[test]
fn one_plan_answers_at_every_width() {
    let (fc1, fc2) = (resident("fc1", 24, 16), resident("fc2", 5, 24));
    let nodes = vec![
        nested("NestedMatMul", "fc1", &["x", "b1"], "h"),
        node("Relu", &["h"], &["r"], vec![]),
        nested("NestedMatMul", "fc2", &["r"], "m"),
        node("Add", &["m", "b2"], &["y"], vec![]),
    ];
    let proto = model(graph(nodes, vec![value("x", FLOAT, &["batch", "16"])], &["y"]));
    let (b1, b2) = (noise(24, 1), noise(5, 2));
    let consts = vec![
        ("b1".to_string(), tensor(&[24], &b1).into_arc_tensor()),
        ("b2".to_string(), tensor(&[5], &b2).into_arc_tensor()),
    ];
    let loaded = TractModel::from_proto(&proto, consts, &residents(&[&fc1, &fc2]), &engine()).unwrap();
    let mut answers = vec![];
    for (batch, w1, w2) in [(3, 8, 8), (3, 2, 2), (3, 4, 8), (1, 1, 3), (3, 8, 8)] {
        fc1.set_width(width(w1));
        fc2.set_width(width(w2));
        let x = noise(batch * 16, 9);
        let found = run(&loaded, &[("x", tensor(&[batch, 16], &x))]);
        let h: Vec<f32> = matmul(&fc1, &x)
            .iter()
            .enumerate()
            .map(|(i, h)| (h + f64::from(b1[i % 24])).max(0.0) as f32)
            .collect();
        let y: Vec<f64> =
            matmul(&fc2, &h).iter().enumerate().map(|(i, y)| y + f64::from(b2[i % 5])).collect();
        assert_eq!((found[0].0.as_str(), found[0].1.shape()), ("y", &[batch, 5][..]));
        close(slice(&found[0].1), &y, 1e-4);
        answers.push(slice(&found[0].1).to_vec());
    }
    assert_eq!(answers[0], answers[4]);
    assert_ne!(answers[0], answers[1]);
}

#[test]
fn a_product_of_constants_is_not_folded() {
    let fc = resident("fc", 6, 8);
    let mut graph = graph(vec![nested("NestedMatMul", "fc", &["x"], "y")], vec![], &["y"]);
    graph.input.push(value("unused", FLOAT, &["1"]));
    let x = noise(8, 4);
    let consts = vec![("x".to_string(), tensor(&[1, 8], &x).into_arc_tensor())];
    let loaded = TractModel::from_proto(&model(graph), consts, &residents(&[&fc]), &engine()).unwrap();
    for bits in [8, 2, 5] {
        fc.set_width(width(bits));
        let found = run(&loaded, &[("unused", tensor(&[1], &[0.0]))]);
        close(slice(&found[0].1), &matmul(&fc, &x), 1e-5);
    }
}

/// `y = If(c) { x . A^T } else { If(d) { x . B^T } else { -x . B^T } }`
fn branching(inputs: Vec<tract_onnx::pb::ValueInfoProto>) -> tract_onnx::pb::GraphProto {
    let negated = vec![nested("NestedMatMul", "b", &["x"], "n"), node("Neg", &["n"], &["n2"], vec![])];
    let inner = vec![
        body("then_branch", graph(vec![nested("NestedMatMul", "b", &["x"], "p")], vec![], &["p"])),
        body("else_branch", graph(negated, vec![], &["n2"])),
    ];
    let outer = vec![
        body("then_branch", graph(vec![nested("NestedMatMul", "a", &["x"], "t")], vec![], &["t"])),
        body("else_branch", graph(vec![node("If", &["d"], &["i"], inner)], vec![], &["i"])),
    ];
    graph(vec![node("If", &["c"], &["y"], outer)], inputs, &["y"])
}

#[test]
fn weights_inside_branches_follow_the_width() {
    let (a, b) = (resident("a", 7, 12), resident("b", 7, 12));
    let inputs = vec![value("c", BOOL, &[]), value("d", BOOL, &[]), value("x", FLOAT, &["n", "12"])];
    let loaded = load(branching(inputs), &[&a, &b]).unwrap();
    let x = noise(24, 3);
    for bits in [8, 2, 4] {
        for (c, d) in [(true, true), (false, true), (false, false)] {
            a.set_width(width(bits));
            b.set_width(width(9 - bits));
            let found = run(&loaded, &[("c", truth(c)), ("d", truth(d)), ("x", tensor(&[2, 12], &x))]);
            let sign = if !c && !d { -1.0 } else { 1.0 };
            let expected: Vec<f64> = matmul(if c { &a } else { &b }, &x).iter().map(|y| sign * y).collect();
            close(slice(&found[0].1), &expected, 1e-5);
        }
    }
}

#[test]
fn branches_over_constants_are_inlined_not_folded() {
    let (a, b) = (resident("a", 7, 12), resident("b", 7, 12));
    let x = noise(12, 3);
    for (c, d) in [(true, true), (false, true), (false, false)] {
        let proto = model(branching(vec![value("unused", FLOAT, &["1"])]));
        let consts = vec![
            ("c".to_string(), truth(c).into_arc_tensor()),
            ("d".to_string(), truth(d).into_arc_tensor()),
            ("x".to_string(), tensor(&[1, 12], &x).into_arc_tensor()),
        ];
        let loaded = TractModel::from_proto(&proto, consts, &residents(&[&a, &b]), &engine()).unwrap();
        for bits in [8, 2] {
            a.set_width(width(bits));
            b.set_width(width(bits));
            let found = run(&loaded, &[("unused", tensor(&[1], &[0.0]))]);
            let sign = if !c && !d { -1.0 } else { 1.0 };
            let expected: Vec<f64> = matmul(if c { &a } else { &b }, &x).iter().map(|y| sign * y).collect();
            close(slice(&found[0].1), &expected, 1e-5);
        }
    }
}

#[test]
fn the_branch_not_taken_may_be_impossible() {
    let axes = vec![node("Constant", &[], &["axes"], vec![ints("value_ints", &[1])])];
    let squeeze = [axes, vec![node("Squeeze", &["x", "axes"], &["s"], vec![])]].concat();
    let keep = vec![node("Identity", &["x"], &["k"], vec![])];
    let sides = vec![
        body("then_branch", graph(squeeze, vec![], &["s"])),
        body("else_branch", graph(keep, vec![], &["k"])),
    ];
    let nodes = vec![
        node("Shape", &["x"], &["shape"], vec![]),
        node("Constant", &[], &["one"], vec![int("value_int", 1)]),
        node("Gather", &["shape", "one"], &["dim"], vec![]),
        node("Equal", &["dim", "one"], &["c"], vec![]),
        node("If", &["c"], &["y"], sides),
    ];
    let loaded = load(graph(nodes, vec![value("x", FLOAT, &["a", "b"])], &["y"]), &[]).unwrap();
    assert_eq!(run(&loaded, &[("x", tensor(&[2, 1], &[1.0, 2.0]))])[0].1, tensor(&[2], &[1.0, 2.0]));
    assert_eq!(run(&loaded, &[("x", tensor(&[1, 2], &[1.0, 2.0]))])[0].1, tensor(&[1, 2], &[1.0, 2.0]));
}

#[test]
fn a_branch_that_cannot_exist_fails_only_when_taken() {
    let constant =
        |name: &str, values: &[usize]| node("Constant", &[], &[name], vec![ints("value_ints", values)]);
    let halves = vec![constant("two", &[2, 2]), node("Reshape", &["x", "two"], &["h"], vec![])];
    let thirds = vec![constant("three", &[2, 3]), node("Reshape", &["x", "three"], &["t"], vec![])];
    let sides = vec![
        body("then_branch", graph(halves, vec![], &["h"])),
        body("else_branch", graph(thirds, vec![], &["t"])),
    ];
    let inputs = vec![value("c", BOOL, &[]), value("x", FLOAT, &["n"])];
    let loaded = load(graph(vec![node("If", &["c"], &["y"], sides)], inputs, &["y"]), &[]).unwrap();
    let x = |len| ("x".to_string(), tensor(&[len], &noise(len, 1)));
    let shape = |c, len| {
        let found = loaded.run(vec![("c".into(), truth(c)), x(len)]);
        found.map(|found| found[0].1.shape().to_vec()).map_err(|error| error.to_string())
    };
    assert_eq!(shape(true, 4), Ok(vec![2, 2]));
    assert_eq!(shape(false, 6), Ok(vec![2, 3]));
    assert!(shape(false, 4).unwrap_err().contains("the else_branch is taken and does not fit"));
    assert!(shape(true, 6).unwrap_err().contains("the then_branch is taken and does not fit"));
    assert!(shape(true, 5).is_err());
}

#[test]
fn a_value_that_differs_between_branches_is_not_taken_for_a_constant() {
    let constant = |value: i64| node("Constant", &[], &["v"], vec![int("value_int", value)]);
    let sides = vec![
        body("then_branch", graph(vec![constant(3)], vec![], &["v"])),
        body("else_branch", graph(vec![constant(5)], vec![], &["v"])),
    ];
    let nodes = vec![node("If", &["c"], &["i"], sides), node("Add", &["i", "i"], &["y"], vec![])];
    let loaded = load(graph(nodes, vec![value("c", BOOL, &[])], &["y"]), &[]).unwrap();
    assert_eq!(run(&loaded, &[("c", truth(true))])[0].1, tensor0(6i64));
    assert_eq!(run(&loaded, &[("c", truth(false))])[0].1, tensor0(10i64));
}

#[test]
fn weights_inside_a_scan_follow_the_width() {
    let fc = resident("fc", 4, 6);
    let step = vec![
        nested("NestedMatMul", "fc", &["xt"], "p"),
        node("Add", &["sum", "p"], &["next"], vec![]),
        node("Identity", &["next"], &["out"], vec![]),
    ];
    let inputs = vec![value("sum", FLOAT, &["b", "4"]), value("xt", FLOAT, &["b", "6"])];
    let attributes = vec![body("body", graph(step, inputs, &["next", "out"])), int("num_scan_inputs", 1)];
    let nodes = vec![node("Scan", &["zero", "x"], &["last", "all"], attributes)];
    let inputs = vec![value("zero", FLOAT, &["n", "4"]), value("x", FLOAT, &["t", "n", "6"])];
    let loaded = load(graph(nodes, inputs, &["all", "last"]), &[&fc]).unwrap();
    assert_eq!(loaded.outputs(), ["all", "last"]);
    let x = noise(3 * 2 * 6, 5);
    for bits in [8, 2] {
        fc.set_width(width(bits));
        let found = run(&loaded, &[("zero", tensor(&[2, 4], &[0.0; 8])), ("x", tensor(&[3, 2, 6], &x))]);
        let mut expected = matmul(&fc, &x);
        for at in 8..expected.len() {
            expected[at] += expected[at - 8];
        }
        close(slice(&found[0].1), &expected, 1e-5);
        close(slice(&found[1].1), &expected[16..], 1e-5);
    }
}

#[test]
fn a_table_serves_gather_and_product() {
    let table = resident("table", 10, 8);
    let nodes =
        vec![nested("NestedGather", "table", &["ids"], "e"), nested("NestedMatMul", "table", &["e"], "y")];
    let loaded = load(graph(nodes, vec![value("ids", INT32, &["n"])], &["e", "y"]), &[&table]).unwrap();
    table.set_width(width(4));
    let found = run(&loaded, &[("ids", tensor1(&[3i32, -1, 0]))]);
    let all = floats(&table);
    let rows: Vec<f64> = [3, 9, 0].iter().flat_map(|row| all[row * 8..(row + 1) * 8].to_vec()).collect();
    close(slice(&found[0].1), &rows, 0.0);
    close(slice(&found[1].1), &matmul(&table, slice(&found[0].1)), 1e-5);
    let error = loaded.run(vec![("ids".into(), tensor1(&[10i32]))]).unwrap_err();
    assert!(error.to_string().contains("index 10 is out of range for a table of 10 rows"), "{error}");
    assert!(error.to_string().contains("layer table"), "{error}");
}

#[test]
fn conv_attributes_reach_the_operator() {
    let conv = resident("conv", 6, 2 * 3 * 3);
    let attributes = vec![
        text("layer", "conv"),
        ints("kernel_shape", &[3, 3]),
        ints("strides", &[2, 1]),
        ints("pads", &[1, 0, 0, 2]),
        int("group", 2),
    ];
    let nodes = vec![node("NestedConv", &["x", "bias"], &["y"], attributes)];
    let inputs = vec![value("x", FLOAT, &["n", "4", "h", "w"]), value("bias", FLOAT, &["6"])];
    let loaded = load(graph(nodes, inputs, &["y"]), &[&conv]).unwrap();
    let (x, bias) = (noise(4 * 6 * 5, 1), noise(6, 2));
    conv.set_width(width(3));
    let found = run(&loaded, &[("x", tensor(&[1, 4, 6, 5], &x)), ("bias", tensor(&[6], &bias))]);
    // tract's own convolution on the dequantized weight.
    let dense: Vec<f32> = floats(&conv).iter().map(|w| *w as f32).collect();
    let attributes = vec![ints("strides", &[2, 1]), ints("pads", &[1, 0, 0, 2]), int("group", 2)];
    let inputs = vec![value("x", FLOAT, &["n", "4", "h", "w"]), value("bias", FLOAT, &["6"])];
    let proto = model(graph(vec![node("Conv", &["x", "w", "bias"], &["y"], attributes)], inputs, &["y"]));
    let consts = vec![("w".to_string(), tensor(&[6, 2, 3, 3], &dense).into_arc_tensor())];
    let plain = TractModel::from_proto(&proto, consts, &residents(&[]), &engine()).unwrap();
    let expected = run(&plain, &[("x", tensor(&[1, 4, 6, 5], &x)), ("bias", tensor(&[6], &bias))]);
    assert_eq!(found[0].1.shape(), expected[0].1.shape());
    found[0].1.close_enough(&expected[0].1, true).unwrap();
}

#[test]
fn half_precision_stays_half() {
    let fc = resident("fc", 4, 8);
    let nodes = vec![nested("NestedMatMul", "fc", &["x"], "y")];
    let loaded = load(graph(nodes, vec![value("x", HALF, &["2", "8"])], &["y"]), &[&fc]).unwrap();
    let x = tensor(&[2, 8], &noise(16, 1)).cast_to::<f16>().unwrap().into_owned();
    let found = run(&loaded, &[("x", x.clone())]);
    assert_eq!(found[0].1.datum_type(), DatumType::F16);
    let rounded = x.cast_to::<f32>().unwrap().into_owned();
    let y = found[0].1.cast_to::<f32>().unwrap().into_owned();
    close(slice(&y), &matmul(&fc, slice(&rounded)), 2e-3);
}

#[test]
fn names_types_and_order_of_outputs() {
    let mut relu = node("Relu", &["x"], &["r"], vec![]);
    relu.name = "same".into();
    let mut neg = node("Neg", &["x"], &["n"], vec![]);
    neg.name = "same".into();
    let nodes = vec![relu, neg, node("Shape", &["x"], &["s"], vec![])];
    let outputs = ["n", "s", "k", "x", "r", "n"];
    let proto = model(graph(nodes, vec![value("x", FLOAT, &["a", "b"])], &outputs));
    let consts = vec![("k".to_string(), tensor(&[1], &[7.0]).into_arc_tensor())];
    let loaded = TractModel::from_proto(&proto, consts, &residents(&[]), &engine()).unwrap();
    for rows in 1..=7 {
        let x = noise(rows * 2, rows as u64);
        let found = run(&loaded, &[("x", tensor(&[rows, 2], &x))]);
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), outputs);
        assert_eq!(found[1].1, tensor1(&[rows as i64, 2]));
        assert_eq!(found[2].1, tensor(&[1], &[7.0]));
        assert_eq!(found[3].1, tensor(&[rows, 2], &x));
        assert_eq!(found[0].1, found[5].1);
        assert_eq!(slice(&found[0].1).iter().map(|n| -n).collect::<Vec<_>>(), x);
    }
}

#[test]
fn a_loaded_model_is_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let fc = resident("fc", 4, 8);
    let loaded = load(
        graph(vec![nested("NestedMatMul", "fc", &["x"], "y")], vec![value("x", FLOAT, &["n", "8"])], &["y"]),
        &[&fc],
    );
    let loaded = loaded.unwrap();
    shared(&loaded);
    std::thread::scope(|scope| {
        for batch in 1..4 {
            let (loaded, fc) = (&loaded, &fc);
            scope.spawn(move || {
                let x = noise(batch * 8, 1);
                close(slice(&run(loaded, &[("x", tensor(&[batch, 8], &x))])[0].1), &matmul(fc, &x), 1e-5);
            });
        }
    });
}

#[test]
fn what_cannot_run_is_named() {
    let fc = resident("fc", 4, 8);
    let x = || vec![value("x", FLOAT, &["n", "8"])];
    let refused = |nodes, outputs: &[&str]| load(graph(nodes, x(), outputs), &[&fc]).unwrap_err().to_string();

    let error = refused(vec![nested("NestedMatMul", "other", &["x"], "y")], &["y"]);
    assert!(error.contains("layer `other` is not among the resident weights"), "{error}");
    let error = refused(vec![node("NestedMatMul", &["x"], &["y"], vec![])], &["y"]);
    assert!(error.contains("layer"), "{error}");
    let error = refused(vec![node("Frobnicate", &["x"], &["y"], vec![])], &["y"]);
    assert!(error.contains("operator `Frobnicate` of domain `ai.onnx`"), "{error}");
    let mut foreign = node("Relu", &["x"], &["y"], vec![]);
    foreign.domain = "com.example".into();
    let error = refused(vec![foreign.clone()], &["y"]);
    assert!(error.contains("operator `Relu` of domain `com.example`"), "{error}");
    let sides = vec![
        body("then_branch", graph(vec![foreign], vec![], &["y"])),
        body("else_branch", graph(vec![], vec![], &["y"])),
    ];
    let error = refused(vec![node("If", &["x"], &["z"], sides)], &["z"]);
    assert!(error.contains("com.example"), "{error}");
    let error = refused(vec![node("Relu", &["x"], &["y"], vec![])], &["z"]);
    assert!(error.contains("output `z`"), "{error}");
    let error = refused(vec![node("Add", &["x", "nothing"], &["y"], vec![])], &["y"]);
    assert!(error.contains("value `nothing`"), "{error}");
    let conv = node(
        "NestedConv",
        &["x"],
        &["y"],
        vec![text("layer", "fc"), ints("kernel_shape", &[3]), ints("pads", &[1])],
    );
    let error = refused(vec![conv], &["y"]);
    assert!(error.contains("pads has 1 values, expected 2"), "{error}");
}

#[test]
fn broken_bytes_are_an_error() {
    let fc = resident("fc", 4, 8);
    let proto = model(graph(
        vec![nested("NestedMatMul", "fc", &["x"], "y")],
        vec![value("x", FLOAT, &["n", "8"])],
        &["y"],
    ));
    for len in 0..proto.len() {
        // A prefix may happen to be a smaller model; what matters is that nothing panics and no layer is lost
        // silently.
        if let Ok(loaded) = TractModel::from_proto(&proto[..len], vec![], &residents(&[&fc]), &engine()) {
            assert!(loaded.outputs().len() < 2);
        }
    }
    assert!(TractModel::from_proto(b"not a model", vec![], &residents(&[]), &engine()).is_err());
}

#[test]
fn wrong_inputs_are_named() {
    let fc = resident("fc", 4, 8);
    let inputs = vec![value("x", FLOAT, &["n", "8"])];
    let loaded =
        load(graph(vec![nested("NestedMatMul", "fc", &["x"], "y")], inputs, &["y"]), &[&fc]).unwrap();
    let refused = |inputs: &[(&str, Tensor)]| {
        loaded.run(inputs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect()).unwrap_err().to_string()
    };
    let good = tensor(&[1, 8], &[0.0; 8]);
    assert_eq!(refused(&[]), "input `x` is missing");
    assert_eq!(
        refused(&[("x", good.clone()), ("z", good.clone())]),
        "the model has no input `z`; its inputs are x"
    );
    assert_eq!(
        refused(&[("x", tensor(&[1, 7], &[0.0; 7]))]),
        "input `x` is F32 [1, 7]; the model expects F32 [?, 8]"
    );
    assert_eq!(refused(&[("x", tensor1(&[0i64; 8]))]), "input `x` is I64 [8]; the model expects F32 [?, 8]");
}

#[test]
fn tensors_cross_over_and_back() {
    let cases = [
        mqc_ir::Tensor::from_f32(vec![2, 1], &[1.5, -2.0]).unwrap(),
        mqc_ir::Tensor::from_i64(vec![3], &[1, -1, i64::MAX]).unwrap(),
        mqc_ir::Tensor::new(DType::U8, vec![0, 4], Bytes::new()).unwrap(),
        mqc_ir::Tensor::new(DType::F16, vec![], Bytes::from_static(&[1, 2])).unwrap(),
        mqc_ir::Tensor::strings(vec![2], vec![Bytes::from_static(b"a"), Bytes::from("\u{e9}")]).unwrap(),
    ];
    for case in cases {
        let there = tensor_to_tract("t", &case).unwrap();
        assert_eq!(there.shape(), case.shape());
        assert_eq!(tensor_from_tract("t", &there).unwrap(), case);
    }
    let odd = mqc_ir::Tensor::new(DType::Bool, vec![3], Bytes::from_static(&[0, 1, 7])).unwrap();
    assert_eq!(tensor_to_tract("t", &odd).unwrap(), tensor1(&[false, true, true]));
    let bf16 = mqc_ir::Tensor::new(DType::Bf16, vec![1], Bytes::from_static(&[0, 0])).unwrap();
    let error = tensor_to_tract("t", &bf16).unwrap_err().to_string();
    assert_eq!(error, "tensor `t`: elements of type bf16 do not run on the CPU session");
    let latin = mqc_ir::Tensor::strings(vec![1], vec![Bytes::from_static(&[0xe9])]).unwrap();
    assert!(tensor_to_tract("t", &latin).unwrap_err().to_string().contains("utf-8"));
}
