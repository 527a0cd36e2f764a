//! The verifier: well-formed graphs pass, every mistake is reported, all of them at once.

mod common;

use common::*;
use mqc_ir::op::*;
use mqc_ir::quant::{Grouping, SliceMode};
use mqc_ir::text::{NoWeights, parse};
use mqc_ir::verify::verify;
use mqc_ir::*;
use proptest::prelude::*;

fn errors(graph: &Graph) -> Vec<String> {
    verify(graph).iter().map(Error::to_string).collect()
}

/// The errors of a body with inputs of common types.
fn of(body: &str) -> Vec<String> {
    let inputs = "%f: f32[2, 3], %h: f16[2, 3], %i: i64[3], %j: i32[3], %b: bool[2, 3], %u: u8[2, 1], %w: i64[], \
                  %s: f32[2, 1], %v: f32[2], %t: f32[2, 2, 1], %any: ?";
    let text = format!("graph @g({inputs}) -> () {{\n{body}\nreturn\n}}");
    errors(&parse(&text, &NoWeights).unwrap_or_else(|e| panic!("{e}\n{text}")))
}

fn check(cases: &[(&str, &[&str])]) {
    for (body, expected) in cases {
        assert_eq!(of(body), *expected, "{body}");
    }
}

/// One well-formed node for each operation.
fn well_formed(op: &Op) -> &'static str {
    match op {
        Op::Input => "",
        Op::Weight(_) => "%0 = weight : f32[] = 1.0",
        Op::Constant(_) => "%0 = constant : i64[1] = [1]",
        Op::Identity => "%0 = identity %any",
        Op::Unary(_) => "%0 = relu %f %1 = not %b",
        Op::Binary(_) => "%0 = add %f, %s %1 = pow %f, %i %2 = and %b, %b",
        Op::Compare(_) => "%0 = less %i, %i : bool[3]",
        Op::Variadic(_) => "%0 = max %f %1 = sum %f, %f, %f, %s",
        Op::Select => "%0 = select %b, %f, %s",
        Op::Clip => "%0 = clip %f %1 = clip %f, _, %v %2 = clip %f, %v",
        Op::LeakyRelu { .. } => "%0 = leaky_relu %f {alpha = 0.1}",
        Op::Elu { .. } => "%0 = elu %f {alpha = 1}",
        Op::HardSigmoid { .. } => "%0 = hard_sigmoid %f {alpha = 1, beta = 2}",
        Op::Cast { .. } => "%0 = cast %f {to = i64} : i64[2, 3]",
        Op::Reduce { .. } => "%0 = reduce %f {kind = mean} %1 = reduce %f, %i {kind = max}",
        Op::Reshape { .. } => "%0 = reshape %f, %i",
        Op::Transpose { .. } => "%0 = transpose %f",
        Op::Expand => "%0 = expand %f, %i",
        Op::Squeeze { .. } => "%0 = squeeze %f %1 = squeeze %f, %i",
        Op::Unsqueeze { .. } => "%0 = unsqueeze %f {axes = [0]} %1 = unsqueeze %f, %i",
        Op::Flatten { .. } => "%0 = flatten %f {axis = 1}",
        Op::Slice => "%0 = slice %f, %i, %i %1 = slice %f, %j, %j, _, %j",
        Op::Concat { .. } => "%0 = concat %f, %s {axis = 1}",
        Op::Split { .. } => "%0, %1, %2 = split %f {axis = 1}",
        Op::Pad { .. } => "%0 = pad %f, %i, _, %j {mode = constant}",
        Op::Gather { .. } => "%0 = gather %f, %j {axis = 0}",
        Op::GatherElements { .. } => "%0 = gather_elements %f, %i {axis = 0}",
        Op::GatherNd { .. } => "%0 = gather_nd %f, %i",
        Op::ScatterElements { .. } => "%0 = scatter_elements %f, %j, %f {axis = 0, reduction = none}",
        Op::ScatterNd { .. } => "%0 = scatter_nd %f, %i, %f {reduction = add}",
        Op::Tile => "%0 = tile %f, %i",
        Op::Shape { .. } => "%0 = shape %f : i64[2]",
        Op::Size => "%0 = size %f : i64[]",
        Op::ConstantOfShape { .. } => "%0 = constant_of_shape %i",
        Op::Range => "%0 = range %w, %w, %w",
        Op::MatMul => "%0 = mat_mul %f, %s",
        Op::Conv(_) => "%0 = conv %f, %f %1 = conv %f, %f, %v",
        Op::MaxPool { .. } => "%0 = max_pool %f %1, %2 = max_pool %f : ?, i64[1]",
        Op::AveragePool { .. } => "%0 = average_pool %f",
        Op::GlobalAveragePool => "%0 = global_average_pool %f",
        Op::GlobalMaxPool => "%0 = global_max_pool %f",
        Op::Gemm { .. } => "%0 = gemm %f, %f %1 = gemm %f, %f, %v",
        Op::Softmax { .. } => "%0 = softmax %f {axis = 1}",
        Op::LogSoftmax { .. } => "%0 = log_softmax %f {axis = 1}",
        Op::Gelu { .. } => "%0 = gelu %f {approximate = erf}",
        Op::BatchNormalization { .. } => {
            "%0 = batch_normalization %f, %v, %v, %v, %v {epsilon = 1e-5, momentum = 0.9}"
        }
        Op::LayerNormalization { .. } => {
            "%0, %1, %2 = layer_normalization %f, %v {axis = 1, epsilon = 1e-5, stash_type = 1} as a, \"\", c"
        }
        Op::RmsNormalization { .. } => {
            "%0 = rms_normalization %f, %v {axis = 1, epsilon = 1e-5, stash_type = 1}"
        }
        Op::Dropout { .. } => "%0 = dropout %f %1, %2 = dropout %f, %v, %b",
        Op::NestedQuantize(_) => {
            "%0, %1, %2 = nested_quantize %f {scheme = symmetric, mode = round, range = mse, widths = [8, 2], \
             lambda = [1, 0.5], layout = rows_last} : u8[3, 2], f32[3, 1], f32[3, 1]"
        }
        Op::SliceBits { .. } => "%0 = slice_bits %u {width = 4, mode = round} : u8[2, 1]",
        Op::Dequantize { .. } => {
            "%0 = dequantize %u, %s, %s {width = 4, mode = round, layout = rows_last, shape = [1, 2]} : f32[1, 2]"
        }
        Op::FakeSlice { .. } => "%0 = fake_slice %f {width = 4, mode = round}",
        Op::NestedMatMul(_) => {
            "%0 = nested_mat_mul %f, %w, %s, %s, %u {layer = fc, mode = midpoint, cols = 3} : f32[2, 2]"
        }
        Op::NestedConv { .. } => {
            "%0 = nested_conv %f, %w, %s, %s, _, %u {nested = {layer = c, mode = midpoint, cols = 4}, shape = [2, 1, 4]} \
             %1 = nested_conv %f, %w, %s, %s, %v, %u, %u {nested = {layer = c, mode = extra, cols = 4}, shape = [2, 1, 4]}"
        }
        Op::NestedGather(_) => "%0 = nested_gather %i, %w, %s, %s, %u {layer = e, mode = midpoint, cols = 8}",
        Op::Opaque(_) => "() = opaque {op_type = Print} %0, %1 = opaque %f, _ {op_type = Foo}",
    }
}

#[test]
fn every_operation_passes_when_well_formed() {
    for op in samples() {
        let body = well_formed(&op).replace(" %1 =", "\n%1 =").replace(" %2 =", "\n%2 =");
        let body = body.replace(" %1, %2 =", "\n%1, %2 =").replace(" %0, %1 =", "\n%0, %1 =");
        assert_eq!(of(&body), [""; 0], "{body}");
    }
}

/// A node without operands and outputs is an error for all but sources and opaque nodes.
#[test]
fn every_operation_checks_its_operands_and_outputs() {
    for op in samples() {
        let mut graph = Graph::new("g");
        let id = graph.insert(Node::new(op.clone(), "n", vec![]), &[]).unwrap();
        let found = errors(&graph).join("\n");
        let source = matches!(op, Op::Input | Op::Weight(_) | Op::Constant(_));
        let opaque = matches!(op, Op::Opaque(_));
        assert_eq!(found.contains("n ("), !opaque, "{op:?} {found}");
        assert_eq!(found.contains("has 0 outputs, expected"), !opaque, "{op:?} {found}");
        assert_eq!(found.contains("has 0 operands, expected"), !opaque && !source, "{op:?} {found}");
        graph.set_operands(id, &[None; 20]).unwrap();
        let found = errors(&graph).join("\n");
        let any_number = matches!(op, Op::Variadic(_) | Op::Concat { .. } | Op::Opaque(_));
        assert_eq!(found.contains("has 20 operands, expected"), !any_number, "{op:?} {found}");
        assert_eq!(found.contains("is absent"), !opaque, "{op:?} {found}");
    }
}

#[test]
fn operands_and_outputs_are_named() {
    check(&[
        ("%0 = add %f @n", &["node n (add): has 1 operands, expected 2 (a, b)"]),
        (
            "%0 = clip %f, _, _, _ @n",
            &[
                "node n (clip): has 4 operands, expected 1 to 3 (x, min?, max?)",
                "node n (clip): operand 3 is absent",
            ],
        ),
        ("%0 = select %b, _, %f @n", &["node n (select): operand 1 (a) is absent"]),
        ("%0 = concat {axis = 0} @n", &["node n (concat): has 0 operands, expected at least 1 (operand..)"]),
        ("%0 = concat %f, _ {axis = 0} @n", &["node n (concat): operand 1 is absent"]),
        (
            "%0 = nested_gather %i, %w, %s, %s {layer = e, mode = midpoint, cols = 8} @n",
            &[
                "node n (nested_gather): has 4 operands, expected 5 to 12 (indices, width, scale, zero, plane..)",
            ],
        ),
        ("%0, %1, %2 = max_pool %f @n", &["node n (max_pool): has 3 outputs, expected 1 to 2"]),
        ("() = split %f {axis = 0} @n", &["node n (split): has 0 outputs, expected at least 1"]),
    ]);
}

#[test]
fn known_types_must_fit() {
    check(&[
        ("%0 = not %f @n", &["node n (not): operand 0 (x) is f32[2, 3], expected bool"]),
        ("%0 = xor %b, %f @n", &["node n (xor): operand 1 (b) is f32[2, 3], expected bool"]),
        (
            "%0 = less %f, %i : f32 @n",
            &[
                "node n (less): operands have different element types: operand 0 (a) f32, operand 1 (b) i64",
                "node n (less): output 0 is f32, expected bool",
            ],
        ),
        (
            "%0 = add %f, %h @n",
            &["node n (add): operands have different element types: operand 0 (a) f32, operand 1 (b) f16"],
        ),
        (
            "%0 = mat_mul %f, %h @n",
            &[
                "node n (mat_mul): operands have different element types: operand 0 (a) f32, operand 1 (b) f16",
            ],
        ),
        (
            "%0 = max %f, %any, %i @n",
            &["node n (max): operands have different element types: operand 0 f32, operand 2 i64"],
        ),
        (
            "%0 = select %b, %f, %i @n",
            &["node n (select): operands have different element types: operand 1 (a) f32, operand 2 (b) i64"],
        ),
        ("%0 = cast %f {to = i64} : i32[2, 3] @n", &["node n (cast): output 0 is i32[2, 3], expected i64"]),
        ("%0 = reshape %f, %j @n", &["node n (reshape): operand 1 (shape) is i32[3], expected i64"]),
        ("%0 = slice %f, %i, %f @n", &["node n (slice): operand 2 (ends) is f32[2, 3], expected i64 or i32"]),
        (
            "%0 = gather %f, %f {axis = 0} @n",
            &["node n (gather): operand 1 (indices) is f32[2, 3], expected i64 or i32"],
        ),
        (
            "%0 = pad %f, %i, %i {mode = edge} @n",
            &[
                "node n (pad): operands have different element types: operand 0 (x) f32, operand 2 (value) i64",
            ],
        ),
        (
            "%0 = scatter_nd %f, %j, %h {reduction = none} @n",
            &[
                "node n (scatter_nd): operand 1 (indices) is i32[3], expected i64",
                "node n (scatter_nd): operands have different element types: operand 0 (x) f32, operand 2 (updates) f16",
            ],
        ),
        ("%0 = shape %f : i32[2] @n", &["node n (shape): output 0 is i32[2], expected i64"]),
        ("%0, %1 = max_pool %f : ?, i32 @n", &["node n (max_pool): output 1 is i32, expected i64"]),
        (
            "%0 = weight : f32[3] = f32[2] [1, 2] @n",
            &["node n (weight): output 0 is f32[3], expected f32[2]"],
        ),
        (
            "%0 = constant_of_shape %i {value = {dtype = f32, shape = [0]}} @n",
            &["node n (constant_of_shape): the value has the shape [0], expected one element"],
        ),
    ]);
}

#[test]
fn the_nested_dialect_must_fit() {
    check(&[
        (
            "%0, %1, %2 = nested_quantize %i {scheme = symmetric, mode = round, range = mse, widths = [8, 2], \
             lambda = [1], layout = rows_last} : u8[3], i64[3, 1], f32[3, 1] @n as p, q, r",
            &[
                "node n (nested_quantize): operand 0 (weight) is i64[3], expected f32 or f16 or bf16 or f64",
                "node n (nested_quantize): output 0 is u8[3], expected u8[?, ?]",
                "node n (nested_quantize): output 1 is i64[3, 1], expected f32[?, ?]",
                "node n (nested_quantize): has 2 widths and 1 lambda, expected as many",
            ],
        ),
        (
            "%0 = slice_bits %f {width = 4, mode = round} @n",
            &["node n (slice_bits): operand 0 (codes) is f32[2, 3], expected u8[?, ?]"],
        ),
        (
            "%0 = dequantize %u, %s, %f {width = 4, mode = round, layout = rows_first, shape = [2, 3, 3]} : f32[2, 9] @n",
            &[
                "node n (dequantize): operand 0 (slice) is u8[2, 1], expected u8[2, 9]",
                "node n (dequantize): operand 2 (zero) is f32[2, 3], expected f32[2, 1]",
                "node n (dequantize): output 0 is f32[2, 9], expected tensor[2, 3, 3]",
            ],
        ),
        (
            "%0 = dequantize %u, %s, %s {width = 4, mode = round, grouping = 8, layout = rows_last, shape = []} @n",
            &["node n (dequantize): [] is not the shape of a weight"],
        ),
        (
            "%0 = nested_mat_mul %f, %i, %s, %v, %u, %f {layer = fc, mode = midpoint, cols = 16} @n",
            &[
                "node n (nested_mat_mul): the last dimension of operand 0 (x) is 3, the weight has 16 columns",
                "node n (nested_mat_mul): operand 1 (width) is i64[3], expected i64[]",
                "node n (nested_mat_mul): operand 3 (zero) is f32[2], expected f32[2, 1]",
                "node n (nested_mat_mul): operand 4 is u8[2, 1], expected u8[2, 2]",
                "node n (nested_mat_mul): operand 5 is f32[2, 3], expected u8[2, 2]",
            ],
        ),
        (
            "%r = weight : i64[] = 2\n%0 = nested_mat_mul %f, %r, %s, %s, %u, %u {layer = fc, mode = round, cols = 3} @n",
            &["node n (nested_mat_mul): width 2 reads 3 planes, there are 2"],
        ),
        (
            "%r = weight : i64[] = 9\n%0 = nested_gather %i, %r, %s, %s, %u {layer = fc, mode = round, cols = 3} @n",
            &["node n (nested_gather): the width is 9, expected 1 to 8"],
        ),
        (
            "%0 = nested_mat_mul %f, %w, %s, %t, %u {layer = fc, mode = midpoint, cols = 3, map_widths = [2, 4]} @n",
            &[
                "node n (nested_mat_mul): operand 2 (scale) is f32[2, 1], expected f32[3, 2, 1]",
                "node n (nested_mat_mul): operand 3 (zero) is f32[2, 2, 1], expected f32[3, 2, 1]",
                "node n (nested_mat_mul): map_widths is 2, 4, expected different widths, wide first",
            ],
        ),
        (
            "%0 = nested_conv %f, %w, %s, %s, %f, %u {nested = {layer = c, mode = midpoint, cols = 4}, shape = [3, 5, 1]} @n",
            &[
                "node n (nested_conv): the weight's shape [3, 5, 1] is not [rows, ..] with 4 columns",
                "node n (nested_conv): operand 4 (bias) is f32[2, 3], expected f32[3]",
                "node n (nested_conv): operand 2 (scale) is f32[2, 1], expected f32[3, 1]",
                "node n (nested_conv): operand 3 (zero) is f32[2, 1], expected f32[3, 1]",
                "node n (nested_conv): operand 5 is u8[2, 1], expected u8[3, 1]",
            ],
        ),
    ]);
    let mut graph = Graph::new("g");
    let op = Op::NestedGather(nested("e", SliceMode::Midpoint, Grouping::Group(12), 8));
    graph.apply(op, "n", &[]).unwrap();
    assert!(errors(&graph)[1].ends_with("the group size is 12, expected a multiple of 8"));
}

#[test]
fn names_and_outputs_must_be_unique() {
    let text = |outputs: &str, results: &str| {
        let text = format!(
            "graph @g(%x: f32[2]) -> ({outputs}) {{\n%0 = relu %x as a\n%1 = neg %0 as a\n%2 = neg %0 as \"\"\n\
             %3 = neg %2 @last\nreturn {results}\n}}"
        );
        errors(&parse(&text, &NoWeights).unwrap())
    };
    let base = [
        "node last (neg): operand 0 (x) is output 0 of (unnamed), which has no name",
        "node a (neg): the name \"a\" of its output is taken, by the relu before it",
    ];
    assert_eq!(text("", ""), base);
    let with = |extra: &[&str]| base.iter().chain(extra).map(|s| (*s).to_owned()).collect::<Vec<_>>();
    assert_eq!(text("y: ?, z: ?", "%0, %0"), with(&[]));
    assert_eq!(text("y: ?, y: ?", "%0, %1"), with(&["graph g: two outputs are named \"y\""]));
    assert_eq!(text("\"\": ?", "%0"), with(&["graph g: an output has no name"]));
    assert_eq!(text("y: ?", "%2"), with(&["graph g: the value of output \"y\" has no name"]));
    assert_eq!(
        text("x: ?", "%0"),
        with(&["graph g: output \"x\" has the name of another value, which is in use"])
    );
    assert_eq!(text("last: ?", "%0"), with(&[]), "nothing uses the value `last`");
    assert_eq!(
        text("last: ?, y: ?", "%0, %3"),
        with(&["graph g: output \"last\" has the name of another value, which is in use"])
    );
}

#[test]
fn inputs_must_be_inputs_listed_once() {
    let text = "graph @g(%w, %w, %r) -> () {\n%w = weight : f32[] = 1.0\n%x = input\n%r = relu %w\nreturn\n}";
    assert_eq!(
        errors(&parse(text, &NoWeights).unwrap()),
        [
            "graph g: input w is listed twice",
            "graph g: input r is a relu, expected an input or a weight",
            "graph g: x is an input that the graph does not list",
        ]
    );
    let mut graph = Graph::new("g");
    let x = graph.add_weight("x", Tensor::f32_scalar(1.0));
    graph.erase_dead();
    graph.list_as_input(x.node);
    graph.set_outputs(vec![Output { value: x, name: "y".into(), declared: Type::Unknown }]);
    assert_eq!(
        errors(&graph),
        ["graph g: an input is not a node of the graph", "graph g: output \"y\" is not a value of the graph"]
    );
}

#[test]
fn operands_must_exist() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", Type::Unknown);
    let y = graph.apply(Op::Unary(Unary::Relu), "y", &[x]).unwrap();
    graph.apply(Op::Unary(Unary::Neg), "z", &[y]).unwrap();
    graph.node_mut(y.node).unwrap().outputs.clear();
    assert_eq!(
        errors(&graph),
        [
            "node y (relu): has 0 outputs, expected 1",
            "node z (neg): operand 0 (x) is not a value of the graph",
        ]
    );
}

#[test]
fn subgraphs_must_capture_what_is_there() {
    let body = |captures: &str, inputs: &str| {
        of(&format!(
            "%0 = opaque %b, _, %f {{op_type = If, domain = my}} @if\n\
             with then captures {captures} = graph @t({inputs}) -> () {{\n%w = weight : f32[] = 1.0\nreturn\n}}"
        ))
    };
    assert_eq!(body("[2]", "%a: ?, %x: f32[2, 3]"), [""; 0]);
    assert_eq!(
        body("[0, 2]", "%x: ?"),
        ["node if (my.If): subgraph then captures 2 values but has only 1 inputs"]
    );
    assert_eq!(body("[1]", "%x: ?"), ["node if (my.If): subgraph then captures operand 1, which is absent"]);
    assert_eq!(body("[3]", "%x: ?"), ["node if (my.If): subgraph then captures operand 3, which is absent"]);
    assert_eq!(body("[2]", "%w"), ["node if (my.If): subgraph then: the captured w is not an input"]);
    assert_eq!(
        body("[2]", "%x: f32[3, N]"),
        ["node if (my.If): subgraph then: the captured x is f32[3, N], operand 2 is f32[2, 3]"]
    );
    check(&[
        (
            "%0 = opaque {op_type = If, attributes = {then = {int = 1}}} @if\nwith then = graph () -> () { return }\n\
             with then = graph () -> () { opset \"\" = 17 %0 = add @a\nreturn }",
            &[
                "node if (If): attribute then is both a value and a subgraph",
                "node if (If): attribute then is both a value and a subgraph",
                "node if (If): subgraph then is there twice",
                "node if (If): subgraph then has opsets; they belong to the outermost graph",
                "node if.then/a (add): has 0 operands, expected 2 (a, b)",
            ],
        ),
        (
            "%0 = relu %f @r\nwith body = graph @b() -> (\"\": ?) { %0 = weight : f32[] = 1.0\nreturn %0 }",
            &[
                "node r (relu): only opaque nodes have subgraphs, found body",
                "graph r.body/b: an output has no name",
            ],
        ),
    ]);
}

#[test]
fn cycles_and_all_else_are_reported_together() {
    let text = "graph @g(%x: f32[2]) -> () {\n%0 = add %x, %x @a\n%1 = neg %0 @b\n%2 = neg %1 @c\n%3 = not %x @d\n%4 = add %x @e\nreturn\n}";
    let mut graph = parse(text, &NoWeights).unwrap();
    let ids = graph.order().unwrap();
    let value = |n: usize| Value { node: ids[n], slot: 0 };
    graph.set_operand(ids[1], 0, value(2));
    graph.set_operand(ids[3], 0, value(3));
    assert_eq!(
        errors(&graph),
        [
            "the graph has a cycle through node a, b",
            "the graph has a cycle through node c",
            "node d (not): operand 0 (x) is f32[2], expected bool",
            "node e (add): has 1 operands, expected 2 (a, b)",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the graph, the verifier ends and says the same of a graph and of its text read back.
    #[test]
    fn random_graphs(graph in any_graph(1)) {
        let back = parse(&text::print(&graph), &text::WeightsOf::new(&graph)).unwrap();
        let sorted = |graph: &Graph| {
            let mut errors = errors(graph);
            errors.sort_unstable();
            errors
        };
        prop_assert_eq!(sorted(&graph), sorted(&back));
    }
}
