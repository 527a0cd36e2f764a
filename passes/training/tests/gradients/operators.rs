//! Expansions of operators outside the IR, beside what onnxruntime computes (operators.py writes operators.txt).

use std::collections::BTreeMap;

use mqc_ir::op::Opaque;
use mqc_ir::{Attribute, DType, F32, Graph, Op, Tensor, Type, Value};
use mqc_training::Builder;
use mqc_training::expand::{expand, expand_operators};

use super::harness::{Arg, Case, check, compile, indices, outputs, run};

const MICROSOFT: &str = "com.microsoft";

fn wave(seed: u32, shape: &[usize]) -> Arg {
    let value = |k: usize| (0.7 * k as f64 * f64::from(seed + 1) + f64::from(seed)).sin() as f32;
    Arg::Real(shape.to_vec(), (0..shape.iter().product()).map(value).collect())
}

fn ints32(shape: &[usize], values: &[i32]) -> Arg {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Arg::Fixed(Tensor::new(DType::I32, shape.to_vec(), bytes).unwrap())
}

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn float(value: f32) -> Attribute {
    Attribute::Float(F32(value))
}

fn case(domain: &str, op_type: &str, args: Vec<Arg>, attributes: &[(&str, Attribute)]) -> Case {
    Case::new(
        Op::Opaque(Opaque {
            domain: domain.to_owned(),
            op_type: op_type.to_owned(),
            overload: String::new(),
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        }),
        args,
    )
}

/// The nodes, with those outputs that onnxruntime was asked for.
fn cases() -> Vec<(&'static str, Case, Vec<usize>)> {
    let x = || wave(1, &[2, 3, 8]);
    let cache = || [wave(2, &[6, 2]), wave(3, &[6, 2])];
    let positions = || indices(&[2, 3], &[0, 1, 2, 3, 1, 5]);
    let heads = |count| ("num_heads", int(count));
    let epsilon = || ("epsilon", float(1e-3));
    let ms = |op_type, args, attributes: &[_]| case(MICROSOFT, op_type, args, attributes);
    let lengths = || [ints32(&[2], &[2, 2]), ints32(&[], &[3])];
    let none = || [Arg::Absent, Arg::Absent];
    let grouped = |heads: i64, kv: i64| [("num_heads", int(heads)), ("kv_num_heads", int(kv))];
    let bools = |shape: &[usize], v: &[u8]| {
        Arg::Fixed(Tensor::new(DType::Bool, shape.to_vec(), v.to_vec().into()).unwrap())
    };
    let mut group_query = vec![wave(1, &[2, 3, 32]), wave(4, &[2, 3, 16]), wave(5, &[2, 3, 16])];
    group_query.extend(none().into_iter().chain(lengths()).chain([wave(2, &[6, 8]), wave(3, &[6, 8])]));
    let mut window = vec![wave(1, &[2, 3, 64])];
    window.extend(none().into_iter().chain(none()).chain(lengths()));
    let [cos, sin] = cache();
    vec![
        ("fast_gelu", ms("FastGelu", vec![x(), wave(2, &[8])], &[]), vec![0]),
        ("bias_gelu", ms("BiasGelu", vec![x(), wave(2, &[8])], &[]), vec![0]),
        ("quick_gelu", ms("QuickGelu", vec![x()], &[("alpha", float(1.5))]), vec![0]),
        (
            "skip_layer_normalization",
            ms(
                "SkipLayerNormalization",
                vec![x(), wave(2, &[2, 3, 8]), wave(3, &[8]), wave(4, &[8]), wave(5, &[8])],
                &[epsilon()],
            )
            .outputs(4),
            vec![0, 3],
        ),
        (
            "skip_simplified_layer_normalization",
            ms(
                "SkipSimplifiedLayerNormalization",
                vec![x(), wave(2, &[2, 3, 8]), wave(3, &[8])],
                &[epsilon()],
            )
            .outputs(4),
            vec![0, 3],
        ),
        (
            "simplified_layer_normalization",
            case(
                "",
                "SimplifiedLayerNormalization",
                vec![x(), wave(2, &[8])],
                &[("axis", int(-1)), epsilon()],
            ),
            vec![0],
        ),
        (
            "rotary_halves",
            ms("RotaryEmbedding", vec![x(), positions(), cos.clone(), sin.clone()], &[]),
            vec![0],
        ),
        (
            "rotary_neighbours",
            ms(
                "RotaryEmbedding",
                vec![x(), indices(&[1], &[2]), cos.clone(), sin.clone()],
                &[("interleaved", int(1))],
            ),
            vec![0],
        ),
        (
            "rotary_part",
            ms(
                "RotaryEmbedding",
                vec![wave(1, &[2, 2, 3, 8]), positions(), cos.clone(), sin.clone()],
                &[("rotary_embedding_dim", int(4)), heads(2)],
            ),
            vec![0],
        ),
        ("rotary_onnx", case("", "RotaryEmbedding", vec![x(), cos, sin, positions()], &[heads(2)]), vec![0]),
        (
            "rotary_onnx_rows",
            case(
                "",
                "RotaryEmbedding",
                vec![wave(1, &[2, 2, 3, 4]), wave(2, &[2, 3, 2]), wave(3, &[2, 3, 2])],
                &[("interleaved", int(1))],
            ),
            vec![0],
        ),
        (
            "attention",
            ms(
                "Attention",
                vec![x(), wave(2, &[8, 24]), wave(3, &[24])],
                &[heads(2), ("unidirectional", int(1))],
            ),
            vec![0],
        ),
        (
            "attention_masked",
            ms(
                "Attention",
                vec![x(), wave(2, &[8, 20]), wave(3, &[20]), ints32(&[2, 3], &[1, 1, 1, 1, 1, 0])],
                &[heads(2), ("qkv_hidden_sizes", Attribute::Ints(vec![8, 8, 4]))],
            ),
            vec![0],
        ),
        (
            "multi_head",
            ms(
                "MultiHeadAttention",
                vec![
                    x(),
                    wave(4, &[2, 5, 8]),
                    wave(5, &[2, 5, 8]),
                    wave(6, &[24]),
                    ints32(&[2, 5], &[1, 1, 1, 1, 0, 1, 0, 1, 1, 1]),
                    wave(7, &[1, 2, 3, 5]),
                ],
                &[heads(2), ("scale", float(0.4))],
            ),
            vec![0],
        ),
        (
            "multi_head_causal",
            ms(
                "MultiHeadAttention",
                vec![x(), wave(4, &[2, 3, 8]), wave(5, &[2, 3, 8])],
                &[heads(4), ("unidirectional", int(1))],
            ),
            vec![0],
        ),
        (
            "group_query",
            ms(
                "GroupQueryAttention",
                group_query,
                &[grouped(2, 1).as_slice(), &[("do_rotary", int(1))]].concat(),
            )
            .outputs(3),
            vec![0, 1, 2],
        ),
        (
            "group_query_window",
            ms(
                "GroupQueryAttention",
                window,
                &[grouped(4, 2).as_slice(), &[("local_window_size", int(2))]].concat(),
            )
            .outputs(3),
            vec![0, 1, 2],
        ),
        (
            "attention_onnx",
            case(
                "",
                "Attention",
                vec![
                    wave(1, &[2, 3, 16]),
                    wave(4, &[2, 5, 8]),
                    wave(5, &[2, 5, 8]),
                    bools(&[3, 5], &[1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1]),
                ],
                &[("q_num_heads", int(4)), ("kv_num_heads", int(2))],
            ),
            vec![0],
        ),
        (
            "attention_onnx_causal",
            case(
                "",
                "Attention",
                vec![wave(1, &[2, 2, 3, 4]), wave(4, &[2, 2, 3, 4]), wave(5, &[2, 2, 3, 4])],
                &[("is_causal", int(1)), ("scale", float(0.3)), ("softcap", float(0.8))],
            ),
            vec![0],
        ),
    ]
}

/// Adds the node with outputs of the types that its expansion has; the values that are asked for.
fn typed(b: &mut Builder, case: &Case, asked: &[usize]) -> (Vec<Value>, Vec<Value>) {
    let mut operands = vec![];
    let mut inputs = vec![];
    for (i, arg) in case.args.iter().enumerate() {
        operands.push(match arg {
            Arg::Real(shape, _) => {
                inputs.push(b.input(format!("x{i}"), DType::F32, shape));
                inputs.last().copied()
            }
            Arg::Fixed(tensor) => Some(b.constant(tensor.clone())),
            Arg::Absent => None,
        });
    }
    let values = b.node(case.op.clone(), &operands, case.outputs).unwrap();
    let expanded = expand(b, values[0].node).unwrap().unwrap();
    for (value, expanded) in values.iter().zip(&expanded) {
        let ty = b.graph.ty(*expanded).clone();
        b.graph.set_type(*value, ty);
    }
    (inputs, asked.iter().map(|slot| values[*slot]).collect())
}

#[test]
fn expansions_compute_what_onnxruntime_computes() {
    let recorded: BTreeMap<&str, Vec<f64>> = include_str!("operators.txt")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, values)| (name, values.split(' ').map(|v| v.parse().unwrap()).collect()))
        .collect();
    let cases = cases();
    assert_eq!(cases.len(), recorded.len());
    for (name, case, asked) in cases {
        let mut graph = Graph::new("test");
        let (_, values) = typed(&mut Builder::new(&mut graph, "t"), &case, &asked);
        graph.set_outputs(outputs(&values));
        expand_operators(&mut graph).unwrap();
        let opaque = |id: &mqc_ir::NodeId| matches!(graph.node(*id).map(|n| &n.op), Some(Op::Opaque(_)));
        assert!(!graph.ids().iter().any(opaque), "{name}");
        let found: Vec<f64> = run(&mut compile(&graph), &case.reals()).concat();
        let expected = &recorded[name];
        assert_eq!(found.len(), expected.len(), "{name}");
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 2e-4, "{name}: element {i} is {found}, expected {expected}");
        }
    }
}

#[test]
fn gradients_flow_through_operators() {
    for (name, case, asked) in cases() {
        check(name, &case.reals(), |b| Ok(typed(b, &case, &asked)));
    }
}

#[test]
fn forms_without_an_expansion_say_why() {
    let x = || wave(1, &[2, 3, 8]);
    let heads = || ("num_heads", int(2));
    let past = wave(9, &[2, 2, 1, 4]);
    let refused = [
        (
            case(
                MICROSOFT,
                "MultiHeadAttention",
                vec![x(), x(), x(), Arg::Absent, Arg::Absent, Arg::Absent, past.clone(), past],
                &[heads()],
            ),
            "operand 6 is a cache; training graphs have none",
        ),
        (
            case(MICROSOFT, "MultiHeadAttention", vec![x(), x(), x()], &[]),
            "its attribute num_heads is missing",
        ),
        (
            case(MICROSOFT, "MultiHeadAttention", vec![x(), x(), x()], &[("num_heads", int(3))]),
            "8 elements do not divide into 3 heads",
        ),
        (
            case(MICROSOFT, "Attention", vec![x(), wave(2, &[8, 24])], &[heads(), ("do_rotary", int(1))]),
            "its attribute do_rotary is 1; only 0 has an expansion",
        ),
        (
            case(
                "",
                "RotaryEmbedding",
                vec![wave(1, &[2, 2, 3, 4]), wave(2, &[2, 3, 3]), wave(3, &[2, 3, 3])],
                &[],
            ),
            "it turns 6 elements of heads of 4",
        ),
    ];
    for (case, reason) in refused {
        let mut graph = Graph::new("test");
        let mut b = Builder::new(&mut graph, "t");
        let (inputs, _) = case.build(&mut b).unwrap();
        let id = b.graph.users(inputs[0])[0].0;
        let y = Value { node: id, slot: 0 };
        b.graph.set_type(y, Type::tensor(DType::F32, vec![]));
        let error = expand(&mut b, id).unwrap_err().to_string();
        assert!(error.ends_with(reason), "{error}");
        let Op::Opaque(op) = &case.op else { unreachable!() };
        assert!(error.contains(&op.op_type), "{error}");
    }
}
