//! If, Loop, Scan.

use super::{Model, dims, opaque, text};
use crate::graph::Output;
use crate::op::{Binary, Compare, Unary};
use crate::{Attribute, DType, Graph, Node, Op, Subgraph, Type, Value, ValueInfo};

fn body(attribute: &str, mut graph: Graph, results: &[Value], captures: Vec<usize>) -> Subgraph {
    let output = |v: &Value| Output { value: *v, name: format!("o{}", v.slot), declared: Type::Unknown };
    graph.set_outputs(results.iter().map(output).collect());
    Subgraph { attribute: attribute.into(), graph, captures }
}

fn control(
    m: &mut Model,
    name: &str,
    attributes: &[(&str, Attribute)],
    operands: &[Value],
    bodies: Vec<Subgraph>,
    outputs: usize,
) -> Vec<Value> {
    let info = |i| ValueInfo { name: format!("c{i}"), ty: Type::Unknown };
    let mut node = Node::new(opaque(name, attributes), name, (0..outputs).map(info).collect());
    node.subgraphs = bodies;
    let operands: Vec<_> = operands.iter().copied().map(Some).collect();
    let node = m.0.insert(node, &operands).unwrap();
    (0..outputs).map(|slot| Value { node, slot }).collect()
}

#[test]
fn branches_take_captured_types_and_join_theirs() {
    let mut m = Model::default();
    let (condition, x) = (m.input(DType::Bool, ""), m.x("batch 4"));
    let shape = m.apply(Op::Shape { start: 0, end: None }, &[x]);
    let mut then = Model::default();
    let inner = then.0.add_input("x", Type::Unknown);
    let relu = then.apply(Op::Unary(Unary::Relu), &[inner]);
    let then = body("then_branch", then.0, &[relu, relu], vec![1]);
    let mut other = Model::default();
    let (inner, size) = (other.0.add_input("x", Type::Unknown), other.0.add_input("s", Type::Unknown));
    let same = other.apply(Op::ConstantOfShape { value: None }, &[size]);
    let twice = other.apply(Op::Concat { axis: 1 }, &[inner, inner]);
    let other = body("else_branch", other.0, &[same, twice], vec![1, 2]);
    let out = control(&mut m, "If", &[], &[condition, x, shape], vec![then, other], 2);
    m.infer();
    // The captured shape is followed into the branch.
    assert_eq!([m.ty(out[0]), m.ty(out[1])], ["f32[batch, 4]", "f32[batch, ?]"]);
    let inside = &m.0.node(out[0].node).unwrap().subgraphs[1].graph;
    assert_eq!(text(inside.ty(inside.outputs()[1].value)), "f32[batch, 8]");
}

#[test]
fn a_known_condition_takes_its_branch() {
    let mut m = Model::default();
    let x = m.x("batch 1");
    let shape = m.apply(Op::Shape { start: -1, end: None }, &[x]);
    let one = m.ints(&[1]);
    let condition = m.apply(Op::Compare(Compare::Equal), &[shape, one]);
    let branch = |attribute, op| {
        let mut inner = Model::default();
        let x = inner.0.add_input("x", Type::Unknown);
        let y = inner.apply(op, &[x]);
        body(attribute, inner.0, &[y], vec![1])
    };
    let bodies =
        vec![branch("else_branch", Op::Identity), branch("then_branch", Op::Squeeze { axes: Some(vec![1]) })];
    let out = control(&mut m, "If", &[], &[condition, x], bodies, 1);
    assert_eq!(m.inferred(out[0]), "f32[batch]");
}

#[test]
fn a_loop_carries_only_what_every_iteration_keeps() {
    let mut m = Model::default();
    let (trips, go) = (m.int(3), m.input(DType::Bool, ""));
    let (grows, stays, w) = (m.x("a"), m.x("4"), m.x("4"));
    let mut inner = Model::default();
    for name in ["i", "go", "grows", "stays"] {
        inner.0.add_input(name, Type::Unknown);
    }
    let [_, go_in, grows_in, stays_in] = [0, 1, 2, 3].map(|i| Value { node: inner.0.inputs()[i], slot: 0 });
    let captured = inner.0.add_input("w", Type::Unknown);
    let longer = inner.apply(Op::Concat { axis: 0 }, &[grows_in, captured]);
    let kept = inner.apply(Op::Identity, &[captured]);
    let sum = inner.apply(Op::Binary(Binary::Add), &[stays_in, stays_in]);
    let results = [go_in, longer, kept, sum, kept];
    let graph = body("body", inner.0, &results, vec![4]);
    let out = control(&mut m, "Loop", &[], &[trips, go, grows, stays, w], vec![graph], 4);
    m.infer();
    assert_eq!(m.ty(out[0]), "f32[?]");
    assert_eq!(m.ty(out[1]), "f32[4]");
    assert_eq!(m.ty(out[2]), "f32[*]");
    assert_eq!(m.ty(out[3]), "f32[?, 4]");
    let inside = &m.0.node(out[0].node).unwrap().subgraphs[0].graph;
    assert_eq!(text(inside.ty(Value { node: inside.inputs()[0], slot: 0 })), "i64[]");
}

#[test]
fn a_scan_takes_slices_and_stacks_results() {
    let mut m = Model::default();
    let (state, xs) = (m.x("4"), m.x("b seq 4"));
    let mut inner = Model::default();
    let (s, x) = (inner.0.add_input("s", Type::Unknown), inner.0.add_input("x", Type::Unknown));
    let y = inner.apply(Op::Unary(Unary::Exp), &[x]);
    let graph = body("body", inner.0, &[s, y], vec![]);
    let attributes = [("num_scan_inputs", Attribute::Int(1)), ("scan_input_axes", Attribute::Ints(vec![1]))];
    let out = control(&mut m, "Scan", &attributes, &[state, xs], vec![graph], 2);
    m.infer();
    assert_eq!(m.ty(out[0]), "f32[*]");
    assert_eq!(m.ty(out[1]), "f32[seq, b, 4]");
}

#[test]
fn errors_in_bodies_are_reported_and_depth_is_bounded() {
    let mut graph = Model::default();
    let (a, b) = (graph.x("2 3"), graph.x("2 4"));
    let mut value = graph.apply(Op::MatMul, &[a, b]);
    for _ in 0..3 {
        let mut outer = Model::default();
        let condition = outer.input(DType::Bool, "");
        let inner = body("then_branch", graph.0, &[value], vec![]);
        value = control(&mut outer, "If", &[], &[condition], vec![inner], 1)[0];
        graph = outer;
    }
    assert!(graph.errors()[0].contains("(mat_mul): the inner dimensions"));
    for _ in 0..80 {
        let mut outer = Model::default();
        let condition = outer.input(DType::Bool, "");
        let inner = body("then_branch", graph.0, &[value], vec![]);
        value = control(&mut outer, "If", &[], &[condition], vec![inner], 1)[0];
        graph = outer;
    }
    assert_eq!(graph.errors(), ["node If (If): subgraphs are nested deeper than 64"]);
}

#[test]
fn an_output_declaration_fills_in_its_value() {
    let mut m = Model::default();
    let x = m.x("a");
    let y = m.apply(opaque("Einsum", &[]), &[x]);
    let declared = Type::tensor(DType::F32, dims("a b"));
    m.0.set_outputs(vec![Output { value: y, name: "y".into(), declared }]);
    assert_eq!(m.inferred(y), "f32[a, b]");
}
