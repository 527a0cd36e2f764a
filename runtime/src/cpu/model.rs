//! A graph loaded into tract: one optimised plan for each set of input shapes, all over the same weights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::pb::{self, ModelProto, tensor_shape_proto, type_proto};
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::konst::Const;

use super::guard::guarded;
use super::tensor::onnx_type;
use super::{CpuError, Engine, KvCache, Resident, bind, prepare};

/// Plans kept at a time; a plan holds tract's packed copies of the weights that are not nested.
const PLANS: usize = 4;

/// What a model takes under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInput {
    /// The name of the graph input.
    pub name: String,
    /// The element type.
    pub dtype: DatumType,
    /// The sizes, `None` where any size will do; `None` as a whole if the rank is not declared.
    pub shape: Option<Vec<Option<usize>>>,
}

/// Type and shape of every input of a run.
type PlanKey = Vec<(DatumType, TVec<usize>)>;

/// A loaded graph. Sharing it between threads is fine; see [`Resident`] for what that means for widths.
#[derive(Debug)]
pub struct TractModel {
    graph: InferenceModel,
    inputs: Vec<ModelInput>,
    outputs: Vec<String>,
    caches: Vec<Arc<KvCache>>,
    /// The plan for all sizes, when there is one.
    symbolic: Mutex<Option<Arc<TypedSimplePlan>>>,
    plans: Mutex<Vec<(PlanKey, Arc<TypedSimplePlan>)>>,
}

impl TractModel {
    /// Loads the ONNX model in `proto`. The values named in `consts` are the initializers that the model
    /// leaves out; they never pass through the protobuf. Nested nodes find their weights in `residents` by
    /// their `layer` attribute; `engine` has the threads of attention.
    ///
    /// # Errors
    /// If the bytes are no model, an operator is not supported, a value or a layer is not defined.
    pub fn from_proto(
        proto: &[u8],
        consts: Vec<(String, Arc<Tensor>)>,
        residents: &BTreeMap<String, Arc<Resident>>,
        engine: &Arc<Engine>,
    ) -> Result<Self, CpuError> {
        let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
        bind::register(&mut onnx.op_register);
        let mut model = guarded("read", || onnx.proto_model_for_read(&mut &*proto))?;
        let graph = model.graph.get_or_insert_default();
        let initialized: BTreeSet<&str> =
            graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let consts: BTreeMap<String, Arc<Tensor>> = consts.into_iter().collect();
        graph.input.retain(|input| !consts.contains_key(&input.name));
        let inputs = graph
            .input
            .iter()
            .filter(|input| !initialized.contains(input.name.as_str()))
            .map(model_input)
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
        for (name, tensor) in &consts {
            graph.input.push(const_input(name, tensor)?);
        }
        prepare::prepare(graph, &onnx.op_register.0)?;
        let mut graph = parse(&onnx, &model)?;
        guarded("load", || place_consts(&mut graph, &consts))?;
        let mut caches = vec![];
        bind::bind(&mut graph, residents, engine, &mut caches)?;
        Ok(Self { graph, inputs, outputs, caches, symbolic: Mutex::default(), plans: Mutex::default() })
    }

    /// Plans the graph once for all sizes, now. `shapes` has the sizes of every input: integers or expressions over
    /// symbols, such as `past+new`; equal symbols are equal sizes. Every later run must have such sizes.
    ///
    /// # Errors
    /// If an input is missing from `shapes`, an expression is malformed, or tract cannot plan the graph so.
    pub fn plan_symbolic(&self, shapes: &BTreeMap<String, Vec<String>>) -> Result<(), CpuError> {
        let mut facts = vec![];
        for input in &self.inputs {
            let shape = shapes.get(&input.name).ok_or_else(|| CpuError::MissingInput(input.name.clone()))?;
            facts.push((input.dtype, shape));
        }
        let plan = guarded("plan", || {
            let mut graph = self.graph.clone();
            for (index, (dtype, shape)) in facts.iter().enumerate() {
                let dims = shape.iter().map(|size| graph.symbols.parse_tdim(size));
                let dims = dims.collect::<TractResult<TVec<TDim>>>()?;
                graph.set_input_fact(index, InferenceFact::dt_shape(*dtype, &dims))?;
            }
            TypedSimplePlan::new(graph.into_optimized()?)
        })?;
        *self.symbolic.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
        Ok(())
    }

    /// Drops the plan for all sizes: runs plan for their sizes again.
    pub fn forget_symbolic(&self) {
        self.symbolic.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The caches of the attention nodes, in the order of the graph.
    pub fn caches(&self) -> &[Arc<KvCache>] {
        &self.caches
    }

    /// The inputs that a run must give.
    pub fn inputs(&self) -> &[ModelInput] {
        &self.inputs
    }

    /// The names of the outputs in the order in which a run returns them.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Runs the model on `inputs`, given in any order, with every weight at its resident's current width. The
    /// first run with new input shapes plans the graph for them.
    ///
    /// # Errors
    /// If an input is missing, unknown or of the wrong type, or tract cannot plan or run the graph.
    pub fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, CpuError> {
        let (plan, values) = self.planned(inputs)?;
        let results = guarded("run", || {
            let results = plan.run(values)?;
            results.into_iter().map(plain).collect::<TractResult<Vec<Tensor>>>()
        })?;
        Ok(self.outputs.iter().cloned().zip(results).collect())
    }

    /// The plan for `inputs`, and `inputs` in the order in which it takes them.
    pub(super) fn planned(
        &self,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<(Arc<TypedSimplePlan>, TVec<TValue>), CpuError> {
        let mut given: BTreeMap<String, Tensor> = inputs.into_iter().collect();
        let mut values = tvec!();
        for input in &self.inputs {
            let value =
                given.remove(&input.name).ok_or_else(|| CpuError::MissingInput(input.name.clone()))?;
            input.check(&value)?;
            values.push(value);
        }
        if let Some((name, _)) = given.pop_first() {
            let expected: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
            return Err(CpuError::UnknownInput { name, expected: expected.join(", ") });
        }
        let key = values.iter().map(|value| (value.datum_type(), value.shape().into())).collect();
        let plan = self.plan(key)?;
        Ok((plan, values.into_iter().map(|value| value.into_tvalue()).collect()))
    }

    /// The plan for all sizes, else the one for `key`, made now if it is not among the [`PLANS`] used last.
    fn plan(&self, key: PlanKey) -> Result<Arc<TypedSimplePlan>, CpuError> {
        if let Some(plan) = &*self.symbolic.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(plan.clone());
        }
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let found = plans.iter().position(|(known, _)| *known == key).map(|at| plans.remove(at).1);
        let plan = match found {
            Some(plan) => plan,
            None => guarded("plan", || {
                let mut graph = self.graph.clone();
                for (index, (dtype, shape)) in key.iter().enumerate() {
                    graph.set_input_fact(index, InferenceFact::dt_shape(*dtype, shape))?;
                }
                TypedSimplePlan::new(graph.into_optimized()?)
            })?,
        };
        if plans.len() == PLANS {
            plans.remove(0);
        }
        plans.push((key, plan.clone()));
        Ok(plan)
    }
}

impl ModelInput {
    fn check(&self, value: &Tensor) -> Result<(), CpuError> {
        let fits = self.shape.as_ref().is_none_or(|shape| {
            shape.len() == value.rank()
                && shape
                    .iter()
                    .zip(value.shape())
                    .all(|(declared, found)| declared.is_none_or(|d| d == *found))
        });
        if self.dtype == value.datum_type() && fits {
            return Ok(());
        }
        let dim = |dim: &Option<usize>| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string());
        let shape = self.shape.as_ref().map_or_else(
            || "any shape".to_owned(),
            |shape| format!("[{}]", shape.iter().map(dim).collect::<Vec<_>>().join(", ")),
        );
        Err(CpuError::InputType {
            name: self.name.clone(),
            found: format!("{:?} {:?}", value.datum_type(), value.shape()),
            expected: format!("{:?} {shape}", self.dtype),
        })
    }
}

/// Parses a prepared model and checks that every value that it reads is defined.
fn parse(onnx: &tract_onnx::Onnx, model: &ModelProto) -> Result<InferenceModel, CpuError> {
    let parsed = guarded("parse", || onnx.parse(model, None))?;
    match parsed.unresolved_inputs.into_iter().next() {
        Some(name) => Err(CpuError::UndefinedValue(name)),
        None => Ok(parsed.model),
    }
}

/// Turns the inputs that stand for constants into the constants.
fn place_consts(graph: &mut InferenceModel, consts: &BTreeMap<String, Arc<Tensor>>) -> TractResult<()> {
    let mut inputs = vec![];
    for outlet in graph.inputs.clone() {
        let node = graph.node_mut(outlet.node);
        match consts.get(&node.name) {
            Some(tensor) => {
                node.op = Box::new(Const::new(tensor.clone())?);
                node.outputs[0].fact = InferenceFact::try_from(tensor)?;
            }
            None => inputs.push(outlet),
        }
    }
    graph.set_input_outlets(&inputs)
}

/// tract computes sizes in symbolic integers; ONNX calls them int64.
fn plain(value: TValue) -> TractResult<Tensor> {
    if value.datum_type() == TDim::datum_type() {
        return Ok(value.cast_to::<i64>()?.into_owned());
    }
    Ok(value.into_tensor())
}

fn model_input(input: &pb::ValueInfoProto) -> Result<ModelInput, CpuError> {
    let bad = |reason: String| CpuError::BadNode { node: input.name.clone(), reason };
    let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(bad("an input of the CPU session must be a tensor".to_owned()));
    };
    let dtype = pb::tensor_proto::DataType::try_from(tensor.elem_type)
        .ok()
        .and_then(|code| DatumType::try_from(code).ok())
        .ok_or_else(|| bad(format!("element type {} does not run on the CPU session", tensor.elem_type)))?;
    let shape = tensor.shape.as_ref().map(|shape| {
        let size = |dim: &tensor_shape_proto::Dimension| match &dim.value {
            Some(tensor_shape_proto::dimension::Value::DimValue(size)) => usize::try_from(*size).ok(),
            Some(tensor_shape_proto::dimension::Value::DimParam(_)) | None => None,
        };
        shape.dim.iter().map(size).collect()
    });
    Ok(ModelInput { name: input.name.clone(), dtype, shape })
}

fn const_input(name: &str, tensor: &Tensor) -> Result<pb::ValueInfoProto, CpuError> {
    let dtype = tensor.datum_type();
    let elem_type = onnx_type(dtype).ok_or_else(|| CpuError::BadTensor {
        name: name.to_owned(),
        reason: format!("element type {dtype:?} is not an ONNX type"),
    })?;
    let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type, shape: None });
    let r#type = Some(pb::TypeProto { value: Some(value), ..Default::default() });
    Ok(pb::ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() })
}
