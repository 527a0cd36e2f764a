//! The text form: what is printed parses back to the same graph, what is broken is an error with a place.

mod common;

use common::*;
use mqc_ir::op::Unary;
use mqc_ir::text::{NoWeights, Resolve, WeightsOf, hash, mnemonics, parse, print};
use mqc_ir::*;
use proptest::prelude::*;

/// Prints, parses, prints: all must agree.
fn round_trip(graph: &Graph) -> String {
    let text = print(graph);
    let back = parse(&text, &WeightsOf::new(graph)).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(&back, graph, "\n{text}");
    assert_eq!(print(&back), text);
    text
}

fn read(text: &str) -> Graph {
    parse(text, &NoWeights).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn error(text: &str) -> String {
    parse(text, &NoWeights).expect_err(text).to_string()
}

/// A graph whose body is `body`, with inputs %x and %i.
fn body(body: &str) -> String {
    format!("graph @g(%x: f32[2], %i: i64) -> () {{\n  {body}\n  return\n}}\n")
}

const MLP: &str = r#"graph @mlp(%x: f32[batch, 16]) -> (logits: f32[batch, 2]) {
  opset "" = 17
  opset ai.onnx.ml = 3
  doc "two layers"
  metadata producer = "by hand"
  %fc1.weight = weight : f32[16, 2] = hash "a50e5fbf9ba79bf5"  # 128 B
  %fc1.bias = weight : f32[2] = [0.5, -1e-9]
  %0 = mat_mul %x, %fc1.weight : f32[batch, 2] @/fc1/MatMul as */output_0
  %1 = add %0, %fc1.bias : f32[batch, 2] @/fc1/Add
  %2 = constant : f32 = inf as limit
  %3 = clip %1, _, %2 {} : f32[batch, 2] @clip doc "no lower limit" metadata k = "v" metadata k = "w"
  return %3
}
"#;

#[test]
fn the_examples_of_the_documentation_are_texts() {
    let examples: Vec<_> = include_str!("../../../docs/ir.md").split("```mqir\n").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let example = example.split("```").next().unwrap();
        let graph = read(example);
        assert_eq!(mqc_ir::verify::verify(&graph), []);
        let numbers =
            |text: &str| text.lines().map(|l| l.split(" = [").next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            numbers(&print(&graph)),
            numbers(&example.replace("random(7)", "[")),
            "printed as it is written"
        );
    }
}

struct Ones;

impl Resolve for Ones {
    fn tensors(&self, name: &str) -> Vec<Tensor> {
        assert_eq!(name, "fc1.weight");
        vec![
            Tensor::from_f32(vec![16, 2], &[0.0; 32]).unwrap(),
            Tensor::from_f32(vec![16, 2], &[1.0; 32]).unwrap(),
        ]
    }
}

#[test]
fn the_text_reads_as_documented() {
    let ones = Tensor::from_f32(vec![16, 2], &[1.0; 32]).unwrap();
    let text = MLP
        .replace("a50e5fbf9ba79bf5", &format!("{:016x}", hash(&ones)))
        .replace(": f32 = inf", ": f32[] = inf");
    let graph = parse(&text, &Ones).unwrap();
    assert_eq!(print(&graph), text.replace(" {} :", " :"));
    let ids = graph.order().unwrap();
    let matmul = graph.node(ids[3]).unwrap();
    assert_eq!(
        (matmul.name.as_str(), matmul.outputs[0].name.as_str()),
        ("/fc1/MatMul", "/fc1/MatMul/output_0")
    );
    assert_eq!(graph.constant(graph.operand(ids[3], 1).unwrap()), Some(&ones), "the hash chooses");
    let clip = graph.node(ids[6]).unwrap();
    assert_eq!(clip.metadata, [("k".into(), "v".into()), ("k".into(), "w".into())]);
    assert_eq!((clip.doc.as_str(), clip.outputs[0].name.as_str()), ("no lower limit", "clip"));
    assert_eq!(graph.operands(ids[6])[1], None);
    assert_eq!(graph.opsets["ai.onnx.ml"], 3);
    let y = &graph.outputs()[0];
    assert_eq!((y.name.as_str(), y.declared.to_string()), ("logits", "f32[batch, 2]".to_owned()));
    assert_eq!(graph.ty(graph.operand(ids[6], 2).unwrap()).to_string(), "f32[]");
}

/// FNV-1a vectors of draft-eastlake-fnv (64 bits): "", "a", "foobar".
#[test]
fn the_hash_is_fnv_1a() {
    let bytes = |b: &'static [u8]| hash(&Tensor::new(DType::U8, vec![b.len()], b.into()).unwrap());
    assert_eq!(bytes(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(bytes(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(bytes(b"foobar"), 0x8594_4171_f739_67e8);
    let strings = |s: &[&'static str]| {
        hash(&Tensor::strings(vec![s.len()], s.iter().map(|s| (*s).into()).collect()).unwrap())
    };
    assert_ne!(strings(&["ab", "c"]), strings(&["a", "bc"]));
}

#[test]
fn every_sample_of_every_operation_round_trips() {
    for op in samples() {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", Type::Unknown);
        let node = Node::new(op.clone(), "node", vec![ValueInfo { name: "y".into(), ty: Type::Unknown }]);
        graph.insert(node, &[Some(x), None, Some(x)]).unwrap();
        let text = round_trip(&graph);
        if let Some(tensor) = op.as_constant() {
            let named = tensor.bytes().len() > 64 || tensor.as_strings().is_some_and(|s| s.len() == 9);
            assert_eq!(text.contains("hash"), named, "{text}");
        }
    }
}

#[test]
fn mnemonics_are_unique_and_each_belongs_to_a_sample() {
    let mut known = mnemonics();
    known.sort_unstable();
    let count = known.len();
    known.dedup();
    assert_eq!(known.len(), count);
    let mut used: Vec<String> = samples()
        .into_iter()
        .map(|op| {
            let mut graph = Graph::new("");
            graph.insert(Node::new(op, "", vec![]), &[]).unwrap();
            print(&graph).lines().nth(1).unwrap().split_whitespace().nth(2).unwrap().to_owned()
        })
        .collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used, known);
}

#[test]
fn every_type_round_trips_alone_and_in_json() {
    for ty in types() {
        let text = ty.to_string();
        assert_eq!(text.parse::<Type>().as_ref(), Ok(&ty), "{text}");
        let json = serde_json::to_string(&ty).unwrap();
        assert_eq!(serde_json::from_str::<Type>(&json).unwrap(), ty, "{json}");
    }
    assert_eq!(
        "f32[a,b ] x".parse::<Type>().unwrap_err().to_string(),
        "line 1, column 11: expected the end of the type, found `x`"
    );
}

/// Every float of one exponent that is known to round twice, and a spread of all.
#[test]
fn floats_in_attributes_keep_their_bits() {
    let spread =
        (0..=u32::MAX).step_by(65_521).chain([0x15ae_43fd, 0x15ae_43fe, 1, 0x8000_0000, 0x7f7f_ffff]);
    for bits in spread {
        let value = F32(f32::from_bits(bits));
        let json = serde_json::to_value(value).unwrap();
        assert_eq!(serde_json::from_value::<F32>(json).unwrap(), value, "{bits:08x}");
    }
    let mut graph = Graph::new("g");
    graph
        .insert(Node::new(Op::LeakyRelu { alpha: F32(f32::from_bits(0x15ae_43fd)) }, "", vec![]), &[])
        .unwrap();
    round_trip(&graph);
}

#[test]
fn a_subgraph_with_captures_reads_as_documented() {
    let text = r#"graph @outer(%c: bool[], %x: f32[n]) -> (y: f32[n]) {
  %0 = opaque %c, %x {op_type = If} : f32[n] @if_1 as *_output_0
    with then_branch captures [1] = graph @then(%x: f32[n]) -> (z: ?) {
      %0 = relu %x
      return %0
    }
    with else_branch captures [1] = graph (%0: f32[n] as "an x") -> (z: ?) {
      return %0
    }
  return %0
}
"#;
    let graph = read(text);
    assert_eq!(print(&graph), text);
    let node = graph.node(graph.outputs()[0].value.node).unwrap();
    assert_eq!(node.subgraphs.len(), 2);
    assert_eq!(
        (node.subgraphs[0].attribute.as_str(), node.subgraphs[0].captures.as_slice()),
        ("then_branch", &[1][..])
    );
    let inner = &node.subgraphs[1].graph;
    assert_eq!(inner.info(inner.outputs()[0].value).unwrap().name, "an x");
    assert_eq!(mqc_ir::verify::verify(&graph), []);
}

#[test]
fn inputs_that_are_not_first_or_are_weights_keep_their_places() {
    let mut graph = Graph::new("g");
    let w = graph.add_weight("w", Tensor::f32_scalar(1.0));
    graph.list_as_input(w.node);
    let x = graph.add_input("x", Type::Unknown);
    graph.apply(Op::Unary(Unary::Relu), "r", &[x]).unwrap();
    graph.add_input("late", Type::Unknown);
    let text = round_trip(&graph);
    assert!(
        text.starts_with("graph @g(%w, %x, %late) -> () {\n  %w = weight : f32[] = 1.0\n  %x = input\n"),
        "{text}"
    );
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", Type::Unknown);
    graph.node_mut(x.node).unwrap().doc = "pixels".into();
    let w = graph.add_weight("w", Tensor::f32_scalar(1.0));
    graph.list_as_input(w.node);
    graph.add_input("y", Type::Unknown);
    let text = round_trip(&graph);
    assert!(text.starts_with("graph @g(%x: ? doc \"pixels\", %w, %y) -> () {\n  %w = weight"), "{text}");
}

#[test]
fn a_long_header_has_a_line_for_each_input() {
    let mut graph = Graph::new("g");
    let values: Vec<_> =
        (0..9).map(|i| graph.add_input(format!("past.{i}"), "f32[batch, 4]".parse().unwrap())).collect();
    let outputs =
        values.iter().take(2).map(|v| Output { value: *v, name: "o".into(), declared: Type::Unknown });
    graph.set_outputs(outputs.collect());
    let text = round_trip(&graph);
    assert!(text.starts_with("graph @g(\n    %past.0: f32[batch, 4],\n    %past.1"), "{text}");
    assert!(
        text.contains(
            "%past.8: f32[batch, 4]\n) -> (\n    o: ?,\n    o: ?\n) {\n  return %past.0, %past.1\n}\n"
        ),
        "{text}"
    );
}

#[test]
fn a_constant_may_be_declared_as_another_type() {
    let mut graph = Graph::new("g");
    for size in [1, 40] {
        let w = graph.add_weight("w", Tensor::from_f32(vec![size], &vec![1.0; size]).unwrap());
        graph.set_type(w, "f32[N]".parse().unwrap());
    }
    let text = round_trip(&graph);
    assert!(text.contains("%0 = weight : f32[N] = f32[1] [1.0] as w\n"), "{text}");
    assert!(text.contains("%1 = weight : f32[N] = f32[40] hash \""), "{text}");
}

/// The first outputs of splitmix64 for the seed 1234567, as Vigna's reference prints them, over 2^63, minus 1.
#[test]
fn random_constants_are_splitmix64() {
    let graph = read(&body("%w = weight : f32[3] = random(1234567)"));
    let w = graph.ids().into_iter().find_map(|id| graph.node(id)?.op.as_constant()).unwrap();
    let reference = [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
    for (found, reference) in w.to_f32_vec().unwrap().into_iter().zip(reference) {
        let expected = reference as f64 / 2f64.powi(63) - 1.0;
        assert!((f64::from(found) - expected).abs() <= 2f64.powi(-23), "{found} {expected}");
    }
    assert!(print(&graph).contains("= [-0.2998"), "{}", print(&graph));
    let large = read(&body("%w = weight : f32[1000] = random(1)"));
    assert!(print(&large).contains("hash"));
    round_trip(&large);
    assert!(error(&body("%w = weight : f64[1] = random(1)")).contains("random constants are f32, found f64"));
    let huge = body("%w = weight : f32[100000, 100000] = random(1)");
    assert_eq!(
        error(&huge),
        "line 2, column 39: the random constants of a text have at most 268435456 elements together"
    );
}

#[test]
fn a_cyclic_graph_prints_and_its_text_is_refused() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", Type::Unknown);
    let a = graph.apply(Op::Unary(Unary::Relu), "a", &[x]).unwrap();
    let b = graph.apply(Op::Unary(Unary::Relu), "b", &[a]).unwrap();
    graph.set_operand(a.node, 0, b);
    assert_eq!(error(&print(&graph)), "line 2, column 13: %1 is not defined before its use");
}

#[test]
fn mistakes_are_errors_that_say_where_and_what() {
    let of = |line: &str| error(&body(line)).replace("line 2, column ", "");
    let cases = [
        ("%0 = relus %x", "8: there is no operation `relus`; did you mean `relu`?"),
        ("%0 = unary %x", "8: there is no operation `unary`"),
        ("%0 = relu %x {alpha = 1}", "17: relu has no attributes, found `alpha`"),
        ("%0 = identity %x {axis = 1}", "21: identity has no attributes, found `axis`"),
        ("%0 = weight {axis = 1} : f32[] = 1", "16: weight has no attributes, found `axis`"),
        ("%0 = softmax %x {axes = 1}", "20: softmax: unknown attribute `axes`, expected `axis` or `flatten`"),
        ("%0 = softmax %x", "8: softmax: missing attribute `axis`"),
        (
            "%0 = conv %x, %x {group = 1, dilation = [1]}",
            "32: conv: unknown attribute `dilation`, expected one of \
          `auto_pad`, `dilations`, `group`, `kernel_shape`, `pads`, `strides`",
        ),
        (
            "%0 = max_pool %x {window = {pad = [1]}}",
            "31: max_pool: unknown attribute `pad`, expected one of \
          `auto_pad`, `dilations`, `group`, `kernel_shape`, `pads`, `strides`",
        ),
        ("%0 = softmax %x {axis = one}", "8: softmax: invalid type: string \"one\", expected i64"),
        (
            "%0 = elu %x {alpha = true}",
            "8: elu: invalid type: boolean `true`, expected a number, or \"bits:\" and 8 hex digits",
        ),
        (
            "%0 = slice_bits %x {width = 9, mode = round}",
            "8: slice_bits: expected a width of 1 to 8 bits, found \"9\"",
        ),
        (
            "%0 = slice_bits %x {width = 4, mode = rund}",
            "8: slice_bits: unknown variant `rund`, expected one of \
          `midpoint`, `round`, `extra`",
        ),
        ("%0 = softmax %x {axis = 1, axis = 2}", "30: attribute `axis` is given twice"),
        ("%0 = softmax %x {axis = 99999999999999999999}", "27: this number has no 64-bit form"),
        ("%0 = softmax %x {axis}", "24: expected `=` after the attribute's name, found `}`"),
        ("%0 = relu %y", "13: %y is not defined before its use"),
        ("%0 = relu %0", "13: %0 is not defined before its use"),
        ("%x = relu %x", "3: %x is defined twice"),
        ("%0, %0 = relu %x", "7: %0 is defined twice"),
        ("%0, %1 = relu %x : f32", "20: expected a type for each of 2 results, found 1"),
        ("%0 = relu %x as a, b", "20: expected a statement or `return`, found `,`"),
        ("%0, %1 = relu %x as a @b", "25: expected `,` and a name for each of 2 results, found `@`"),
        ("%0 = relu %x,", "3: "),
        ("%0 = relu %x : f23", "18: there is no type `f23`"),
        ("%0 = relu %x : bf15", "18: there is no type `bf15`; did you mean `bf16`?"),
        ("%0 = relu %x : f32[-1]", "22: expected a size, found -1"),
        ("%0 = relu %x : f32[2", "3: "),
        ("%0 = relu %x : sequence f32", "27: expected `(` after the kind of type, found `f32`"),
        ("%0 relu %x", "6: expected `=` and an operation after the results, found `relu`"),
        ("%0 = relu %x @ 3", "18: expected a name after `@`, found `3`"),
        ("relu %x", "3: expected a statement or `return`, found `relu`"),
        ("doc \"a\" doc \"b\"", "11: the graph has a doc already"),
        ("opset \"\" = 1 opset \"\" = 2", "16: opset \"\" is given twice"),
        ("opset \"\" = x", "14: expected a version, found `x`"),
        ("metadata k = v", "16: expected the value of the metadata in quotes, found `v`"),
        ("%0 = weight : f32[2] = [1]", "26: a f32 tensor of shape [2] needs 8 bytes, found 4"),
        (
            "%0 = weight : f32[n] = [1]",
            "26: the elements of a constant need a tensor type with all sizes known, found `f32[n]`",
        ),
        (
            "%0 = weight = [1]",
            "17: the elements of a constant need a tensor type with all sizes known, found `?`",
        ),
        ("%0 = weight : u8[1] = [256]", "26: expected an element of type u8, found `256`"),
        ("%0 = weight : i8[1] = [1.5]", "26: expected an element of type i8, found `1.5`"),
        ("%0 = weight : bool[1] = [1]", "28: expected an element of type bool, found `1`"),
        ("%0 = weight : f16[1] = [1]", "27: expected `hex \"..\"`: f16 has no literals, found `1`"),
        (
            "%0 = weight : f16[1] = hex \"0\"",
            "30: expected an even number of hex digits in quotes, found the string \"0\"",
        ),
        (
            "%0 = weight : f16[1] = hash \"0\"",
            "31: expected a hash of 16 hex digits in quotes, found the string \"0\"",
        ),
        ("%0 = weight : f32[9] as w", "24: there is no tensor named \"w\" beside the text"),
        ("%0 = relu %x with body = 3", "28: expected `graph`, found `3`"),
        (
            "%0 = relu %x metadata k = \"\\xff\"",
            "29: this string must be UTF-8: invalid utf-8 sequence of 1 bytes from index 0",
        ),
        ("%0 = relu %x @\"a", "17: this string has no closing quote on its line"),
        ("%0 = relu %x @\"\\q\"", "18: escapes are \\n \\r \\t \\\" \\\\ and \\x with two hex digits"),
        (
            "%0 = relu %x ; %1 = relu %x",
            "16: ';' does not start anything; quote names that are not plain words",
        ),
        ("%0 = relu %", "13: a value is `%` and a number or a name that starts with a letter"),
        ("%0 = relu %1a", "13: a value is `%` and a number or a name that starts with a letter"),
        ("%0 = elu %x {alpha = 1.2.3}", "24: `1.2.3` is not a number"),
    ];
    for (line, expected) in cases {
        let found = of(line);
        if expected == "3: " {
            assert!(found.starts_with("line 3, column "), "{line}: {found}");
        } else {
            assert_eq!(found, expected, "{line}");
        }
    }
    assert_eq!(error(""), "line 1, column 1: expected `graph`, found the end of the text");
    assert_eq!(error("graph g"), "line 1, column 7: expected `(` before the inputs, found `g`");
    assert_eq!(error("graph (%x) -> () { return }"), "line 1, column 8: %x is not defined before its use");
    assert_eq!(
        error("graph (%x: f32 %y: f32) -> () { return }"),
        "line 1, column 16: expected `,` or `)` after an input, found `%y`"
    );
    assert_eq!(
        error("graph () -> (y: ?) { return }"),
        "line 1, column 22: the graph has 1 outputs, found 0 results"
    );
    assert_eq!(error("graph () -> (y: ?) { return _ }"), "line 1, column 22: results cannot be absent");
    assert_eq!(
        error("graph () -> (y) { return }"),
        "line 1, column 15: expected `:` and a type (`?` when unknown) after the output's name, found `)`"
    );
    assert_eq!(
        error("graph () -> () {"),
        "line 1, column 17: expected a statement or `return`, found the end of the text"
    );
    assert_eq!(
        error("graph () -> () { return } graph"),
        "line 1, column 27: expected the end of the text after the graph, found `graph`"
    );
    assert_eq!(
        error("# é\ngraph (é"),
        "line 2, column 8: 'é' does not start anything; quote names that are not plain words"
    );
}

#[test]
fn weights_beside_the_text_must_fit_it() {
    let find = |line: &str| parse(&body(line), &Ones).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        find("%fc1.weight = weight : f32[2, 16] = hash \"0000000000000000\""),
        "line 2, column 39: no tensor named \"fc1.weight\" has the type f32[2, 16]"
    );
    assert_eq!(
        find("%fc1.weight = weight : f32[16, 2] = hash \"0000000000000000\""),
        "line 2, column 39: the tensor named \"fc1.weight\" has other contents than hash 0000000000000000"
    );
    let graph = parse(&body("%fc1.weight = weight : f32[n, 2]"), &Ones).unwrap();
    assert_eq!(
        print(&graph).lines().nth(1).unwrap().split(" hash").next(),
        Some("  %fc1.weight = weight : f32[n, 2] = f32[16, 2]")
    );
}

#[test]
fn depth_is_limited() {
    let nest =
        |open: &str, middle: &str, close: &str, n| format!("{}{middle}{}", open.repeat(n), close.repeat(n));
    let graph = |n| {
        nest(
            "graph () -> () { () = opaque {op_type = If} with body = ",
            "graph () -> () { return }",
            " return }",
            n,
        )
    };
    let ty = |n| body(&format!("%0 = relu %x : {}", nest("sequence(", "?", ")", n)));
    let list = |n| body(&format!("%0 = squeeze %x {{axes = {}}}", nest("[", "", "]", n)));
    round_trip(&read(&graph(64)));
    round_trip(&read(&ty(64)));
    assert!(error(&list(60)).contains("expected i64"), "{}", error(&list(60)));
    for text in [graph(65), ty(65), list(65), graph(100_000), ty(100_000), list(100_000)] {
        assert!(error(&text).contains("nested more than 64 levels deep"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_round_trip(graph in any_graph(2)) {
        round_trip(&graph);
    }

    #[test]
    fn arbitrary_text_is_no_crash(text in any::<String>(), tokens in "(graph|\\(|\\)|->|\\{|\\}|%x|%0|=|:|f32|relu|weight|with|return|,|\\[|\\]|\"|@|as|[0-9]| |\n){0,60}") {
        for text in [body(&text), text, body(&tokens), tokens] {
            if let Ok(graph) = parse(&text, &NoWeights) {
                round_trip(&graph);
            }
        }
    }

    /// A valid text with characters removed, doubled or swapped for others.
    #[test]
    fn damaged_text_is_no_crash(
        graph in any_graph(1),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0..3u8, "[ -~\n]"), 1..4),
    ) {
        let mut text: Vec<char> = print(&graph).chars().collect();
        for (at, kind, other) in edits {
            let at = at.index(text.len());
            match kind {
                0 => drop(text.remove(at)),
                1 => text.insert(at, text[at]),
                _ => text[at] = other.chars().next().unwrap(),
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(graph) = parse(&text, &WeightsOf::new(&graph)) {
            round_trip(&graph);
        }
    }
}
