//! The nested node at hand, and the graph around it.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::op::Window;
use mqc_ir::quant::Width;
use mqc_ir::{DType, Graph, Node, NodeId, Op, Tensor, Type, Value, ValueInfo};
use mqc_runtime::nested::NestedWeight;
use mqc_runtime::nested_node::{nested_parts, nested_weight};

use crate::Error;
use crate::walk::for_each_graph;

/// What a nested node computes with its weight.
pub enum Kind {
    MatMul,
    Conv { window: Window, shape: Vec<usize>, bias: Option<Value> },
    Gather,
}

/// A nested node to replace.
pub struct Site {
    pub id: NodeId,
    pub node: Node,
    pub layer: String,
    /// What the weight is applied to; of a Gather, the indices.
    pub x: Value,
    pub kind: Kind,
    pub weight: NestedWeight,
    pub width: Width,
}

impl Site {
    /// The error that `message` is true of this layer.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Layer { layer: self.layer.clone(), message: message.into() }
    }

    /// The type of the node's result.
    pub fn ty(&self) -> Type {
        self.node.outputs.first().map(|o| o.ty.clone()).unwrap_or_default()
    }

    /// A name for a value that the node's replacement computes on the way.
    pub fn value_name(&self, part: &str) -> String {
        format!("{}/{part}", if self.node.name.is_empty() { &self.layer } else { &self.node.name })
    }

    /// A name for a constant of the layer.
    pub fn constant_name(&self, part: &str) -> String {
        format!("{}.{part}", self.layer)
    }

    fn read(
        graph: &Graph,
        id: NodeId,
        width_of: &dyn Fn(&str) -> Option<Width>,
    ) -> Result<Option<Site>, Error> {
        let Some(node) = graph.node(id) else { return Ok(None) };
        let Some((nested, _)) = nested_parts(&node.op) else { return Ok(None) };
        let Some(weight) = nested_weight(graph, id)? else { return Ok(None) };
        let layer = nested.layer.clone();
        let error = |message: String| Error::Layer { layer: layer.clone(), message };
        let width = width_of(&layer).ok_or_else(|| mqc_runtime::Error::NoWidth { layer: layer.clone() })?;
        if width > weight.max_width() {
            let most = weight.max_width();
            return Err(mqc_runtime::Error::WidthNotStored { layer: layer.clone(), width, most }.into());
        }
        let kind = match &node.op {
            Op::NestedConv { window, shape, .. } => {
                let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
                let count = mqc_ir::tensor::element_count(&shape);
                if shape.first() != Some(&weight.rows()) || count != Some(weight.rows() * weight.cols()) {
                    let (rows, cols) = (weight.rows(), weight.cols());
                    return Err(error(format!(
                        "the weight is [{rows}, {cols}], which is not of shape {shape:?}"
                    )));
                }
                Kind::Conv { window: window.clone(), shape, bias: graph.operand(id, 4) }
            }
            Op::NestedGather(_) => Kind::Gather,
            _ => Kind::MatMul,
        };
        let missing = || error(format!("node {} has no first operand", graph.label(id)));
        let x = graph.operand(id, 0).ok_or_else(missing)?;
        match graph.ty(x).dtype() {
            Some(found) if found != DType::F32 && !matches!(kind, Kind::Gather) => {
                Err(error(format!("the operand of node {} is {found}, expected f32", graph.label(id))))
            }
            _ => Ok(Some(Site { id, node: node.clone(), layer: layer.clone(), x, kind, weight, width })),
        }
    }
}

/// One graph with what its replaced nodes share.
pub struct Scope<'a> {
    pub graph: &'a mut Graph,
    constants: BTreeMap<String, Value>,
    /// Sums of x over groups, by x and group length.
    pub group_sums: BTreeMap<(Value, usize), Value>,
    tables: BTreeSet<String>,
    multiplied: BTreeSet<String>,
}

impl Scope<'_> {
    /// The constant of this name, made once for all nodes that ask for it.
    pub fn constant(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Result<Tensor, Error>,
    ) -> Result<Value, Error> {
        if let Some(&value) = self.constants.get(name) {
            return Ok(value);
        }
        let value = self.graph.add_weight(self.graph.fresh_name(name), make()?);
        self.constants.insert(name.to_owned(), value);
        Ok(value)
    }

    /// Whether a Gather of this graph reads the layer's weight too.
    pub fn is_table(&self, layer: &str) -> bool {
        self.tables.contains(layer)
    }

    /// Whether a MatMul of this graph reads the layer's weight too.
    pub fn is_multiplied(&self, layer: &str) -> bool {
        self.multiplied.contains(layer)
    }

    /// Adds a node on the way to the replacement.
    pub fn apply(&mut self, op: Op, name: &str, operands: &[Value]) -> Result<Value, Error> {
        Ok(self.graph.apply(op, name, operands)?)
    }

    /// Adds a node on the way whose type inference cannot know.
    pub fn apply_typed(&mut self, op: Op, name: &str, operands: &[Value], ty: Type) -> Result<Value, Error> {
        let value = self.graph.apply(op, name, operands)?;
        self.graph.set_type(value, ty);
        Ok(value)
    }

    /// Adds the node that stands for the nested one: it has its name, documentation and type.
    pub fn stand_in(&mut self, site: &Site, op: Op, operands: &[Option<Value>]) -> Result<Value, Error> {
        let name = self.graph.fresh_name(&site.value_name("result"));
        let node = Node { op, outputs: vec![ValueInfo { name, ty: site.ty() }], ..site.node.clone() };
        Ok(Value { node: self.graph.insert(node, operands)?, slot: 0 })
    }

    /// `new` takes the place and the name of the nested node's result.
    fn replace(&mut self, site: &Site, new: Value) -> Result<(), Error> {
        let old = Value { node: site.id, slot: 0 };
        let name = self.graph.info(old).map(|i| i.name.clone()).unwrap_or_default();
        let aside = self.graph.fresh_name(&format!("{name}/nested"));
        for (value, name) in [(old, aside), (new, name)] {
            if let Some(info) = self.graph.node_mut(value.node).and_then(|n| n.outputs.get_mut(value.slot)) {
                info.name = name;
            }
        }
        Ok(self.graph.replace_uses(old, new)?)
    }
}

/// Replaces every nested node, in bodies too, by the value that `lower` makes; keeps those for which it makes none.
pub fn replace_nested(
    graph: &mut Graph,
    width_of: &dyn Fn(&str) -> Option<Width>,
    mut lower: impl FnMut(&mut Scope, &Site) -> Result<Option<Value>, Error>,
) -> Result<(), Error> {
    for_each_graph(graph, &mut |graph| {
        let order = graph.order()?;
        let (mut tables, mut multiplied) = (BTreeSet::new(), BTreeSet::new());
        for id in &order {
            match graph.node(*id).map(|n| &n.op) {
                Some(Op::NestedGather(nested)) => tables.insert(nested.layer.clone()),
                Some(Op::NestedMatMul(nested)) => multiplied.insert(nested.layer.clone()),
                _ => false,
            };
        }
        let (constants, group_sums) = (BTreeMap::new(), BTreeMap::new());
        let mut scope = Scope { graph, constants, group_sums, tables, multiplied };
        for id in order {
            let Some(site) = Site::read(scope.graph, id, width_of)? else { continue };
            if let Some(value) = lower(&mut scope, &site)? {
                scope.replace(&site, value)?;
            }
        }
        scope.graph.erase_dead();
        Ok(())
    })
}
