//! Calls of functions and the nodes that they become.

use super::inline_functions;
use crate::Error;
use crate::proto::{AttributeType, FunctionProto, GraphProto, ModelProto, NodeProto};
use crate::testing::{body, float, graph, int, model, node, opset, pair, reference};

fn function(name: &str, inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("fn".to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        node: nodes,
        opset_import: vec![opset("", 13), opset("fn", 1)],
        ..FunctionProto::default()
    }
}

fn with(functions: Vec<FunctionProto>, nodes: Vec<NodeProto>, outputs: &[&str]) -> ModelProto {
    let mut model = model(13, graph("g", &["x", "a"], nodes, outputs));
    model.opset_import.push(opset("fn", 1));
    model.functions = functions;
    model
}

fn inlined(mut model: ModelProto) -> GraphProto {
    inline_functions(&mut model).unwrap();
    assert!(model.functions.is_empty());
    let graph = model.graph.clone().unwrap();
    let imported = crate::import::from_proto(model, &crate::file::Resolver::in_memory()).unwrap();
    assert_eq!(mqc_ir::verify::verify(&imported.graph), []);
    graph
}

/// `Op(inputs)->outputs`, one per node.
fn lines(graph: &GraphProto) -> Vec<String> {
    let line = |n: &NodeProto| format!("{}({})->{}", n.op_type(), n.input.join(","), n.output.join(","));
    graph.node.iter().map(line).collect()
}

#[test]
fn inner_values_get_names_of_their_own() {
    let f = function(
        "F",
        &["i"],
        vec![node("Relu", &["i"], &["a"]), node("Neg", &["a"], &["o"]).named("n")],
        &["o"],
    );
    let calls = vec![
        node("F", &["x"], &["y"]).of("fn").named("call"),
        node("F", &["y"], &["z"]).of("fn").named("call"),
    ];
    let graph = inlined(with(vec![f], calls, &["z"]));
    assert_eq!(lines(&graph), ["Relu(x)->call/a", "Neg(call/a)->y", "Relu(y)->call_1/a", "Neg(call_1/a)->z"]);
    assert_eq!(graph.node[1].name(), "call/n");
    assert_eq!(graph.node[3].name(), "call_1/n");
}

#[test]
fn attributes_come_from_the_call_or_the_default() {
    let body = node("LeakyRelu", &["i"], &["o"]).with(reference("alpha", AttributeType::Float, "slope"));
    let mut f = function("F", &["i"], vec![body], &["o"]);
    f.attribute_proto = vec![float("slope", 0.25)];
    let mut g = function("G", &["i"], f.node.clone(), &["o"]);
    g.attribute = vec!["slope".to_owned()];
    let calls = vec![
        node("F", &["x"], &["p"]).of("fn").with(float("slope", 0.75)),
        node("F", &["p"], &["q"]).of("fn"),
        node("G", &["q"], &["r"]).of("fn"),
    ];
    let graph = inlined(with(vec![f.clone(), g], calls, &["r"]));
    let alphas: Vec<_> = graph.node.iter().map(|n| n.attribute.first().map(|a| (a.name(), a.f()))).collect();
    assert_eq!(alphas, [Some(("alpha", 0.75)), Some(("alpha", 0.25)), None]);

    let mut wrong = with(vec![f], vec![node("F", &["x"], &["y"]).of("fn").with(int("slope", 1))], &["y"]);
    let error = inline_functions(&mut wrong).unwrap_err().to_string();
    let expected = "attribute 'slope' is of type Int, the body expects Float";
    assert_eq!(error, format!("call of function 'fn.F' in node 'F -> y': {expected}"));
}

#[test]
fn absent_inputs_and_outputs_stay_absent() {
    let nodes = vec![node("Clip", &["i", "lo", "hi"], &["o"]), node("Exp", &["o"], &["extra"])];
    let f = function("F", &["i", "lo", "hi"], nodes, &["o", "extra"]);
    let graph = inlined(with(vec![f], vec![node("F", &["x", "", "a"], &["y"]).of("fn")], &["y"]));
    assert_eq!(lines(&graph), ["Clip(x,,a)->y", "Exp(y)->F/extra"]);
}

#[test]
fn results_that_are_inputs_are_copied() {
    let f = function("F", &["i"], vec![node("Relu", &["i"], &["o"])], &["i", "o", "o"]);
    let call = node("F", &["x"], &["p", "q", "r"]).of("fn");
    let graph = inlined(with(vec![f.clone()], vec![call], &["p", "q", "r"]));
    assert_eq!(lines(&graph), ["Relu(x)->q", "Identity(x)->p", "Identity(q)->r"]);

    let mut absent = with(vec![f], vec![node("F", &[], &["p"]).of("fn")], &["p"]);
    let error = inline_functions(&mut absent).unwrap_err().to_string();
    assert_eq!(error, "call of function 'fn.F' in node 'F -> p': output 'i' has no value");
}

#[test]
fn functions_may_call_functions_but_not_themselves() {
    let f = function("F", &["i"], vec![node("Relu", &["i"], &["o"])], &["o"]);
    let calls = vec![node("F", &["i"], &["t"]).of("fn").named("in"), node("F", &["t"], &["o"]).of("fn")];
    let g = function("G", &["i"], calls, &["o"]);
    let graph =
        inlined(with(vec![g.clone(), f], vec![node("G", &["x"], &["y"]).of("fn").named("out")], &["y"]));
    assert_eq!(lines(&graph), ["Relu(x)->out/t", "Relu(out/t)->y"]);

    let f = function("F", &["i"], vec![node("G", &["i"], &["o"]).of("fn")], &["o"]);
    let mut endless = with(vec![g, f], vec![node("G", &["x"], &["y"]).of("fn")], &["y"]);
    let error = inline_functions(&mut endless).unwrap_err().to_string();
    assert_eq!(error, "function 'fn.G' calls itself, through fn.G, fn.F");
}

#[test]
fn graphs_in_bodies_are_renamed_and_see_the_body() {
    // The branch hides the body's `t`, uses its input, its attribute and calls another function.
    let leaky = node("LeakyRelu", &["t"], &["u"]).with(reference("alpha", AttributeType::Float, "slope"));
    let inner = vec![node("Add", &["i", "s"], &["t"]), leaky, node("H", &["u"], &["v"]).of("fn")];
    let branch = graph("b", &[], inner, &["v"]);
    let nodes =
        vec![node("Neg", &["i"], &["s"]), node("If", &["c"], &["o"]).with(body("then_branch", branch))];
    let mut f = function("F", &["i", "c"], nodes, &["o"]);
    f.attribute_proto = vec![float("slope", 0.5)];
    let h = function("H", &["i"], vec![node("Tanh", &["i"], &["o"])], &["o"]);
    let graph = inlined(with(vec![f, h], vec![node("F", &["x", "a"], &["y"]).of("fn")], &["y"]));
    assert_eq!(lines(&graph), ["Neg(x)->F/s", "If(a)->y"]);
    let branch = graph.node[1].attribute[0].g.as_ref().unwrap();
    assert_eq!(lines(branch), ["Add(x,F/s)->F/t", "LeakyRelu(F/t)->F/u", "Tanh(F/u)->F/v"]);
    assert_eq!((branch.output[0].name(), branch.node[1].attribute[0].f()), ("F/v", 0.5));
}

#[test]
fn graphs_that_the_call_brings_see_the_caller() {
    let then = reference("then_branch", AttributeType::Graph, "branch");
    let f = function(
        "F",
        &["c"],
        vec![node("Neg", &["c"], &["x"]), node("If", &["x"], &["o"]).with(then)],
        &["o"],
    );
    let branch = graph("b", &[], vec![node("Relu", &["x"], &["t"])], &["t"]);
    let call = node("F", &["a"], &["y"]).of("fn").with(body("branch", branch));
    let graph = inlined(with(vec![f], vec![call], &["y"]));
    assert_eq!(lines(&graph), ["Neg(a)->F/x", "If(F/x)->y"]);
    let branch = graph.node[1].attribute[0].g.as_ref().unwrap();
    assert_eq!(lines(branch), ["Relu(x)->t"]);
}

#[test]
fn names_that_are_taken_are_avoided_and_types_move_along() {
    let mut f =
        function("F", &["i"], vec![node("Relu", &["i"], &["t"]), node("Neg", &["t"], &["o"])], &["o"]);
    f.value_info = vec![pair("t"), pair("i")];
    let nodes = vec![node("Exp", &["x"], &["F/t"]), node("F", &["F/t"], &["y"]).of("fn")];
    let graph = inlined(with(vec![f], nodes, &["y"]));
    assert_eq!(lines(&graph), ["Exp(x)->F/t", "Relu(F/t)->F/t_1", "Neg(F/t_1)->y"]);
    let stated: Vec<_> = graph.value_info.iter().map(|v| v.name()).collect();
    assert_eq!(stated, ["F/t_1"]);
}

#[test]
fn versions_of_operators_must_agree() {
    let relu = || vec![node("Relu", &["i"], &["o"])];
    let call = || vec![node("F", &["x"], &["y"]).of("fn")];
    let mut f = function("F", &["i"], relu(), &["o"]);
    f.opset_import = vec![opset("", 12), opset("unused", 2)];
    let mut model = with(vec![f.clone()], call(), &["y"]);
    let error = inline_functions(&mut model).unwrap_err();
    assert!(matches!(error, Error::FunctionOpset { body: 12, model: 13, .. }), "{error}");

    f.opset_import = vec![opset("ai.onnx", 13), opset("vendor", 2)];
    f.node = vec![node("Relu", &["i"], &["t"]), node("Own", &["t"], &["o"]).of("vendor")];
    let mut model = with(vec![f], call(), &["y"]);
    inline_functions(&mut model).unwrap();
    assert_eq!(model.opset_import, [opset("", 13), opset("fn", 1), opset("vendor", 2)]);
}

#[test]
fn nested_operators_keep_their_functions() {
    let mut nested = function("NestedMatMul", &["i"], vec![node("Relu", &["i"], &["o"])], &["o"]);
    nested.domain = Some("ai.mqc".to_owned());
    let mut model =
        with(vec![nested.clone()], vec![node("NestedMatMul", &["x"], &["y"]).of("ai.mqc")], &["y"]);
    let before = model.clone();
    inline_functions(&mut model).unwrap();
    assert_eq!(model, before);
}

#[test]
fn growth_without_bound_is_an_error() {
    let mut functions = vec![function("F0", &["i"], vec![node("Relu", &["i"], &["o"])], &["o"])];
    for level in 1..60 {
        let below = format!("F{}", level - 1);
        let calls = vec![node(&below, &["i"], &["t"]).of("fn"), node(&below, &["t"], &["o"]).of("fn")];
        functions.push(function(&format!("F{level}"), &["i"], calls, &["o"]));
    }
    let mut model = with(functions.clone(), vec![node("F14", &["x"], &["y"]).of("fn")], &["y"]);
    inline_functions(&mut model).unwrap();
    assert_eq!(model.graph.unwrap().node.len(), 1 << 14);

    let mut model = with(functions, vec![node("F59", &["x"], &["y"]).of("fn")], &["y"]);
    assert!(matches!(inline_functions(&mut model), Err(Error::Expansion { .. })));

    let deep: Vec<_> = (1..80)
        .map(|n| {
            function(
                &format!("D{n}"),
                &["i"],
                vec![node(&format!("D{}", n - 1), &["i"], &["o"]).of("fn")],
                &["o"],
            )
        })
        .chain([function("D0", &["i"], vec![node("Relu", &["i"], &["o"])], &["o"])])
        .collect();
    let mut model = with(deep, vec![node("D79", &["x"], &["y"]).of("fn")], &["y"]);
    let error = inline_functions(&mut model).unwrap_err().to_string();
    assert!(error.contains("functions call each other over 64 levels deep"), "{error}");
}
