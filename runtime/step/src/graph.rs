//! The part of a graph that its outputs need, as plain lists: values and nodes by number, in the order of execution.

use std::collections::BTreeMap;

use mqc_ir::{Graph, NodeId, Op, Type, Value};

use crate::array::{Data, Slice};
use crate::plain::{self, Call, Spec};
use crate::{Error, Kind, Port, Real, Setup};

/// Number of a value.
pub(crate) type Id = usize;

/// A value of the graph.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub spec: Spec,
    pub kind: Kind,
    /// The elements, when they are integers that are known before the run.
    pub known: Option<Vec<i64>>,
}

/// A node of the graph.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub op: Op,
    pub label: String,
    pub args: Vec<Option<Id>>,
    pub outputs: Vec<Id>,
}

impl Step {
    pub fn error(&self, message: String) -> Error {
        Error::Node { node: self.label.clone(), op: op_name(&self.op), message }
    }
}

/// A graph taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub values: Vec<Place>,
    /// Constants are among them.
    pub steps: Vec<Step>,
    pub inputs: Vec<Port>,
    pub input_values: Vec<Id>,
    pub outputs: Vec<Port>,
    pub output_values: Vec<Id>,
}

/// What errors call an operation.
pub(crate) fn op_name(op: &Op) -> String {
    match op {
        Op::Weight(_) | Op::Constant(_) => "constant".to_owned(),
        Op::Opaque(op) if op.domain.is_empty() => op.op_type.clone(),
        Op::Opaque(op) => format!("{}::{}", op.domain, op.op_type),
        op => format!("{op:?}").chars().take_while(|c| c.is_alphanumeric() || "()".contains(*c)).collect(),
    }
}

/// What a node does that names a nested weight.
#[cfg(feature = "cuda")]
pub(crate) use crate::cuda::{epilogue, named as nested};
/// Only programs of a device have nested weights.
#[cfg(not(feature = "cuda"))]
pub(crate) fn nested(_: &Op) -> Option<crate::lower::task::Nested> {
    None
}
/// As above.
#[cfg(not(feature = "cuda"))]
pub(crate) fn epilogue(_: &Op) -> Option<mqc_kernels::cpu::Activation> {
    None
}

impl Net {
    pub fn new(graph: &Graph, setup: &Setup) -> Result<Net, Error> {
        if let Some(error) = mqc_ir::verify::verify(graph).into_iter().next() {
            return Err(error.into());
        }
        let mut graph = graph.clone();
        mqc_ir::infer::infer(&mut graph).map_err(|errors| {
            errors.into_iter().next().map_or(Error::Setup("no types".to_owned()), Error::from)
        })?;
        let known = mqc_ir::infer::known_integers(&graph);
        let mut net = Net {
            values: vec![],
            steps: vec![],
            inputs: vec![],
            input_values: vec![],
            outputs: vec![],
            output_values: vec![],
        };
        let mut ids = BTreeMap::new();
        for input in graph.inputs() {
            let value = Value { node: *input, slot: 0 };
            let spec = spec(&graph, value).map_err(|message| fail(&graph, *input, message))?;
            let name = graph.info(value).map(|i| i.name.clone()).unwrap_or_default();
            net.inputs.push(Port { name, dtype: spec.dtype, shape: spec.shape.clone() });
        }
        for id in live(&graph)? {
            net.push(&graph, id, &known, &mut ids)?;
        }
        for input in graph.inputs() {
            net.input_values.extend(ids.get(&Value { node: *input, slot: 0 }));
        }
        for output in graph.outputs() {
            let Some(id) = ids.get(&output.value) else { continue };
            let spec = net.values[*id].spec.clone();
            net.outputs.push(Port { name: output.name.clone(), dtype: spec.dtype, shape: spec.shape });
            net.output_values.push(*id);
        }
        net.check(setup)?;
        Ok(net)
    }

    /// The outputs of a step by the plain kernels, from the elements of its operands.
    pub fn plain<'a, T: Real>(
        &'a self,
        step: usize,
        operands: impl Iterator<Item = Option<Slice<'a, T>>>,
    ) -> Result<Vec<Data<T>>, String> {
        let step = &self.steps[step];
        let args: Vec<_> = operands
            .zip(&step.args)
            .map(|(data, id)| {
                let (data, place) = (data?, &self.values[(*id)?]);
                let known = place.known.as_deref();
                Some(plain::Arg { shape: &place.spec.shape, dtype: place.spec.dtype, data, known })
            })
            .collect();
        let specs: Vec<Spec> = step.outputs.iter().map(|id| self.values[*id].spec.clone()).collect();
        let results = plain::compute(&step.op, &Call { args: &args, outputs: &specs })?;
        plain::check(&results, &specs)?;
        Ok(results)
    }

    fn push(
        &mut self,
        graph: &Graph,
        id: NodeId,
        known: &BTreeMap<Value, Vec<i64>>,
        ids: &mut BTreeMap<Value, Id>,
    ) -> Result<(), Error> {
        let Some(node) = graph.node(id) else { return Ok(()) };
        if let Some(message) =
            plain::unknown(&node.op).filter(|_| nested(&node.op).is_none() && epilogue(&node.op).is_none())
        {
            return Err(fail(graph, id, message.to_owned()));
        }
        let args = graph.operands(id).iter().map(|v| v.and_then(|v| ids.get(&v).copied())).collect();
        let mut outputs = vec![];
        for slot in 0..node.outputs.len() {
            let value = Value { node: id, slot };
            let spec = spec(graph, value).map_err(|message| fail(graph, id, message))?;
            let kind = Kind::of(spec.dtype);
            let kind = kind.ok_or_else(|| fail(graph, id, format!("{} is not computed with", spec.dtype)))?;
            ids.insert(value, self.values.len());
            outputs.push(self.values.len());
            self.values.push(Place { spec, kind, known: known.get(&value).cloned() });
        }
        if node.op != Op::Input {
            self.steps.push(Step { op: node.op.clone(), label: graph.label(id), args, outputs });
        }
        Ok(())
    }

    fn check(&self, setup: &Setup) -> Result<(), Error> {
        let mut taken = vec![false; self.inputs.len()];
        for (input, output) in &setup.carried {
            let (Some(to), Some(from)) = (self.inputs.get(*input), self.outputs.get(*output)) else {
                return Err(Error::Setup(format!(
                    "output {output} is carried to input {input}, found {} outputs and {} inputs",
                    self.outputs.len(),
                    self.inputs.len()
                )));
            };
            if Kind::of(to.dtype) != Kind::of(from.dtype) || to.shape != from.shape {
                return Err(Error::Setup(format!(
                    "output {} is {} {:?}, the input {} that it is carried to is {} {:?}",
                    from.name, from.dtype, from.shape, to.name, to.dtype, to.shape
                )));
            }
            if std::mem::replace(&mut taken[*input], true) {
                return Err(Error::Setup(format!("two outputs are carried to input {}", to.name)));
            }
        }
        Ok(())
    }
}

fn fail(graph: &Graph, id: NodeId, message: String) -> Error {
    let op = graph.node(id).map(|n| op_name(&n.op)).unwrap_or_default();
    Error::Node { node: graph.label(id), op, message }
}

/// The inputs, and the nodes that the outputs depend on, in the order of execution.
fn live(graph: &Graph) -> Result<Vec<NodeId>, Error> {
    let order = graph.order()?;
    let place: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut live = vec![false; order.len()];
    let wanted = graph.outputs().iter().map(|o| o.value.node).chain(graph.inputs().iter().copied());
    for id in wanted {
        if let Some(i) = place.get(&id) {
            live[*i] = true;
        }
    }
    for i in (0..order.len()).rev() {
        if live[i] {
            for operand in graph.operands(order[i]).into_iter().flatten() {
                if let Some(j) = place.get(&operand.node) {
                    live[*j] = true;
                }
            }
        }
    }
    Ok(order.into_iter().zip(live).filter_map(|(id, live)| live.then_some(id)).collect())
}

fn spec(graph: &Graph, value: Value) -> Result<Spec, String> {
    let ty: &Type = graph.ty(value);
    let name = graph.info(value).map(|i| i.name.clone()).unwrap_or_default();
    let unknown = || format!("the type of {name} is {ty}, expected an element type and known sizes");
    let dtype = ty.dtype().ok_or_else(unknown)?;
    let dims = ty.shape().ok_or_else(unknown)?;
    let shape: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(d.size()?).ok()).collect();
    let shape = shape.ok_or_else(unknown)?;
    let count = mqc_ir::tensor::element_count(&shape).and_then(|n| n.checked_mul(8));
    if count.is_none_or(|n| isize::try_from(n).is_err()) {
        return Err(format!("{name} of shape {shape:?} is too large"));
    }
    Ok(Spec { dtype, shape })
}
