//! Values that every pass computes anew where it reads them, instead of one pass storing them: reading them would cost
//! as much as reading what they are computed from.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::Op;
use mqc_ir::op::{Binary, Unary};

use super::{elements, views};
use crate::Kind;
use crate::lower::Lowered;
use crate::lower::task::{Arg, Func, Task, Work};
use crate::view::{Root, View};

/// Functions that one such value takes at most.
const MOST: usize = 6;
/// Operands of which so many would fit a value are read beside it at no cost.
const SMALL: usize = 8;

/// What a task becomes when it computes its cheap operands itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    /// Tasks of the cheap operands, in order.
    pub before: Vec<usize>,
    /// What it then reads.
    pub views: Vec<View>,
    /// The values of these views.
    pub reads: BTreeSet<Root>,
}

/// For every task what it is with its cheap operands; `None` for those that nothing needs, and for cheap values.
pub(super) fn expand<T>(lowered: &Lowered<T>, kept: &[bool], live: &[bool]) -> Vec<Option<Whole>> {
    let cheap = find(lowered, kept, live);
    let whole = |(index, task): (usize, &Task)| {
        let is_cheap = task.outputs.first().is_some_and(|root| cheap.contains_key(root));
        (live[index] && !is_cheap).then(|| whole(lowered, &cheap, task))
    };
    lowered.tasks.iter().enumerate().map(whole).collect()
}

fn whole<T>(lowered: &Lowered<T>, cheap: &BTreeMap<Root, Recipe>, task: &Task) -> Whole {
    let mut whole = Whole::default();
    let mut before = BTreeSet::new();
    let mut stack = vec![task];
    while let Some(task) = stack.pop() {
        for view in views(task) {
            match cheap.get(&view.root) {
                Some(recipe) if before.insert(recipe.task) => stack.push(&lowered.tasks[recipe.task]),
                Some(_) => {}
                None => whole.views.push(view.clone()),
            }
        }
    }
    whole.reads = match views(task).is_empty() {
        true => task.reads().into_iter().collect(),
        false => whole.views.iter().map(|view| view.root).collect(),
    };
    whole.before = before.into_iter().collect();
    whole
}

/// How a cheap value is computed.
struct Recipe {
    task: usize,
    /// The only large value that it is computed from.
    base: Root,
    /// Functions in all.
    cost: usize,
}

fn find<T>(lowered: &Lowered<T>, kept: &[bool], live: &[bool]) -> BTreeMap<Root, Recipe> {
    let mut users: BTreeMap<Root, Vec<&Task>> = BTreeMap::new();
    for (task, _) in lowered.tasks.iter().zip(live).filter(|(_, live)| **live) {
        task.reads().into_iter().for_each(|root| users.entry(root).or_default().push(task));
    }
    let mut cheap: BTreeMap<Root, Recipe> = BTreeMap::new();
    for (index, task) in lowered.tasks.iter().enumerate().filter(|(index, _)| live[*index]) {
        let (Work::Map { func, args, .. }, [root]) = (&task.work, task.outputs.as_slice()) else { continue };
        let place = &lowered.places[*root];
        let read = users.get(root).map(Vec::as_slice).unwrap_or_default();
        let within_passes =
            !read.is_empty() && read.iter().all(|user| reads_in_order(user, *root, place.len));
        if kept[*root]
            || place.kind != Kind::Real && place.kind != Kind::Bool
            || !is_cheap(func)
            || !within_passes
        {
            continue;
        }
        let mut bases = BTreeSet::new();
        let mut cost = 1;
        let mut fits = true;
        for arg in args {
            let view = match arg {
                Arg::Scalar(_) => continue,
                Arg::View(view) => view,
                Arg::Window { .. } => {
                    fits = false;
                    continue;
                }
            };
            let from = &lowered.places[view.root];
            fits &= from.kind != Kind::Int;
            match cheap.get(&view.root) {
                Some(recipe) => {
                    cost += recipe.cost;
                    bases.insert(recipe.base);
                }
                None if from.len.saturating_mul(SMALL) <= place.len => {}
                None => {
                    fits &= view.is_dense() && view.len() == place.len;
                    bases.insert(view.root);
                }
            }
        }
        if let (true, Some(base)) = (fits && cost <= MOST && bases.len() == 1, bases.first()) {
            cheap.insert(*root, Recipe { task: index, base: *base, cost });
        }
    }
    cheap
}

/// Whether a task is part of a pass over so many elements, and reads those of the value one after the other.
fn reads_in_order(user: &Task, root: Root, len: usize) -> bool {
    let window = match &user.work {
        Work::Map { args, .. } => {
            args.iter().any(|a| matches!(a, Arg::Window { view, .. } if view.root == root))
        }
        Work::Fold { .. } => false,
        Work::Product(_)
        | Work::Gather { .. }
        | Work::AddRows { .. }
        | Work::Concat { .. }
        | Work::Copy(_)
        | Work::Nested { .. }
        | Work::Plain(_) => true,
    };
    !window
        && elements(user) == len
        && views(user).iter().filter(|v| v.root == root).all(|v| v.is_dense() && v.len() == len)
}

/// Whether a function takes about as long as reading a value.
fn is_cheap(func: &Func) -> bool {
    match func {
        Func::Copy
        | Func::NotZero
        | Func::Not
        | Func::Compare(_)
        | Func::Max
        | Func::Min
        | Func::Select
        | Func::MulAdd
        | Func::MulSub
        | Func::Within { .. }
        | Func::WithinProduct { .. }
        | Func::EqualProduct
        | Func::MulDiv
        | Func::SliceMulAdd { .. } => true,
        Func::RootAdd => false,
        Func::Unary(kind) => matches!(
            kind,
            Unary::Abs | Unary::Neg | Unary::Not | Unary::Relu | Unary::Round | Unary::Floor | Unary::Ceil
        ),
        Func::Binary(kind) => matches!(
            kind,
            Binary::Add
                | Binary::Sub
                | Binary::Mul
                | Binary::Div
                | Binary::And
                | Binary::Or
                | Binary::Xor
                | Binary::PRelu
        ),
        Func::Map(op) => matches!(**op, Op::FakeSlice { .. } | Op::LeakyRelu { .. }),
    }
}
