//! Rules on types that hold whatever the shapes are, and the shapes of the nested dialect.

use super::arity::Arity;
use super::expected;
use crate::op::{Binary, Nested, Unary, WeightLayout};
use crate::quant::{Grouping, SliceMode, Width};
use crate::tensor::element_count;
use crate::{DType, Dim, Graph, Node, Op, TensorType, Type, Value};

const INDEX: [DType; 2] = [DType::I64, DType::I32];
const FLOAT: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::F64];

/// What is wrong with the types of a node's operands and outputs.
pub(super) fn check(graph: &Graph, node: &Node, operands: &[Option<Value>], arity: &Arity) -> Vec<String> {
    let mut rules = Rules { graph, node, operands, arity, messages: Vec::new() };
    rules.check();
    rules.messages
}

struct Rules<'a> {
    graph: &'a Graph,
    node: &'a Node,
    operands: &'a [Option<Value>],
    arity: &'a Arity,
    messages: Vec<String>,
}

impl Rules<'_> {
    fn check(&mut self) {
        match &self.node.op {
            Op::Weight(tensor) | Op::Constant(tensor) => self.output(0, &[Type::of(tensor)]),
            Op::Input
            | Op::Identity
            | Op::LeakyRelu { .. }
            | Op::Elu { .. }
            | Op::HardSigmoid { .. }
            | Op::Transpose { .. }
            | Op::Flatten { .. }
            | Op::AveragePool { .. }
            | Op::GlobalAveragePool
            | Op::GlobalMaxPool
            | Op::Softmax { .. }
            | Op::LogSoftmax { .. }
            | Op::Gelu { .. }
            | Op::FakeSlice { .. }
            | Op::BatchNormalization { .. }
            | Op::LayerNormalization { .. }
            | Op::RmsNormalization { .. }
            | Op::Opaque(_) => {}
            Op::Unary(Unary::Not) => self.dtype(0, &[DType::Bool]),
            Op::Unary(_) => {}
            Op::Binary(Binary::And | Binary::Or | Binary::Xor) => {
                self.dtype(0, &[DType::Bool]);
                self.dtype(1, &[DType::Bool]);
            }
            Op::Binary(Binary::Pow) => {}
            Op::Binary(_) | Op::MatMul => self.same(&[0, 1]),
            Op::Compare(_) => {
                self.same(&[0, 1]);
                self.output_dtype(0, DType::Bool);
            }
            Op::Variadic(_) | Op::Concat { .. } => self.same(&(0..self.operands.len()).collect::<Vec<_>>()),
            Op::Select => {
                self.dtype(0, &[DType::Bool]);
                self.same(&[1, 2]);
            }
            Op::Clip | Op::Range | Op::Conv(_) | Op::Gemm { .. } => self.same(&[0, 1, 2]),
            Op::Cast { to, .. } => self.output_dtype(0, *to),
            Op::Reduce { .. }
            | Op::Squeeze { .. }
            | Op::Unsqueeze { .. }
            | Op::Reshape { .. }
            | Op::Expand
            | Op::Split { .. }
            | Op::Tile => self.dtype(1, &[DType::I64]),
            Op::Slice => (1..5).for_each(|slot| self.dtype(slot, &INDEX)),
            Op::Pad { .. } => {
                self.dtype(1, &[DType::I64]);
                self.same(&[0, 2]);
                self.dtype(3, &INDEX);
            }
            Op::Gather { .. } | Op::GatherElements { .. } => self.dtype(1, &INDEX),
            Op::GatherNd { .. } => self.dtype(1, &[DType::I64]),
            Op::ScatterElements { .. } => {
                self.dtype(1, &INDEX);
                self.same(&[0, 2]);
            }
            Op::ScatterNd { .. } => {
                self.dtype(1, &[DType::I64]);
                self.same(&[0, 2]);
            }
            Op::Shape { .. } | Op::Size => self.output_dtype(0, DType::I64),
            Op::ConstantOfShape { value } => {
                self.dtype(0, &[DType::I64]);
                if let Some(value) = value.as_ref().filter(|v| element_count(v.shape()) != Some(1)) {
                    self.messages
                        .push(format!("the value has the shape {:?}, expected one element", value.shape()));
                }
            }
            Op::MaxPool { .. } => self.output_dtype(1, DType::I64),
            Op::Dropout { .. } => self.dtype(2, &[DType::Bool]),
            Op::NestedQuantize(quantize) => {
                self.dtype(0, &FLOAT);
                self.output(0, &[matrix(DType::U8, None, None)]);
                self.output(1, &[matrix(DType::F32, None, None)]);
                self.output(2, &[matrix(DType::F32, None, None)]);
                self.grouping(quantize.grouping);
                let (widths, lambda) = (quantize.widths.iter().count(), quantize.lambda.len());
                if widths != lambda {
                    self.messages.push(format!("has {widths} widths and {lambda} lambda, expected as many"));
                }
            }
            Op::SliceBits { .. } => {
                self.operand(0, &[matrix(DType::U8, None, None)]);
                self.output(0, &[matrix(DType::U8, None, None)]);
            }
            Op::Dequantize { grouping, layout, shape, .. } => self.dequantize(*grouping, *layout, shape),
            Op::NestedMatMul(nested) => {
                self.float_operand(0, nested.cols);
                self.nested(nested, 4, None);
            }
            Op::NestedGather(nested) => {
                self.dtype(0, &INDEX);
                self.nested(nested, 4, None);
            }
            Op::NestedConv { nested, shape, .. } => {
                let cols = shape.iter().skip(1).try_fold(1u64, |n, d| n.checked_mul(*d));
                if shape.len() < 3 || cols != Some(nested.cols) {
                    let cols = nested.cols;
                    self.messages
                        .push(format!("the weight's shape {shape:?} is not [rows, ..] with {cols} columns"));
                }
                let rows = shape.first().copied();
                self.operand(4, &[Type::tensor(DType::F32, vec![rows.map_or(Dim::Unknown, Dim::Size)])]);
                self.nested(nested, 5, rows);
            }
        }
    }

    fn ty(&self, slot: usize) -> &Type {
        static UNKNOWN: Type = Type::Unknown;
        self.operands.get(slot).copied().flatten().map_or(&UNKNOWN, |value| self.graph.ty(value))
    }

    fn operand(&mut self, slot: usize, types: &[Type]) {
        self.messages.extend(expected(&self.arity.operand(slot), self.ty(slot), types));
    }

    fn output(&mut self, slot: usize, types: &[Type]) {
        if let Some(info) = self.node.outputs.get(slot) {
            self.messages.extend(expected(&format!("output {slot}"), &info.ty, types));
        }
    }

    fn dtype(&mut self, slot: usize, dtypes: &[DType]) {
        self.operand(slot, &dtypes.iter().map(|d| of_dtype(*d)).collect::<Vec<_>>());
    }

    fn output_dtype(&mut self, slot: usize, dtype: DType) {
        self.output(slot, &[of_dtype(dtype)]);
    }

    fn same(&mut self, slots: &[usize]) {
        let known: Vec<_> = slots.iter().filter_map(|slot| Some((*slot, self.ty(*slot).dtype()?))).collect();
        if known.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            let list: Vec<_> =
                known.iter().map(|(slot, dtype)| format!("{} {dtype}", self.arity.operand(*slot))).collect();
            self.messages.push(format!("operands have different element types: {}", list.join(", ")));
        }
    }

    fn grouping(&mut self, grouping: Grouping) {
        if let Grouping::Group(size) = grouping
            && (size == 0 || size % 8 != 0)
        {
            self.messages.push(format!("the group size is {size}, expected a multiple of 8"));
        }
    }

    fn dequantize(&mut self, grouping: Grouping, layout: WeightLayout, shape: &[u64]) {
        self.grouping(grouping);
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let rows = match layout {
            WeightLayout::RowsFirst => shape.first(),
            WeightLayout::RowsLast => shape.last(),
        };
        let (Some(rows), Some(elements)) = (rows.copied(), elements) else {
            self.messages.push(format!("{shape:?} is not the shape of a weight"));
            return;
        };
        let cols = elements.checked_div(rows).unwrap_or(0);
        self.operand(0, &[matrix(DType::U8, Some(rows), Some(cols))]);
        let groups = groups(grouping, cols);
        self.operand(1, &[matrix(DType::F32, Some(rows), groups)]);
        self.operand(2, &[matrix(DType::F32, Some(rows), groups)]);
        let dims = shape.iter().map(|d| Dim::Size(*d)).collect();
        self.output(0, &[Type::Tensor(TensorType { dtype: None, shape: Some(dims) })]);
    }

    fn float_operand(&mut self, slot: usize, cols: u64) {
        self.dtype(slot, &FLOAT);
        if let Some(last) = self.ty(slot).shape().and_then(|s| s.last()).and_then(Dim::size)
            && last != cols
        {
            let name = self.arity.operand(slot);
            self.messages
                .push(format!("the last dimension of {name} is {last}, the weight has {cols} columns"));
        }
    }

    fn nested(&mut self, nested: &Nested, first_plane: usize, rows: Option<u64>) {
        let planes = first_plane..self.operands.len();
        let maps = (!nested.map_widths.is_empty()).then(|| 1 + nested.map_widths.len() as u64);
        // N is the last but one of all of them.
        let size = |slot: usize| self.ty(slot).shape()?.iter().rev().nth(1)?.size();
        let rows = rows.or_else(|| [2, 3].into_iter().chain(planes.clone()).find_map(size));
        self.grouping(nested.grouping);
        self.operand(1, &[Type::tensor(DType::I64, vec![])]);
        let groups = groups(nested.grouping, nested.cols);
        let affine = match maps {
            None => matrix(DType::F32, rows, groups),
            Some(_) => sized(DType::F32, &[maps, rows, groups]),
        };
        self.operand(2, std::slice::from_ref(&affine));
        self.operand(3, &[affine]);
        if nested.map_widths.windows(2).any(|pair| pair[0] <= pair[1]) {
            let widths: Vec<_> = nested.map_widths.iter().map(Width::to_string).collect();
            self.messages
                .push(format!("map_widths is {}, expected different widths, wide first", widths.join(", ")));
        }
        for slot in planes.clone() {
            self.operand(slot, &[matrix(DType::U8, rows, Some(nested.cols.div_ceil(8)))]);
        }
        self.width(nested.mode, planes.len());
    }

    /// A constant width must be one that the planes give.
    fn width(&mut self, mode: SliceMode, planes: usize) {
        let constant = self.operands.get(1).copied().flatten().and_then(|v| self.graph.constant(v));
        let Some(&[bits]) = constant.and_then(|t| t.to_i64_vec()).as_deref() else { return };
        match u8::try_from(bits).ok().and_then(|b| Width::new(b).ok()) {
            None => self.messages.push(format!("the width is {bits}, expected 1 to 8")),
            Some(width) if mode.planes_read(width) > planes => {
                let needed = mode.planes_read(width);
                self.messages.push(format!("width {width} reads {needed} planes, there are {planes}"));
            }
            Some(_) => {}
        }
    }
}

fn of_dtype(dtype: DType) -> Type {
    Type::Tensor(TensorType { dtype: Some(dtype), shape: None })
}

fn matrix(dtype: DType, rows: Option<u64>, cols: Option<u64>) -> Type {
    sized(dtype, &[rows, cols])
}

/// Of these sizes, as far as they are known.
fn sized(dtype: DType, sizes: &[Option<u64>]) -> Type {
    Type::tensor(dtype, sizes.iter().map(|size| size.map_or(Dim::Unknown, Dim::Size)).collect())
}

fn groups(grouping: Grouping, cols: u64) -> Option<u64> {
    Some(grouping.groups(usize::try_from(cols).ok()?) as u64)
}
