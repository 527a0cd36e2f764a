//! Graphs with nested weights as graphs of floats, by the numeric definition.

use std::collections::BTreeMap;
use std::error::Error;

use mqc_ir::graph::Output;
use mqc_ir::op::WeightLayout;
use mqc_ir::quant::Width;
use mqc_ir::{Graph, NodeId, Op, Tensor, Type, Value};
use mqc_kernels::nested::{
    AffineMap, NestedWeight, QuantizeSpec, WeightView, dequantize, pack, quantize_rows, row_bytes,
};
use mqc_step::{Array, Data, Program, Setup};

/// Every quantized weight as constant codes, scale and zero; every dequantized or nested weight as a float constant.
pub fn without_nested(graph: &Graph) -> Result<Graph, Box<dyn Error>> {
    let mut graph = graph.clone();
    for id in graph.order()? {
        let Some(op) = graph.node(id).map(|n| n.op.clone()) else { continue };
        match op {
            Op::NestedQuantize(spec) => {
                let weight =
                    graph.operand(id, 0).and_then(|w| graph.constant(w)).ok_or("no constant")?.clone();
                let quantized = quantize(&weight, &spec)?;
                for (slot, tensor) in quantized.into_iter().enumerate() {
                    let value = graph.add_weight(graph.fresh_name("quantized"), tensor);
                    graph.replace_uses(Value { node: id, slot }, value)?;
                }
            }
            Op::Dequantize { width, mode, grouping, layout, ref shape } => {
                let slice = graph.operand(id, 0).ok_or("no slice")?;
                let codes = graph.operand(slice.node, 0).ok_or("no codes")?;
                let codes = constant(&graph, codes)?;
                let (scale, zero) = (operand(&graph, id, 1)?, operand(&graph, id, 2)?);
                let &[rows, cols] = codes.shape() else { return Err("codes are no matrix".into()) };
                let size = grouping.size(cols);
                let mut floats = vec![0.0f32; rows * cols];
                for row in 0..rows {
                    for col in 0..cols {
                        let map = row * grouping.groups(cols) + col / size;
                        let code = ints(&codes)?[row * cols + col] as u8;
                        let (s, z) = (reals(&scale)?[map] as f32, reals(&zero)?[map] as f32);
                        floats[place(layout, row, col, rows, cols)] = dequantize(code, width, mode, s, z);
                    }
                }
                let shape = shape.iter().map(|d| *d as usize).collect();
                replace(&mut graph, id, Tensor::from_f32(shape, &floats)?)?;
            }
            Op::NestedMatMul(ref nested) => {
                let width = Width::new(ints(&operand(&graph, id, 1)?)?[0] as u8)?;
                let (scale, zero) = (operand(&graph, id, 2)?, operand(&graph, id, 3)?);
                let planes: Vec<Array<f64>> = (4..graph.operands(id).len())
                    .map(|slot| operand(&graph, id, slot))
                    .collect::<Result<_, _>>()?;
                let bytes = |plane: &Array<f64>| -> Result<bytes::Bytes, Box<dyn Error>> {
                    Ok(ints(plane)?.iter().map(|byte| *byte as u8).collect::<Vec<u8>>().into())
                };
                let rows = planes.first().ok_or("no planes")?.shape()[0];
                let floats = |a: &Array<f64>| -> Result<Vec<f32>, Box<dyn Error>> {
                    Ok(reals(a)?.iter().map(|v| *v as f32).collect())
                };
                let (scale, zero) = (floats(&scale)?, floats(&zero)?);
                let len = scale.len() / (1 + nested.map_widths.len());
                let map = |index: usize| AffineMap {
                    scale: scale[index * len..][..len].to_vec().into(),
                    zero: zero[index * len..][..len].to_vec().into(),
                };
                let own = nested.map_widths.iter().enumerate().map(|(i, w)| (*w, map(i + 1)));
                let cols = nested.cols as usize;
                let weight = NestedWeight::new(
                    (rows, cols),
                    nested.grouping,
                    nested.mode,
                    planes.iter().map(bytes).collect::<Result<_, _>>()?,
                    map(0),
                    own.collect::<BTreeMap<_, _>>(),
                )?;
                let mut floats = vec![0.0; rows * cols];
                weight.dequantize_rows(width, 0..rows, &mut floats)?;
                let mut transposed = vec![0.0; rows * cols];
                for row in 0..rows {
                    for col in 0..cols {
                        transposed[place(WeightLayout::RowsLast, row, col, rows, cols)] =
                            floats[row * cols + col];
                    }
                }
                let x = graph.operand(id, 0);
                let name = graph.fresh_name("dequantized");
                let weight = graph.add_weight(name, Tensor::from_f32(vec![cols, rows], &transposed)?);
                graph.node_mut(id).ok_or("no node")?.op = Op::MatMul;
                graph.set_operands(id, &[x, Some(weight)])?;
            }
            _ => {}
        }
    }
    graph.erase_dead();
    Ok(graph)
}

fn quantize(weight: &Tensor, spec: &mqc_ir::op::NestedQuantize) -> Result<[Tensor; 3], Box<dyn Error>> {
    let values = weight.to_f32_vec().ok_or("not a float")?;
    let &[first, second] = weight.shape() else { return Err("no matrix".into()) };
    let view = match spec.layout {
        WeightLayout::RowsFirst => WeightView::row_major(&values, first, second)?,
        WeightLayout::RowsLast => WeightView::transposed(&values, first, second)?,
    };
    let how = QuantizeSpec {
        scheme: spec.scheme,
        mode: spec.mode,
        grouping: spec.grouping,
        range: spec.range,
        widths: spec.widths,
        lambda: spec.lambda.iter().map(|lambda| lambda.0).collect(),
        allow_nonfinite: spec.allow_nonfinite,
    };
    let (rows, cols) = (view.rows(), view.cols());
    let codes = quantize_rows(&view, 0..rows, &how)?;
    let map = vec![rows, spec.grouping.groups(cols)];
    Ok([
        Tensor::new(mqc_ir::DType::U8, vec![rows, cols], codes.codes.into())?,
        Tensor::from_f32(map.clone(), &codes.scale)?,
        Tensor::from_f32(map, &codes.zero)?,
    ])
}

fn place(layout: WeightLayout, row: usize, col: usize, rows: usize, cols: usize) -> usize {
    match layout {
        WeightLayout::RowsFirst => row * cols + col,
        WeightLayout::RowsLast => col * rows + row,
    }
}

fn replace(graph: &mut Graph, id: NodeId, tensor: Tensor) -> Result<(), Box<dyn Error>> {
    let value = graph.add_weight(graph.fresh_name("constant"), tensor);
    Ok(graph.replace_uses(Value { node: id, slot: 0 }, value)?)
}

fn operand(graph: &Graph, id: NodeId, slot: usize) -> Result<Array<f64>, Box<dyn Error>> {
    constant(graph, graph.operand(id, slot).ok_or("an operand is missing")?)
}

/// The value of a constant expression.
fn constant(graph: &Graph, value: Value) -> Result<Array<f64>, Box<dyn Error>> {
    let mut alone = graph.clone();
    alone.set_outputs(vec![Output { value, name: "constant".to_owned(), declared: Type::Unknown }]);
    for input in alone.inputs().to_vec() {
        if alone.users(Value { node: input, slot: 0 }).is_empty() {
            alone.retain_inputs(|_, id| id != input);
        }
    }
    alone.retain_inputs(|_, _| false);
    alone.erase_dead();
    let mut program = Program::<f64>::compile(&alone, &Setup { threads: 1, ..Setup::default() })?;
    program.run()?;
    Ok(program.output(0))
}

fn ints(array: &Array<f64>) -> Result<&[i64], Box<dyn Error>> {
    match array.data() {
        Data::Int(values) => Ok(values),
        Data::Real(_) | Data::Bool(_) => Err("expected integers".into()),
    }
}

fn reals(array: &Array<f64>) -> Result<&[f64], Box<dyn Error>> {
    match array.data() {
        Data::Real(values) => Ok(values),
        Data::Int(_) | Data::Bool(_) => Err("expected floats".into()),
    }
}

/// Scale, zero and the planes of the first quantized weight of a graph.
pub fn stored(graph: &Graph) -> Result<[Tensor; 10], Box<dyn Error>> {
    let node = graph.order()?.into_iter().find_map(|id| match &graph.node(id)?.op {
        Op::NestedQuantize(spec) => Some((id, spec.clone())),
        _ => None,
    });
    let (id, spec) = node.ok_or("no quantized weight")?;
    let weight = graph.operand(id, 0).and_then(|w| graph.constant(w)).ok_or("no constant")?;
    let [codes, scale, zero] = quantize(weight, &spec)?;
    let &[rows, cols] = codes.shape() else { return Err("no matrix".into()) };
    let planes = pack(codes.bytes(), rows, cols)?;
    let mut tensors = vec![scale, zero];
    for plane in planes {
        tensors.push(Tensor::new(mqc_ir::DType::U8, vec![rows, row_bytes(cols)], plane.into())?);
    }
    tensors.try_into().map_err(|_| "ten tensors".into())
}
