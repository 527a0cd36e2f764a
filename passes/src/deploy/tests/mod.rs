//! Every format against the definition of nested weights, read by an interpreter in f64.

mod fixture;
mod interpreter;

use std::collections::BTreeMap;

use mqc_ir::quant::{Grouping, Scheme, SliceMode};
use mqc_ir::{DType, Graph, Op, Subgraph, Tensor, Type, Value};
use mqc_runtime::nested::NestedWeight;

use super::*;
use fixture::{Fixture, MODES, assert_near, dequantized, uniform, weight, width, widths, with_own_maps};
use interpreter::{Array, evaluate};

const ACCURACY: AccuracyLevel = AccuracyLevel::F32;

/// A format of which each width is a graph of its own.
type Lower = fn(&mut Graph, &BTreeMap<String, Width>) -> Result<(), Error>;

const FORMATS: [(&str, Lower); 3] =
    [("float", float), ("qdq", qdq), ("matmulnbits", |graph, widths| matmulnbits(graph, widths, ACCURACY))];

/// Types are inferred and everything holds that a graph must satisfy.
fn check(graph: &mut Graph) {
    assert_eq!(mqc_ir::verify::verify(graph), []);
    mqc_ir::infer::infer(graph).unwrap();
    assert_eq!(mqc_ir::verify::verify(graph), []);
}

fn widths_of(format: &str, mode: SliceMode) -> Vec<u8> {
    match (format, mode) {
        ("float", _) => (1..=8).collect(),
        (_, SliceMode::Extra) => vec![8],
        _ => vec![8, 4, 2],
    }
}

fn groupings() -> [Grouping; 4] {
    [Grouping::PerChannel, Grouping::Group(16), Grouping::Group(48), Grouping::Group(256)]
}

/// Weights of many shapes and settings, with a text that says which.
fn weights() -> Vec<(String, NestedWeight)> {
    let mut all = vec![];
    for mode in MODES {
        for scheme in [Scheme::Asymmetric, Scheme::Symmetric] {
            for grouping in groupings() {
                for (rows, cols) in [(5, 16), (8, 51), (6, 300)] {
                    let what = format!("{mode} {scheme} {grouping:?} [{rows}, {cols}]");
                    all.push((what, weight(rows, cols, grouping, scheme, mode)));
                }
                let what = format!("{mode} {scheme} {grouping:?} with own maps");
                all.push((what, with_own_maps(8, 51, grouping, scheme, mode)));
            }
        }
    }
    all
}

/// The one result of the graph.
fn result(graph: &Graph, inputs: &[Array]) -> Array {
    evaluate(graph, graph.outputs()[0].value, inputs)
}

fn random(shape: &[usize], seed: u64) -> Array {
    let values = uniform(shape.iter().product(), seed);
    Array::new(shape, values.into_iter().map(f64::from).collect())
}

/// x W^T and, for each element, the sum of the sizes of its terms with the largest weight of the row.
fn product(x: &Array, weight: &[f64], rows: usize, cols: usize) -> (Array, Vec<f64>) {
    let (mut data, mut bound) = (vec![], vec![]);
    for x in x.data.chunks(cols) {
        for weight in weight.chunks(cols) {
            let largest = weight.iter().fold(0f64, |most, w| most.max(w.abs()));
            data.push(x.iter().zip(weight).map(|(x, w)| x * w).sum());
            bound.push(x.iter().map(|x| x.abs() * largest).sum());
        }
    }
    let leading = &x.shape[..x.shape.len() - 1];
    (Array::new(&[leading, &[rows]].concat(), data), bound)
}

fn assert_product(graph: &Graph, weight: &NestedWeight, bits: u8, x: &Array, what: &str) {
    let (expected, bound) = product(x, &dequantized(weight, width(bits)), weight.rows(), weight.cols());
    assert_near(&result(graph, std::slice::from_ref(x)), &expected, |at| bound[at], what);
}

#[test]
fn products_are_those_of_the_definition() {
    for (what, weight) in weights() {
        for (format, lower) in FORMATS {
            for bits in widths_of(format, weight.mode()) {
                let what = format!("{format} int{bits} {what}");
                let mut fixture = Fixture::new();
                let shape = [2, 3, weight.cols()];
                let x = fixture.input(DType::F32, &shape);
                fixture.matmul("fc_node", "fc", x, &weight);
                let mut graph = fixture.graph;
                lower(&mut graph, &widths(bits)).unwrap();
                check(&mut graph);
                assert_product(&graph, &weight, bits, &random(&shape, 5), &what);
            }
        }
    }
}

#[test]
fn shared_slices_are_those_of_the_definition_and_the_same_at_every_width() {
    for (what, weight) in weights().into_iter().filter(|(_, w)| w.mode() == SliceMode::Midpoint) {
        let mut slices: BTreeMap<String, Tensor> = BTreeMap::new();
        for (bits, count) in [(8, 6), (4, 4), (2, 2)] {
            let what = format!("shared int{bits} {what}");
            let mut fixture = Fixture::new();
            let shape = [4, weight.cols()];
            let x = fixture.input(DType::F32, &shape);
            fixture.matmul("fc_node", "fc", x, &weight);
            let mut graph = fixture.graph;
            shared(&mut graph, width(bits), ACCURACY).unwrap();
            check(&mut graph);
            assert_product(&graph, &weight, bits, &random(&shape, 6), &what);

            let of_slices = weights_of(&graph)
                .into_iter()
                .filter(|(name, _)| name.starts_with("fc.bits") || name.starts_with("fc.scale"));
            let of_slices: BTreeMap<String, Tensor> = of_slices.collect();
            assert_eq!(of_slices.len(), count, "{what}: {:?}", of_slices.keys());
            for (name, tensor) in of_slices {
                let first = slices.entry(name.clone()).or_insert_with(|| tensor.clone());
                assert_eq!(*first, tensor, "{what}: {name}");
            }
        }
    }
}

fn weights_of(graph: &Graph) -> BTreeMap<String, Tensor> {
    let weight = |id| {
        let node = graph.node(id)?;
        Some((node.outputs.first()?.name.clone(), node.op.as_constant()?.clone()))
    };
    graph.ids().into_iter().filter_map(weight).collect()
}

#[test]
fn gathered_rows_are_those_of_the_definition() {
    for (what, weight) in weights() {
        for (format, lower) in FORMATS {
            for bits in widths_of(format, weight.mode()) {
                let what = format!("{format} int{bits} {what}");
                for shape in [&[][..], &[3], &[2, 2]] {
                    let mut fixture = Fixture::new();
                    let indices = fixture.input(DType::I64, shape);
                    fixture.gather("embed", "fc", indices, &weight);
                    let mut graph = fixture.graph;
                    lower(&mut graph, &widths(bits)).unwrap();
                    check(&mut graph);
                    let indices = Array::new(shape, [4.0, 0.0, 1.0, 3.0][..shape.iter().product()].to_vec());
                    let table = dequantized(&weight, width(bits));
                    let row = |i: &f64| &table[*i as usize * weight.cols()..][..weight.cols()];
                    let data: Vec<f64> = indices.data.iter().flat_map(row).copied().collect();
                    let largest: Vec<f64> = indices
                        .data
                        .iter()
                        .map(|i| row(i).iter().fold(0f64, |m, w| m.max(w.abs())))
                        .collect();
                    let expected = Array::new(&[shape, &[weight.cols()]].concat(), data);
                    let found = result(&graph, &[indices]);
                    assert_near(&found, &expected, |at| largest[at / weight.cols()], &what);
                }
            }
        }
    }
}

#[test]
fn convolutions_have_the_weight_of_the_definition() {
    let (rows, shape) = (6u64, [6, 3, 3, 3]);
    for mode in MODES {
        for grouping in [Grouping::PerChannel, Grouping::Group(8), Grouping::Group(16)] {
            let weight = weight(rows as usize, 27, grouping, Scheme::Asymmetric, mode);
            for (format, lower) in FORMATS {
                for (bits, with_bias) in
                    widths_of(format, mode).into_iter().flat_map(|b| [(b, false), (b, true)])
                {
                    let mut fixture = Fixture::new();
                    let x = fixture.input(DType::F32, &[1, 6, 5, 5]);
                    let bias = with_bias.then(|| fixture.input(DType::F32, &[6]));
                    let old = fixture.conv("conv_node", x, bias, &weight, &shape);
                    let Some(Op::NestedConv { window, .. }) =
                        fixture.graph.node(old.node).map(|n| n.op.clone())
                    else {
                        panic!();
                    };
                    let mut graph = fixture.graph;
                    lower(&mut graph, &widths(bits)).unwrap();
                    check(&mut graph);
                    let conv = graph.outputs()[0].value.node;
                    assert_eq!(graph.node(conv).unwrap().op, Op::Conv(window));
                    assert_eq!((graph.operand(conv, 0), graph.operand(conv, 2)), (Some(x), bias));
                    let found = evaluate(&graph, graph.operand(conv, 1).unwrap(), &[]);
                    let expected = Array::new(&[6, 3, 3, 3], dequantized(&weight, width(bits)));
                    let largest = |at: usize| {
                        expected.data[at / 27 * 27..][..27].iter().fold(0f64, |m, w| m.max(w.abs()))
                    };
                    assert_near(
                        &found,
                        &expected,
                        largest,
                        &format!("{format} int{bits} {mode} {grouping:?}"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_replaced_node_keeps_its_name_and_that_of_its_result() {
    let weight = weight(7, 51, Grouping::PerChannel, Scheme::Asymmetric, SliceMode::Midpoint);
    let lower_shared = |graph: &mut Graph, _: &BTreeMap<String, Width>| shared(graph, width(8), ACCURACY);
    for lower in FORMATS.map(|(_, lower)| lower).into_iter().chain([lower_shared as Lower]) {
        let mut fixture = Fixture::new();
        let x = fixture.input(DType::F32, &[2, 51]);
        let y = fixture.matmul("fc_node", "fc", x, &weight);
        let relu = Op::Unary(mqc_ir::op::Unary::Relu);
        let relu = fixture.graph.apply(relu, "relu", &[y]).unwrap();
        let mut graph = fixture.graph;
        lower(&mut graph, &widths(8)).unwrap();
        let names: Vec<_> = graph.ids().iter().map(|id| graph.node(*id).unwrap().name.clone()).collect();
        assert_eq!(names.iter().filter(|n| *n == "fc_node").count(), 1, "{names:?}");
        assert_eq!(graph.info(graph.outputs()[0].value).unwrap().name, "fc_node_out");
        assert!(graph.node(relu.node).is_none(), "no result depends on it");
    }
}

#[test]
fn what_nodes_share_is_stored_once() {
    let make = || {
        let weight = weight(7, 51, Grouping::Group(16), Scheme::Asymmetric, SliceMode::Midpoint);
        let mut fixture = Fixture::new();
        let indices = fixture.input(DType::I64, &[3]);
        let x = fixture.input(DType::F32, &[2, 51]);
        fixture.matmul("head", "fc", x, &weight);
        fixture.gather("embed", "fc", indices, &weight);
        fixture.matmul("second", "other", x, &weight);
        let per_channel =
            fixture::weight(7, 51, Grouping::PerChannel, Scheme::Asymmetric, SliceMode::Midpoint);
        fixture.matmul("third", "conv", x, &per_channel);
        fixture.graph
    };
    let bytes = |graph: &Graph, layer: &str| -> usize {
        weights_of(graph).iter().filter(|(n, _)| n.starts_with(layer)).map(|(_, t)| t.bytes().len()).sum()
    };
    let mut graph = make();
    float(&mut graph, &widths(4)).unwrap();
    check(&mut graph);
    assert_eq!(bytes(&graph, "fc"), 7 * 51 * 4);

    let mut graph = make();
    matmulnbits(&mut graph, &widths(4), ACCURACY).unwrap();
    check(&mut graph);
    let codes = weights_of(&graph).into_iter().filter(|(name, _)| name.starts_with("fc.codes"));
    assert_eq!(codes.map(|(_, t)| t.shape().to_vec()).collect::<Vec<_>>(), [vec![7, 4, 8]]);
    let sums = graph.ids().into_iter().filter(|id| graph.node(*id).unwrap().name.contains("group_sums"));
    assert_eq!(sums.count(), 2, "one of groups, one of whole rows");

    let indices = Array::new(&[3], vec![6.0, 3.0, 4.0]);
    let x = random(&[2, 51], 9);
    let weight = weight(7, 51, Grouping::Group(16), Scheme::Asymmetric, SliceMode::Midpoint);
    let table = dequantized(&weight, width(4));
    let rows = [6, 3, 4].map(|i| table[i * 51..][..51].to_vec()).concat();
    let inputs = [indices, x];
    let found = evaluate(&graph, graph.outputs()[1].value, &inputs);
    assert_near(&found, &Array::new(&[3, 51], rows), |_| 7.0, "tied table");
    let per_channel = fixture::weight(7, 51, Grouping::PerChannel, Scheme::Asymmetric, SliceMode::Midpoint);
    for (output, weight) in [(0, &weight), (2, &weight), (3, &per_channel)] {
        let (expected, bound) = product(&inputs[1], &dequantized(weight, width(4)), 7, 51);
        let found = evaluate(&graph, graph.outputs()[output].value, &inputs);
        assert_near(&found, &expected, |at| bound[at], &format!("output {output}"));
    }
}

#[test]
fn bodies_are_deployed_too() {
    let weight = weight(7, 51, Grouping::PerChannel, Scheme::Asymmetric, SliceMode::Midpoint);
    let mut fixture = Fixture::new();
    let x = fixture.input(DType::F32, &[2, 51]);
    fixture.matmul("fc_node", "fc", x, &weight);
    let mut outer = Graph::new("outer");
    let condition = outer.add_input("c", Type::tensor(DType::Bool, vec![]));
    let x = outer.add_input("x", Type::Unknown);
    let op = Op::Opaque(Opaque {
        domain: String::new(),
        op_type: "If".to_owned(),
        overload: String::new(),
        attributes: BTreeMap::new(),
    });
    let y = outer.apply(op, "branch", &[condition, x]).unwrap();
    let body = Subgraph { attribute: "then_branch".to_owned(), graph: fixture.graph, captures: vec![1] };
    outer.node_mut(y.node).unwrap().subgraphs.push(body);
    outer.set_outputs(vec![mqc_ir::Output { value: y, name: "y".to_owned(), declared: Type::Unknown }]);

    qdq(&mut outer, &widths(2)).unwrap();
    assert_eq!(opset_needed(&outer), 25);
    let body = &outer.node(y.node).unwrap().subgraphs[0].graph;
    assert_product(body, &weight, 2, &random(&[2, 51], 3), "body");
}

#[test]
fn the_needed_opset_is_that_of_the_types_and_blocks() {
    let cases = [
        (Grouping::PerChannel, 8, 13),
        (Grouping::Group(16), 8, 21),
        (Grouping::PerChannel, 4, 21),
        (Grouping::PerChannel, 2, 25),
        (Grouping::Group(16), 2, 25),
    ];
    for (grouping, bits, opset) in cases {
        let weight = weight(7, 51, grouping, Scheme::Asymmetric, SliceMode::Midpoint);
        let mut fixture = Fixture::new();
        let x = fixture.input(DType::F32, &[2, 51]);
        fixture.matmul("fc_node", "fc", x, &weight);
        let mut graph = fixture.graph;
        qdq(&mut graph, &widths(bits)).unwrap();
        assert_eq!(opset_needed(&graph), opset, "{grouping:?} {bits}");
    }
}

/// The graph and its one result.
fn one_product(weight: &NestedWeight, dtype: DType) -> (Graph, Value) {
    let mut fixture = Fixture::new();
    let x = fixture.input(dtype, &[2, weight.cols()]);
    let y = fixture.matmul("fc_node", "fc", x, weight);
    (fixture.graph, y)
}

#[test]
fn what_a_format_cannot_hold_is_an_error_that_names_the_layer() {
    let of = |grouping, mode| weight(7, 51, grouping, Scheme::Asymmetric, mode);
    let midpoint = of(Grouping::PerChannel, SliceMode::Midpoint);
    let error = |weight: &NestedWeight, lower: &dyn Fn(&mut Graph) -> Result<(), Error>| {
        lower(&mut one_product(weight, DType::F32).0).unwrap_err().to_string()
    };
    let three = widths(3);
    let cases = [
        (error(&midpoint, &|g| qdq(g, &three)), ["fc", "8, 4 and 2", "found a width of 3"]),
        (error(&midpoint, &|g| matmulnbits(g, &three, ACCURACY)), ["fc", "8, 4 and 2", "found a width of 3"]),
        (error(&midpoint, &|g| shared(g, width(6), ACCURACY)), ["fc", "8, 4 and 2", "found a width of 6"]),
        (error(&midpoint, &|g| float(g, &BTreeMap::new())), ["fc", "no width", "default"]),
        (
            error(&of(Grouping::PerChannel, SliceMode::Extra), &|g| qdq(g, &widths(4))),
            ["fc", "2^4 + 1 levels", "midpoint or round"],
        ),
        (
            error(&of(Grouping::PerChannel, SliceMode::Round), &|g| shared(g, width(4), ACCURACY)),
            ["fc", "midpoint", "found round"],
        ),
        (
            error(&of(Grouping::Group(24), SliceMode::Midpoint), &|g| matmulnbits(g, &widths(4), ACCURACY)),
            ["fc", "group size of 24", "multiple of 16"],
        ),
    ];
    for (message, parts) in cases {
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
    let (mut graph, _) = one_product(&midpoint, DType::F16);
    assert!(float(&mut graph, &widths(4)).unwrap_err().to_string().contains("is f16, expected f32"));
    let (mut graph, y) = one_product(&midpoint, DType::F32);
    let planes = graph.operands(y.node);
    graph.set_operands(y.node, &planes[..6]).unwrap();
    assert!(float(&mut graph, &widths(4)).unwrap_err().to_string().contains("only 2 are stored"));
}

#[test]
fn conv_and_gather_stay_nested_where_slices_are_shared() {
    let table = weight(7, 51, Grouping::PerChannel, Scheme::Asymmetric, SliceMode::Midpoint);
    let mut fixture = Fixture::new();
    let indices = fixture.input(DType::I64, &[3]);
    let y = fixture.gather("embed", "fc", indices, &table);
    let mut graph = fixture.graph;
    let before = graph.clone();
    shared(&mut graph, width(4), ACCURACY).unwrap();
    assert_eq!(graph.outputs()[0].value, y);
    assert_eq!(graph, before);
}
