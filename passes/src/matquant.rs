//! The weights of products, convolutions and (on request) tables become nested integers.
//!
//! Before: `%y = mat_mul %x, %w` with `%w = weight @fc1.weight : f32[32, 16]`
//!
//! After:  `%q, %s, %z = nested_quantize %w`, `%c = slice_bits %q {width = 8}`, `%d = dequantize %c, %s, %z`, `%y = mat_mul %x, %d`
//!
//! A weight with several users is quantized once; a matrix under a Transpose is read through it. Nothing is left out in
//! silence: [`Report`] has a row for every product, convolution and table, quantized or skipped with the reason.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::op::{NestedQuantize, WeightLayout};
use mqc_ir::quant::{Grouping, Width};
use mqc_ir::{DType, F32, Graph, NodeId, Op, Tensor, Value};

use crate::options::QuantizeOptions;
use crate::select::{Names, Selection, Settings};
use crate::walk::for_each_graph;
use crate::{Context, Error, Pass};

/// See the module.
pub const MATQUANT: Pass =
    Pass { name: "matquant", about: "weights become nested 8-bit codes that any width is sliced from", run };

/// What became nested and what did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One row a weight.
    pub layers: Vec<Layer>,
    /// One row a node that stays as it was.
    pub skipped: Vec<Skipped>,
}

/// A nested weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Unique name.
    pub name: String,
    /// Name of the float weight.
    pub weight: String,
    /// Names of the nodes that use it (or of their results where they have none).
    pub nodes: Vec<String>,
    /// Operators that use it.
    pub kinds: BTreeSet<Kind>,
    /// Shape of the float weight.
    pub shape: Vec<u64>,
    /// N.
    pub rows: usize,
    /// K.
    pub cols: usize,
    /// How it is quantized.
    pub spec: NestedQuantize,
}

/// A node that keeps its float weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Name of the node, or of its result.
    pub node: String,
    /// Its operator.
    pub kind: Kind,
    /// Name of the weight.
    pub weight: String,
    /// Why.
    pub reason: String,
}

/// Operators whose weights this pass knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are ONNX's")]
pub enum Kind {
    MatMul,
    Conv,
    Gather,
    Gemm,
    ConvTranspose,
    Recurrent,
}

impl Kind {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::MatMul => "MatMul",
            Kind::Conv => "Conv",
            Kind::Gather => "Gather",
            Kind::Gemm => "Gemm",
            Kind::ConvTranspose => "ConvTranspose",
            Kind::Recurrent => "LSTM, GRU or RNN",
        }
    }
}

/// A use of a weight.
struct Candidate {
    node: NodeId,
    kind: Kind,
    operand: usize,
    weight: Value,
    /// The Transpose between, when there is one.
    through: Option<NodeId>,
    layout: WeightLayout,
}

fn run(graph: &mut Graph, context: &mut Context) -> Result<(), Error> {
    let options = &context.options.quantize;
    let mut selection = Selection::new(options)?;
    let mut quantizer = Quantizer { options, names: BTreeSet::new(), by_bytes: BTreeMap::new() };
    for_each_graph(graph, &mut |graph| -> Result<(), Error> {
        for id in graph.order()? {
            let Some(found) = candidate(graph, id) else { continue };
            match found {
                Err(skipped) => context.report.skipped.push(skipped),
                Ok(candidate) => quantizer.visit(graph, &candidate, &mut selection, context)?,
            }
        }
        graph.erase_dead();
        Ok(())
    })?;
    selection.finish()?;
    if context.report.layers.is_empty() {
        let reasons: BTreeSet<&str> = context.report.skipped.iter().map(|s| s.reason.as_str()).collect();
        let reasons: Vec<&str> = reasons.into_iter().collect();
        return Err(Error::NothingToQuantize(match reasons.is_empty() {
            true => "it has no MatMul, Gemm, Conv or Gather with a constant weight".to_owned(),
            false => reasons.join("; "),
        }));
    }
    Ok(())
}

/// The use of a weight by a node, or why the node's weight cannot be nested; `None` for other nodes.
fn candidate(graph: &Graph, node: NodeId) -> Option<Result<Candidate, Skipped>> {
    let op = &graph.node(node)?.op;
    let (kind, operand) = match op {
        Op::MatMul => (Kind::MatMul, 1),
        Op::Conv(_) => (Kind::Conv, 1),
        Op::Gather { .. } => (Kind::Gather, 0),
        Op::Gemm { .. } => (Kind::Gemm, 1),
        Op::Opaque(opaque) => match (opaque.domain.as_str(), opaque.op_type.as_str()) {
            ("", "ConvTranspose") => (Kind::ConvTranspose, 1),
            ("", "LSTM" | "GRU" | "RNN") => (Kind::Recurrent, 1),
            _ => return None,
        },
        _ => return None,
    };
    let skip = |weight: Value, reason: &str| {
        Some(Err(Skipped {
            node: label(graph, node),
            kind,
            weight: name(graph, weight),
            reason: reason.to_owned(),
        }))
    };
    let value = graph.operand(node, operand)?;
    let (weight, through) = match graph.constant(value) {
        Some(_) => (value, None),
        None => match (transposed(graph, value), graph.operand(node, 0)) {
            (Some(origin), _) => (origin, Some(value.node)),
            (None, Some(left)) if kind == Kind::MatMul && graph.constant(left).is_some() => {
                return skip(left, "the weight is the left operand; only right operands are nested");
            }
            // A product of activations has no weight.
            (None, _) => return None,
        },
    };
    let tensor = graph.constant(weight)?;
    if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::Bf16) {
        return match tensor.dtype().is_float() {
            true => skip(weight, &format!("weights of type {} are not nested", tensor.dtype())),
            // Integer products and Gathers of shapes are no weights.
            false => None,
        };
    }
    let layout = match kind {
        Kind::MatMul if tensor.shape().len() != 2 => {
            return skip(weight, &format!("a weight of rank {} is not a matrix", tensor.shape().len()));
        }
        Kind::MatMul if through.is_some() => WeightLayout::RowsFirst,
        Kind::MatMul => WeightLayout::RowsLast,
        Kind::Conv if tensor.shape().len() < 3 => {
            return skip(weight, "the kernel has fewer than three dimensions");
        }
        Kind::Gather if tensor.shape().len() != 2 || *op != (Op::Gather { axis: 0 }) => {
            // Shape arithmetic and the like: constants of a few elements are no tables.
            return match tensor.len() < 256 {
                true => None,
                false => skip(weight, "only tables of rank 2 gathered along axis 0 are nested"),
            };
        }
        Kind::Conv | Kind::Gather => WeightLayout::RowsFirst,
        Kind::Gemm => return skip(weight, "a Gemm with a bias or types that MatMul does not take"),
        Kind::ConvTranspose => return skip(weight, "ConvTranspose is not supported yet"),
        Kind::Recurrent => return skip(weight, "recurrent layers are not supported yet"),
    };
    let (rows, cols) = matrix(tensor.shape(), layout);
    if rows == 0 || cols <= 1 {
        return skip(
            weight,
            &format!("a weight of {rows} rows by {cols} columns has nothing to share a scale"),
        );
    }
    Some(Ok(Candidate { node, kind, operand, weight, through, layout }))
}

/// N and K of a float weight.
pub fn matrix(shape: &[usize], layout: WeightLayout) -> (usize, usize) {
    match layout {
        WeightLayout::RowsFirst => (shape.first().copied().unwrap_or(0), shape.iter().skip(1).product()),
        WeightLayout::RowsLast => (shape.get(1).copied().unwrap_or(0), shape.first().copied().unwrap_or(0)),
    }
}

/// The constant matrix of which the value is the transposed.
fn transposed(graph: &Graph, value: Value) -> Option<Value> {
    let Op::Transpose { perm } = &graph.node(value.node)?.op else { return None };
    let origin = graph.operand(value.node, 0)?;
    let is_matrix = graph.constant(origin)?.shape().len() == 2;
    let swaps = perm.as_ref().is_none_or(|p| p == &[1, 0]);
    (is_matrix && swaps).then_some(origin)
}

fn name(graph: &Graph, value: Value) -> String {
    graph.info(value).map(|i| i.name.clone()).unwrap_or_default()
}

/// What a person would call the node: its name, or that of its result.
fn label(graph: &Graph, node: NodeId) -> String {
    let given = graph.node(node).map(|n| n.name.clone()).unwrap_or_default();
    if given.is_empty() { name(graph, Value { node, slot: 0 }) } else { given }
}

type Source = (usize, Vec<usize>, NestedQuantize);

struct Quantizer<'a> {
    options: &'a QuantizeOptions,
    names: BTreeSet<String>,
    /// Layers by the bytes they are made from: constants sunk into two bodies are one layer.
    by_bytes: BTreeMap<Source, usize>,
}

impl Quantizer<'_> {
    fn visit(
        &mut self,
        graph: &mut Graph,
        candidate: &Candidate,
        selection: &mut Selection,
        context: &mut Context,
    ) -> Result<(), Error> {
        let Some(tensor) = graph.constant(candidate.weight).cloned() else { return Ok(()) };
        let node = label(graph, candidate.node);
        let weight = name(graph, candidate.weight);
        let refusal = match selection.settle(Names { node: &node, weight: &weight }) {
            Settings::Skip(reason) => Some(reason),
            Settings::Quantize(_) if candidate.kind == Kind::Gather && !self.options.embeddings => {
                Some("a table; --embeddings nests it".to_owned())
            }
            Settings::Quantize(_) if !context.rewrite() => Some("--stop-after".to_owned()),
            Settings::Quantize(settings) => {
                let spec = self.spec(&settings, &tensor, candidate.layout);
                let layer = self.layer(&tensor, &weight, &node, candidate.kind, spec, context);
                insert(graph, candidate, &context.report.layers[layer], tensor.dtype())?;
                None
            }
        };
        if let Some(reason) = refusal {
            context.report.skipped.push(Skipped { node, kind: candidate.kind, weight, reason });
        }
        Ok(())
    }

    fn spec(
        &self,
        settings: &crate::select::LayerSettings,
        tensor: &Tensor,
        layout: WeightLayout,
    ) -> NestedQuantize {
        let (_, cols) = matrix(tensor.shape(), layout);
        let grouping = match settings.grouping {
            Grouping::Group(size) if (size as usize) < cols => settings.grouping,
            Grouping::Group(_) | Grouping::PerChannel => Grouping::PerChannel,
        };
        NestedQuantize {
            scheme: settings.scheme,
            mode: settings.slice,
            grouping,
            range: settings.range,
            widths: self.options.widths,
            lambda: self.options.lambda.iter().copied().map(F32).collect(),
            layout,
            allow_nonfinite: self.options.allow_nonfinite,
        }
    }

    /// The layer of these bytes, new or known.
    fn layer(
        &mut self,
        tensor: &Tensor,
        weight: &str,
        node: &str,
        kind: Kind,
        spec: NestedQuantize,
        context: &mut Context,
    ) -> usize {
        let layers = &mut context.report.layers;
        let source = (tensor.bytes().as_ptr().addr(), tensor.shape().to_vec(), spec.clone());
        let index = *self.by_bytes.entry(source).or_insert_with(|| {
            let (rows, cols) = matrix(tensor.shape(), spec.layout);
            let mut name = layer_name(weight, node).to_owned();
            while !self.names.insert(name.clone()) {
                name.push('\'');
            }
            layers.push(Layer {
                name,
                weight: weight.to_owned(),
                nodes: vec![],
                kinds: BTreeSet::new(),
                shape: tensor.shape().iter().map(|&d| d as u64).collect(),
                rows,
                cols,
                spec,
            });
            layers.len() - 1
        });
        layers[index].nodes.push(node.to_owned());
        layers[index].kinds.insert(kind);
        index
    }
}

/// Exporters call weights that they had to copy `onnx::MatMul_123` or just `123`: then the node says more.
fn layer_name<'a>(weight: &'a str, node: &'a str) -> &'a str {
    let tells_nothing = weight.contains("::") || weight.chars().all(|c| c.is_ascii_digit());
    if tells_nothing { node } else { weight }
}

/// Puts quantize, slice and dequantize between the weight and its user, sharing those that are there.
fn insert(graph: &mut Graph, candidate: &Candidate, layer: &Layer, dtype: DType) -> Result<(), Error> {
    let existing = graph
        .users(candidate.weight)
        .into_iter()
        .map(|(user, _)| user)
        .find(|user| graph.node(*user).is_some_and(|n| n.op == Op::NestedQuantize(layer.spec.clone())));
    let float = match existing.and_then(|quantize| dequantized(graph, quantize, dtype)) {
        Some(value) => value,
        None => build(graph, candidate.weight, layer, dtype)?,
    };
    match candidate.through {
        // The Transpose may have other users: they are products too and get the same matrix.
        Some(transpose) => graph.set_operand(transpose, 0, float),
        None => graph.set_operand(candidate.node, candidate.operand, float),
    }
    Ok(())
}

fn dequantized(graph: &Graph, quantize: NodeId, dtype: DType) -> Option<Value> {
    let (slice, _) = *graph.users(Value { node: quantize, slot: 0 }).first()?;
    let (dequantize, _) = *graph.users(Value { node: slice, slot: 0 }).first()?;
    let float = Value { node: dequantize, slot: 0 };
    match dtype {
        DType::F32 => Some(float),
        _ => graph
            .users(float)
            .into_iter()
            .map(|(user, _)| user)
            .find(|user| {
                graph.node(*user).is_some_and(|n| matches!(n.op, Op::Cast { to, .. } if to == dtype))
            })
            .map(|node| Value { node, slot: 0 }),
    }
}

fn build(graph: &mut Graph, weight: Value, layer: &Layer, dtype: DType) -> Result<Value, Error> {
    let spec = &layer.spec;
    let outputs = ["codes", "scale", "zero"].map(|part| mqc_ir::ValueInfo {
        name: graph.fresh_name(&format!("{}.{part}", layer.name)),
        ty: Default::default(),
    });
    let quantize = mqc_ir::Node::new(Op::NestedQuantize(spec.clone()), layer.name.clone(), outputs.to_vec());
    let node = graph.insert(quantize, &[Some(weight)])?;
    let [codes, scale, zero] = [0, 1, 2].map(|slot| Value { node, slot });
    let slice = Op::SliceBits { width: Width::MAX, mode: spec.mode };
    let slice = graph.apply(slice, &format!("{}.slice", layer.name), &[codes])?;
    let dequantize = Op::Dequantize {
        width: Width::MAX,
        mode: spec.mode,
        grouping: spec.grouping,
        layout: spec.layout,
        shape: layer.shape.clone(),
    };
    let float = graph.apply(dequantize, &format!("{}.dequantized", layer.name), &[slice, scale, zero])?;
    match dtype {
        DType::F32 => Ok(float),
        to => Ok(graph.apply(Op::Cast { to, saturate: true }, &format!("{}.cast", layer.name), &[float])?),
    }
}
