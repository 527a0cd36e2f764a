//! A plain reading of the ONNX operators that deployed graphs consist of, in f64.

use mqc_ir::op::{Binary, Opaque, Variadic};
use mqc_ir::{Attribute, DType, Graph, Op, Tensor, Value};

/// A tensor of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    pub fn new(shape: &[usize], data: Vec<f64>) -> Array {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Array { shape: shape.to_vec(), data }
    }

    pub fn of(tensor: &Tensor) -> Array {
        let bytes = tensor.bytes();
        let integers = |bits: usize| -> Vec<f64> {
            (0..tensor.len())
                .map(|i| f64::from(bytes[i * bits / 8] >> (i * bits % 8) & ((1u16 << bits) - 1) as u8))
                .collect()
        };
        let data = match tensor.dtype() {
            DType::U8 => integers(8),
            DType::U4 => integers(4),
            DType::U2 => integers(2),
            DType::F32 => tensor.to_f32_vec().unwrap().into_iter().map(f64::from).collect(),
            DType::I64 => tensor.to_i64_vec().unwrap().into_iter().map(|v| v as f64).collect(),
            other => panic!("{other}"),
        };
        Array::new(tensor.shape(), data)
    }

    fn ints(&self) -> Vec<i64> {
        self.data.iter().map(|v| *v as i64).collect()
    }
}

/// The value when the graph's inputs are `inputs`, in order.
pub fn evaluate(graph: &Graph, value: Value, inputs: &[Array]) -> Array {
    let node = graph.node(value.node).unwrap();
    let operand = |slot| evaluate(graph, graph.operand(value.node, slot).unwrap(), inputs);
    match &node.op {
        Op::Input => inputs[graph.inputs().iter().position(|id| *id == value.node).unwrap()].clone(),
        Op::Weight(tensor) | Op::Constant(tensor) => Array::of(tensor),
        Op::MatMul => matmul(&operand(0), &operand(1)),
        Op::Binary(op) => binary(&operand(0), &operand(1), |a, b| match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::ShiftRight => (a as u8 >> b as u8) as f64,
            Binary::Mod => (a as u8 % b as u8) as f64,
            other => panic!("{other:?}"),
        }),
        Op::Variadic(Variadic::Sum) => {
            let count = graph.operands(value.node).len();
            (1..count).fold(operand(0), |sum, slot| binary(&sum, &operand(slot), |a, b| a + b))
        }
        Op::Cast { .. } => operand(0),
        Op::Gather { axis: 0 } => gather(&operand(0), &operand(1)),
        Op::Unsqueeze { axes: None } => {
            assert_eq!(operand(1).ints(), [-1]);
            let x = operand(0);
            Array::new(&[x.shape.as_slice(), &[1]].concat(), x.data)
        }
        Op::Shape { start: 0, end: None } => {
            let shape = operand(0).shape;
            Array::new(&[shape.len()], shape.iter().map(|d| *d as f64).collect())
        }
        Op::Concat { axis: 0 } => {
            let data = [operand(0).data, operand(1).data].concat();
            Array::new(&[data.len()], data)
        }
        Op::Reshape { .. } => {
            let shape: Vec<usize> = operand(1).ints().iter().map(|d| *d as usize).collect();
            Array::new(&shape, operand(0).data)
        }
        Op::Slice => {
            let (x, to) = (operand(0), operand(2).ints()[0] as usize);
            assert_eq!((operand(1).ints(), operand(3).ints()), (vec![0], vec![-1]));
            let (len, leading) = x.shape.split_last().unwrap();
            let data = x.data.chunks(*len).flat_map(|row| &row[..to]).copied().collect();
            Array::new(&[leading, &[to]].concat(), data)
        }
        Op::Transpose { perm } => {
            assert_eq!(perm.as_deref(), Some(&[1, 0][..]));
            let x = operand(0);
            let (rows, cols) = (x.shape[0], x.shape[1]);
            Array::new(
                &[cols, rows],
                (0..rows * cols).map(|at| x.data[at % rows * cols + at / rows]).collect(),
            )
        }
        Op::Opaque(op) if op.op_type == "DequantizeLinear" => {
            dequantize_linear(op, &operand(0), &operand(1), &operand(2))
        }
        Op::Opaque(op) if op.op_type == "MatMulNBits" => {
            assert_eq!(op.domain, "com.microsoft");
            let weight = matmul_n_bits_weight(op, &operand(1), &operand(2));
            matmul(&operand(0), &weight)
        }
        other => panic!("{other:?}"),
    }
}

fn matmul(a: &Array, b: &Array) -> Array {
    let (k, n) = (b.shape[0], b.shape[1]);
    assert_eq!(b.shape.len(), 2);
    let (last, leading) = a.shape.split_last().unwrap();
    assert_eq!(*last, k);
    let row = |row: &[f64]| -> Vec<f64> {
        (0..n).map(|j| row.iter().enumerate().map(|(i, a)| a * b.data[i * n + j]).sum()).collect()
    };
    Array::new(&[leading, &[n]].concat(), a.data.chunks(k).flat_map(row).collect())
}

/// Elementwise with broadcasting.
fn binary(a: &Array, b: &Array, f: impl Fn(f64, f64) -> f64) -> Array {
    let rank = a.shape.len().max(b.shape.len());
    let dim = |x: &Array, axis: usize| (axis + x.shape.len()).checked_sub(rank).map_or(1, |i| x.shape[i]);
    let shape: Vec<usize> = (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (1, d) | (d, 1) => d,
            (d, e) => {
                assert_eq!(d, e, "{:?} {:?}", a.shape, b.shape);
                d
            }
        })
        .collect();
    let at = |x: &Array, mut index: usize| {
        let (mut place, mut stride) = (0, 1);
        for axis in (0..rank).rev() {
            let d = dim(x, axis);
            if d > 1 {
                place += index % shape[axis] * stride;
            }
            stride *= d;
            index /= shape[axis];
        }
        x.data[place]
    };
    let count = shape.iter().product();
    Array::new(&shape, (0..count).map(|i| f(at(a, i), at(b, i))).collect())
}

fn gather(table: &Array, indices: &Array) -> Array {
    let row: usize = table.shape[1..].iter().product();
    let data = indices.ints().iter().flat_map(|i| &table.data[*i as usize * row..][..row]).copied().collect();
    Array::new(&[&indices.shape, &table.shape[1..]].concat(), data)
}

fn int(op: &Opaque, name: &str) -> Option<usize> {
    match op.attributes.get(name) {
        Some(Attribute::Int(n)) => Some(*n as usize),
        other => {
            assert_eq!(other, None);
            None
        }
    }
}

/// y = (x - zero_point) * scale, scale and zero point along `axis`, for `block_size` elements each.
fn dequantize_linear(op: &Opaque, x: &Array, scale: &Array, zero_point: &Array) -> Array {
    assert_eq!(scale.shape, zero_point.shape);
    let axis = int(op, "axis").unwrap();
    let block = int(op, "block_size");
    let inner: usize = x.shape[axis + 1..].iter().product();
    match block {
        Some(block) => {
            let mut expected = x.shape.clone();
            expected[axis] = x.shape[axis].div_ceil(block);
            assert_eq!(scale.shape, expected);
        }
        None => assert_eq!(scale.shape, [x.shape[axis]]),
    }
    let dim = x.shape[axis];
    let map = |at: usize| {
        let (outer, i, rest) = (at / inner / dim, at / inner % dim, at % inner);
        match block {
            Some(block) => (outer * scale.shape[axis] + i / block) * inner + rest,
            None => i,
        }
    };
    let data = x
        .data
        .iter()
        .enumerate()
        .map(|(at, x)| (x - zero_point.data[map(at)]) * scale.data[map(at)])
        .collect();
    Array::new(&x.shape, data)
}

/// [K, N] of packed blocks [N, blocks, bytes] and scales [N, blocks].
fn matmul_n_bits_weight(op: &Opaque, codes: &Array, scales: &Array) -> Array {
    let [k, n, bits, block, level] =
        ["K", "N", "bits", "block_size", "accuracy_level"].map(|name| int(op, name).unwrap());
    assert!([2, 4, 8].contains(&bits) && block >= 16 && block.is_power_of_two() && [1, 4].contains(&level));
    let blocks = k.div_ceil(block);
    assert_eq!(
        (codes.shape.as_slice(), scales.shape.as_slice()),
        (&[n, blocks, block * bits / 8][..], &[n, blocks][..])
    );
    let weight = |at: usize| {
        let (i, row) = (at / n, at % n);
        let byte = codes.data[row * blocks * block * bits / 8 + i * bits / 8] as u32;
        let code = byte >> (i * bits % 8) & ((1 << bits) - 1);
        (f64::from(code) - f64::from(1 << (bits - 1))) * scales.data[row * blocks + i / block]
    };
    Array::new(&[k, n], (0..k * n).map(weight).collect())
}
