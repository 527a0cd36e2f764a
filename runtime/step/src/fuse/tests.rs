//! What passes are made of.

use mqc_ir::graph::Output;
use mqc_ir::op::{Binary, Compare, Reduction, Unary};
use mqc_ir::quant::{SliceMode, Width};
use mqc_ir::{DType, Dim, Graph, Op, Tensor, Type, Value};

use super::instructions::{Code, Fused, Instruction, Operand, Pattern};
use super::{Kernel, schedule};
use crate::Setup;
use crate::graph::Net;
use crate::lower::lower;
use crate::lower::task::Func;

#[derive(Default)]
struct Maker(Graph);

impl Maker {
    fn input(&mut self, shape: &[u64]) -> Value {
        let dims = shape.iter().map(|d| Dim::Size(*d)).collect();
        let name = format!("x{}", self.0.len());
        self.0.add_input(name, Type::tensor(DType::F32, dims))
    }

    fn apply(&mut self, op: Op, operands: &[Value]) -> Value {
        let name = format!("v{}", self.0.len());
        self.0.apply(op, &name, operands).unwrap()
    }

    fn number(&mut self, value: f32) -> Value {
        self.apply(Op::Constant(Tensor::f32_scalar(value)), &[])
    }

    fn binary(&mut self, kind: Binary, a: Value, b: Value) -> Value {
        self.apply(Op::Binary(kind), &[a, b])
    }

    fn sum(&mut self, x: Value, axes: Option<Vec<i64>>) -> Value {
        let kind = Reduction::Sum;
        self.apply(Op::Reduce { kind, axes, keepdims: false, noop_with_empty_axes: false }, &[x])
    }

    fn kernels(mut self, outputs: &[Value]) -> Vec<Kernel> {
        let output = |(i, value): (usize, &Value)| Output {
            value: *value,
            name: format!("y{i}"),
            declared: Type::Unknown,
        };
        self.0.set_outputs(outputs.iter().enumerate().map(output).collect());
        let setup = Setup { threads: 1, carried: vec![] };
        let net = Net::new(&self.0, &setup).unwrap();
        schedule(&lower::<f32>(&net, &setup).unwrap())
    }

    /// The only pass.
    fn pass(self, outputs: &[Value]) -> Fused {
        match self.kernels(outputs).as_slice() {
            [Kernel::Fused(fused)] => (**fused).clone(),
            kernels => panic!("expected one pass, found {kernels:?}"),
        }
    }
}

fn funcs(fused: &Fused) -> Vec<Func> {
    let func = |instruction: &Instruction| match &instruction.code {
        Code::Apply(func) => func.clone(),
        other => panic!("expected a function, found {other:?}"),
    };
    fused.instructions.iter().map(func).collect()
}

#[test]
fn a_product_joins_the_sum_that_alone_reads_it() {
    let mut maker = Maker::default();
    let [a, b, c] = [0; 3].map(|_| maker.input(&[6, 4]));
    let product = maker.binary(Binary::Mul, a, b);
    let sum = maker.binary(Binary::Add, c, product);
    let other = maker.binary(Binary::Mul, a, c);
    let less = maker.binary(Binary::Sub, sum, other);
    assert_eq!(funcs(&maker.pass(&[less])), [Func::MulAdd, Func::MulSub]);

    let mut maker = Maker::default();
    let [a, b, c] = [0; 3].map(|_| maker.input(&[6, 4]));
    let product = maker.binary(Binary::Mul, a, b);
    let sum = maker.binary(Binary::Add, product, c);
    let apart = [Func::Binary(Binary::Mul), Func::Binary(Binary::Add)];
    assert_eq!(funcs(&maker.pass(&[product, sum])), apart);
}

#[test]
fn bounds_are_one_function() {
    let bounded = |same: bool| {
        let mut maker = Maker::default();
        let [x, other, y] = [0; 3].map(|_| maker.input(&[6, 4]));
        let [low, high, zero] = [-1.0, 2.0, 0.0].map(|v| maker.number(v));
        let below = maker.apply(Op::Compare(Compare::Less), &[x, low]);
        let above = maker.apply(Op::Compare(Compare::Greater), &[if same { x } else { other }, high]);
        let outside = maker.binary(Binary::Or, below, above);
        let result = maker.apply(Op::Select, &[outside, zero, y]);
        funcs(&maker.pass(&[result]))
    };
    assert_eq!(bounded(true), [Func::Within { low: -1.0, high: 2.0 }]);
    assert_eq!(bounded(false).len(), 4);
}

#[test]
fn slices_and_their_gradients_are_few_functions() {
    let (width, mode) = (Width::new(4).unwrap(), SliceMode::Midpoint);
    let mut maker = Maker::default();
    let [x, slope, offset] = [0; 3].map(|_| maker.input(&[6, 4]));
    let level = maker.apply(Op::FakeSlice { width, mode }, &[x]);
    let scaled = maker.binary(Binary::Mul, level, slope);
    let weight = maker.binary(Binary::Add, scaled, offset);
    assert_eq!(funcs(&maker.pass(&[weight])), [Func::SliceMulAdd { width, mode }]);

    let mut maker = Maker::default();
    let [x, y] = [0; 2].map(|_| maker.input(&[6, 4]));
    let [low, high, zero] = [0.0, 255.0, 0.0].map(|v| maker.number(v));
    let below = maker.apply(Op::Compare(Compare::Less), &[x, low]);
    let above = maker.apply(Op::Compare(Compare::Greater), &[x, high]);
    let outside = maker.binary(Binary::Or, below, above);
    let product = maker.binary(Binary::Mul, x, y);
    let result = maker.apply(Op::Select, &[outside, zero, product]);
    assert_eq!(funcs(&maker.pass(&[result])), [Func::WithinProduct { low: 0.0, high: 255.0 }]);

    let mut maker = Maker::default();
    let [x, most, share] = [0; 3].map(|_| maker.input(&[6, 4]));
    let equal = maker.apply(Op::Compare(Compare::Equal), &[x, most]);
    let flag = maker.apply(Op::Cast { to: DType::F32, saturate: true }, &[equal]);
    let result = maker.binary(Binary::Mul, share, flag);
    assert_eq!(funcs(&maker.pass(&[result])), [Func::EqualProduct]);
}

#[test]
fn the_direction_of_an_optimizer_is_two_functions() {
    let mut maker = Maker::default();
    let [m, v] = [0; 2].map(|_| maker.input(&[6, 4]));
    let [first, second, epsilon] = [2.0, 3.0, 1e-8].map(|n| maker.number(n));
    let m = maker.binary(Binary::Mul, m, first);
    let v = maker.binary(Binary::Mul, v, second);
    let root = maker.apply(Op::Unary(Unary::Sqrt), &[v]);
    let root = maker.binary(Binary::Add, root, epsilon);
    let direction = maker.binary(Binary::Div, m, root);
    let pass = maker.pass(&[direction]);
    assert_eq!(funcs(&pass), [Func::RootAdd, Func::MulDiv]);
    // Numbers take no block each.
    assert!(pass.repeated.is_empty(), "{pass:?}");
}

#[test]
fn sums_of_products_are_not_stored() {
    for axes in [None, Some(vec![0])] {
        let mut maker = Maker::default();
        let [a, b] = [0; 2].map(|_| maker.input(&[6, 4]));
        let product = maker.binary(Binary::Mul, a, b);
        let sum = maker.sum(product, axes);
        let fused = maker.pass(&[sum]);
        assert!(fused.instructions.is_empty() && fused.registers == 0, "{fused:?}");
        assert!(matches!(fused.totals[0].times, Some(Operand::Memory(_))), "{fused:?}");
    }
}

#[test]
fn a_repeated_row_is_read_where_it_lies() {
    let pass = |cols: u64| {
        let mut maker = Maker::default();
        let (x, bias) = (maker.input(&[40, cols]), maker.input(&[cols]));
        let sum = maker.binary(Binary::Add, x, bias);
        maker.pass(&[sum])
    };
    let direct = pass(1536);
    assert_eq!(funcs(&direct), [Func::Binary(Binary::Add)]);
    assert_eq!(1536 % direct.block, 0);
    // Blocks that fit so few would be too short.
    let copied = pass(100);
    assert_eq!(copied.instructions[0].code, Code::Load(1));
    assert_eq!(copied.loads[1].pattern, Pattern::Repeat(100));
}

#[test]
fn cheap_values_are_computed_where_they_are_read() {
    let stores = |cheap: Unary| {
        let mut maker = Maker::default();
        let (x, w) = (maker.input(&[32, 32]), maker.input(&[32, 32]));
        let value = maker.apply(Op::Unary(cheap), &[x]);
        let first = maker.binary(Binary::Mul, value, w);
        let product = maker.apply(Op::MatMul, &[first, w]);
        let second = maker.binary(Binary::Mul, product, value);
        let kernels = maker.kernels(&[second]);
        let stores = |kernel: &Kernel| match kernel {
            Kernel::Fused(fused) => fused.stores.len(),
            Kernel::Single(_) => 0,
        };
        kernels.iter().map(stores).collect::<Vec<_>>()
    };
    assert_eq!(stores(Unary::Relu), [1, 0, 1]);
    assert_eq!(stores(Unary::Tanh), [2, 0, 1]);
}
