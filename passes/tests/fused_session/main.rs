//! A fused session gives the numbers of one that is not: an encoder as BERT and a decoder as Llama, with nested weights at
//! several widths, with masks, several sequences, and a cache.

mod models;

use std::collections::BTreeMap;
use std::sync::Arc;

use mqc_ir::op::Nested;
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width, Widths};
use mqc_ir::{Activations, DType, Graph, Op, Tensor, infer, text};
use mqc_onnx::Model;
use mqc_passes::decoder::cache_attention::PAST_POSITIONS;
use mqc_passes::mqc_fuse::Report;
use mqc_passes::{Context, Debug, FuseSettings, Options, Pipeline};
use mqc_runtime::Session;
use mqc_runtime::cpu::Engine;
use mqc_runtime::nested::{QuantizeSpec, WeightView, pack, quantize_rows, row_bytes};

type Inputs = BTreeMap<String, Tensor>;

/// Both sessions of a model, and what the fused one is made of.
struct Pair {
    plain: Session,
    fused: Session,
    inputs: Vec<String>,
    ops: Vec<String>,
    report: Report,
}

impl Pair {
    fn new(source: &str, before: Option<Pipeline>, activations: Activations) -> Pair {
        let mut graph = text::parse(source, &text::NoWeights).unwrap();
        infer::infer(&mut graph).unwrap();
        nest(&mut graph);
        let options = Options::default();
        let mut context = Context::new(&options, None);
        if let Some(pipeline) = before {
            pipeline.run(&mut graph, &mut context, &Debug::default()).unwrap();
        }
        let plain = Model::from_graph(graph.clone());
        context.fuse = Some(FuseSettings::session().unwrap());
        Pipeline::fuse().run(&mut graph, &mut context, &Debug::default()).unwrap();
        let report = context.fused.unwrap();
        let session = |model| Session::on(model, &Arc::new(Engine::new(2, activations))).unwrap();
        let name = |id: &mqc_ir::NodeId| graph.node(*id).unwrap().outputs[0].name.clone();
        let inputs = graph.inputs().iter().map(name).collect();
        let op = |id: mqc_ir::NodeId| match graph.node(id).map(|n| &n.op) {
            Some(Op::Opaque(opaque)) => Some(opaque.op_type.clone()),
            Some(_) | None => None,
        };
        let ops = graph.ids().into_iter().filter_map(op).collect();
        Pair { plain: session(&plain), fused: session(&Model::from_graph(graph)), inputs, ops, report }
    }

    /// Runs both at one width for all layers.
    fn agree(&self, bits: u8, inputs: &Inputs, tolerance: f32) {
        let width = Width::new(bits).unwrap();
        let run = |session: &Session| {
            let widths = session.layers().keys().map(|layer| (layer.clone(), width)).collect();
            session.run(&widths, inputs).unwrap()
        };
        for ((name, expected), (_, found)) in run(&self.plain).into_iter().zip(run(&self.fused)) {
            assert_eq!(expected.shape(), found.shape(), "{name}");
            let (a, b) = (expected.to_f32_vec().unwrap(), found.to_f32_vec().unwrap());
            let most = a.iter().fold(0.0f32, |most, a| most.max(a.abs()));
            assert!(most.is_finite() && most > 0.0, "{name} proves nothing: {most}");
            let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
            assert!(worst <= tolerance * most, "{name} at {bits} bits: differs by {worst} of {most}");
        }
    }

    /// Each operator of the session as often as said.
    fn has(&self, expected: &[(&str, usize)]) {
        for (op, count) in expected {
            assert_eq!(self.ops.iter().filter(|found| found == op).count(), *count, "{op}: {}", self.report);
        }
    }
}

/// Every product with a constant matrix reads bit planes instead; groups of 8 columns in every other one.
fn nest(graph: &mut Graph) {
    for (at, id) in graph.order().unwrap().into_iter().enumerate() {
        let weight = match graph.node(id).map(|n| &n.op) {
            Some(Op::MatMul) => graph.operand(id, 1).and_then(|w| graph.constant(w)).cloned(),
            Some(_) | None => None,
        };
        let Some(weight) = weight else { continue };
        let &[cols, rows] = weight.shape() else { continue };
        let grouping = if at % 2 == 0 { Grouping::PerChannel } else { Grouping::Group(8) };
        let values = weight.to_f32_vec().unwrap();
        let view = WeightView::transposed(&values, cols, rows).unwrap();
        let spec = QuantizeSpec {
            scheme: Scheme::Asymmetric,
            mode: SliceMode::Midpoint,
            grouping,
            range: RangeMethod::Minmax,
            widths: Widths::default(),
            lambda: vec![1.0; Widths::default().count()],
            allow_nonfinite: false,
        };
        let codes = quantize_rows(&view, 0..rows, &spec).unwrap();
        let layer = graph.label(id);
        let mut add = |part: &str, tensor: Tensor| graph.add_weight(format!("{layer}.{part}"), tensor);
        let map = vec![rows, grouping.groups(cols)];
        let mut operands = vec![
            add("width", Tensor::i64_scalar(8)),
            add("scale", Tensor::from_f32(map.clone(), &codes.scale).unwrap()),
            add("zero", Tensor::from_f32(map, &codes.zero).unwrap()),
        ];
        for (p, plane) in pack(&codes.codes, rows, cols).unwrap().into_iter().enumerate() {
            let plane = Tensor::new(DType::U8, vec![rows, row_bytes(cols)], plane.into()).unwrap();
            operands.push(add(&format!("plane{p}"), plane));
        }
        let nested = Nested { layer, mode: spec.mode, grouping, cols: cols as u64, map_widths: vec![] };
        let x = graph.operand(id, 0);
        graph.node_mut(id).unwrap().op = Op::NestedMatMul(nested);
        let operands: Vec<_> = [x].into_iter().chain(operands.into_iter().map(Some)).collect();
        graph.set_operands(id, &operands).unwrap();
    }
    graph.erase_dead();
}

/// Reproducible values in [-1, 1).
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_f32(shape.to_vec(), &values).unwrap()
}

/// 0 where a position is seen, a large negative number where not: new position `row` sees `past + row` others before it.
fn causal(rows: usize, past: usize) -> Tensor {
    let seen = |row: usize| (0..past + rows).map(move |at| if at <= past + row { 0.0 } else { -1e9 });
    let values: Vec<f32> = (0..rows).flat_map(seen).collect();
    Tensor::from_f32(vec![rows, past + rows], &values).unwrap()
}

fn named(inputs: Vec<(&str, Tensor)>) -> Inputs {
    inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

fn encoder_inputs(batch: usize, seq: usize) -> Inputs {
    // The sequences have different lengths.
    let token = |at: usize| if at % seq + at / seq < seq { 0.0 } else { -1e9 };
    let mask: Vec<f32> = (0..batch * seq).map(token).collect();
    let mask = Tensor::from_f32(vec![batch, 1, 1, seq], &mask).unwrap();
    named(vec![("x0", noise(&[batch, seq, 24], 1)), ("mask", mask)])
}

fn decoder_inputs(batch: usize, seq: usize, past: usize) -> Inputs {
    named(vec![
        ("x0", noise(&[batch, seq, 32], 1 + past as u64)),
        ("cos", noise(&[seq, 8], 2 + past as u64)),
        ("sin", noise(&[seq, 8], 3 + past as u64)),
        ("mask", causal(seq, past)),
    ])
}

#[test]
fn an_encoder_is_the_same() {
    let pair = Pair::new(&models::encoder(3), None, Activations::F32);
    pair.has(&[("Attention", 3), ("LayerNorm", 6), ("Epilogue", 18)]);
    for (batch, seq) in [(1, 1), (1, 17), (3, 5), (2, 130)] {
        for bits in [8, 4, 2, 1] {
            pair.agree(bits, &encoder_inputs(batch, seq), 2e-5);
        }
    }
}

#[test]
fn a_decoder_is_the_same() {
    let pair = Pair::new(&models::decoder(3, false), None, Activations::F32);
    pair.has(&[("Attention", 3), ("Rotary", 6), ("RmsNorm", 7), ("Epilogue", 9)]);
    for (batch, seq) in [(1, 1), (1, 17), (3, 5), (2, 130)] {
        for bits in [8, 4, 2, 1] {
            pair.agree(bits, &decoder_inputs(batch, seq, 0), 2e-5);
        }
    }
}

#[test]
fn a_decoder_with_a_cache_is_the_same() {
    let pair = Pair::new(&models::decoder(3, true), Some(Pipeline::decode()), Activations::F32);
    // The last norm is of the last position alone, and how many positions a slice has is not known.
    pair.has(&[("CachedAttention", 3), ("Rotary", 6), ("RmsNorm", 6), ("Epilogue", 9)]);
    for bits in [8, 3] {
        let mut past = 0;
        for new in [7, 1, 1, 130, 1] {
            pair.agree(bits, &with_past(decoder_inputs(1, new, past), &pair, past), 2e-5);
            past += new;
            assert_eq!(pair.fused.positions(), past);
        }
        pair.plain.truncate(0);
        pair.fused.truncate(0);
    }
}

/// The input that says how many positions were read, where the model has it.
fn with_past(mut inputs: Inputs, pair: &Pair, past: usize) -> Inputs {
    if pair.inputs.iter().any(|name| name == PAST_POSITIONS) {
        let positions = Tensor::new(DType::U8, vec![past], vec![0; past].into()).unwrap();
        inputs.insert(PAST_POSITIONS.to_owned(), positions);
    }
    inputs
}

#[test]
fn rounded_activations_are_rounded_alike() {
    for activations in [Activations::default(), Activations::Int8] {
        let pair = Pair::new(&models::decoder(1, false), None, activations);
        for bits in [8, 2] {
            pair.agree(bits, &decoder_inputs(2, 9, 0), 3e-2);
        }
    }
}
