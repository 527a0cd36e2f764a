//! A model ready to run on the CPU: the graph in tract, one resident copy of every nested weight, any width per call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqc_ir::op::Opaque;
use mqc_ir::quant::Width;
use mqc_ir::{Attribute, Graph, NodeId, Op, Tensor, Text, Value};
use mqc_onnx::{Model, export};

use crate::Error;
use crate::cpu::{self, Engine, Resident, TractModel};
use crate::nested_node::{nested_parts, nested_weight};

/// Constants of at least so many bytes are handed to tract directly instead of through an ONNX message.
const LARGE: usize = 1 << 10;

/// Held while a run is under way.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;
/// Inputs in tract's memory.
type TractInputs = Vec<(String, cpu::TractTensor)>;

/// A loaded model. Runs are serialised: the width of a call holds for the whole call.
pub struct Session {
    model: TractModel,
    residents: BTreeMap<String, Arc<Resident>>,
    engine: Arc<Engine>,
    running: Mutex<()>,
}

impl Session {
    /// Loads a graph, nested or float.
    ///
    /// # Errors
    /// If an operator does not run on the CPU session, or a nested weight is malformed.
    pub fn new(model: &Model) -> Result<Session, Error> {
        Session::on(model, &Arc::new(Engine::default()))
    }

    /// [`Session::new`] with the threads and settings of `engine`.
    ///
    /// # Errors
    /// As `new`.
    pub fn on(model: &Model, engine: &Arc<Engine>) -> Result<Session, Error> {
        let mut model = model.clone();
        let mut residents = BTreeMap::new();
        bind_nested(&mut model.graph, engine, &mut residents)?;
        model.graph.fix_weights();
        let constants = take_large(&mut model.graph)?;
        let proto = export::to_bytes(&model)?;
        let model = TractModel::from_proto(&proto, constants, &residents, engine)?;
        Ok(Session { model, residents, engine: engine.clone(), running: Mutex::default() })
    }

    /// Makes the planes resident that products read at `width`, or at the widest width that a layer has. Without it each
    /// product does so when it first runs at a width.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn load(&self, width: Width) -> Result<(), Error> {
        for (layer, resident) in &self.residents {
            let width = width.min(resident.weight().max_width());
            resident
                .load(width)
                .map_err(|e| Error::Layer { layer: layer.clone(), message: e.to_string() })?;
        }
        Ok(())
    }

    /// What its products share.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Bytes of bit planes that are resident for products.
    pub fn resident_bytes(&self) -> usize {
        self.residents.values().map(|resident| resident.resident_bytes()).sum()
    }

    /// The nested weights by layer name.
    pub fn layers(&self) -> &BTreeMap<String, Arc<Resident>> {
        &self.residents
    }

    /// Plans the model once for all sizes; see [`TractModel::plan_symbolic`].
    ///
    /// # Errors
    /// If the model cannot be planned so; the session then plans for each set of sizes as before.
    pub fn plan_symbolic(&self, shapes: &BTreeMap<String, Vec<String>>) -> Result<(), Error> {
        Ok(self.model.plan_symbolic(shapes)?)
    }

    /// Drops the plan for all sizes.
    pub fn forget_symbolic(&self) {
        self.model.forget_symbolic();
    }

    /// Positions that the caches of attention nodes hold.
    pub fn positions(&self) -> usize {
        self.model.caches().first().map_or(0, |cache| cache.positions())
    }

    /// Bytes that the caches occupy.
    pub fn cache_bytes(&self) -> u64 {
        self.model.caches().iter().map(|cache| cache.bytes()).sum()
    }

    /// Takes all positions from `positions` on out of the caches.
    pub fn truncate(&self, positions: usize) {
        self.model.caches().iter().for_each(|cache| cache.truncate(positions));
    }

    /// Runs the model with each layer at its width in `widths`. Attention nodes with a cache append to it, unless the
    /// run fails.
    ///
    /// # Errors
    /// If a layer has no width or more than it has planes for, or inputs are missing or of the wrong type.
    pub fn run(
        &self,
        widths: &BTreeMap<String, Width>,
        inputs: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<(String, Tensor)>, Error> {
        let (_turn, inputs) = self.begin(widths, inputs)?;
        let before = self.positions();
        let outputs = self.model.run(inputs).inspect_err(|_| self.truncate(before))?;
        outputs.into_iter().map(|(name, t)| Ok((name.clone(), cpu::tensor_from_tract(&name, &t)?))).collect()
    }

    /// Waits until no other run is under way, sets the widths and converts the inputs. The guard is held during the run.
    pub(crate) fn begin(
        &self,
        widths: &BTreeMap<String, Width>,
        inputs: &BTreeMap<String, Tensor>,
    ) -> Result<(Turn<'_>, TractInputs), Error> {
        let turn = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, resident) in &self.residents {
            let width = *widths.get(name).ok_or_else(|| Error::NoWidth { layer: name.clone() })?;
            let most = resident.weight().max_width();
            if width > most {
                return Err(Error::WidthNotStored { layer: name.clone(), width, most });
            }
            resident.set_width(width);
        }
        let inputs = inputs
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), cpu::tensor_to_tract(name, tensor)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        Ok((turn, inputs))
    }

    /// The loaded graph.
    pub(crate) fn model(&self) -> &TractModel {
        &self.model
    }
}

/// Computes the results of a graph without inputs.
///
/// # Errors
/// If an operator does not run on the CPU session.
pub fn evaluate(graph: &Graph) -> Result<Vec<Tensor>, Error> {
    let session = Session::new(&Model::from_graph(graph.clone()))?;
    let results = session.run(&BTreeMap::new(), &BTreeMap::new())?;
    Ok(results.into_iter().map(|(_, tensor)| tensor).collect())
}

/// Makes residents of all nested weights and leaves nodes that name them.
fn bind_nested(
    graph: &mut Graph,
    engine: &Arc<Engine>,
    residents: &mut BTreeMap<String, Arc<Resident>>,
) -> Result<(), Error> {
    for id in graph.order()? {
        if let Some(node) = graph.node_mut(id) {
            let mut subgraphs = std::mem::take(&mut node.subgraphs);
            let result = subgraphs.iter_mut().try_for_each(|s| bind_nested(&mut s.graph, engine, residents));
            if let Some(node) = graph.node_mut(id) {
                node.subgraphs = subgraphs;
            }
            result?;
        }
        if join_epilogue(graph, id)? {
            continue;
        }
        let Some(node) = graph.node(id) else { continue };
        let operands = graph.operands(id);
        let data = operands.first().copied().flatten();
        let (op_type, kept) = match &node.op {
            Op::NestedMatMul(_) => ("NestedMatMul", vec![data]),
            Op::NestedConv { .. } => ("NestedConv", vec![data, operands.get(4).copied().flatten()]),
            Op::NestedGather(_) => ("NestedGather", vec![data]),
            _ => continue,
        };
        let Some((nested, _)) = nested_parts(&node.op) else { continue };
        let mut attributes = BTreeMap::new();
        attributes.insert("layer".to_owned(), Attribute::String(Text(nested.layer.clone().into_bytes())));
        if let Op::NestedConv { window, shape, .. } = &node.op {
            attributes.extend(export::window_attributes(window));
            let kernel = shape.iter().skip(2).map(|&d| d as i64).collect();
            attributes.insert("kernel_shape".to_owned(), Attribute::Ints(kernel));
        }
        if !residents.contains_key(&nested.layer) {
            let Some(weight) = nested_weight(graph, id)? else { continue };
            residents
                .insert(nested.layer.clone(), Arc::new(Resident::new(nested.layer.clone(), weight, engine)));
        }
        let opaque = Opaque {
            domain: cpu::DOMAIN.to_owned(),
            op_type: op_type.to_owned(),
            overload: String::new(),
            attributes,
        };
        if let Some(node) = graph.node_mut(id) {
            node.op = Op::Opaque(opaque);
        }
        let kept = if kept.last() == Some(&None) { &kept[..kept.len() - 1] } else { &kept[..] };
        graph.set_operands(id, kept)?;
    }
    graph.erase_dead();
    Ok(())
}

/// An epilogue of a bound product that nobody else uses becomes part of it: the product moves to where its operands are.
fn join_epilogue(graph: &mut Graph, id: NodeId) -> Result<bool, Error> {
    let ours = |graph: &Graph, id: NodeId, kind: &str| match graph.node(id).map(|n| &n.op) {
        Some(Op::Opaque(o)) if o.domain == cpu::DOMAIN && o.op_type == kind => Some(o.clone()),
        Some(_) | None => None,
    };
    let Some(epilogue) = ours(graph, id, "Epilogue") else { return Ok(false) };
    let Some(value) = graph.operand(id, 0) else { return Ok(false) };
    let alone = graph.users(value).len() == 1 && !graph.is_output(value);
    let Some(mut product) = ours(graph, value.node, "NestedMatMul").filter(|_| alone) else {
        return Ok(false);
    };
    product.attributes.extend(epilogue.attributes);
    let mut operands = graph.operands(id).to_vec();
    operands[0] = graph.operand(value.node, 0);
    if let Some(node) = graph.node_mut(id) {
        node.op = Op::Opaque(product);
    }
    graph.set_operands(id, &operands)?;
    Ok(true)
}

/// Large constants of the main graph become inputs of the same name; their elements are given to tract beside it.
fn take_large(graph: &mut Graph) -> Result<Vec<(String, Arc<cpu::TractTensor>)>, Error> {
    let mut taken = vec![];
    for id in graph.order()? {
        let Some(node) = graph.node(id) else { continue };
        let (Op::Weight(tensor), Some(info)) = (&node.op, node.outputs.first()) else { continue };
        let value = Value { node: id, slot: 0 };
        if tensor.bytes().len() < LARGE || graph.is_output(value) {
            continue;
        }
        let Ok(converted) = cpu::tensor_to_tract(&info.name, tensor) else { continue };
        taken.push((info.name.clone(), Arc::new(converted)));
        let (name, ty) = (info.name.clone(), info.ty.clone());
        if let Some(node) = graph.node_mut(id) {
            node.outputs[0].name = format!("{name}/constant");
        }
        let input = graph.add_input(name, ty);
        graph.replace_uses(value, input)?;
    }
    graph.erase_dead();
    Ok(taken)
}
