//! A model as training sees it: nested layers, float parameters, and what depends on neither.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::op::{NestedQuantize, WeightLayout};
use mqc_ir::quant::Grouping;
use mqc_ir::{DType, Graph, Node, NodeId, Op, Tensor, Value};

use crate::nested_layer::Line;
use crate::{Builder, Error};

/// Constants beyond this are masks, not parameters.
const LARGEST_PARAMETER: f32 = 1e3;

/// A weight that is nested.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its name in reports and artifacts.
    pub name: String,
    /// Name of the float weight.
    pub weight: String,
    /// The float weight.
    pub tensor: Tensor,
    /// How it is quantized.
    pub spec: NestedQuantize,
    /// The float weight in the source graph.
    value: Value,
    /// What stands for it where it is used.
    dequantized: Vec<Value>,
}

/// The axes of a weight in groups: `[N, G, g]` or `[G, g, N]`, with one map for each N and G.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Output rows.
    pub rows: usize,
    /// Weights of a row.
    pub cols: usize,
    /// Groups of a row.
    pub groups: usize,
    /// Weights of a group; the last may be shorter.
    pub size: usize,
    /// Which axis holds the rows.
    pub layout: WeightLayout,
}

impl Layer {
    /// What stands for it where it is used.
    pub fn uses(&self) -> &[Value] {
        &self.dequantized
    }

    /// Its axes.
    pub fn grouped(&self) -> Grouped {
        let shape = self.tensor.shape();
        let (rows, cols) = match self.spec.layout {
            WeightLayout::RowsFirst => {
                (shape.first().copied().unwrap_or(1), shape.iter().skip(1).product::<usize>())
            }
            WeightLayout::RowsLast => {
                (shape.last().copied().unwrap_or(1), shape.first().copied().unwrap_or(1))
            }
        };
        let (groups, size) = match self.spec.grouping {
            Grouping::PerChannel => (1, cols),
            Grouping::Group(_) => (self.spec.grouping.groups(cols), self.spec.grouping.size(cols)),
        };
        Grouped { rows, cols, groups, size, layout: self.spec.layout }
    }
}

impl Grouped {
    /// The shape in which groups have an axis of their own, the last one filled up.
    pub fn shape(self) -> [usize; 3] {
        match self.layout {
            WeightLayout::RowsFirst => [self.rows, self.groups, self.size],
            WeightLayout::RowsLast => [self.groups, self.size, self.rows],
        }
    }

    /// The axis of [`Grouped::shape`] that a group runs along.
    pub fn axis(self) -> usize {
        match self.layout {
            WeightLayout::RowsFirst => 2,
            WeightLayout::RowsLast => 1,
        }
    }

    /// Codes `[rows, cols]` in the order of [`Grouped::shape`]; the rest of a last group repeats its last one.
    pub fn codes_in_groups(self, codes: &[f32]) -> Vec<f32> {
        let at = |row: usize, group: usize, place: usize| {
            let col = (group * self.size + place).min(self.cols.saturating_sub(1));
            codes.get(row * self.cols + col).copied().unwrap_or(0.0)
        };
        let [first, second, third] = self.shape();
        let mut grouped = Vec::with_capacity(first * second * third);
        for i in 0..first {
            for j in 0..second {
                grouped.extend((0..third).map(|k| match self.layout {
                    WeightLayout::RowsFirst => at(i, j, k),
                    WeightLayout::RowsLast => at(k, i, j),
                }));
            }
        }
        grouped
    }

    /// A map `[rows, groups]` in the order of [`Grouped::map_shape`].
    pub fn map_in_groups(self, map: &[f32]) -> Vec<f32> {
        match self.layout {
            WeightLayout::RowsFirst => map.to_vec(),
            WeightLayout::RowsLast => (0..self.groups)
                .flat_map(|group| (0..self.rows).map(move |row| row * self.groups + group))
                .map(|place| map.get(place).copied().unwrap_or(0.0))
                .collect(),
        }
    }

    /// The shape of a map: one value for each row and group.
    pub fn map_shape(self) -> [usize; 3] {
        let mut shape = self.shape();
        shape[self.axis()] = 1;
        shape
    }
}

/// A float parameter: norm gains, biases, tables, weights that are not nested.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name of the weight.
    pub name: String,
    /// Its value in the model.
    pub tensor: Tensor,
    value: Value,
}

/// See the module.
pub struct Source {
    graph: Graph,
    /// The nested weights in the order of their use.
    pub layers: Vec<Layer>,
    /// The float parameters in the order of their use.
    pub parameters: Vec<Parameter>,
    /// Nodes whose result changes while the model is trained.
    trained: BTreeSet<NodeId>,
}

impl Source {
    /// Looks through a model of fixed shapes that `matquant` has been over.
    ///
    /// # Errors
    /// Cycles.
    pub fn new(graph: Graph) -> Result<Source, Error> {
        let mut source = Source { graph, layers: vec![], parameters: vec![], trained: BTreeSet::new() };
        let order = source.graph.order()?;
        for &id in &order {
            source.visit(id);
        }
        Ok(source)
    }

    /// The model.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether a node's result changes while the model is trained.
    pub fn is_trained(&self, node: NodeId) -> bool {
        self.trained.contains(&node)
    }

    fn visit(&mut self, id: NodeId) {
        let Some(node) = self.graph.node(id) else { return };
        let operands = self.graph.operands(id);
        match &node.op {
            Op::NestedQuantize(spec) => {
                let (name, spec) = (node.name.clone(), spec.clone());
                self.layer(id, name, spec);
                self.trained.insert(id);
            }
            Op::Gather { .. } => {
                if let Some(table) = operands.first().copied().flatten()
                    && self.is_float_matrix(table)
                {
                    self.parameter(table);
                    self.trained.insert(id);
                }
            }
            op @ (Op::MatMul | Op::Gemm { .. } | Op::Conv(_)) => {
                // A matrix with one row multiplies positions by frequencies: no weight.
                let is_weight = |t: &Tensor| matches!(op, Op::Conv(_)) || t.shape().iter().all(|n| *n > 1);
                if let Some(weight) = operands.get(1).copied().flatten()
                    && self.is_float_matrix(weight)
                    && self.graph.constant(weight).is_some_and(is_weight)
                {
                    self.parameter(weight);
                    self.trained.insert(id);
                }
            }
            _ => {}
        }
        let depends = operands.iter().flatten().any(|v| self.trained.contains(&v.node));
        if depends {
            self.trained.insert(id);
            for slot in parameter_slots(&self.graph, id) {
                if let Some(value) = operands.get(slot).copied().flatten() {
                    self.parameter(value);
                }
            }
        }
    }

    fn layer(&mut self, quantize: NodeId, name: String, spec: NestedQuantize) {
        let Some(value) = self.graph.operand(quantize, 0) else { return };
        let (Some(tensor), Some(info)) = (self.graph.constant(value).cloned(), self.graph.info(value)) else {
            return;
        };
        let weight = info.name.clone();
        let codes = self.graph.users(Value { node: quantize, slot: 0 });
        let dequantized = codes
            .into_iter()
            .flat_map(|(slice, _)| self.graph.users(Value { node: slice, slot: 0 }))
            .map(|(node, _)| Value { node, slot: 0 })
            .collect();
        self.layers.push(Layer { name, weight, tensor, spec, value, dequantized });
    }

    /// Whether the line from levels to weights is better applied to the products of a layer than to its weights: all that
    /// reads it are products of fewer rows than it has, and a column has one line.
    pub fn has_line_behind(&self, layer: &Layer) -> bool {
        let grouped = layer.grouped();
        let is_matrix = grouped.layout == WeightLayout::RowsLast && layer.tensor.shape().len() == 2;
        let few_rows = |(node, slot): (NodeId, usize)| {
            let is_product = slot == 1 && self.graph.node(node).is_some_and(|n| n.op == Op::MatMul);
            let x = self.graph.operand(node, 0).and_then(|x| self.graph.ty(x).shape());
            let sizes: Option<Vec<u64>> = x.and_then(|dims| dims.iter().map(|d| d.size()).collect());
            let elements = sizes.filter(|s| s.len() >= 2).map(|s| s.iter().product::<u64>());
            is_product && elements.is_some_and(|n| 2 * n <= (grouped.cols * grouped.cols) as u64)
        };
        let users = layer.dequantized.iter().flat_map(|value| self.graph.users(*value));
        is_matrix
            && grouped.groups == 1
            && layer.dequantized.iter().all(|value| !self.graph.is_output(*value))
            && users.into_iter().all(few_rows)
    }

    /// Whether something else than its quantizer reads the float weight of a layer.
    pub fn has_float_use(&self, layer: &Layer) -> bool {
        let users = self.graph.users(layer.value);
        users
            .iter()
            .any(|(id, _)| !self.graph.node(*id).is_some_and(|n| matches!(n.op, Op::NestedQuantize(_))))
    }

    fn is_float_matrix(&self, value: Value) -> bool {
        self.graph.constant(value).is_some_and(|t| t.dtype() == DType::F32 && t.shape().len() >= 2)
    }

    fn parameter(&mut self, value: Value) {
        let Some(tensor) = self.graph.constant(value).cloned() else { return };
        let known = self.parameters.iter().any(|p| p.value == value);
        let is_mask = || {
            let values = tensor.to_f32_vec().unwrap_or_default();
            values.iter().any(|v| v.abs().is_nan() || v.abs() > LARGEST_PARAMETER)
        };
        if known || tensor.dtype() != DType::F32 || tensor.len() < 2 || is_mask() {
            return;
        }
        let name = self.graph.info(value).map(|i| i.name.clone()).unwrap_or_default();
        self.parameters.push(Parameter { name, tensor, value });
    }

    /// Copies what computes the outputs into a graph that grows. `layers` and `parameters` are what stands for the
    /// nested weights (at their uses) and for the float parameters; float uses of nested weights get `floats`.
    ///
    /// # Errors
    /// Names of weights that are missing, nodes that cannot be inferred.
    pub fn replicate(
        &self,
        b: &mut Builder,
        shared: &mut Shared,
        weights: &Weights,
        scope: &str,
    ) -> Result<Vec<(String, Value)>, Error> {
        let mut values: BTreeMap<Value, Value> = BTreeMap::new();
        for layer in &self.layers {
            if let Some(&value) = weights.sliced.get(&layer.name) {
                values.extend(layer.dequantized.iter().map(|d| (*d, value)));
            }
            if let Some(&value) = weights.floats.get(&layer.weight) {
                values.insert(layer.value, value);
            }
        }
        for parameter in &self.parameters {
            if let Some(&value) = weights.floats.get(&parameter.name) {
                values.insert(parameter.value, value);
            }
        }
        values.extend(weights.bound.iter().map(|(old, new)| (*old, *new)));
        let wanted: Vec<Value> = self.graph.outputs().iter().map(|o| o.value).collect();
        let needed = self.needed(&wanted, &values);
        // What depends on a bound value is no other replica's.
        let mut changed: BTreeSet<NodeId> = BTreeSet::new();
        for id in self.graph.order()?.into_iter().filter(|id| needed.contains(id)) {
            if values.contains_key(&Value { node: id, slot: 0 }) {
                continue;
            }
            let reads = |v: &Value| weights.bound.contains_key(v) || changed.contains(&v.node);
            if self.graph.operands(id).iter().flatten().any(reads) {
                changed.insert(id);
            }
            let is_shared = !self.trained.contains(&id) && !changed.contains(&id);
            if is_shared && let Some(outputs) = shared.0.get(&id) {
                values.extend(outputs.iter().enumerate().map(|(slot, v)| (Value { node: id, slot }, *v)));
                continue;
            }
            let line = self.graph.operand(id, 1).and_then(|weight| weights.lines.get(&weight));
            let mut outputs = self.copy(b, id, &values, if is_shared { "shared" } else { scope })?;
            if let (Some(line), [product]) = (line, outputs.as_mut_slice()) {
                let x = self.graph.operand(id, 0).and_then(|x| values.get(&x).copied());
                *product = through_line(b, x, *product, *line)?;
            }
            values.extend(outputs.iter().enumerate().map(|(slot, v)| (Value { node: id, slot }, *v)));
            if is_shared {
                shared.0.insert(id, outputs);
            }
        }
        let output = |o: &mqc_ir::Output| Some((o.name.clone(), *values.get(&o.value)?));
        Ok(self.graph.outputs().iter().filter_map(output).collect())
    }

    fn needed(&self, wanted: &[Value], bound: &BTreeMap<Value, Value>) -> BTreeSet<NodeId> {
        let mut needed = BTreeSet::new();
        let mut stack: Vec<Value> = wanted.to_vec();
        while let Some(value) = stack.pop() {
            if !bound.contains_key(&value) && needed.insert(value.node) {
                stack.extend(self.graph.operands(value.node).into_iter().flatten());
            }
        }
        needed
    }

    fn copy(
        &self,
        b: &mut Builder,
        id: NodeId,
        values: &BTreeMap<Value, Value>,
        scope: &str,
    ) -> Result<Vec<Value>, Error> {
        let Some(node) = self.graph.node(id) else { return Ok(vec![]) };
        let info = node.outputs.first();
        match &node.op {
            Op::Weight(tensor) | Op::Constant(tensor) => {
                let name = info.map(|i| i.name.as_str()).unwrap_or_default();
                let name = b.graph.fresh_name(name);
                return Ok(vec![b.graph.add_weight(name, tensor.clone())]);
            }
            _ => {}
        }
        let operands: Vec<Option<Value>> =
            self.graph.operands(id).iter().map(|v| v.and_then(|v| values.get(&v).copied())).collect();
        let mut copy = Node { metadata: vec![], doc: String::new(), ..node.clone() };
        copy.name = format!("{scope}/{}", self.graph.label(id));
        for output in copy.outputs.iter_mut().filter(|o| !o.name.is_empty()) {
            output.name = b.graph.fresh_name(&format!("{scope}/{}", output.name));
        }
        let outputs = copy.outputs.len();
        let id = b.graph.insert(copy, &operands)?;
        mqc_ir::infer::infer_node(b.graph, id)?;
        Ok((0..outputs).map(|slot| Value { node: id, slot }).collect())
    }
}

/// Copies of nodes that all replicas share: inputs, constants, masks, positions.
#[derive(Default)]
pub struct Shared(BTreeMap<NodeId, Vec<Value>>);

impl Shared {
    /// Adds the inputs of the model to a graph, in their order.
    pub fn new(b: &mut Builder, source: &Source) -> Shared {
        let mut shared = Shared::default();
        for &id in source.graph.inputs() {
            let Some(info) = source.graph.node(id).and_then(|n| n.outputs.first()) else { continue };
            if source.graph.node(id).is_some_and(|n| n.op == Op::Input) {
                let value = b.graph.add_input(info.name.clone(), info.ty.clone());
                shared.0.insert(id, vec![value]);
            }
        }
        shared
    }
}

/// What stands for the weights of one replica.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// Nested weights at their uses, by name of the layer.
    pub sliced: BTreeMap<String, Value>,
    /// Float weights by name; weights that are not listed stay as they are in the model.
    pub floats: BTreeMap<String, Value>,
    /// Lines from the levels that `sliced` has to the weights, by value of the source: they are applied to products.
    pub lines: BTreeMap<Value, Line>,
    /// What else stands for something, by value of the source.
    pub bound: BTreeMap<Value, Value>,
}

/// `x (slope level + offset)` from `x level`.
fn through_line(b: &mut Builder, x: Option<Value>, product: Value, line: Line) -> Result<Value, Error> {
    let x = x.ok_or_else(|| Error::invalid("product", "", "has no left operand"))?;
    let shape = b.shape(x)?;
    let columns = b.shape(product)?.last().copied().unwrap_or(1);
    let (slope, offset) = (b.reshape(line.slope, &[columns])?, b.reshape(line.offset, &[columns])?);
    let sums = b.sum(x, &[shape.len().saturating_sub(1)], true)?;
    let moved = b.mul(sums, offset)?;
    let scaled = b.mul(product, slope)?;
    b.add(scaled, moved)
}

/// The operands of a node that are parameters when they are constants: gains, biases, unnested weights. The other
/// operands of an elementwise operation are looked at too, for a bias may stand on either side.
fn parameter_slots(graph: &Graph, id: NodeId) -> Vec<usize> {
    use mqc_ir::op::Binary;
    match graph.node(id).map(|n| &n.op) {
        Some(Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::PRelu)) => vec![0, 1],
        Some(Op::MatMul) => vec![0, 1],
        Some(Op::Gemm { .. } | Op::Conv(_) | Op::LayerNormalization { .. }) => vec![1, 2],
        Some(Op::RmsNormalization { .. }) => vec![1],
        Some(Op::BatchNormalization { .. }) => vec![1, 2],
        Some(Op::Opaque(_)) => (1..graph.operands(id).len()).collect(),
        _ => vec![],
    }
}
