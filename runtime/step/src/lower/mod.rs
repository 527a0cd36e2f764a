//! From the steps of a net to tasks: views become strides, composites become pointwise functions and reductions,
//! what only constants determine is computed.

mod expand;
mod parts;
mod product;
mod shapes;
pub(crate) mod task;

use std::collections::BTreeMap;

use mqc_ir::Op;
use mqc_ir::op::{Binary, PadMode, ScatterReduction, Unary, Variadic};
use task::{Arg, Func, Place, Source, Task, Work};

use crate::array::{Data, each_kind};
use crate::graph::{Net, Step, epilogue, nested};
use crate::index::{Offsets, around, axis, count};
use crate::plain::{self, Call, Spec};
use crate::view::{Root, View};
use crate::{Error, Kind, Real, Setup};

/// Constants of more elements are computed in every run.
const FOLDED: usize = 1 << 22;

/// A net in tasks.
pub(crate) struct Lowered<T> {
    pub places: Vec<Place<T>>,
    pub tasks: Vec<Task>,
    /// Root of each input of the graph.
    pub inputs: Vec<Root>,
    /// Root of each output of the graph: dense, in its order; one that is carried is that of no other output.
    pub outputs: Vec<Root>,
}

struct Lower<'a, T> {
    net: &'a Net,
    places: Vec<Place<T>>,
    tasks: Vec<Task>,
    /// What each value of the net is.
    views: Vec<Option<View>>,
    /// Dense copies of views.
    copies: BTreeMap<View, Root>,
    /// What each of them is a copy of.
    copied: BTreeMap<Root, View>,
    step: usize,
}

type Lowering<V = ()> = Result<V, String>;

pub(crate) fn lower<T: Real>(net: &Net, setup: &Setup) -> Result<Lowered<T>, Error> {
    let mut lower = Lower {
        net,
        places: vec![],
        tasks: vec![],
        views: vec![None; net.values.len()],
        copies: BTreeMap::new(),
        copied: BTreeMap::new(),
        step: 0,
    };
    let mut inputs = vec![];
    for id in &net.input_values {
        let place = &net.values[*id];
        let view = lower.root(place.kind, &place.spec.shape, Source::Input);
        inputs.push(view.root);
        lower.views[*id] = Some(view);
    }
    for (index, step) in net.steps.iter().enumerate() {
        lower.step = index;
        // A weight among the inputs: its value comes from outside.
        if step.outputs.iter().all(|id| lower.views[*id].is_some()) && !step.outputs.is_empty() {
            continue;
        }
        lower.lower(step).map_err(|message| step.error(message))?;
    }
    let mut outputs = vec![];
    let mut taken = vec![];
    for (index, id) in net.output_values.iter().enumerate() {
        let carried = setup.carried.iter().any(|(_, output)| *output == index);
        let view =
            lower.views[*id].clone().ok_or_else(|| Error::Setup("an output has no value".to_owned()))?;
        let own = matches!(lower.places[view.root].source, Source::Computed)
            && view.is_dense()
            && view.len() == lower.places[view.root].len
            && !(carried && taken.contains(&view.root));
        let root = if own { view.root } else { lower.copy(view).root };
        taken.push(root);
        outputs.push(root);
    }
    Ok(Lowered { places: lower.places, tasks: lower.tasks, inputs, outputs })
}

impl<T: Real> Lower<'_, T> {
    fn root(&mut self, kind: Kind, shape: &[usize], source: Source<T>) -> View {
        self.places.push(Place { kind, len: count(shape), source });
        View::dense(self.places.len() - 1, shape)
    }

    fn constant(&mut self, data: Data<T>, shape: &[usize]) -> View {
        self.root(data.kind(), shape, Source::Constant(data))
    }

    /// A new pointwise value.
    fn map(&mut self, func: Func, args: Vec<Arg>, shape: &[usize]) -> View {
        let kind = match &func {
            Func::NotZero | Func::Not | Func::Compare(_) | Func::Unary(Unary::IsNan) => Kind::Bool,
            Func::Binary(Binary::And | Binary::Or | Binary::Xor) => Kind::Bool,
            Func::Copy => args.first().map_or(Kind::Real, |a| self.kind(a)),
            Func::Select => args.get(1).map_or(Kind::Real, |a| self.kind(a)),
            Func::Unary(_)
            | Func::Binary(_)
            | Func::Max
            | Func::Min
            | Func::MulAdd
            | Func::MulSub
            | Func::Within { .. }
            | Func::WithinProduct { .. }
            | Func::EqualProduct
            | Func::SliceMulAdd { .. }
            | Func::RootAdd
            | Func::MulDiv
            | Func::Map(_) => Kind::Real,
        };
        self.map_to(kind, func, args, shape)
    }

    fn map_to(&mut self, kind: Kind, func: Func, args: Vec<Arg>, shape: &[usize]) -> View {
        let view = self.root(kind, shape, Source::Computed);
        let spread = |arg| match arg {
            Arg::Scalar(_) | Arg::Window { .. } => arg,
            Arg::View(view) => Arg::View(view.broadcast(shape)),
        };
        let args = args.into_iter().map(spread).collect();
        self.push(Work::Map { func, args, shape: shape.to_vec() }, vec![view.root]);
        view
    }

    fn push(&mut self, work: Work, outputs: Vec<Root>) {
        self.tasks.push(Task { work, outputs, step: self.step });
    }

    fn kind(&self, arg: &Arg) -> Kind {
        arg.view().map_or(Kind::Real, |view| self.places[view.root].kind)
    }

    /// The view of an operand.
    fn view(&self, step: &Step, slot: usize) -> Lowering<View> {
        self.optional(step, slot).ok_or_else(|| format!("operand {slot} is missing"))
    }

    fn optional(&self, step: &Step, slot: usize) -> Option<View> {
        step.args.get(slot).copied().flatten().and_then(|id| self.views[id].clone())
    }

    /// The operand as an argument: a known scalar by its value.
    fn arg(&self, step: &Step, slot: usize) -> Lowering<Arg> {
        Ok(self.as_arg(self.view(step, slot)?))
    }

    fn as_arg(&self, view: View) -> Arg {
        let scalar = match &self.places[view.root].source {
            Source::Constant(Data::Real(v)) if v.len() == 1 => Some(v[0].f64()),
            Source::Constant(Data::Bool(v)) if v.len() == 1 => Some(f64::from(u8::from(v[0]))),
            Source::Constant(_) | Source::Input | Source::Computed => None,
        };
        scalar.map_or(Arg::View(view), Arg::Scalar)
    }

    /// The same elements in a dense value of their own.
    fn dense(&mut self, view: View) -> View {
        if view.is_dense() && view.len() == self.places[view.root].len {
            return view;
        }
        let shape = view.shape.clone();
        if let Some(root) = self.copies.get(&view) {
            return View::dense(*root, &shape);
        }
        let copy = match &self.places[view.root].source {
            Source::Constant(data) if view.len() <= FOLDED => {
                let data = elements(data, &view);
                self.constant(data, &shape)
            }
            Source::Constant(_) | Source::Input | Source::Computed => {
                let copy = self.copy(view.clone());
                self.copied.insert(copy.root, view.clone());
                copy
            }
        };
        self.copies.insert(view, copy.root);
        copy
    }

    fn copy(&mut self, view: View) -> View {
        let (kind, shape) = (self.places[view.root].kind, view.shape.clone());
        if kind != Kind::Int && !view.shape.contains(&0) {
            return self.map_to(kind, Func::Copy, vec![Arg::View(view)], &shape);
        }
        let copy = self.root(kind, &shape, Source::Computed);
        self.push(Work::Copy(view), vec![copy.root]);
        copy
    }

    fn is_constant(&self, view: &View) -> bool {
        matches!(self.places[view.root].source, Source::Constant(_))
    }

    fn spec(&self, step: &Step, slot: usize) -> Lowering<Spec> {
        let id = step.outputs.get(slot).ok_or_else(|| format!("output {slot} is missing"))?;
        Ok(self.net.values[*id].spec.clone())
    }

    fn set(&mut self, step: &Step, slot: usize, view: View) {
        if let Some(id) = step.outputs.get(slot) {
            self.views[*id] = Some(view);
        }
    }

    /// Computes a step whose operands are all constant.
    fn fold(&mut self, step: &Step) -> Lowering {
        let dense: Vec<Option<Data<T>>> = step
            .args
            .iter()
            .map(|id| {
                let view = id.and_then(|id| self.views[id].as_ref())?;
                match &self.places[view.root].source {
                    Source::Constant(data) => Some(elements(data, view)),
                    Source::Input | Source::Computed => None,
                }
            })
            .collect();
        let args: Vec<_> = step
            .args
            .iter()
            .zip(&dense)
            .map(|(id, data)| {
                let place = &self.net.values[(*id)?];
                let known = place.known.as_deref();
                let data = data.as_ref()?.slice();
                Some(plain::Arg { shape: &place.spec.shape, dtype: place.spec.dtype, data, known })
            })
            .collect();
        let specs =
            (0..step.outputs.len()).map(|slot| self.spec(step, slot)).collect::<Lowering<Vec<_>>>()?;
        let results = plain::compute(&step.op, &Call { args: &args, outputs: &specs })?;
        plain::check(&results, &specs)?;
        for (slot, (data, spec)) in results.into_iter().zip(&specs).enumerate() {
            let view = self.constant(data, &spec.shape);
            self.set(step, slot, view);
        }
        Ok(())
    }

    /// Leaves a step to the plain kernels.
    fn plain(&mut self, step: &Step) -> Lowering {
        let args =
            (0..step.args.len()).map(|slot| self.optional(step, slot).map(|view| self.dense(view))).collect();
        let mut roots = vec![];
        for (slot, id) in step.outputs.iter().enumerate() {
            let place = &self.net.values[*id];
            let view = self.root(place.kind, &place.spec.shape, Source::Computed);
            roots.push(view.root);
            self.set(step, slot, view);
        }
        self.push(Work::Plain(args), roots);
        Ok(())
    }

    fn lower(&mut self, step: &Step) -> Lowering {
        if self.shape_only(step)? {
            return Ok(());
        }
        if let Some(kind) = nested(&step.op) {
            let spec = self.spec(step, 0)?;
            let mut operand = |slot| self.optional(step, slot).map(|view| self.dense(view));
            let data = operand(0);
            let parts = (1..step.args.len()).filter_map(operand).collect();
            let result = self.root(Kind::Real, &spec.shape, Source::Computed);
            self.push(Work::Nested { kind, data, parts }, vec![result.root]);
            self.set(step, 0, result);
            return Ok(());
        }
        if let Some(activation) = epilogue(&step.op) {
            return self.epilogue(step, activation);
        }
        let views: Vec<View> = (0..step.args.len()).filter_map(|slot| self.optional(step, slot)).collect();
        let sizes = (0..step.outputs.len()).map(|s| self.spec(step, s).map(|s| count(&s.shape)));
        let sizes = sizes.collect::<Lowering<Vec<_>>>()?;
        if views.iter().all(|v| self.is_constant(v)) && sizes.iter().all(|n| *n <= FOLDED) {
            return self.fold(step);
        }
        let kinds: Vec<Kind> = views.iter().map(|v| self.places[v.root].kind).collect();
        let float = kinds.iter().all(|k| *k == Kind::Real);
        if sizes.contains(&0) || views.iter().any(|v| v.len() == 0) {
            return self.plain(step);
        }
        let shape = self.spec(step, 0)?.shape;
        let fused = match &step.op {
            Op::Unary(kind) if kinds == [Kind::Bool] && *kind == Unary::Not => Some(Func::Not),
            Op::Unary(kind) if float => Some(Func::Unary(*kind)),
            Op::Binary(kind) if float || kinds == [Kind::Bool, Kind::Bool] => Some(Func::Binary(*kind)),
            Op::Compare(kind) if !kinds.contains(&Kind::Int) || kinds == [Kind::Int, Kind::Int] => {
                Some(Func::Compare(*kind))
            }
            Op::Select if !kinds.contains(&Kind::Int) => Some(Func::Select),
            Op::Cast { to, .. } => match (kinds.first(), Kind::of(*to)) {
                (Some(_), Some(Kind::Real)) => Some(Func::Copy),
                (Some(_), Some(Kind::Bool)) => Some(Func::NotZero),
                (_, Some(Kind::Int | Kind::Real | Kind::Bool) | None) => None,
            },
            Op::LeakyRelu { .. }
            | Op::Elu { .. }
            | Op::HardSigmoid { .. }
            | Op::Gelu { .. }
            | Op::FakeSlice { .. } => Some(Func::Map(Box::new(step.op.clone()))),
            _ => None,
        };
        if let Some(func) = fused {
            let args = (0..step.args.len()).map(|s| self.arg(step, s)).collect::<Lowering<Vec<_>>>()?;
            let kind = self.net.values[step.outputs[0]].kind;
            let result = self.map_to(kind, func, args, &shape);
            self.set(step, 0, result);
            return Ok(());
        }
        if !float {
            return match (&step.op, kinds.as_slice()) {
                (Op::Gather { axis }, [Kind::Real, Kind::Int]) => self.gather(step, *axis),
                (Op::ScatterNd { reduction: ScatterReduction::Add }, [Kind::Real, Kind::Int, Kind::Real]) => {
                    self.add_rows(step)
                }
                (Op::Pad { mode: PadMode::Constant }, _) => self.pad(step),
                (Op::Reduce { kind, axes, keepdims: _, noop_with_empty_axes }, [Kind::Real, Kind::Int]) => {
                    self.reduce(step, *kind, axes, *noop_with_empty_axes)
                }
                _ => self.plain(step),
            };
        }
        match &step.op {
            Op::Variadic(kind) => {
                let func = match kind {
                    Variadic::Max => Func::Max,
                    Variadic::Min => Func::Min,
                    Variadic::Mean | Variadic::Sum => Func::Binary(Binary::Add),
                };
                let mut all = self.arg(step, 0)?;
                for slot in 1..step.args.len() {
                    let next = self.arg(step, slot)?;
                    all = Arg::View(self.map(func.clone(), vec![all, next], &shape));
                }
                if *kind == Variadic::Mean {
                    let scale = Arg::Scalar(1.0 / step.args.len() as f64);
                    all = Arg::View(self.map(Func::Binary(Binary::Mul), vec![all, scale], &shape));
                }
                let result = self.map(Func::Copy, vec![all], &shape);
                self.set(step, 0, result);
                Ok(())
            }
            Op::Clip => {
                let mut all = self.arg(step, 0)?;
                for (slot, func) in [(1, Func::Max), (2, Func::Min)] {
                    if let Some(bound) = self.optional(step, slot) {
                        if bound.len() != 1 {
                            return Err(format!("a bound has {} elements, expected 1", bound.len()));
                        }
                        let bound = bound.reshaped(&[]).unwrap_or(bound);
                        let bound = self.as_arg(bound);
                        all = Arg::View(self.map(func, vec![all, bound], &shape));
                    }
                }
                let result = self.map(Func::Copy, vec![all], &shape);
                self.set(step, 0, result);
                Ok(())
            }
            Op::Reduce { kind, axes, keepdims: _, noop_with_empty_axes } => {
                self.reduce(step, *kind, axes, *noop_with_empty_axes)
            }
            Op::MatMul => self.matmul(step),
            Op::Gemm { alpha, beta, trans_a, trans_b } => {
                self.gemm(step, f64::from(alpha.0), f64::from(beta.0), *trans_a, *trans_b)
            }
            Op::Softmax { axis, flatten } => self.softmax(step, *axis, *flatten, false),
            Op::LogSoftmax { axis, flatten } => self.softmax(step, *axis, *flatten, true),
            Op::LayerNormalization { axis, epsilon, stash_type: _ } => {
                self.normalize(step, *axis, f64::from(epsilon.0), true)
            }
            Op::RmsNormalization { axis, epsilon, stash_type: _ } => {
                self.normalize(step, *axis, f64::from(epsilon.0), false)
            }
            Op::Concat { axis } => self.concat(step, *axis),
            Op::Input
            | Op::Weight(_)
            | Op::Constant(_)
            | Op::Identity
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Compare(_)
            | Op::Select
            | Op::LeakyRelu { .. }
            | Op::Elu { .. }
            | Op::HardSigmoid { .. }
            | Op::Gelu { .. }
            | Op::FakeSlice { .. }
            | Op::Cast { .. }
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Expand
            | Op::Squeeze { .. }
            | Op::Unsqueeze { .. }
            | Op::Flatten { .. }
            | Op::Slice
            | Op::Split { .. }
            | Op::Pad { .. }
            | Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::GatherNd { .. }
            | Op::ScatterElements { .. }
            | Op::ScatterNd { .. }
            | Op::Tile
            | Op::Shape { .. }
            | Op::Size
            | Op::ConstantOfShape { .. }
            | Op::Range
            | Op::Conv(_)
            | Op::MaxPool { .. }
            | Op::AveragePool { .. }
            | Op::GlobalAveragePool
            | Op::GlobalMaxPool
            | Op::BatchNormalization { .. }
            | Op::Dropout { .. }
            | Op::NestedQuantize(_)
            | Op::SliceBits { .. }
            | Op::Dequantize { .. }
            | Op::NestedMatMul(_)
            | Op::NestedConv { .. }
            | Op::NestedGather(_)
            | Op::Opaque(_) => self.plain(step),
        }
    }

    fn gather(&mut self, step: &Step, at: i64) -> Lowering {
        let (table, indices, spec) = (self.view(step, 0)?, self.view(step, 1)?, self.spec(step, 0)?);
        let (outer, rows, inner) = around(&table.shape, axis(at, table.shape.len())?);
        if outer != 1 {
            return self.plain(step);
        }
        let (table, indices) = (self.dense(table), self.dense(indices));
        let result = self.root(Kind::Real, &spec.shape, Source::Computed);
        self.push(Work::Gather { table, rows, inner, indices }, vec![result.root]);
        self.set(step, 0, result);
        Ok(())
    }

    fn add_rows(&mut self, step: &Step) -> Lowering {
        let (table, indices, updates) = (self.view(step, 0)?, self.view(step, 1)?, self.view(step, 2)?);
        if indices.shape.last() != Some(&1) || table.shape.is_empty() {
            return self.plain(step);
        }
        let (_, rows, inner) = around(&table.shape, 0);
        let shape = table.shape.clone();
        let table = match self.as_arg(table) {
            Arg::View(view) => Arg::View(self.dense(view)),
            known @ (Arg::Scalar(_) | Arg::Window { .. }) => known,
        };
        let (indices, updates) = (self.dense(indices), self.dense(updates));
        let result = self.root(Kind::Real, &shape, Source::Computed);
        self.push(Work::AddRows { table, rows, inner, indices, updates }, vec![result.root]);
        self.set(step, 0, result);
        Ok(())
    }
}

/// The elements of a view of constant data.
pub(crate) fn elements<T: Real>(data: &Data<T>, view: &View) -> Data<T> {
    let places = Offsets::new(&view.shape, &view.strides, view.start as isize);
    each_kind!(data.slice(), v => places.map(|at| v[at]).collect())
}
