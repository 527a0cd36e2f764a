//! Import then export is the identity on models in the form that export writes; what passes change is named well.

use std::path::Path;

use mqc_ir::op::Unary;
use mqc_ir::{Graph, Op, Output, Tensor, Type, Value};
use prost::Message;

use super::{ExportOptions, ExternalLocation, Inline, Located, to_proto, write};
use crate::file::{Resolver, read};
use crate::import::{from_proto, import};
use crate::proto::{
    DataLocation, DataType, DeviceConfigurationProto, Dimension, DimensionValue, FunctionProto, GraphProto,
    ModelProto, NodeDeviceConfigurationProto, StringStringEntryProto, TensorAnnotation, TensorProto,
    TrainingInfoProto, TypeValue,
};
use crate::testing::{bodies, body, float, graph, int, model, node, opset, pair, value, weight};
use crate::{Error, Model};

fn load(proto: ModelProto) -> Model {
    let model = from_proto(proto, &Resolver::in_memory()).unwrap();
    assert_eq!(mqc_ir::verify::verify(&model.graph), []);
    model
}

fn comes_back(proto: ModelProto) {
    let model = load(proto.clone());
    let written = to_proto(&model, &mut Inline).unwrap();
    assert_eq!(written, proto);
    assert!(from_proto(written, &Resolver::in_memory()).unwrap().graph == model.graph);
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) }
}

#[test]
fn everything_that_a_model_says_comes_back() {
    let nodes = vec![
        node("Gemm", &["x", "w"], &["a"]).named("fc").with(float("alpha", 0.5)).with(int("transB", 1)),
        node("Clip", &["a", "", "m"], &["b"]),
        node("Dropout", &["b"], &["c", ""]),
        node("Custom", &["c", "", "d"], &["e", "", "f"])
            .of("vendor")
            .with(float("eps", -0.0))
            .with(int("n", 0)),
    ];
    let mut graph = graph("main", &["x", "d"], nodes, &["e", "f"]);
    graph.node[0].doc_string = Some("a product".to_owned());
    graph.node[0].metadata_props = vec![entry("namespace", "model/fc"), entry("a", "")];
    graph.node[3].overload = Some("v2".to_owned());
    let configuration_id = Some("two devices".to_owned());
    graph.node[3].device_configurations =
        vec![NodeDeviceConfigurationProto { configuration_id, ..Default::default() }];
    graph.initializer = vec![weight("w"), weight("m")];
    graph.initializer[0].doc_string = Some("a weight".to_owned());
    graph.initializer[0].metadata_props = vec![entry("k", "v")];
    graph.value_info =
        vec![value("a", &[None, Some(DimensionValue::DimParam("n + 1".to_owned()))]), pair("c")];
    graph.doc_string = Some("graph".to_owned());
    graph.metadata_props = vec![entry("g", "1")];
    graph.input[0].doc_string = Some("an image".to_owned());
    graph.input[0].metadata_props = vec![entry("i", "2")];
    let ty = graph.input[0].r#type.as_mut().unwrap();
    ty.denotation = Some("IMAGE".to_owned());
    if let Some(TypeValue::TensorType(t)) = &mut ty.value {
        let value = Some(DimensionValue::DimParam("batch".to_owned()));
        t.shape.as_mut().unwrap().dim = vec![Dimension { value, denotation: Some("DATA_BATCH".to_owned()) }];
    }
    graph.quantization_annotation =
        vec![TensorAnnotation { tensor_name: Some("a".to_owned()), ..TensorAnnotation::default() }];

    let function = FunctionProto {
        name: Some("Custom".to_owned()),
        domain: Some("vendor".to_owned()),
        ..Default::default()
    };
    comes_back(ModelProto {
        opset_import: vec![opset("", 13), opset("vendor", 3)],
        producer_name: Some("tool".to_owned()),
        producer_version: Some("1".to_owned()),
        domain: Some("org.example".to_owned()),
        model_version: Some(4),
        doc_string: Some("a model".to_owned()),
        metadata_props: vec![entry("b", "2"), entry("a", "1")],
        functions: vec![function],
        training_info: vec![TrainingInfoProto {
            initialization: Some(GraphProto::default()),
            ..Default::default()
        }],
        configuration: vec![DeviceConfigurationProto { num_devices: Some(2), ..Default::default() }],
        ..model(13, graph)
    });
}

#[test]
fn every_element_type_comes_back() {
    let mut graph = graph("g", &[], vec![], &[]);
    for number in 1..=26 {
        let data_type = DataType::try_from(number).unwrap();
        let mut tensor = TensorProto {
            name: Some(format!("w{number}")),
            data_type: Some(number),
            dims: vec![3, 1],
            ..TensorProto::default()
        };
        match data_type.byte_size(3) {
            Some(size) => tensor.raw_data = Some((0..size as u8).collect()),
            None => tensor.string_data = vec!["a".into(), "".into(), "ü".into()],
        }
        graph.initializer.push(tensor);
    }
    comes_back(model(21, graph));
}

#[test]
fn inputs_with_defaults_stay_inputs() {
    let mut proto = graph("g", &["w", "x"], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
    proto.initializer.push(weight("w"));
    let proto = ModelProto { ir_version: Some(3), ..model(7, proto) };
    comes_back(proto.clone());

    // IR version 3 has no other initializers.
    let mut fixed = load(proto);
    fixed.graph.fix_weights();
    let written = to_proto(&fixed, &mut Inline).unwrap();
    assert_eq!((written.ir_version(), written.graph.unwrap().input.len()), (4, 1));
}

#[test]
fn outputs_that_are_inputs_and_weights_come_back() {
    let mut proto = graph("g", &["x"], vec![node("Relu", &["x"], &["y"])], &["x", "w", "y"]);
    proto.initializer.push(weight("w"));
    comes_back(model(13, proto));
}

#[test]
fn inner_graphs_come_back() {
    // Two levels; both take values from outside, one returns a captured value.
    let deepest = graph("deepest", &[], vec![node("Mul", &["a", "w"], &["d"])], &["d", "x"]);
    let inner_if = node("If", &["c"], &["i", "j"]).with(body("then_branch", deepest));
    let mut then = graph("then", &[], vec![node("Relu", &["x"], &["t"]), inner_if], &["i"]);
    then.initializer.push(weight("local"));
    let other = graph("else", &[], vec![node("Add", &["x", "w"], &["t"])], &["t"]);
    let branch = node("If", &["c"], &["y"])
        .named("if")
        .with(body("else_branch", other))
        .with(body("then_branch", then));
    let step = graph("step", &["n", "go", "s"], vec![node("Add", &["s", "a"], &["s2"])], &["go", "s2"]);
    let looped = node("Loop", &["", "c", "y"], &["z"]).named("loop").with(body("body", step));
    let case = |name: &str| graph(name, &[], vec![node("Relu", &["z"], &["o"])], &["o"]);
    let switch =
        node("Switch", &["x"], &["s3"]).of("vendor").with(bodies("cases", vec![case("a"), case("b")]));
    let nodes = vec![node("Tanh", &["x"], &["a"]), branch, looped, switch];
    let mut proto = graph("g", &["x", "c"], nodes, &["z", "s3"]);
    proto.initializer.push(weight("w"));
    comes_back(model(13, proto));
}

#[test]
fn inner_names_that_hide_outer_ones_are_changed() {
    let then = graph("then", &[], vec![node("Relu", &["v"], &["x"]), node("Neg", &["x"], &["n"])], &["n"]);
    let branch = node("If", &["c"], &["y"]).with(body("then_branch", then));
    let model = load(model(13, graph("g", &["x", "v", "c"], vec![branch], &["y"])));
    let written = to_proto(&model, &mut Inline).unwrap().graph.unwrap();
    let inner = written.node[0].attribute[0].g.as_ref().unwrap();
    let (relu, neg) = (&inner.node[0], &inner.node[1]);
    assert_eq!((relu.input[0].as_str(), relu.output[0].as_str()), ("v", "x_1"));
    assert_eq!((neg.input[0].as_str(), neg.output[0].as_str()), ("x_1", "n"));
}

fn output(value: Value, name: &str) -> Output {
    Output { value, name: name.to_owned(), declared: Type::Unknown }
}

fn built() -> (Model, Value, Value) {
    let mut graph = Graph::new("g");
    graph.opsets.insert(String::new(), 13);
    let x = graph.add_input("x", Type::Unknown);
    let r = graph.apply(Op::Unary(Unary::Relu), "r", &[x]).unwrap();
    (Model::from_graph(graph), x, r)
}

#[test]
fn results_leave_under_their_names() {
    let (mut model, x, r) = built();
    model.graph.set_outputs(vec![output(r, "y"), output(r, "z"), output(x, "same")]);
    let written = to_proto(&model, &mut Inline).unwrap().graph.unwrap();
    let nodes: Vec<_> =
        written.node.iter().map(|n| (n.op_type(), n.input[0].as_str(), n.output[0].as_str())).collect();
    assert_eq!(nodes, [("Relu", "x", "y"), ("Identity", "y", "z"), ("Identity", "x", "same")]);
    let outputs: Vec<_> = written.output.iter().map(|o| o.name()).collect();
    assert_eq!(outputs, ["y", "z", "same"]);

    // A value that stays inside gives up its name to a result.
    let (mut model, _, r) = built();
    let s = model.graph.apply(Op::Unary(Unary::Exp), "s", &[r]).unwrap();
    model.graph.set_outputs(vec![output(s, "r")]);
    let written = to_proto(&model, &mut Inline).unwrap().graph.unwrap();
    assert_eq!((written.node[0].output[0].as_str(), written.node[1].output[0].as_str()), ("r_1", "r"));

    let (mut model, _, r) = built();
    model.graph.set_outputs(vec![output(r, "x")]);
    let error = to_proto(&model, &mut Inline).unwrap_err();
    assert_eq!(error.to_string(), "graph 'g': several inputs or outputs are named 'x'");
}

#[test]
fn the_dialect_is_an_error_that_names_the_node() {
    let (mut model, _, r) = built();
    let op = Op::SliceBits { width: mqc_ir::quant::Width::MAX, mode: Default::default() };
    let sliced = model.graph.apply(op, "fc1.bits", &[r]).unwrap();
    model.graph.set_outputs(vec![output(sliced, "y")]);
    assert!(matches!(to_proto(&model, &mut Inline), Err(Error::Dialect { node, .. }) if node == "fc1.bits"));
}

fn large() -> Model {
    let mut graph = Graph::new("g");
    graph.opsets.insert(String::new(), 13);
    let w =
        graph.add_weight("w", Tensor::new(mqc_ir::DType::U8, vec![5000], vec![7u8; 5000].into()).unwrap());
    let small = graph.add_weight("small", Tensor::f32_scalar(1.0));
    let declared = |value, name| Output { declared: graph.ty(value).clone(), ..output(value, name) };
    let outputs = vec![declared(w, "w"), declared(small, "small")];
    graph.set_outputs(outputs);
    Model::from_graph(graph)
}

#[test]
fn weights_over_the_limit_go_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let model = large();
    write(&model, &path, &ExportOptions::default()).unwrap();
    assert!(!folder.path().join("m.onnx.data").exists());
    assert!(import(&path).unwrap().graph == model.graph);

    write(&model, &path, &ExportOptions { inline_limit: 5000, ..ExportOptions::default() }).unwrap();
    assert_eq!(std::fs::read(folder.path().join("m.onnx.data")).unwrap(), vec![7; 5000]);
    let proto = read(&path).unwrap().model.graph.unwrap();
    let locations: Vec<_> = proto.initializer.iter().map(|t| t.data_location()).collect();
    assert_eq!(locations, [DataLocation::External, DataLocation::Default]);
    assert!(import(&path).unwrap().graph == model.graph);

    std::fs::write(folder.path().join("m.onnx.data"), [7; 4999]).unwrap();
    assert!(matches!(import(&path), Err(Error::ExternalTooShort { needed: 5000, found: 4999, .. })));
}

#[test]
fn weights_that_are_stored_are_referred_to() {
    let place = ExternalLocation { location: "store".to_owned(), offset: 64, length: 5000 };
    let locate = |name: &str, _: &Tensor| (name == "w").then(|| place.clone());
    let written = to_proto(&large(), &mut Located(locate)).unwrap().graph.unwrap();
    assert_eq!(written.initializer[0].raw_data, None);
    assert_eq!(ExternalLocation::from_entries(&written.initializer[0].external_data).unwrap(), place);
    assert_eq!(written.initializer[1].external_data, []);
    assert!(ExternalLocation::from_entries(&[entry("location", "a")]).is_err());
    let negative = [entry("location", "a"), entry("offset", "-1"), entry("length", "2")];
    assert!(ExternalLocation::from_entries(&negative).is_err());
}

#[test]
fn damaged_models_never_panic() {
    let then = graph("then", &[], vec![node("Mul", &["x", "w"], &["t"]).with(int("k", 3))], &["t"]);
    let branch = node("If", &["c"], &["y"]).with(body("then_branch", then));
    let conv = node("Conv", &["x", "w", ""], &["z"]).with(int("group", 2));
    let mut proto = graph("g", &["x", "c", "w"], vec![branch, conv], &["y", "z"]);
    proto.initializer.push(weight("w"));
    proto.value_info.push(pair("z"));
    let bytes = model(13, proto).encode_to_vec();
    let mut whole = 0;
    for place in 0..bytes.len() {
        for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= flip;
            let Ok(proto) = crate::file::decode(damaged.into(), Path::new("m.onnx")) else { continue };
            if let Ok(model) = from_proto(proto, &Resolver::in_memory()) {
                whole += usize::from(to_proto(&model, &mut Inline).is_ok());
            }
        }
    }
    assert!(whole > 100, "only {whole} damaged models were imported: the test reaches nothing");
}
