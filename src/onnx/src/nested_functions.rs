//! The nested operators as local functions of standard operators, so that any ONNX runtime runs them.
//!
//! Every function reads all planes that are stored and cuts the codes to the width in its input `width`: reference
//! semantics. A runtime that knows the domain reads only the planes of the width.

use std::collections::BTreeMap;

use mqc_ir::quant::SliceMode;
use mqc_ir::{Graph, Op};

use crate::Model;
use crate::ops::NESTED_DOMAIN;
use crate::proto::{
    AttributeProto, AttributeType, DataType, FunctionProto, NodeProto, OperatorSetIdProto, TensorProto,
};

/// The first operator set whose standard operators the bodies are made of.
pub const LEAST_OPSET: i64 = 13;

/// A nested operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NestedKind {
    /// x W^T.
    MatMul,
    /// The convolution with W.
    Conv,
    /// Rows of W.
    Gather,
}

/// The functions that the nested nodes of a model call, in the place of those that it has.
pub fn renew(model: &mut Model) {
    let mut planes = BTreeMap::new();
    count_planes(&model.graph, &mut planes);
    let opset = model.graph.opsets.get("").copied().unwrap_or(LEAST_OPSET);
    model.header.functions.retain(|f| f.domain() != NESTED_DOMAIN);
    model
        .header
        .functions
        .extend(planes.into_iter().map(|((kind, mode), planes)| function(kind, mode, planes, opset)));
}

/// The most planes that a node of each kind reads; the artifact stores as many of every weight.
fn count_planes(graph: &Graph, planes: &mut BTreeMap<(NestedKind, SliceMode), usize>) {
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        node.subgraphs.iter().for_each(|s| count_planes(&s.graph, planes));
        let (kind, nested, first) = match &node.op {
            Op::NestedMatMul(nested) => (NestedKind::MatMul, nested, 4),
            Op::NestedGather(nested) => (NestedKind::Gather, nested, 4),
            Op::NestedConv { nested, .. } => (NestedKind::Conv, nested, 5),
            _ => continue,
        };
        let most = planes.entry((kind, nested.mode)).or_default();
        *most = (*most).max(graph.operands(id).len().saturating_sub(first));
    }
}

/// The ONNX name of a nested operator: the mode is part of it, because the body depends on it.
fn name(kind: NestedKind, mode: SliceMode) -> &'static str {
    match (kind, mode) {
        (NestedKind::MatMul, SliceMode::Midpoint) => "NestedMatMul",
        (NestedKind::MatMul, SliceMode::Round) => "NestedMatMulRound",
        (NestedKind::MatMul, SliceMode::Extra) => "NestedMatMulExtra",
        (NestedKind::Conv, SliceMode::Midpoint) => "NestedConv",
        (NestedKind::Conv, SliceMode::Round) => "NestedConvRound",
        (NestedKind::Conv, SliceMode::Extra) => "NestedConvExtra",
        (NestedKind::Gather, SliceMode::Midpoint) => "NestedGather",
        (NestedKind::Gather, SliceMode::Round) => "NestedGatherRound",
        (NestedKind::Gather, SliceMode::Extra) => "NestedGatherExtra",
    }
}

/// The function for weights of which `planes` bit planes are stored, on operator set `opset` (at least [`LEAST_OPSET`]).
fn function(kind: NestedKind, mode: SliceMode, planes: usize, opset: i64) -> FunctionProto {
    let mut body = Body::default();
    let weight = body.weight(mode, planes);
    let (data, result) = match kind {
        NestedKind::MatMul => {
            let transposed = body.node("Transpose", &[&weight], vec![ints("perm", &[1, 0])]);
            ("x", body.node("MatMul", &["x", &transposed], vec![]))
        }
        NestedKind::Conv => {
            let shape = body.constant(AttributeProto {
                name: Some("value_ints".to_owned()),
                ..reference("shape", AttributeType::Ints)
            });
            let kernel = body.node("Reshape", &[&weight, &shape], vec![]);
            let window = WINDOW.iter().map(|(name, kind)| reference(name, *kind)).collect();
            ("x", body.node("Conv", &["x", &kernel, "bias"], window))
        }
        NestedKind::Gather => ("indices", body.node("Gather", &[&weight, "indices"], vec![])),
    };
    body.name_result(&result);
    let mut inputs: Vec<String> = [data, "width", "scale", "zero"].map(str::to_owned).to_vec();
    let mut attributes = vec!["layer".to_owned(), "cols".to_owned()];
    if kind == NestedKind::Conv {
        inputs.push("bias".to_owned());
        attributes.push("shape".to_owned());
        attributes.extend(WINDOW.iter().map(|(name, _)| (*name).to_owned()));
    }
    inputs.extend((0..planes).map(|p| format!("plane{p}")));
    FunctionProto {
        name: Some(name(kind, mode).to_owned()),
        domain: Some(NESTED_DOMAIN.to_owned()),
        doc_string: Some(DOC.to_owned()),
        input: inputs,
        output: vec!["y".to_owned()],
        attribute: attributes,
        // Absent for one group a row: then every column is in group 0. Absent for one map: no width reaches this one.
        attribute_proto: vec![int("group_size", 1 << 62), ints("map_widths", &[0])],
        node: body.nodes,
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        ..FunctionProto::default()
    }
}

const DOC: &str = "Weights are bit planes of nested 8-bit codes; `width` (1 to 8) says how many leading bits count. \
    See docs/format.md of mqc.";

const WINDOW: [(&str, AttributeType); 6] = [
    ("auto_pad", AttributeType::String),
    ("dilations", AttributeType::Ints),
    ("group", AttributeType::Int),
    ("kernel_shape", AttributeType::Ints),
    ("pads", AttributeType::Ints),
    ("strides", AttributeType::Ints),
];

#[derive(Default)]
struct Body {
    nodes: Vec<NodeProto>,
}

impl Body {
    /// The float weight [N, K] at the width: `docs/format.md`, "Slicing".
    fn weight(&mut self, mode: SliceMode, planes: usize) -> String {
        let bits = self.constant(tensor("value", DataType::Float, &[256, 8], &bit_table()));
        let mut code = String::new();
        for p in 0..planes {
            let byte = self.node("Cast", &[&format!("plane{p}")], vec![int("to", DataType::Int32 as i64)]);
            let plane = self.node("Gather", &[&bits, &byte], vec![]);
            let unit = self.scalar((1 << (7 - p)) as f32);
            let part = self.node("Mul", &[&plane, &unit], vec![]);
            code = if p == 0 { part } else { self.node("Add", &[&code, &part], vec![]) };
        }
        let level = self.level(mode, &code);
        let columns = self.columns();
        let all = self.constant(tensor("value", DataType::Int64, &[2], &i64_bytes(&[0, -1])));
        let flat = self.node("Reshape", &[&level, &all], vec![]);
        let level = self.node("Gather", &[&flat, &columns], vec![int("axis", 1)]);
        let size = self.constant(AttributeProto {
            name: Some("value_int".to_owned()),
            ..reference("group_size", AttributeType::Int)
        });
        let group = self.node("Div", &[&columns, &size], vec![]);
        let map = self.map();
        let [scale, zero] = ["scale", "zero"].map(|maps| {
            let own = self.of_map(maps, &map);
            self.node("Gather", &[&own, &group], vec![int("axis", 1)])
        });
        let centred = self.node("Sub", &[&level, &zero], vec![]);
        self.node("Mul", &[&scale, &centred], vec![])
    }

    /// The map that the width uses: after the first come those of `map_widths`, wide first, so that as many are passed as
    /// there are widths not narrower than the width.
    fn map(&mut self) -> String {
        let widths = self.constant(AttributeProto {
            name: Some("value_ints".to_owned()),
            ..reference("map_widths", AttributeType::Ints)
        });
        let reached = self.node("GreaterOrEqual", &[&widths, "width"], vec![]);
        let ones = self.node("Cast", &[&reached], vec![int("to", DataType::Int64 as i64)]);
        self.node("ReduceSum", &[&ones], vec![int("keepdims", 0)])
    }

    /// One map [N, G] of `maps`, [N, G] or [maps, N, G].
    fn of_map(&mut self, maps: &str, map: &str) -> String {
        let shape = self.node("Shape", &[maps], vec![]);
        let [rest, last_two, end] = [-1, -2, i64::MAX].map(|n| self.vector(n));
        let rows_and_groups = self.node("Slice", &[&shape, &last_two, &end], vec![]);
        let shape = self.node("Concat", &[&rest, &rows_and_groups], vec![int("axis", 0)]);
        let apart = self.node("Reshape", &[maps, &shape], vec![]);
        self.node("Gather", &[&apart, map], vec![])
    }

    /// What the code is read as at the width, in units of an 8-bit code.
    fn level(&mut self, mode: SliceMode, code: &str) -> String {
        let width = self.node("Cast", &["width"], vec![int("to", DataType::Float as i64)]);
        let [two, eight, half, one, all] = [2.0, 8.0, 0.5, 1.0, 256.0].map(|v| self.scalar(v));
        let dropped = self.node("Sub", &[&eight, &width], vec![]);
        let step = self.node("Pow", &[&two, &dropped], vec![]);
        let steps = self.node("Div", &[code, &step], vec![]);
        match mode {
            SliceMode::Midpoint => {
                let floor = self.node("Floor", &[&steps], vec![]);
                let centre = self.node("Add", &[&floor, &half], vec![]);
                let level = self.node("Mul", &[&centre, &step], vec![]);
                self.node("Sub", &[&level, &half], vec![])
            }
            SliceMode::Round | SliceMode::Extra => {
                let raised = self.node("Add", &[&steps, &half], vec![]);
                let mut rounded = self.node("Floor", &[&raised], vec![]);
                if mode == SliceMode::Round {
                    let levels = self.node("Div", &[&all, &step], vec![]);
                    let highest = self.node("Sub", &[&levels, &one], vec![]);
                    rounded = self.node("Min", &[&rounded, &highest], vec![]);
                }
                self.node("Mul", &[&rounded, &step], vec![])
            }
        }
    }

    /// 0, 1, .., K - 1: cuts off the bits that fill the last byte of a row.
    fn columns(&mut self) -> String {
        let zero = self.constant(tensor("value", DataType::Int64, &[], &i64_bytes(&[0])));
        let one = self.constant(tensor("value", DataType::Int64, &[], &i64_bytes(&[1])));
        let cols = self.constant(AttributeProto {
            name: Some("value_int".to_owned()),
            ..reference("cols", AttributeType::Int)
        });
        self.node("Range", &[&zero, &cols, &one], vec![])
    }

    fn vector(&mut self, value: i64) -> String {
        self.constant(tensor("value", DataType::Int64, &[1], &i64_bytes(&[value])))
    }

    fn scalar(&mut self, value: f32) -> String {
        self.constant(tensor("value", DataType::Float, &[], &value.to_le_bytes()))
    }

    fn constant(&mut self, value: AttributeProto) -> String {
        self.node("Constant", &[], vec![value])
    }

    fn node(&mut self, op_type: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = format!("{}_{}", op_type.to_lowercase(), self.nodes.len());
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.clone()],
            op_type: Some(op_type.to_owned()),
            attribute,
            ..NodeProto::default()
        });
        output
    }

    fn name_result(&mut self, result: &str) {
        for output in self.nodes.iter_mut().flat_map(|n| &mut n.output).filter(|o| *o == result) {
            "y".clone_into(output);
        }
    }
}

/// The bits of every byte, least significant first, as f32 [256, 8].
fn bit_table() -> Vec<u8> {
    (0..=255u8)
        .flat_map(|byte| (0..8).flat_map(move |bit| f32::from(byte >> bit & 1).to_le_bytes()))
        .collect()
}

fn i64_bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn tensor(name: &str, dtype: DataType, dims: &[i64], raw: &[u8]) -> AttributeProto {
    let tensor = TensorProto {
        dims: dims.to_vec(),
        data_type: Some(dtype as i32),
        raw_data: Some(raw.to_vec().into()),
        ..TensorProto::default()
    };
    AttributeProto { t: Some(Box::new(tensor)), ..attribute(name, AttributeType::Tensor) }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// An attribute that takes the value of the calling node's attribute of the same name.
fn reference(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(name.to_owned()), ..attribute(name, kind) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..AttributeProto::default() }
}
