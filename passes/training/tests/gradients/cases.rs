//! Nodes of every operation: what its gradient is checked with.

use mqc_ir::op::*;
use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_ir::{DType, F32, Op, Tensor};

use super::harness::{Arg, Case, indices, ints, real};

/// What is expected of the gradient of an operation.
pub enum Expected {
    /// That it agrees with central differences in these.
    Differences(Vec<Case>),
    /// That nothing flows in these.
    Nothing(Vec<Case>),
    /// An error that says why there is none.
    Error(Vec<Case>),
    /// A straight-through estimator, or a node without operands: other tests tell.
    Elsewhere,
}

use Expected::{Differences, Elsewhere, Nothing};

/// All values of an enum, from the first, by a function that the compiler asks to name the next of each.
fn all<T: Copy>(first: T, next: impl Fn(T) -> Option<T>) -> Vec<T> {
    std::iter::successors(Some(first), |kind| next(*kind)).collect()
}

pub fn reductions() -> Vec<Reduction> {
    use Reduction as R;
    all(R::L1, |kind| {
        Some(match kind {
            R::L1 => R::L2,
            R::L2 => R::LogSum,
            R::LogSum => R::LogSumExp,
            R::LogSumExp => R::Max,
            R::Max => R::Mean,
            R::Mean => R::Min,
            R::Min => R::Prod,
            R::Prod => R::Sum,
            R::Sum => R::SumSquare,
            R::SumSquare => return None,
        })
    })
}

fn pad_modes() -> Vec<PadMode> {
    use PadMode as P;
    all(P::Constant, |kind| {
        Some(match kind {
            P::Constant => P::Reflect,
            P::Reflect => P::Edge,
            P::Edge => P::Wrap,
            P::Wrap => return None,
        })
    })
}

pub fn scatters() -> Vec<ScatterReduction> {
    use ScatterReduction as S;
    all(S::None, |kind| {
        Some(match kind {
            S::None => S::Add,
            S::Add => S::Mul,
            S::Mul => S::Max,
            S::Max => S::Min,
            S::Min => return None,
        })
    })
}

pub fn slice_modes() -> Vec<SliceMode> {
    use SliceMode as M;
    all(M::Midpoint, |mode| {
        Some(match mode {
            M::Midpoint => M::Round,
            M::Round => M::Extra,
            M::Extra => return None,
        })
    })
}

fn one(op: Op, args: Vec<Arg>) -> Vec<Case> {
    vec![Case::new(op, args)]
}

fn bools(shape: &[usize], values: &[u8]) -> Arg {
    Arg::Fixed(Tensor::new(DType::Bool, shape.to_vec(), values.to_vec().into()).unwrap())
}

fn window(kernel: &[i64], pads: &[i64], strides: &[i64], dilations: &[i64], group: i64) -> Window {
    Window {
        auto_pad: AutoPad::Notset,
        dilations: dilations.to_vec(),
        group,
        kernel_shape: kernel.to_vec(),
        pads: pads.to_vec(),
        strides: strides.to_vec(),
    }
}

fn auto(auto_pad: AutoPad, window: Window) -> Window {
    Window { auto_pad, pads: vec![], ..window }
}

/// For each operation what is expected, with cases where that can be tried. Attributes of the argument are not looked at.
pub fn expected(op: &Op) -> Expected {
    match op {
        Op::Input | Op::Weight(_) | Op::Constant(_) => Elsewhere,
        Op::Identity => Differences(one(Op::Identity, vec![real(1, &[2, 3], -2.0, 2.0)])),
        Op::Unary(kind) => unary(*kind),
        Op::Binary(kind) => binary(*kind),
        Op::Compare(kind) => {
            Nothing(one(Op::Compare(*kind), vec![real(1, &[2, 3], -2.0, 2.0), real(2, &[3], -2.0, 2.0)]))
        }
        Op::Variadic(kind) => Differences(vec![
            Case::new(
                Op::Variadic(*kind),
                vec![
                    real(1, &[2, 3], -2.0, 2.0),
                    real(2, &[3], -2.0, 2.0),
                    real(3, &[], -1.0, 1.0),
                    real(4, &[2, 1], -1.0, 1.0),
                ],
            ),
            Case::new(Op::Variadic(*kind), vec![real(1, &[2, 3], -2.0, 2.0)]),
        ]),
        Op::Select => Differences(one(
            Op::Select,
            vec![bools(&[2, 1], &[1, 0]), real(1, &[2, 3], -2.0, 2.0), real(2, &[3], -2.0, 2.0)],
        )),
        Op::Clip => {
            let x = real(1, &[3, 5], -2.0, 2.0);
            let bound = |v: f32| Arg::Real(vec![], vec![v]);
            Differences(vec![
                Case::new(Op::Clip, vec![x.clone(), bound(-1.0), bound(1.0)]),
                Case::new(Op::Clip, vec![x.clone(), Arg::Absent, bound(0.5)]),
                Case::new(Op::Clip, vec![x.clone(), bound(0.0)]),
                // Bounds that cross.
                Case::new(Op::Clip, vec![x.clone(), bound(1.0), bound(-1.0)]),
                Case::new(Op::Clip, vec![x]),
            ])
        }
        Op::LeakyRelu { .. } => Differences(one(Op::LeakyRelu { alpha: F32(0.1) }, vec![wide()])),
        Op::Elu { .. } => Differences(one(Op::Elu { alpha: F32(0.7) }, vec![wide()])),
        Op::HardSigmoid { .. } => {
            Differences(one(Op::HardSigmoid { alpha: F32(0.25), beta: F32(0.5) }, vec![wide()]))
        }
        Op::Cast { .. } => Differences(one(Op::Cast { to: DType::F64, saturate: true }, vec![wide()])),
        Op::Reduce { .. } => Differences(reduce()),
        Op::Reshape { .. } => Differences(vec![
            Case::new(Op::Reshape { allowzero: false }, vec![real(1, &[2, 6], -2.0, 2.0), ints(&[0, 3, -1])]),
            Case::new(Op::Reshape { allowzero: true }, vec![real(1, &[1], -2.0, 2.0), ints(&[])]),
        ]),
        Op::Transpose { .. } => Differences(vec![
            Case::new(Op::Transpose { perm: None }, vec![real(1, &[2, 3, 4], -2.0, 2.0)]),
            Case::new(Op::Transpose { perm: Some(vec![2, 0, 1]) }, vec![real(1, &[2, 3, 4], -2.0, 2.0)]),
        ]),
        Op::Expand => Differences(vec![
            Case::new(Op::Expand, vec![real(1, &[3, 1], -2.0, 2.0), ints(&[2, 1, 4])]),
            Case::new(Op::Expand, vec![real(1, &[], -2.0, 2.0), ints(&[2, 2])]),
        ]),
        Op::Squeeze { .. } => Differences(vec![
            Case::new(Op::Squeeze { axes: None }, vec![real(1, &[2, 1, 3, 1], -2.0, 2.0), ints(&[-1])]),
            Case::new(Op::Squeeze { axes: None }, vec![real(1, &[2, 1, 3, 1], -2.0, 2.0)]),
        ]),
        Op::Unsqueeze { .. } => {
            Differences(one(Op::Unsqueeze { axes: None }, vec![real(1, &[2, 3], -2.0, 2.0), ints(&[0, -1])]))
        }
        Op::Flatten { .. } => Differences(one(Op::Flatten { axis: 2 }, vec![real(1, &[2, 3, 2], -2.0, 2.0)])),
        Op::Slice => Differences(slice()),
        Op::Concat { .. } => Differences(one(
            Op::Concat { axis: -1 },
            vec![real(1, &[2, 3], -2.0, 2.0), real(2, &[2, 1], -2.0, 2.0), real(3, &[2, 2], -2.0, 2.0)],
        )),
        Op::Split { .. } => Differences(vec![
            Case::new(
                Op::Split { axis: 1, sizes: None, num_outputs: None },
                vec![real(1, &[2, 6], -2.0, 2.0), ints(&[1, 3, 2])],
            )
            .outputs(3),
            Case::new(
                Op::Split { axis: 0, sizes: None, num_outputs: Some(2) },
                vec![real(1, &[5, 2], -2.0, 2.0)],
            )
            .outputs(2),
        ]),
        Op::Pad { .. } => Differences(pad()),
        Op::Gather { .. } => {
            let x = real(1, &[4, 3, 2], -2.0, 2.0);
            Differences(vec![
                Case::new(Op::Gather { axis: 0 }, vec![x.clone(), indices(&[2, 3], &[0, -1, 2, 2, 2, 1])]),
                Case::new(Op::Gather { axis: 1 }, vec![x.clone(), indices(&[2, 2], &[0, 2, 2, -3])]),
                Case::new(Op::Gather { axis: -1 }, vec![x.clone(), indices(&[3], &[1, 1, 0])]),
                Case::new(Op::Gather { axis: 1 }, vec![x.clone(), indices(&[], &[-1])]),
                Case::new(
                    Op::Gather { axis: 0 },
                    vec![
                        x,
                        Arg::Fixed(
                            Tensor::new(DType::I32, vec![2], vec![1, 0, 0, 0, 3, 0, 0, 0].into()).unwrap(),
                        ),
                    ],
                ),
            ])
        }
        Op::GatherElements { .. } => Differences(vec![
            Case::new(
                Op::GatherElements { axis: 1 },
                vec![real(1, &[3, 4], -2.0, 2.0), indices(&[3, 2], &[0, 0, -1, 2, 1, 3])],
            ),
            Case::new(
                Op::GatherElements { axis: 0 },
                vec![real(1, &[3, 4], -2.0, 2.0), indices(&[2, 3], &[0, 2, 1, 0, -1, 1])],
            ),
        ]),
        Op::GatherNd { .. } => Differences(vec![
            Case::new(
                Op::GatherNd { batch_dims: 0 },
                vec![real(1, &[3, 4, 2], -2.0, 2.0), indices(&[2, 2], &[0, 3, -1, 1])],
            ),
            Case::new(
                Op::GatherNd { batch_dims: 1 },
                vec![real(1, &[2, 4, 2], -2.0, 2.0), indices(&[2, 3, 1], &[0, 3, -1, 1, 1, 2])],
            ),
        ]),
        Op::ScatterElements { .. } => Differences(vec![
            Case::new(
                Op::ScatterElements { axis: 1, reduction: ScatterReduction::None },
                vec![
                    real(1, &[2, 4], -2.0, 2.0),
                    indices(&[2, 2], &[0, 3, -2, 1]),
                    real(2, &[2, 2], -2.0, 2.0),
                ],
            ),
            Case::new(
                Op::ScatterElements { axis: 0, reduction: ScatterReduction::Add },
                vec![
                    real(1, &[3, 2], -2.0, 2.0),
                    indices(&[2, 2], &[0, 2, 0, -1]),
                    real(2, &[2, 2], -2.0, 2.0),
                ],
            ),
        ]),
        Op::ScatterNd { .. } => Differences(vec![
            Case::new(
                Op::ScatterNd { reduction: ScatterReduction::None },
                vec![real(1, &[4, 2], -2.0, 2.0), indices(&[2, 1], &[-1, 1]), real(2, &[2, 2], -2.0, 2.0)],
            ),
            Case::new(
                Op::ScatterNd { reduction: ScatterReduction::Add },
                vec![real(1, &[4, 2], -2.0, 2.0), indices(&[3, 1], &[3, 1, 3]), real(2, &[3, 2], -2.0, 2.0)],
            ),
        ]),
        Op::Tile => Differences(one(Op::Tile, vec![real(1, &[2, 1, 3], -2.0, 2.0), ints(&[1, 4, 2])])),
        Op::Shape { .. } => Nothing(one(Op::Shape { start: 0, end: None }, vec![wide()])),
        Op::Size => Nothing(one(Op::Size, vec![wide()])),
        Op::ConstantOfShape { .. } => Elsewhere,
        Op::Range => Expected::Error(one(
            Op::Range,
            vec![
                Arg::Fixed(Tensor::f32_scalar(0.0)),
                Arg::Fixed(Tensor::f32_scalar(3.0)),
                Arg::Real(vec![], vec![1.0]),
            ],
        )),
        Op::MatMul => Differences(matmul()),
        Op::Conv(_) => Differences(conv()),
        Op::MaxPool { .. } => Differences(max_pool()),
        Op::AveragePool { .. } => Differences(average_pool()),
        Op::GlobalAveragePool => {
            Differences(one(Op::GlobalAveragePool, vec![real(1, &[2, 3, 2, 4], -2.0, 2.0)]))
        }
        Op::GlobalMaxPool => Differences(one(Op::GlobalMaxPool, vec![real(1, &[2, 3, 2, 4], -2.0, 2.0)])),
        Op::Gemm { .. } => Differences(gemm()),
        Op::Softmax { .. } => Differences(softmax(|axis, flatten| Op::Softmax { axis, flatten })),
        Op::LogSoftmax { .. } => Differences(softmax(|axis, flatten| Op::LogSoftmax { axis, flatten })),
        Op::Gelu { .. } => Differences(vec![
            Case::new(Op::Gelu { approximate: GeluKind::Erf }, vec![wide()]),
            Case::new(Op::Gelu { approximate: GeluKind::Tanh }, vec![wide()]),
        ]),
        Op::BatchNormalization { .. } => {
            let op = Op::BatchNormalization { epsilon: F32(1e-3), momentum: F32(0.9) };
            let channels = |seed, low| real(seed, &[3], low, 2.0);
            let rest = [channels(2, -2.0), channels(3, -2.0), channels(4, -2.0), channels(5, 0.5)];
            let with = |shape: &[usize]| [vec![real(1, shape, -2.0, 2.0)], rest.to_vec()].concat();
            Differences(vec![Case::new(op.clone(), with(&[2, 3, 2, 2])), Case::new(op, with(&[4, 3]))])
        }
        Op::LayerNormalization { .. } => {
            let op = |axis| Op::LayerNormalization { axis, epsilon: F32(1e-3), stash_type: 1 };
            let x = real(1, &[2, 3, 4], -2.0, 2.0);
            let (scale, bias) = (real(2, &[4], 0.5, 2.0), real(3, &[4], -2.0, 2.0));
            Differences(vec![
                Case::new(op(-1), vec![x.clone(), scale.clone(), bias.clone()]),
                Case::new(op(1), vec![x.clone(), real(4, &[3, 4], -2.0, 2.0)]),
                Case::new(op(1), vec![x.clone(), scale.clone(), real(5, &[3, 1], -2.0, 2.0)]),
                Case::new(op(-1), vec![x, scale, bias]).outputs(3),
            ])
        }
        Op::RmsNormalization { .. } => {
            let op = |axis| Op::RmsNormalization { axis, epsilon: F32(1e-3), stash_type: 1 };
            let x = real(1, &[2, 3, 4], -2.0, 2.0);
            Differences(vec![
                Case::new(op(-1), vec![x.clone(), real(2, &[4], 0.5, 2.0)]),
                Case::new(op(1), vec![x, real(4, &[3, 4], -2.0, 2.0)]),
            ])
        }
        Op::Dropout { .. } => Differences(vec![
            Case::new(Op::Dropout { seed: None }, vec![wide()]),
            Case::new(Op::Dropout { seed: Some(1) }, vec![wide(), Arg::Fixed(Tensor::f32_scalar(0.5))])
                .outputs(2),
        ]),
        Op::FakeSlice { .. } => Elsewhere,
        Op::NestedQuantize(_) => Elsewhere,
        Op::SliceBits { .. } => Elsewhere,
        Op::Dequantize { .. } => Expected::Error(one(
            Op::Dequantize {
                width: Width::MAX,
                mode: SliceMode::Midpoint,
                grouping: Grouping::PerChannel,
                layout: WeightLayout::RowsFirst,
                shape: vec![2, 2],
            },
            vec![
                Arg::Fixed(Tensor::new(DType::U8, vec![2, 2], vec![1, 2, 3, 4].into()).unwrap()),
                real(1, &[2, 1], 0.5, 1.0),
                real(2, &[2, 1], 0.5, 1.0),
            ],
        )),
        Op::NestedMatMul(_) | Op::NestedConv { .. } | Op::NestedGather(_) => Elsewhere,
        Op::Opaque(_) => Elsewhere,
    }
}

fn wide() -> Arg {
    real(1, &[4, 5], -5.0, 5.0)
}

fn unary(kind: Unary) -> Expected {
    let (low, high) = match kind {
        Unary::Acos | Unary::Asin | Unary::Atanh => (-1.0, 1.0),
        Unary::Acosh => (1.0, 3.0),
        Unary::Log | Unary::Sqrt => (0.0, 3.0),
        Unary::Reciprocal => (0.5, 2.0),
        Unary::Tan => (-1.0, 1.0),
        Unary::Cosh | Unary::Exp | Unary::Sinh | Unary::Erf => (-2.0, 2.0),
        Unary::Abs
        | Unary::Asinh
        | Unary::Atan
        | Unary::Ceil
        | Unary::Cos
        | Unary::Floor
        | Unary::HardSwish
        | Unary::IsNan
        | Unary::Mish
        | Unary::Neg
        | Unary::Relu
        | Unary::Round
        | Unary::Sigmoid
        | Unary::Sign
        | Unary::Sin
        | Unary::Softplus
        | Unary::Softsign
        | Unary::Tanh => (-5.0, 5.0),
        // Of integers and booleans.
        Unary::BitwiseNot | Unary::Not => return Elsewhere,
    };
    let cases = one(Op::Unary(kind), vec![real(1, &[4, 5], low, high)]);
    if matches!(kind, Unary::Ceil | Unary::Floor | Unary::IsNan | Unary::Round | Unary::Sign) {
        Nothing(cases)
    } else {
        Differences(cases)
    }
}

fn binary(kind: Binary) -> Expected {
    let op = Op::Binary(kind);
    let both = |low: f32, high: f32| {
        vec![
            Case::new(op.clone(), vec![real(1, &[2, 3], low, high), real(2, &[2, 3], low, high)]),
            Case::new(op.clone(), vec![real(1, &[3], low, high), real(2, &[2, 1], low, high)]),
        ]
    };
    Differences(match kind {
        Binary::Add | Binary::Sub | Binary::Mul => both(-2.0, 2.0),
        Binary::Div => both(0.5, 2.0),
        Binary::Pow => {
            let mut cases = both(0.5, 2.0);
            for exponent in [0.0, 0.5, 1.0, 2.0, 3.0, -1.5] {
                let exponent = Arg::Fixed(Tensor::f32_scalar(exponent));
                cases.push(Case::new(op.clone(), vec![real(1, &[5], 0.5, 2.0), exponent]));
            }
            let two = Arg::Fixed(Tensor::i64_scalar(2));
            cases.push(Case::new(op.clone(), vec![real(1, &[5], -2.0, 2.0), two]));
            let many = Arg::Fixed(Tensor::from_i64(vec![3], &[0, 1, 3]).unwrap());
            cases.push(Case::new(op, vec![real(1, &[2, 3], -2.0, 2.0), many]));
            cases
        }
        Binary::Fmod => one(op, vec![real(1, &[2, 6], -5.0, 5.0), real(2, &[6], 1.0, 2.0)]),
        Binary::PRelu => vec![
            Case::new(op.clone(), vec![real(1, &[2, 3, 4], -2.0, 2.0), real(2, &[3, 1], -1.0, 1.0)]),
            Case::new(op, vec![real(1, &[2, 3], -2.0, 2.0), real(2, &[], -1.0, 1.0)]),
        ],
        Binary::Mod
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::ShiftLeft
        | Binary::ShiftRight => return Elsewhere,
    })
}

fn reduce() -> Vec<Case> {
    let mut cases = vec![];
    for kind in reductions() {
        let op =
            |keepdims, noop_with_empty_axes| Op::Reduce { kind, axes: None, keepdims, noop_with_empty_axes };
        let x = match kind {
            Reduction::LogSum => real(1, &[2, 3, 2], 0.5, 2.0),
            _ => real(1, &[2, 3, 2], -2.0, 2.0),
        };
        cases.push(Case::new(op(true, false), vec![x.clone(), ints(&[1])]));
        cases.push(Case::new(op(false, false), vec![x.clone(), ints(&[-1, 0])]));
        cases.push(Case::new(op(false, false), vec![x.clone()]));
        if !matches!(kind, Reduction::L1 | Reduction::L2 | Reduction::LogSum | Reduction::SumSquare) {
            cases.push(Case::new(op(false, true), vec![x]));
        }
    }
    let product =
        Op::Reduce { kind: Reduction::Prod, axes: None, keepdims: false, noop_with_empty_axes: false };
    let zeros = Arg::Real(vec![3, 3], vec![1.0, 0.0, 3.0, 0.0, 2.0, 0.0, 1.5, 2.0, 0.5]);
    cases.push(Case::new(product, vec![zeros, ints(&[1])]));
    cases
}

fn slice() -> Vec<Case> {
    let x = real(1, &[4, 5, 7], -2.0, 2.0);
    let case = |args: &[&[i64]]| {
        Case::new(Op::Slice, [vec![x.clone()], args.iter().map(|a| ints(a)).collect()].concat())
    };
    vec![
        case(&[&[1, 0], &[3, 2]]),
        case(&[&[-3], &[i64::MAX], &[-1]]),
        case(&[&[0, 1, 1], &[4, 5, 6], &[0, 1, 2], &[2, 3, 2]]),
        case(&[&[-1, 3], &[i64::MIN, 0], &[2, 0], &[-2, -1]]),
        case(&[&[5], &[0], &[2], &[-3]]),
        case(&[&[-100], &[100], &[1], &[4]]),
    ]
}

fn pad() -> Vec<Case> {
    let mut cases = vec![];
    for mode in pad_modes() {
        let op = Op::Pad { mode };
        let x = real(1, &[3, 4], -2.0, 2.0);
        cases.push(Case::new(op.clone(), vec![x.clone(), ints(&[1, 2, 0, 1])]));
        cases.push(Case::new(op.clone(), vec![x.clone(), ints(&[2, 1]), Arg::Absent, ints(&[-1])]));
        if mode == PadMode::Constant {
            cases
                .push(Case::new(op.clone(), vec![x.clone(), ints(&[1, -1, -1, 2]), real(2, &[], -1.0, 1.0)]));
            cases.push(Case::new(op, vec![x, ints(&[0, 0, 0, 0])]));
        }
    }
    cases
}

fn matmul() -> Vec<Case> {
    let shapes: &[(&[usize], &[usize])] = &[
        (&[2, 3], &[3, 4]),
        (&[3], &[3]),
        (&[3], &[3, 2]),
        (&[2, 3], &[3]),
        (&[2, 2, 3], &[3, 4]),
        (&[2, 2, 3], &[1, 3, 4]),
        (&[2, 3], &[2, 3, 4]),
        (&[3], &[2, 3, 4]),
        (&[2, 2, 3], &[3]),
        (&[2, 1, 2, 3], &[3, 3, 2]),
        (&[1, 2, 3], &[2, 3, 1]),
    ];
    let case = |(a, b): &(&[usize], &[usize])| {
        Case::new(Op::MatMul, vec![real(1, a, -2.0, 2.0), real(2, b, -2.0, 2.0)])
    };
    shapes.iter().map(case).collect()
}

fn gemm() -> Vec<Case> {
    let mut cases = vec![];
    for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
        for (alpha, beta, c) in [(1.0, 1.0, vec![4]), (0.5, 2.0, vec![2, 1]), (1.0, 0.5, vec![])] {
            let op = Op::Gemm { alpha: F32(alpha), beta: F32(beta), trans_a, trans_b };
            let a = real(1, if trans_a { &[3, 2] } else { &[2, 3] }, -2.0, 2.0);
            let b = real(2, if trans_b { &[4, 3] } else { &[3, 4] }, -2.0, 2.0);
            cases.push(Case::new(op.clone(), vec![a.clone(), b.clone(), real(3, &c, -2.0, 2.0)]));
            cases.push(Case::new(op, vec![a, b]));
        }
    }
    cases
}

fn softmax(op: impl Fn(i64, bool) -> Op) -> Vec<Case> {
    let x = real(1, &[2, 3, 4], -2.0, 2.0);
    [(-1, false), (1, false), (1, true), (3, true)]
        .map(|(axis, flat)| Case::new(op(axis, flat), vec![x.clone()]))
        .into()
}

pub fn conv_case(x: &[usize], w: &[usize], window: Window) -> Case {
    let args = vec![real(1, x, -2.0, 2.0), real(2, w, -2.0, 2.0), real(3, &w[..1], -2.0, 2.0)];
    Case::new(Op::Conv(window), args)
}

fn conv() -> Vec<Case> {
    let same = |auto_pad, strides: &[i64]| auto(auto_pad, window(&[3, 2], &[], strides, &[], 0));
    vec![
        conv_case(&[2, 2, 5], &[3, 2, 3], window(&[3], &[], &[], &[], 0)),
        conv_case(&[1, 2, 8], &[2, 2, 3], window(&[], &[1, 0], &[2], &[2], 1)),
        conv_case(&[2, 4, 5, 4], &[6, 2, 3, 2], window(&[3, 2], &[1, 0, 2, 1], &[2, 1], &[1, 2], 2)),
        conv_case(&[2, 3, 4, 4], &[3, 1, 3, 3], window(&[3, 3], &[1, 1, 1, 1], &[1, 1], &[], 3)),
        conv_case(&[1, 2, 6, 5], &[3, 2, 1, 1], window(&[1, 1], &[], &[2, 3], &[], 0)),
        conv_case(&[1, 2, 5, 6], &[2, 2, 3, 2], same(AutoPad::SameUpper, &[2, 1])),
        conv_case(&[1, 2, 5, 6], &[2, 2, 3, 2], same(AutoPad::SameLower, &[1, 3])),
        conv_case(&[1, 2, 5, 6], &[2, 2, 3, 2], same(AutoPad::Valid, &[2, 2])),
        conv_case(&[1, 2, 3, 4, 3], &[2, 1, 2, 2, 3], window(&[], &[1, 0, 1, 0, 1, 1], &[1, 2, 1], &[], 2)),
        // More padding than the kernel reaches.
        conv_case(&[1, 1, 4], &[2, 1, 2], window(&[2], &[3, 4], &[], &[], 0)),
        conv_case(&[1, 1, 9], &[2, 1, 3], window(&[3], &[0, 0], &[4], &[], 0)),
    ]
}

fn pools(op: impl Fn(Window, bool) -> Op) -> Vec<Case> {
    let case = |x: &[usize], window, ceil| Case::new(op(window, ceil), vec![real(1, x, -2.0, 2.0)]);
    let ceiling = window(&[3, 2], &[1, 0, 1, 1], &[2, 2], &[], 0);
    vec![
        case(&[2, 2, 6], window(&[2], &[], &[2], &[], 0), false),
        case(&[1, 2, 5, 6], window(&[3, 2], &[1, 0, 1, 1], &[2, 1], &[], 0), false),
        case(&[1, 2, 6, 6], ceiling, true),
        case(&[1, 1, 7, 5], window(&[2, 3], &[], &[1, 1], &[3, 2], 0), false),
        case(&[1, 2, 5, 5], auto(AutoPad::SameUpper, window(&[2, 3], &[], &[2, 2], &[], 0)), false),
        case(&[1, 2, 5, 5], auto(AutoPad::SameLower, window(&[2, 3], &[], &[2, 2], &[], 0)), false),
        case(&[1, 1, 3, 4, 3], window(&[2, 2, 2], &[], &[1, 2, 1], &[], 0), false),
    ]
}

fn max_pool() -> Vec<Case> {
    let mut cases = pools(|window, ceil_mode| Op::MaxPool { window, ceil_mode, storage_order: 0 });
    let again: Vec<Case> = cases.iter().map(|c| c.clone().outputs(2)).collect();
    cases.extend(again);
    cases
}

fn average_pool() -> Vec<Case> {
    let mut cases = vec![];
    for count_include_pad in [false, true] {
        cases.extend(pools(|window, ceil_mode| Op::AveragePool { window, ceil_mode, count_include_pad }));
    }
    cases
}
