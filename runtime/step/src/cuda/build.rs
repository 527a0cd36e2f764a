//! From lowered tasks to steps on a device: kernels with their memory, in the order of execution.

use super::blas::{self, Blas};
use super::kernel::{Kernel, Slot, Text};
use super::{pass, single, window};
use crate::engine::memory::{self, Memory};
use crate::fuse;
use crate::fuse::instructions::Fused;
use crate::graph::Net;
use crate::lower::Lowered;
use crate::lower::task::{Epilogue, Nested, Source, Task, Work};
use crate::view::Root;

/// Workspaces that reductions take turns with; those of a pass's own follow.
const TURNS: [Slot; 2] = [Slot::Workspace(0), Slot::Workspace(1)];

/// A step before memory has addresses.
#[derive(Debug)]
pub(super) enum Planned {
    /// A kernel by its number in the text.
    Kernel { number: usize, kernel: Kernel, task: Option<usize> },
    /// See [`Blas`].
    Blas(Blas),
    /// See [`Product`].
    Nested(Product),
    /// See [`Rows`].
    Rows(Rows),
    /// Work of the host.
    Host(Box<Task>),
}

/// A product with a nested weight.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub layer: String,
    pub epilogue: Epilogue,
    pub tokens: usize,
    pub x: Root,
    /// What the epilogue reads, in its order.
    pub parts: Vec<Root>,
    pub y: Root,
}

/// Rows of a nested weight as floats.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub layer: String,
    /// The rows and how many; all where there are none.
    pub picked: Option<(Root, usize)>,
    pub y: Root,
    /// The step of the net.
    pub task: usize,
}

/// All that a program needs besides the values of its constants.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub steps: Vec<Planned>,
    /// Steps of the host that come first.
    pub before: usize,
    pub text: Text,
    /// Elements of every workspace.
    pub workspaces: Vec<usize>,
    pub tables: Vec<Vec<u64>>,
}

/// Schedules and emits; `with_blas` leaves products of floats to cuBLAS where it can. Errors: a kernel with more buffers than
/// its arguments can name.
pub(super) fn plan(
    net: &Net,
    lowered: &Lowered<f32>,
    carried: &[(usize, usize)],
    with_blas: bool,
) -> Result<(Plan, Memory), String> {
    let mut kernels = fuse::schedule(lowered);
    let before = host_first(net, lowered, &mut kernels);
    let memory = memory::plan(lowered, &mut kernels, carried);
    let mut plan = Plan { before, ..Plan::default() };
    for (index, kernel) in kernels.iter().enumerate() {
        match kernel {
            fuse::Kernel::Fused(fused) => plan.pass(fused)?,
            fuse::Kernel::Single(task) if index < before || is_host(net, task) => {
                plan.steps.push(Planned::Host(task.clone()));
            }
            fuse::Kernel::Single(task) => plan.single(net, lowered, task, with_blas)?,
        }
    }
    Ok((plan, memory))
}

/// Whether no kernel does it.
fn is_host(net: &Net, task: &Task) -> bool {
    match &task.work {
        Work::Plain(args) => window::emit(net, task, args).is_none(),
        Work::Map { .. }
        | Work::Fold { .. }
        | Work::Product(_)
        | Work::Gather { .. }
        | Work::AddRows { .. }
        | Work::Concat { .. }
        | Work::Copy(_)
        | Work::Nested { .. } => false,
    }
}

/// What the host can do before the device begins comes first: the rest can be recorded. Returns how many steps that are.
fn host_first(net: &Net, lowered: &Lowered<f32>, kernels: &mut Vec<fuse::Kernel>) -> usize {
    let mut known: Vec<bool> =
        lowered.places.iter().map(|place| !matches!(place.source, Source::Computed)).collect();
    let (mut first, mut rest) = (vec![], vec![]);
    for kernel in kernels.drain(..) {
        // The host moves integers along with what it does for them.
        let can = match &kernel {
            fuse::Kernel::Fused(_) => false,
            fuse::Kernel::Single(task) => is_host(net, task) || matches!(task.work, Work::Copy(_)),
        };
        if can && memory::reads(&kernel).iter().all(|root| known[*root]) {
            memory::writes(&kernel).into_iter().for_each(|root| known[root] = true);
            first.push(kernel);
        } else {
            rest.push(kernel);
        }
    }
    let before = first.len();
    first.append(&mut rest);
    *kernels = first;
    before
}

impl Plan {
    fn kernel(&mut self, kernel: Kernel, task: Option<usize>) -> Result<(), String> {
        let addresses = kernel.addresses();
        let addresses = addresses
            .ok_or_else(|| format!("a kernel has {} buffers, which is too many", kernel.slots.len()))?;
        let number = self.text.add(&kernel.body, addresses);
        self.steps.push(Planned::Kernel { number, kernel, task });
        Ok(())
    }

    fn workspace(&mut self, number: usize, len: usize) -> Slot {
        if self.workspaces.len() <= number {
            self.workspaces.resize(number + 1, 0);
        }
        self.workspaces[number] = self.workspaces[number].max(len);
        Slot::Workspace(number)
    }

    fn table(&mut self, table: Vec<u64>) -> Slot {
        let found = self.tables.iter().position(|known| *known == table);
        Slot::Table(found.unwrap_or_else(|| {
            self.tables.push(table);
            self.tables.len() - 1
        }))
    }

    fn pass(&mut self, fused: &Fused) -> Result<(), String> {
        let len = |row: bool| if row { fused.n / fused.d } else { fused.n };
        let own: Vec<Slot> = fused
            .totals
            .iter()
            .enumerate()
            .map(|(i, total)| self.workspace(TURNS.len() + i, len(total.row)))
            .collect();
        self.kernel(pass::emit(fused, &own), None)?;
        for (total, slot) in fused.totals.iter().zip(own) {
            let shape = if total.columns { (fused.n / fused.d, fused.d) } else { (len(total.row), 1) };
            // The first step of a reduction leaves less than this.
            (0..TURNS.len()).for_each(|turn| {
                self.workspace(turn, len(total.row));
            });
            for kernel in single::total(total.combine, shape, slot, TURNS, Slot::Root(total.root)) {
                self.kernel(kernel, None)?;
            }
        }
        Ok(())
    }

    fn single(
        &mut self,
        net: &Net,
        lowered: &Lowered<f32>,
        task: &Task,
        with_blas: bool,
    ) -> Result<(), String> {
        let to = task.outputs.first().copied().unwrap_or_default();
        let fault = Slot::Fault(task.step);
        let kernel = match &task.work {
            Work::Product(product) if with_blas && let Some(call) = blas::call(product, to) => {
                self.steps.push(Planned::Blas(call));
                return Ok(());
            }
            Work::Product(product) => single::product(product, to, |table| self.table(table)),
            Work::Gather { table, rows, inner, indices } => {
                single::gather((table, *rows, *inner), indices, to, fault)
            }
            Work::AddRows { table, rows, inner, indices, updates } => {
                single::add_rows((table, *rows, *inner), indices, updates, to, fault)
            }
            Work::Concat { outer, parts } => single::concat(*outer, parts, to),
            Work::Copy(view) => single::copy(view, lowered.places[view.root].kind, to),
            Work::Nested { kind: Nested::MatMul { layer, epilogue }, data, parts } => {
                let data = data.as_ref().ok_or("a product has no operand")?;
                let tokens = data.shape.iter().rev().skip(1).product();
                let parts = parts.iter().map(|view| view.root).collect();
                let (layer, epilogue) = (layer.clone(), *epilogue);
                self.steps.push(Planned::Nested(Product {
                    layer,
                    epilogue,
                    tokens,
                    x: data.root,
                    parts,
                    y: to,
                }));
                return Ok(());
            }
            Work::Nested { kind: Nested::Gather { layer } | Nested::Whole { layer }, data, parts: _ } => {
                let picked = data.as_ref().map(|view| (view.root, view.len()));
                self.steps.push(Planned::Rows(Rows { layer: layer.clone(), picked, y: to, task: task.step }));
                return Ok(());
            }
            Work::Plain(args) => window::emit(net, task, args).ok_or("a step has no kernel of its own")?,
            Work::Map { .. } | Work::Fold { .. } => {
                return Err("a step has no kernel of its own".to_owned());
            }
        };
        self.kernel(kernel, Some(task.step))
    }
}
