//! Graphs as they are found, well formed and broken.

use mqc_ir::{DType, Dim, Op, Type, Value};

use super::from_proto;
use crate::file::Resolver;
use crate::proto::{
    AttributeProto, DataType, DimensionValue, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use crate::testing::{bodies, body, graph, int, model, node, opset, pair, value, weight};
use crate::{Error, Model};

fn import(model: ModelProto) -> Result<Model, Error> {
    from_proto(model, &Resolver::in_memory())
}

fn fails(model: ModelProto, message: &str) {
    assert_eq!(import(model).unwrap_err().to_string(), message);
}

/// The operation types of the nodes in order, sources left out.
fn kinds(graph: &mqc_ir::Graph) -> Vec<String> {
    let nodes = graph.order().unwrap().into_iter().filter_map(|id| graph.node(id));
    nodes.filter(|n| !matches!(n.op, Op::Input | Op::Weight(_))).map(|n| n.name.clone()).collect()
}

fn chain() -> Vec<NodeProto> {
    vec![
        node("Relu", &["x"], &["a"]).named("first"),
        node("Add", &["a", "w"], &["b"]).named("second"),
        node("Tanh", &["b"], &["y"]).named("third"),
    ]
}

fn with_weight(nodes: Vec<NodeProto>) -> ModelProto {
    let mut graph = graph("g", &["x"], nodes, &["y"]);
    graph.initializer.push(weight("w"));
    model(13, graph)
}

#[test]
fn nodes_out_of_order_are_sorted() {
    let mut nodes = chain();
    nodes.reverse();
    assert_eq!(kinds(&import(with_weight(nodes)).unwrap().graph), ["first", "second", "third"]);
}

#[test]
fn broken_graphs_are_errors() {
    let mut cycle = chain();
    cycle[0] = node("Add", &["x", "y"], &["a"]).named("first");
    fails(with_weight(cycle), "graph 'g' has a cycle through node 'first'");

    let mut dangling = chain();
    dangling[1].input[0] = "nowhere".to_owned();
    fails(
        with_weight(dangling),
        "node 'second' or a graph inside it uses the value 'nowhere', which no input, initializer or node defines",
    );

    let mut twice = chain();
    twice[1].output[0] = "a".to_owned();
    fails(
        with_weight(twice),
        "graph 'g': output of a node 'a' has the name of a value that is already defined",
    );
    let mut twice = with_weight(chain());
    twice.graph.as_mut().unwrap().initializer.push(weight("w"));
    fails(twice, "graph 'g': initializer 'w' has the name of a value that is already defined");
    let mut twice = with_weight(chain());
    twice.graph.as_mut().unwrap().input.push(pair("x"));
    fails(twice, "graph 'g': input 'x' has the name of a value that is already defined");

    let mut unnamed = with_weight(chain());
    unnamed.graph.as_mut().unwrap().initializer.push(weight(""));
    fails(unnamed, "graph 'g': initializer 1 has no name");

    let mut output = with_weight(chain());
    output.graph.as_mut().unwrap().output.push(pair("z"));
    fails(output, "graph 'g': the output 'z' is not defined by an input, an initializer or a node");
}

#[test]
fn malformed_parts_name_their_place() {
    let nodes = vec![node("Gather", &["x", "w"], &["y"]).with(int("axis", 0)).with(int("axis", 1))];
    fails(with_weight(nodes), "node 'Gather -> y': attribute 'axis': it is there twice");

    let untyped = AttributeProto { name: Some("k".to_owned()), ..AttributeProto::default() };
    let nodes = vec![node("Relu", &["x"], &["y"]).named("n").with(untyped)];
    fails(with_weight(nodes), "node 'n': attribute 'k': its type is absent or unknown");

    let text = TensorProto {
        data_type: Some(DataType::String as i32),
        dims: vec![1],
        string_data: vec![b"\xff".as_slice().into()],
        ..TensorProto::default()
    };
    let value = AttributeProto { t: Some(Box::new(text)), ..int("value", 0) };
    let value = AttributeProto { r#type: Some(crate::proto::AttributeType::Tensor as i32), ..value };
    let error = import(with_weight(vec![node("Constant", &[], &["y"]).with(value)])).unwrap_err();
    assert_eq!(error.to_string(), "node 'Constant -> y': attribute 'value' is malformed");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "tensor '': string_data[0] is not UTF-8");

    let mut ty = with_weight(chain());
    let input = &mut ty.graph.as_mut().unwrap().input[0];
    let Some(crate::proto::TypeValue::TensorType(t)) = &mut input.r#type.as_mut().unwrap().value else {
        panic!()
    };
    t.elem_type = Some(99);
    fails(ty, "value 'x': element type 99 is unknown or not supported, expected one in 1..=26");
}

#[test]
fn operator_sets_are_checked() {
    let mut old = with_weight(chain());
    old.opset_import = vec![opset("", 6)];
    fails(old, "the model's opset is 6, expected 7 or newer; convert it with onnx.version_converter");

    let mut none = with_weight(chain());
    none.opset_import = vec![opset("vendor", 1)];
    assert!(matches!(import(none.clone()), Err(Error::NoOpset)));
    for node in &mut none.graph.as_mut().unwrap().node {
        node.domain = Some("vendor".to_owned());
    }
    assert_eq!(import(none).unwrap().graph.opsets.get(""), None);

    let mut twice = with_weight(chain());
    twice.opset_import = vec![opset("", 13), opset("ai.onnx", 14)];
    assert!(matches!(import(twice), Err(Error::OpsetTwice { first: 13, second: 14, .. })));

    let mut newer = with_weight(chain());
    newer.opset_import = vec![opset("ai.onnx", 99)];
    assert_eq!(import(newer).unwrap().graph.opsets[""], 99);
}

#[test]
fn shapes_keep_what_they_say() {
    use DimensionValue::{DimParam, DimValue};
    let dims =
        [Some(DimValue(-1)), Some(DimParam("n".into())), Some(DimValue(0)), None, Some(DimParam("".into()))];
    let mut model = with_weight(chain());
    model.graph.as_mut().unwrap().input[0] = value("x", &dims);
    let graph = import(model).unwrap().graph;
    let input = Value { node: graph.inputs()[0], slot: 0 };
    let expected = vec![Dim::Unknown, Dim::Symbol("n".into()), Dim::Size(0), Dim::Unknown, Dim::Unknown];
    assert_eq!(graph.ty(input), &Type::tensor(DType::F32, expected));
}

#[test]
fn initializers_share_the_memory_of_the_model() {
    let mut bytes = with_weight(chain());
    let data = bytes::Bytes::from(vec![7u8; 8]);
    bytes.graph.as_mut().unwrap().initializer[0].raw_data = Some(data.clone());
    let graph = import(bytes).unwrap().graph;
    let tensor = graph.order().unwrap().into_iter().find_map(|id| graph.node(id)?.op.as_constant().cloned());
    assert_eq!(tensor.unwrap().bytes().as_ptr(), data.as_ptr());
}

#[test]
fn local_functions_hide_operators() {
    let mut proto = with_weight(chain());
    proto.functions = vec![crate::proto::FunctionProto { name: Some("Relu".into()), ..Default::default() }];
    let model = import(proto).unwrap();
    let ops: Vec<_> =
        model.graph.order().unwrap().into_iter().map(|id| model.graph.node(id).unwrap()).collect();
    let find = |name: &str| &ops.iter().find(|n| n.name == name).unwrap().op;
    assert!(matches!(find("first"), Op::Opaque(_)));
    assert!(matches!(find("third"), Op::Unary(_)));
    assert_eq!(model.header.functions.len(), 1);
}

#[test]
fn sparse_initializers_are_constants() {
    let mut proto = with_weight(chain());
    let indices = TensorProto {
        data_type: Some(DataType::Int64 as i32),
        dims: vec![2],
        int64_data: vec![0, 3],
        ..TensorProto::default()
    };
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer.clear();
    let sparse = SparseTensorProto { values: Some(weight("w")), indices: Some(indices), dims: vec![4] };
    graph.sparse_initializer.push(sparse.clone());
    let imported = import(proto.clone()).unwrap().graph;
    let constant = imported.order().unwrap().into_iter().find_map(|id| match &imported.node(id)?.op {
        Op::Opaque(opaque) => Some(opaque.clone()),
        _ => None,
    });
    let constant = constant.unwrap();
    assert_eq!(constant.op_type, "Constant");
    assert!(constant.attributes.contains_key("sparse_value"));

    let mut broken = proto;
    broken.graph.as_mut().unwrap().sparse_initializer[0].indices = None;
    fails(broken, "sparse tensor 'w' has no indices");
}

/// `If` whose branches are nested `depth` deep, the innermost using `x` from outside.
fn nested(depth: usize) -> NodeProto {
    let inner = match depth {
        0 => node("Relu", &["x"], &["out0"]),
        _ => nested(depth - 1),
    };
    let result = inner.output[0].clone();
    let branch = graph("branch", &[], vec![inner], &[&result]);
    node("If", &["c"], &[&format!("out{}", depth + 1)]).with(body("then_branch", branch))
}

#[test]
fn graphs_nested_too_deep_are_an_error() {
    let at = |depth| {
        import(model(13, graph("g", &["x", "c"], vec![nested(depth)], &[&format!("out{}", depth + 1)])))
    };
    assert!(at(super::MAX_DEPTH - 1).is_ok());
    assert!(matches!(at(super::MAX_DEPTH), Err(Error::TooDeep { limit: 32, .. })));
}

#[test]
fn captured_values_are_operands_and_last_inputs() {
    let then = graph("then", &[], vec![node("Add", &["x", "w"], &["t"])], &["t"]);
    // The second branch hides `w` and returns a captured value as it is.
    let hides = vec![node("Relu", &["x"], &["w"]), node("Add", &["w", "v"], &["e"])];
    let other = graph("else", &[], hides, &["e"]);
    let branch = node("If", &["c"], &["y"]).with(body("then_branch", then)).with(body("else_branch", other));
    let mut proto = graph("g", &["x", "v", "c"], vec![branch], &["y"]);
    proto.initializer.push(weight("w"));
    let imported = import(model(13, proto)).unwrap().graph;
    let id = *imported.order().unwrap().last().unwrap();
    let operands: Vec<_> =
        imported.operands(id).iter().map(|v| imported.info(v.unwrap()).unwrap().name.clone()).collect();
    assert_eq!(operands, ["c", "x", "w", "v"]);
    let subgraphs = &imported.node(id).unwrap().subgraphs;
    assert_eq!(
        (subgraphs[0].captures.as_slice(), subgraphs[1].captures.as_slice()),
        (&[1, 2][..], &[1, 3][..])
    );
    let names = |g: &mqc_ir::Graph| -> Vec<String> {
        g.inputs().iter().map(|&node| g.info(Value { node, slot: 0 }).unwrap().name.clone()).collect()
    };
    assert_eq!(names(&subgraphs[0].graph), ["x", "w"]);
    assert_eq!(names(&subgraphs[1].graph), ["x", "v"]);
    let captured = Value { node: subgraphs[0].graph.inputs()[1], slot: 0 };
    assert_eq!(subgraphs[0].graph.ty(captured), &Type::tensor(DType::F32, vec![Dim::Size(2)]));
    assert!(mqc_ir::verify::verify(&imported).is_empty());
}

#[test]
fn lists_of_graphs_are_numbered_attributes() {
    let branch = |name: &str| graph(name, &[], vec![node("Relu", &["x"], &["o"])], &["o"]);
    let switch =
        node("Switch", &["x"], &["y"]).of("vendor").with(bodies("cases", vec![branch("a"), branch("b")]));
    let imported = import(model(13, graph("g", &["x"], vec![switch], &["y"]))).unwrap().graph;
    let id = *imported.order().unwrap().last().unwrap();
    let names: Vec<_> = imported.node(id).unwrap().subgraphs.iter().map(|s| s.attribute.as_str()).collect();
    assert_eq!(names, ["cases[0]", "cases[1]"]);
}
