//! Small nested graphs and the weights in them.

use std::collections::BTreeMap;

use mqc_ir::op::{Nested, Window};
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Width};
use mqc_ir::{DType, Dim, Graph, Node, Op, Output, Tensor, Type, Value, ValueInfo};
use mqc_runtime::nested::{AffineMap, NestedWeight, QuantizeSpec, WeightView};

use super::interpreter::Array;

pub const MODES: [SliceMode; 3] = [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra];

pub fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

pub fn widths(bits: u8) -> BTreeMap<String, Width> {
    [("fc", bits), ("conv", bits), ("other", bits)]
        .map(|(layer, bits)| (layer.to_owned(), width(bits)))
        .into()
}

/// Values in -1..1 from a fixed generator.
pub fn uniform(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// [rows, cols]: constant rows of either sign and of zeros, a row far from zero, the rest around zero.
pub fn weight(rows: usize, cols: usize, grouping: Grouping, scheme: Scheme, mode: SliceMode) -> NestedWeight {
    let mut values = uniform(rows * cols, (rows * cols) as u64);
    for (row, values) in values.chunks_mut(cols).enumerate() {
        for value in values {
            match row {
                0 => *value = 0.7,
                1 => *value = -0.3,
                2 => *value = 0.0,
                3 => *value += 6.0,
                _ => *value = *value * *value + 0.4 * *value,
            }
        }
    }
    let spec = QuantizeSpec {
        scheme,
        mode,
        grouping,
        range: RangeMethod::Minmax,
        widths: "8,4,2".parse().unwrap(),
        lambda: vec![1.0; 3],
        allow_nonfinite: false,
    };
    NestedWeight::quantize(&WeightView::row_major(&values, rows, cols).unwrap(), &spec).unwrap()
}

/// [`weight`] with maps of their own at 6, 4 and 2 bits, each far from the others.
pub fn with_own_maps(
    rows: usize,
    cols: usize,
    grouping: Grouping,
    scheme: Scheme,
    mode: SliceMode,
) -> NestedWeight {
    let shared = weight(rows, cols, grouping, scheme, mode);
    let own = |bits: u8| {
        let change = |values: &[f32], seed: u64| -> Vec<f32> {
            let factors = uniform(values.len(), seed + u64::from(bits));
            values.iter().zip(factors).map(|(value, factor)| value * (1.0 + 0.5 * factor)).collect()
        };
        let map = shared.map(Width::MAX);
        let (scale, zero) = (change(map.scale.as_slice(), 31), change(map.zero.as_slice(), 57));
        (width(bits), AffineMap { scale: scale.into(), zero: zero.into() })
    };
    let (planes, map) = (shared.planes().to_vec(), shared.map(Width::MAX).clone());
    NestedWeight::new((rows, cols), grouping, mode, planes, map, [6, 4, 2].map(own).into()).unwrap()
}

/// The definition of the weight at a width, [N, K].
pub fn dequantized(weight: &NestedWeight, width: Width) -> Vec<f64> {
    let mut out = vec![0.0; weight.rows() * weight.cols()];
    weight.dequantize_rows(width, 0..weight.rows(), &mut out).unwrap();
    out.into_iter().map(f64::from).collect()
}

/// A graph whose nested nodes read the weights given to it.
pub struct Fixture {
    pub graph: Graph,
}

impl Fixture {
    pub fn new() -> Fixture {
        let mut graph = Graph::new("test");
        graph.opsets.insert(String::new(), 21);
        Fixture { graph }
    }

    pub fn input(&mut self, dtype: DType, shape: &[usize]) -> Value {
        let dims = shape.iter().map(|&d| Dim::Size(d as u64)).collect();
        let name = self.graph.fresh_name("x");
        self.graph.add_input(name, Type::tensor(dtype, dims))
    }

    fn parts(
        &mut self,
        layer: &str,
        weight: &NestedWeight,
    ) -> (Nested, Vec<Option<Value>>, Vec<Option<Value>>) {
        let (rows, cols, mode) = (weight.rows(), weight.cols(), weight.mode());
        let mut add = |part: &str, tensor: Tensor| {
            let name = self.graph.fresh_name(&format!("{layer}.{part}"));
            Some(self.graph.add_weight(name, tensor))
        };
        let maps = weight.maps();
        let mut shape = vec![rows, weight.grouping().groups(cols)];
        if maps.len() > 1 {
            shape.insert(0, maps.len());
        }
        let floats = |of: fn(&AffineMap) -> &[f32]| {
            let values: Vec<f32> = maps.iter().flat_map(|(_, map)| of(map)).copied().collect();
            Tensor::from_f32(shape.clone(), &values).unwrap()
        };
        let head = vec![
            add("width", Tensor::i64_scalar(8)),
            add("scale", floats(|map| map.scale.as_slice())),
            add("zero", floats(|map| map.zero.as_slice())),
        ];
        let planes = weight.planes().iter().enumerate().map(|(i, plane)| {
            let plane = Tensor::new(DType::U8, vec![rows, cols.div_ceil(8)], plane.clone());
            add(&format!("plane{i}"), plane.unwrap())
        });
        let planes = planes.collect();
        let nested = Nested {
            layer: layer.to_owned(),
            mode,
            grouping: weight.grouping(),
            cols: cols as u64,
            map_widths: maps.iter().skip(1).map(|(width, _)| *width).collect(),
        };
        (nested, head, planes)
    }

    fn node(&mut self, name: &str, op: Op, operands: &[Option<Value>]) -> Value {
        let output = ValueInfo { name: format!("{name}_out"), ty: Type::Unknown };
        let value =
            Value { node: self.graph.insert(Node::new(op, name, vec![output]), operands).unwrap(), slot: 0 };
        let mut outputs = self.graph.outputs().to_vec();
        outputs.push(Output { value, name: format!("{name}_out"), declared: Type::Unknown });
        self.graph.set_outputs(outputs);
        value
    }

    pub fn matmul(&mut self, name: &str, layer: &str, x: Value, weight: &NestedWeight) -> Value {
        let (nested, head, planes) = self.parts(layer, weight);
        self.node(name, Op::NestedMatMul(nested), &[vec![Some(x)], head, planes].concat())
    }

    pub fn gather(&mut self, name: &str, layer: &str, indices: Value, weight: &NestedWeight) -> Value {
        let (nested, head, planes) = self.parts(layer, weight);
        self.node(name, Op::NestedGather(nested), &[vec![Some(indices)], head, planes].concat())
    }

    pub fn conv(
        &mut self,
        name: &str,
        x: Value,
        bias: Option<Value>,
        weight: &NestedWeight,
        shape: &[u64],
    ) -> Value {
        let (nested, head, planes) = self.parts("conv", weight);
        let window = Window { group: 2, pads: vec![1, 1, 1, 1], ..Window::default() };
        let op = Op::NestedConv { nested, window, shape: shape.to_vec() };
        self.node(name, op, &[vec![Some(x)], head, vec![bias], planes].concat())
    }
}

/// `found` is `expected` up to `1e-6` of what the weights' sizes allow: `bound` of each element.
pub fn assert_near(found: &Array, expected: &Array, bound: impl Fn(usize) -> f64, what: &str) {
    assert_eq!(found.shape, expected.shape, "{what}");
    for (at, (found, expected)) in found.data.iter().zip(&expected.data).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= 1e-6 * bound(at), "{what}: element {at} is {found}, expected {expected}");
    }
}
