//! Weights, numbers and ONNX models for the tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mqc_ir::Activations;
use mqc_ir::quant::{Grouping, SliceMode, Width};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{self, AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use tract_onnx::prelude::*;

use crate::cpu::{Engine, Resident};
use crate::nested::{AffineMap, NestedWeight, pack};

/// Reproducible values in [-1, 1).
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

/// Float activations on one thread.
pub fn engine() -> Arc<Engine> {
    Arc::new(Engine::new(1, Activations::F32))
}

/// A weight for float activations on one thread.
pub fn resident(name: &str, rows: usize, cols: usize) -> Arc<Resident> {
    resident_on(&engine(), name, rows, cols)
}

pub fn resident_on(engine: &Arc<Engine>, name: &str, rows: usize, cols: usize) -> Arc<Resident> {
    let seed = (rows * 31 + cols) as u64;
    let codes: Vec<u8> = noise(rows * cols, seed).iter().map(|x| ((x + 1.0) * 128.0) as u8).collect();
    let scale: Vec<f32> = noise(rows, seed + 1).iter().map(|x| (2.0 + x) / 256.0).collect();
    let zero: Vec<f32> = noise(rows, seed + 2).iter().map(|x| 128.0 + 20.0 * x).collect();
    let planes = pack(&codes, rows, cols).unwrap().map(Bytes::from).to_vec();
    let map = AffineMap { scale: scale.into(), zero: zero.into() };
    let shape = (rows, cols);
    let weight =
        NestedWeight::new(shape, Grouping::PerChannel, SliceMode::Midpoint, planes, map, BTreeMap::new());
    Arc::new(Resident::new(name, weight.unwrap(), engine))
}

pub fn residents(all: &[&Arc<Resident>]) -> BTreeMap<String, Arc<Resident>> {
    all.iter().map(|resident| (resident.name().to_owned(), Arc::clone(resident))).collect()
}

/// The resident's weight at its current width, for the reference loops.
pub fn floats(resident: &Resident) -> Vec<f64> {
    let weight = resident.weight();
    let mut out = vec![0.0; weight.rows() * weight.cols()];
    weight.dequantize_rows(resident.width(), 0..weight.rows(), &mut out).unwrap();
    out.into_iter().map(f64::from).collect()
}

/// `x . W^T` for `x` `[m, K]`.
pub fn matmul(resident: &Resident, x: &[f32]) -> Vec<f64> {
    let (w, k) = (floats(resident), resident.weight().cols());
    let row = |x: &[f32]| -> Vec<f64> {
        w.chunks(k).map(|w| w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()).collect()
    };
    x.chunks(k).flat_map(row).collect()
}

#[track_caller]
pub fn close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance * (1.0 + expected.abs()), "[{at}] found {found}, expected {expected}");
    }
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let domain = if op.starts_with("Nested") { "ai.mqc" } else { "" };
    NodeProto {
        op_type: op.into(),
        domain: domain.into(),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: outputs.iter().map(|name| name.to_string()).collect(),
        attribute,
        ..Default::default()
    }
}

pub fn nested(op: &str, layer: &str, inputs: &[&str], output: &str) -> NodeProto {
    node(op, inputs, &[output], vec![text("layer", layer)])
}

pub fn text(name: &str, value: &str) -> AttributeProto {
    attribute(name, AttributeType::String, |a| a.s = value.into())
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    attribute(name, AttributeType::Int, |a| a.i = value)
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    attribute(name, AttributeType::Float, |a| a.f = value)
}

pub fn ints(name: &str, values: &[usize]) -> AttributeProto {
    attribute(name, AttributeType::Ints, |a| a.ints = values.iter().map(|value| *value as i64).collect())
}

pub fn body(name: &str, graph: GraphProto) -> AttributeProto {
    attribute(name, AttributeType::Graph, |a| a.g = Some(graph))
}

fn attribute(name: &str, kind: AttributeType, fill: impl FnOnce(&mut AttributeProto)) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.into(), r#type: kind as i32, ..Default::default() };
    fill(&mut attribute);
    attribute
}

pub const FLOAT: i32 = 1;
pub const INT32: i32 = 6;
pub const BOOL: i32 = 9;
pub const HALF: i32 = 10;

/// A value of element type `elem_type`; each of `dims` is a size or a name.
pub fn value(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |dim: &&str| {
        let value = match dim.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam(dim.to_string()),
        };
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = Some(pb::TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = pb::type_proto::Value::TensorType(pb::type_proto::Tensor { elem_type, shape });
    let r#type = Some(pb::TypeProto { value: Some(tensor), ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

/// An output or any other value without a declared type.
pub fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), ..Default::default() }
}

pub fn graph(nodes: Vec<NodeProto>, inputs: Vec<ValueInfoProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: "test".into(),
        node: nodes,
        input: inputs,
        output: outputs.iter().map(|name| untyped(name)).collect(),
        ..Default::default()
    }
}

pub fn model(graph: GraphProto) -> Vec<u8> {
    let opset = |domain: &str, version| pb::OperatorSetIdProto { domain: domain.into(), version };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![opset("", 17), opset("ai.mqc", 1)],
        graph: Some(graph),
        ..Default::default()
    };
    model.encode_to_vec()
}

pub fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_shape(shape, values).unwrap()
}

pub fn slice(tensor: &Tensor) -> &[f32] {
    tensor.try_as_plain_ram().unwrap().as_slice().unwrap()
}
