//! Whole graphs: where cotangents meet, where they stop, and what is generated.

use mqc_ir::op::{PadMode, Reduction, Unary};
use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, Op, Tensor, Value, text};
use mqc_training::autodiff::vjp;
use mqc_training::{Builder, Error};

use super::cases::slice_modes;
use super::harness::{Case, check, compile, numbers, outputs, real, run};

type Inputs = Vec<(Vec<usize>, Vec<f64>)>;

fn inputs(shapes: &[&[usize]]) -> Inputs {
    let case = Case::new(Op::Identity, (1..).zip(shapes).map(|(seed, s)| real(seed, s, -2.0, 2.0)).collect());
    case.reals()
}

fn check_graph(
    name: &str,
    shapes: &[&[usize]],
    f: impl FnOnce(&mut Builder, &[Value]) -> Result<Value, Error>,
) {
    check(name, &inputs(shapes), |b| {
        let named = shapes.iter().enumerate();
        let xs: Vec<Value> = named.map(|(i, shape)| b.input(format!("x{i}"), DType::F32, shape)).collect();
        let y = f(b, &xs)?;
        Ok((xs, vec![y]))
    });
}

#[test]
fn contributions_meet() {
    check_graph("x x + x", &[&[2, 3]], |b, x| {
        let square = b.mul(x[0], x[0])?;
        b.add(square, x[0])
    });
    check_graph("a weight that is a table and a product", &[&[4, 3]], |b, x| {
        let rows = b.ints(&[2, 0, 2]);
        let rows = b.op(Op::Gather { axis: 0 }, &[x[0], rows])?;
        let turned = b.transpose(x[0], &[1, 0])?;
        b.matmul(rows, turned)
    });
    check_graph("one operand twice in a composite", &[&[4]], |b, x| {
        let op = Op::LayerNormalization { axis: -1, epsilon: mqc_ir::F32(1e-3), stash_type: 1 };
        let operands = [Some(x[0]), Some(x[0]), Some(x[0])];
        // Mean and deviation are differentiated too, so this goes through the expansion.
        let all = b.node(op, &operands, 3)?;
        let sum = b.mul(all[0], all[1])?;
        b.mul(sum, all[2])
    });
}

#[test]
fn small_cotangents_count_what_they_stand_for() {
    check_graph("mean of a broadcast product", &[&[3, 1], &[4], &[]], |b, x| {
        let product = b.mul(x[0], x[1])?;
        let sum = b.add(product, x[2])?;
        let exp = b.unary(Unary::Tanh, x[1])?;
        let sum = b.add(sum, exp)?;
        let mean = b.reduce(Reduction::Mean, sum, &[0, 1], false)?;
        b.mul(mean, x[2])
    });
    check_graph("a sum behind an expansion", &[&[2, 1]], |b, x| {
        let wide = b.expand(x[0], &[3, 2, 5])?;
        let sum = b.sum_all(wide)?;
        b.mul(sum, sum)
    });
    check_graph("a sum behind a pad, a product and a pooling", &[&[1, 2, 3, 3], &[3, 2]], |b, x| {
        let pads = b.ints(&[0, 0, 1, 0, 0, 0, 0, 1]);
        let padded = b.op(Op::Pad { mode: PadMode::Edge }, &[x[0], pads])?;
        let pooled = b.op(Op::GlobalAveragePool, &[padded])?;
        let scaled = b.mul(x[0], pooled)?;
        let y = b.matmul(scaled, x[1])?;
        let log = b.op(Op::LogSoftmax { axis: 2, flatten: false }, &[y])?;
        b.sum_all(log)
    });
}

#[test]
fn leaves_and_stops_end_the_walk() {
    let mut graph = Graph::new("test");
    let mut b = Builder::new(&mut graph, "t");
    let x = b.input("x", DType::F32, &[2]);
    let middle = b.unary(Unary::Exp, x).unwrap();
    let y = b.mul(middle, x).unwrap();
    let one = b.scalar(1.0);
    // x itself, and exp(x) as a variable of its own.
    let found = vjp(&mut b, &[(y, one)], &[x, middle], &[]).unwrap();
    // Through exp(x) nothing flows.
    let stopped = vjp(&mut b, &[(y, one)], &[x], &[middle]).unwrap();
    // Two cotangents at once, and a value that nothing depends on.
    let both = vjp(&mut b, &[(y, one), (middle, one)], &[x], &[]).unwrap();
    let unused = b.input("unused", DType::F32, &[3]);
    assert_eq!(vjp(&mut b, &[(y, one)], &[unused], &[]).unwrap(), [None]);
    assert_eq!(vjp(&mut b, &[(y, one)], &[x], &[x]).unwrap(), [None]);
    let all = [found, stopped, both].concat();
    graph.set_outputs(outputs(&all.iter().map(|v| v.unwrap()).collect::<Vec<_>>()));
    let found = run(&mut compile(&graph), &[(vec![2], vec![0.5, 1.0]), (vec![3], vec![0.0; 3])]);
    let exp = [0.5f64.exp(), 1f64.exp()];
    let expected = [exp, [0.5, 1.0], exp, [exp[0] * 2.5, exp[1] * 3.0]];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?} {expected:?}");
    }
}

#[test]
fn a_cotangent_must_fit_its_value() {
    let mut graph = Graph::new("test");
    let mut b = Builder::new(&mut graph, "t");
    let x = b.input("x", DType::F32, &[2, 3]);
    let y = b.unary(Unary::Exp, x).unwrap();
    let wrong = b.zeros(&[2]).unwrap();
    let error = vjp(&mut b, &[(y, wrong)], &[x], &[]).unwrap_err().to_string();
    let message = "the cotangent of \"t/exp_1\": has shape [2], which does not broadcast to [2, 3]";
    assert_eq!(error, message);
}

#[test]
fn a_fake_slice_passes_the_gradient_inside_the_range_of_codes() {
    for mode in slice_modes() {
        let mut graph = Graph::new("test");
        let mut b = Builder::new(&mut graph, "t");
        let x = b.input("x", DType::F32, &[6]);
        let y = b.op(Op::FakeSlice { width: Width::new(3).unwrap(), mode }, &[x]).unwrap();
        let dy = b.constant(Tensor::from_f32(vec![6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
        let found = vjp(&mut b, &[(y, dy)], &[x], &[]).unwrap()[0].unwrap();
        graph.set_outputs(outputs(&[found]));
        let found = run(&mut compile(&graph), &[(vec![6], vec![-0.1, 0.0, 100.3, 254.9, 255.0, 255.1])]);
        assert_eq!(found[0], [0.0, 2.0, 3.0, 4.0, 5.0, 0.0], "{mode}");
    }
}

/// The mean cross-entropy of rows of logits with one label each.
fn cross_entropy(b: &mut Builder, logits: Value, labels: &[i64]) -> Result<Value, Error> {
    let log = b.op(Op::LogSoftmax { axis: -1, flatten: false }, &[logits])?;
    let labels = b.constant(Tensor::from_i64(vec![labels.len(), 1], labels)?);
    let picked = b.op(Op::GatherElements { axis: 1 }, &[log, labels])?;
    let mean = b.reduce(Reduction::Mean, picked, &[0, 1], false)?;
    b.neg(mean)
}

fn mlp(b: &mut Builder, x: &[Value]) -> Result<Value, Error> {
    let hidden = b.matmul(x[0], x[1])?;
    let hidden = b.add(hidden, x[2])?;
    let hidden = b.unary(Unary::Relu, hidden)?;
    let logits = b.matmul(hidden, x[3])?;
    let logits = b.add(logits, x[4])?;
    cross_entropy(b, logits, &[1, 0, 1, 2])
}

const MLP: [&[usize]; 5] = [&[4, 3], &[3, 5], &[5], &[5, 3], &[3]];

#[test]
fn a_network_learns_by_central_differences() {
    check_graph("mlp", &MLP, mlp);
}

#[test]
fn the_gradient_graph_of_a_network() {
    let mut graph = Graph::new("mlp");
    let mut b = Builder::new(&mut graph, "forward");
    let named = ["x", "w1", "b1", "w2", "b2"].into_iter().zip(MLP);
    let x: Vec<Value> = named.map(|(name, shape)| b.input(name, DType::F32, shape)).collect();
    let loss = mlp(&mut b, &x).unwrap();
    b.set_scope("grad");
    let one = b.scalar(1.0);
    let gradients = vjp(&mut b, &[(loss, one)], &x[1..], &[]).unwrap();
    let values: Vec<Value> = [loss].into_iter().chain(gradients.into_iter().flatten()).collect();
    graph.set_outputs(outputs(&values));
    graph.erase_dead();
    insta::assert_snapshot!(text::print(&graph), @r"
    graph @mlp(
        %x: f32[4, 3],
        %w1: f32[3, 5],
        %b1: f32[5],
        %w2: f32[5, 3],
        %b2: f32[3]
    ) -> (
        out0: ?,
        out1: ?,
        out2: ?,
        out3: ?,
        out4: ?
    ) {
      %0 = mat_mul %x, %w1 : f32[4, 5] @forward/mat_mul_5
      %1 = add %0, %b1 : f32[4, 5] @forward/add_6
      %2 = relu %1 : f32[4, 5] @forward/relu_7
      %3 = mat_mul %2, %w2 : f32[4, 3] @forward/mat_mul_8
      %4 = add %3, %b2 : f32[4, 3] @forward/add_9
      %5 = log_softmax %4 {axis = -1} : f32[4, 3] @forward/log_softmax_10
      %forward/constant_11 = weight : i64[4, 1] = [1, 0, 1, 2]
      %6 = gather_elements %5, %forward/constant_11 {axis = 1} : f32[4, 1] @forward/gather_elements_12
      %forward/constant_13 = weight : i64[2] = [0, 1]
      %7 = reduce %6, %forward/constant_13 {keepdims = false, kind = mean} : f32[] @forward/reduce_14
      %8 = neg %7 : f32[] @forward/neg_15
      %grad/constant_16 = weight : f32[] = 1.0
      %9 = neg %grad/constant_16 : f32[] @grad/neg_17
      %grad/constant_18 = weight : i64[2] = [1, 1]
      %10 = reshape %9, %grad/constant_18 {allowzero = true} : f32[1, 1] @grad/reshape_19
      %grad/constant_20 = weight : f32[] = 0.25
      %11 = mul %10, %grad/constant_20 : f32[1, 1] @grad/mul_21
      %grad/constant_22 = weight : i64[2] = [4, 1]
      %12 = expand %11, %grad/constant_22 : f32[4, 1] @grad/expand_23
      %13 = exp %5 : f32[4, 3] @grad/exp_28
      %14 = neg %12 : f32[4, 1] @grad/neg_29
      %15 = mul %13, %14 : f32[4, 3] @grad/mul_30
      %16 = scatter_elements %15, %forward/constant_11, %12 {axis = 1, reduction = add} : f32[4, 3] @grad/scatter_elements_31
      %grad/constant_32 = weight : i64[1] = [0]
      %17 = reduce %16, %grad/constant_32 {keepdims = false, kind = sum} : f32[3] @grad/reduce_33
      %18 = transpose %w2 {perm = [1, 0]} : f32[3, 5] @grad/transpose_34
      %19 = mat_mul %16, %18 : f32[4, 5] @grad/mat_mul_35
      %20 = transpose %2 {perm = [1, 0]} : f32[5, 4] @grad/transpose_36
      %21 = mat_mul %20, %16 : f32[5, 3] @grad/mat_mul_37
      %grad/constant_38 = weight : f32[] = 0.0
      %22 = greater %2, %grad/constant_38 : bool[4, 5] @grad/greater_39
      %grad/constant_40 = weight : f32[] = 0.0
      %23 = select %22, %19, %grad/constant_40 : f32[4, 5] @grad/select_41
      %grad/constant_42 = weight : i64[1] = [0]
      %24 = reduce %23, %grad/constant_42 {keepdims = false, kind = sum} : f32[5] @grad/reduce_43
      %25 = transpose %x {perm = [1, 0]} : f32[3, 4] @grad/transpose_44
      %26 = mat_mul %25, %23 : f32[3, 5] @grad/mat_mul_45
      return %8, %26, %24, %21, %17
    }
    ");
}

#[test]
fn the_gradient_of_a_matrix_is_one_product() {
    let mut graph = Graph::new("test");
    let mut b = Builder::new(&mut graph, "t");
    let x = b.input("x", DType::F32, &[2, 3, 4]);
    let w = b.constant(Tensor::from_f32(vec![4, 5], &numbers(1, 20, -1.0, 1.0)).unwrap());
    let y = b.matmul(x, w).unwrap();
    let dy = b.input("dy", DType::F32, &[2, 3, 5]);
    let before = b.graph.len();
    let dw = vjp(&mut b, &[(y, dy)], &[w], &[]).unwrap()[0].unwrap();
    let made: Vec<String> = b.graph.ids()[before..]
        .iter()
        .filter_map(|id| b.graph.node(*id).map(|n| text::mnemonic(&n.op)))
        .filter(|name| name != "weight")
        .collect();
    assert_eq!(made, ["reshape", "reshape", "transpose", "mat_mul"]);
    assert_eq!(b.shape(dw).unwrap(), [4, 5]);
}
