//! Edits of a graph, its order, equality and dead code.

mod common;

use mqc_ir::op::{Binary, Unary};
use mqc_ir::*;
use proptest::prelude::*;

const RELU: Op = Op::Unary(Unary::Relu);
const NEG: Op = Op::Unary(Unary::Neg);
const ADD: Op = Op::Binary(Binary::Add);

fn f32s(n: u64) -> Type {
    Type::tensor(DType::F32, vec![Dim::Size(n)])
}

fn output(value: Value, name: &str) -> Output {
    Output { value, name: name.to_owned(), declared: Type::Unknown }
}

fn names(graph: &Graph) -> Vec<String> {
    graph.order().unwrap().into_iter().map(|id| graph.label(id)).collect()
}

#[test]
fn operands_keep_their_slots_whatever_the_edits() {
    let mut g = Graph::new("g");
    let (a, b, c) = (g.add_input("a", f32s(2)), g.add_input("b", f32s(2)), g.add_input("c", f32s(2)));
    let id =
        g.insert(Node::new(Op::Select, "s", vec![ValueInfo::default()]), &[Some(a), None, Some(a)]).unwrap();
    assert_eq!(g.operands(id).as_slice(), [Some(a), None, Some(a)]);
    g.set_operand(id, 0, b);
    assert_eq!(g.operands(id).as_slice(), [Some(b), None, Some(a)]);
    g.set_operand(id, 1, c);
    assert_eq!(g.operands(id).as_slice(), [Some(b), Some(c), Some(a)]);
    assert_eq!(g.users(a), [(id, 2)]);
    g.set_operands(id, &[None, Some(a)]).unwrap();
    assert_eq!((g.operand(id, 0), g.operand(id, 1), g.operand(id, 2)), (None, Some(a), None));
    assert_eq!(g.users(b), []);
    g.set_operand(id, 3, b);
    assert_eq!(g.operands(id).as_slice(), [None, Some(a), None, Some(b)]);
}

#[test]
fn a_value_that_does_not_exist_is_refused() {
    let mut g = Graph::new("g");
    let a = g.add_input("a", f32s(2));
    let missing = Value { node: a.node, slot: 1 };
    let error = g.insert(Node::new(RELU, "r", vec![]), &[Some(missing)]).unwrap_err();
    assert_eq!(error.to_string(), "node r: operand 0 does not exist in the graph");
    let id = g.insert(Node::new(ADD, "add", vec![]), &[Some(a), Some(a)]).unwrap();
    assert!(g.set_operands(id, &[Some(a), Some(missing)]).is_err());
    assert_eq!(g.operands(id).as_slice(), [Some(a), Some(a)], "a refused edit changes nothing");
    assert_eq!(g.len(), 2);
}

#[test]
fn replacing_uses_moves_operands_and_results_and_checks_types() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", f32s(2));
    let r = g.apply(RELU, "r", &[x]).unwrap();
    let s = g.apply(ADD, "s", &[r, r]).unwrap();
    g.set_outputs(vec![output(r, "y"), output(s, "z")]);
    let n = g.apply(NEG, "n", &[x]).unwrap();
    g.replace_uses(r, n).unwrap();
    assert_eq!(g.operands(s.node).as_slice(), [Some(n), Some(n)]);
    assert_eq!(
        g.outputs().iter().map(|o| (o.value, o.name.as_str())).collect::<Vec<_>>(),
        [(n, "y"), (s, "z")]
    );
    assert!(g.users(r).is_empty() && !g.is_output(r));
    g.set_type(n, f32s(2));
    let w = g.add_weight("w", Tensor::i64_vector(&[1, 2]));
    let error = g.replace_uses(n, w).unwrap_err();
    assert_eq!(error.to_string(), "value w of type i64[2] cannot take the place of n of type f32[2]");
}

#[test]
fn order_is_by_dependency_then_by_insertion() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", f32s(2));
    let first = g.apply(RELU, "first", &[x]).unwrap();
    g.apply(RELU, "second", &[x]).unwrap();
    let late = g.apply(NEG, "late", &[x]).unwrap();
    g.set_operands(first.node, &[Some(late)]).unwrap();
    assert_eq!(names(&g), ["x", "second", "late", "first"]);
    assert_eq!(
        g.ids().into_iter().map(|id| g.label(id)).collect::<Vec<_>>(),
        ["x", "first", "second", "late"]
    );
}

#[test]
fn indices_that_are_used_again_do_not_change_the_order() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", f32s(2));
    let dead = g.apply(RELU, "dead", &[x]).unwrap();
    let a = g.apply(RELU, "a", &[x]).unwrap();
    g.set_outputs(vec![output(a, "a")]);
    assert_eq!(g.erase_dead(), 1);
    assert!(g.node(dead.node).is_none());
    let b = g.apply(RELU, "b", &[x]).unwrap();
    g.set_outputs(vec![output(a, "a"), output(b, "b")]);
    assert_eq!(names(&g), ["x", "a", "b"]);
}

#[test]
fn a_cycle_is_an_error_that_names_it() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", f32s(2));
    let a = g.apply(ADD, "a", &[x, x]).unwrap();
    let b = g.apply(RELU, "b", &[a]).unwrap();
    g.apply(RELU, "after", &[b]).unwrap();
    assert!(g.cycles().is_empty());
    g.set_operand(a.node, 1, b);
    assert_eq!(g.order().unwrap_err().to_string(), "the graph has a cycle through node a");
    assert_eq!(g.cycles(), [vec![a.node, b.node]]);
    assert_ne!(g, g.clone(), "graphs without an order are equal to none");
}

#[test]
fn dead_nodes_go_inputs_stay_and_their_names_are_free_again() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", f32s(2));
    let unused = g.add_input("unused", f32s(2));
    let w = g.add_weight("w", Tensor::f32_scalar(1.0));
    let v = g.add_weight("v", Tensor::f32_scalar(1.0));
    g.list_as_input(v.node);
    let chain = g.apply(RELU, "chain", &[w]).unwrap();
    g.apply(RELU, "chain_end", &[chain]).unwrap();
    let y = g.apply(RELU, "y", &[x]).unwrap();
    let twin =
        g.insert(Node::new(RELU, "", vec![ValueInfo { name: "y".into(), ty: Type::Unknown }]), &[Some(x)]);
    assert!(g.node(twin.unwrap()).is_some());
    g.set_outputs(vec![output(y, "out")]);
    assert_eq!((g.fresh_name("chain"), g.fresh_name("y")), ("chain_1".into(), "y_1".into()));
    assert_eq!(g.erase_dead(), 4);
    assert_eq!(names(&g), ["x", "unused", "v", "y"]);
    assert_eq!(g.inputs(), [x.node, unused.node, v.node]);
    assert_eq!(g.fresh_name("chain"), "chain");
    assert_eq!(g.fresh_name("y"), "y_1", "the name that the dead twin had is still taken");
    assert_eq!(g.fresh_name("out"), "out_1");
    g.fix_weights();
    assert_eq!(g.inputs(), [x.node, unused.node]);
    assert_eq!(g.erase_dead(), 1);
    g.retain_inputs(|index, _| index == 0);
    assert_eq!(g.erase_dead(), 1);
    assert_eq!(names(&g), ["x", "y"]);
    assert_eq!(g.erase_dead(), 0);
}

#[test]
fn graphs_are_equal_whatever_their_indices_and_different_in_every_part() {
    let build = |edit: fn(&mut Graph)| {
        let mut g = Graph::new("g");
        let x = g.add_input("x", f32s(2));
        let w = g.add_weight("w", Tensor::f32_scalar(1.0));
        let y = g.apply(ADD, "y", &[x, w]).unwrap();
        g.set_outputs(vec![output(y, "y")]);
        edit(&mut g);
        g
    };
    let same = build(|_| {});
    let indices = build(|g| {
        let x = g.inputs()[0];
        g.apply(RELU, "dead", &[Value { node: x, slot: 0 }]).unwrap();
        g.erase_dead();
    });
    assert_eq!(same, indices);
    let edits: [fn(&mut Graph); 14] = [
        |g| g.name = "h".into(),
        |g| g.doc = "d".into(),
        |g| g.metadata.push(("k".into(), "v".into())),
        |g| {
            g.opsets.insert(String::new(), 17);
        },
        |g| {
            g.add_input("z", Type::Unknown);
        },
        |g| g.set_outputs(vec![]),
        |g| {
            let value = g.outputs()[0].value;
            g.set_outputs(vec![output(value, "other")]);
        },
        |g| {
            let value = g.outputs()[0].value;
            g.set_type(value, f32s(3));
        },
        |g| {
            let id = g.outputs()[0].value.node;
            g.node_mut(id).unwrap().op = Op::Binary(Binary::Sub);
        },
        |g| {
            let id = g.outputs()[0].value.node;
            g.node_mut(id).unwrap().doc = "d".into();
        },
        |g| {
            let id = g.outputs()[0].value.node;
            let x = g.operand(id, 0).unwrap();
            g.set_operand(id, 1, x);
        },
        |g| {
            let id = g.outputs()[0].value.node;
            let x = g.operand(id, 0);
            g.set_operands(id, &[x]).unwrap();
        },
        |g| {
            let id = g.outputs()[0].value.node;
            let w = g.operand(id, 1).unwrap();
            g.list_as_input(w.node);
        },
        |g| {
            let id = g.outputs()[0].value.node;
            let subgraph = Subgraph { attribute: "body".into(), graph: Graph::new("b"), captures: vec![] };
            g.node_mut(id).unwrap().subgraphs.push(subgraph);
        },
    ];
    for (index, edit) in edits.into_iter().enumerate() {
        assert_ne!(same, build(edit), "edit {index}");
    }
}

#[test]
fn graphs_that_list_their_inputs_in_another_order_are_different() {
    let build = |first: usize, second: usize| {
        let mut g = Graph::new("g");
        let weights = ["a", "b"].map(|name| g.add_weight(name, Tensor::f32_scalar(1.0)).node);
        g.list_as_input(weights[first]);
        g.list_as_input(weights[second]);
        g
    };
    assert_eq!(build(0, 1), build(0, 1));
    assert_ne!(build(0, 1), build(1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every node comes after what it uses, and among the nodes that could come next the first inserted comes.
    #[test]
    fn order_of_random_graphs(graph in common::any_graph(0)) {
        let order = graph.order().unwrap();
        prop_assert_eq!(order.len(), graph.len());
        let inserted = graph.ids();
        let mut done = std::collections::BTreeSet::new();
        for id in order {
            let ready = |id: &NodeId| graph.operands(*id).iter().flatten().all(|v| done.contains(&v.node));
            let first = inserted.iter().find(|id| !done.contains(*id) && ready(id)).copied();
            prop_assert_eq!(Some(id), first);
            done.insert(id);
        }
    }

    /// Nothing that a result or an input needs goes; nothing else stays.
    #[test]
    fn erase_dead_of_random_graphs(mut graph in common::any_graph(0)) {
        let mut live: Vec<NodeId> = graph.inputs().to_vec();
        live.extend(graph.outputs().iter().map(|o| o.value.node));
        let mut kept = std::collections::BTreeSet::new();
        while let Some(id) = live.pop() {
            if kept.insert(id) {
                live.extend(graph.operands(id).iter().flatten().map(|v| v.node));
            }
        }
        let before = graph.clone();
        let erased = graph.erase_dead();
        prop_assert_eq!(graph.ids(), before.ids().into_iter().filter(|id| kept.contains(id)).collect::<Vec<_>>());
        prop_assert_eq!(erased + graph.len(), before.len());
        for id in graph.ids() {
            prop_assert_eq!(graph.node(id), before.node(id));
            prop_assert_eq!(graph.operands(id), before.operands(id));
        }
    }
}
