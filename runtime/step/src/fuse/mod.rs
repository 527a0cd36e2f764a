//! Joins pointwise tasks and reductions into groups that run as one pass, and puts all in an order of execution.
//!
//! A group is held back until a task outside it reads one of its values, or until nothing is left that could join it.

mod block;
mod cheap;
mod code;
pub(crate) mod instructions;
mod join;
mod registers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cheap::Whole;
use instructions::Fused;

use crate::lower::Lowered;
use crate::lower::task::{Arg, Form, Task, Work};
use crate::view::{Root, View};

/// Elements whose memory passes share even if one has to wait for what the other reads besides.
const LARGE: usize = 1 << 13;

/// So many groups back are looked at for one that reads the same memory.
const NEAR: usize = 64;

/// A step of the program.
#[derive(Clone, Debug)]
pub(crate) enum Kernel {
    Fused(Box<Fused>),
    Single(Box<Task>),
}

/// What a value is within its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// One element for each of the group.
    Full,
    /// One for each row.
    Row,
    /// Known only after the pass.
    After,
}

/// Tasks over `n` elements, in rows of `d` when that matters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub n: usize,
    pub d: Option<usize>,
    /// In order; a cheap one may be in several groups.
    pub tasks: BTreeSet<usize>,
    pub values: BTreeMap<Root, Class>,
    /// Groups whose values this one reads.
    needs: BTreeSet<usize>,
    /// Dense values of `n` elements that it reads from memory.
    loads: BTreeSet<Root>,
    /// Reads of its values by tasks that have not been placed.
    uses_left: usize,
}

struct Fuse<'a, T> {
    lowered: &'a Lowered<T>,
    groups: Vec<Option<Group>>,
    /// The group that each value waits in.
    pending: BTreeMap<Root, usize>,
    kept: Vec<bool>,
    users: Vec<Vec<usize>>,
    kernels: Vec<Kernel>,
}

/// What outputs need.
struct Needed {
    /// Values that are outputs.
    kept: Vec<bool>,
    /// Tasks that some output depends on.
    live: Vec<bool>,
}

fn needed<T>(lowered: &Lowered<T>) -> Needed {
    let mut kept = vec![false; lowered.places.len()];
    for root in &lowered.outputs {
        kept[*root] = true;
    }
    let mut needed = kept.clone();
    let mut live = vec![false; lowered.tasks.len()];
    for (i, task) in lowered.tasks.iter().enumerate().rev() {
        live[i] = task.outputs.iter().any(|root| needed[*root]);
        if live[i] {
            task.reads().into_iter().for_each(|root| needed[root] = true);
        }
    }
    Needed { kept, live }
}

/// The order of execution with a pass for every task.
pub(crate) fn separate<T>(lowered: &Lowered<T>) -> Vec<Kernel> {
    let live = needed(lowered).live;
    let kernel = |(index, task): (usize, &Task)| match &task.work {
        Work::Map { .. } | Work::Fold { .. } => {
            let (class, d) = match form(task) {
                None => (Class::Full, None),
                Some(Form::Rows(d)) => (Class::Row, Some(d)),
                Some(Form::Columns(d)) => (Class::After, Some(d)),
                Some(Form::All) => (Class::After, None),
            };
            let group = Group {
                n: elements(task),
                d,
                tasks: BTreeSet::from([index]),
                values: task.outputs.iter().map(|root| (*root, class)).collect(),
                ..Group::default()
            };
            let stored = task.outputs.iter().copied().collect();
            Kernel::Fused(Box::new(code::generate(lowered, &group, &stored)))
        }
        Work::Product(_)
        | Work::Gather { .. }
        | Work::AddRows { .. }
        | Work::Concat { .. }
        | Work::Copy(_)
        | Work::Nested { .. }
        | Work::Plain(_) => Kernel::Single(Box::new(task.clone())),
    };
    lowered.tasks.iter().enumerate().filter(|(index, _)| live[*index]).map(kernel).collect()
}

/// The order of execution.
pub(crate) fn schedule<T>(lowered: &Lowered<T>) -> Vec<Kernel> {
    let count = lowered.places.len();
    let Needed { kept, live } = needed(lowered);
    let whole = cheap::expand(lowered, &kept, &live);
    let mut fuse = Fuse {
        lowered,
        groups: vec![],
        pending: BTreeMap::new(),
        kept,
        users: vec![vec![]; count],
        kernels: vec![],
    };
    for (i, whole) in whole.iter().enumerate() {
        whole.iter().flat_map(|w| &w.reads).for_each(|root| fuse.users[*root].push(i));
    }
    for (i, whole) in whole.iter().enumerate() {
        if let Some(whole) = whole {
            fuse.place(i, whole);
        }
    }
    for group in 0..fuse.groups.len() {
        fuse.flush(group);
    }
    fuse.kernels
}

impl<T> Fuse<'_, T> {
    fn place(&mut self, index: usize, whole: &Whole) {
        let task = &self.lowered.tasks[index];
        for root in &whole.reads {
            if let Some(group) = self.pending.get(root).and_then(|g| self.groups[*g].as_mut()) {
                group.uses_left -= 1;
            }
        }
        match &task.work {
            Work::Map { .. } | Work::Fold { .. } => self.join(index, whole),
            Work::Product(_)
            | Work::Gather { .. }
            | Work::AddRows { .. }
            | Work::Concat { .. }
            | Work::Copy(_)
            | Work::Nested { .. }
            | Work::Plain(_) => {
                for root in &whole.reads {
                    if let Some(group) = self.pending.get(root).copied() {
                        self.flush(group);
                    }
                }
                for group in 0..self.groups.len() {
                    if self.groups[group].as_ref().is_some_and(|g| g.uses_left == 0) {
                        self.flush(group);
                    }
                }
                self.kernels.push(Kernel::Single(Box::new(task.clone())));
            }
        }
    }

    /// Puts a task into a group: that of its operands, else one that reads the same memory, else its own.
    fn join(&mut self, index: usize, whole: &Whole) {
        let task = &self.lowered.tasks[index];
        let views = &whole.views;
        let sources: BTreeSet<usize> =
            views.iter().filter_map(|v| self.pending.get(&v.root).copied()).collect();
        let mut home = None;
        for group in &sources {
            let others = sources.iter().filter(|g| *g != group);
            if self.role(*group, task, views).is_none() || others.clone().any(|g| self.reaches(*g, *group)) {
                continue;
            }
            match home {
                None => home = Some(*group),
                Some(first) if self.can_merge(first, *group) => self.merge(first, *group),
                Some(_) => {}
            }
        }
        // Merging may have turned another source into one that depends on the home.
        let n = elements(task);
        let home = home.or_else(|| {
            let loads = |g: &Group| views.iter().any(|v| g.loads.contains(&v.root));
            // Reading less is not worth waiting for others where there is little to read.
            let new = |g: &usize| self.groups[*g].is_some() && !sources.contains(g);
            let waits = |g: &Group| n < LARGE && g.needs.iter().any(new);
            let fits = |i: &usize| {
                self.groups[*i].as_ref().is_some_and(|g| g.n == n && loads(g) && !waits(g))
                    && self.role(*i, task, views).is_some()
                    && !sources.iter().any(|s| self.reaches(*s, *i))
            };
            let mut latest = (0..self.groups.len()).rev().take(NEAR).filter(fits);
            // What is known only after its pass is wanted early.
            if form(task).is_some() { latest.next_back() } else { latest.next() }
        });
        let home = home.filter(|i| self.role(*i, task, views).is_some());
        let home = home.unwrap_or_else(|| {
            self.groups.push(Some(Group { n, ..Group::default() }));
            self.groups.len() - 1
        });
        let (class, d) = self.role(home, task, views).unwrap_or((Class::Full, None));
        let sources: BTreeSet<usize> =
            views.iter().filter_map(|v| self.pending.get(&v.root).copied()).collect();
        let root = task.outputs[0];
        let uses = self.users[root].len();
        if let Some(group) = self.groups[home].as_mut() {
            group.d = d;
            // As many elements as the task goes over.
            let of_operands = if n == group.n { Class::Full } else { Class::Row };
            for cheap in &whole.before {
                group.tasks.insert(*cheap);
                group.values.insert(self.lowered.tasks[*cheap].outputs[0], of_operands);
            }
            group.tasks.insert(index);
            group.values.insert(root, class);
            group.uses_left += uses;
            group.needs.extend(sources.into_iter().filter(|g| *g != home));
            let dense = views.iter().filter(|v| v.len() == n && v.is_dense());
            group.loads.extend(dense.map(|v| v.root).filter(|root| !self.pending.contains_key(root)));
        }
        self.pending.insert(root, home);
    }

    /// What a task would be in a group, and the length of the rows then; `None` when it does not fit.
    fn role(&self, group: usize, task: &Task, views: &[View]) -> Option<(Class, Option<usize>)> {
        let g = self.groups[group].as_ref()?;
        let n = elements(task);
        let inside =
            |view: &View| (self.pending.get(&view.root) == Some(&group)).then(|| g.values[&view.root]);
        let aligned = |view: &View| view.is_dense() && view.len() == n;
        if n == g.n {
            let fits = |view: &View| match inside(view) {
                None => true,
                Some(Class::Full) => aligned(view),
                Some(Class::Row) => g.d.is_some_and(|d| is_row(view, n, d)),
                Some(Class::After) => false,
            };
            // A row of one element is a full value and not a row value.
            if views.iter().all(fits) {
                return match form(task) {
                    None => Some((Class::Full, g.d)),
                    Some(Form::All) => Some((Class::After, g.d)),
                    Some(Form::Rows(d)) => (g.d.is_none_or(|own| own == d)).then_some((Class::Row, Some(d))),
                    Some(Form::Columns(d)) => {
                        (g.d.is_none_or(|own| own == d)).then_some((Class::After, Some(d)))
                    }
                };
            }
        }
        let rows = g.d.map(|d| g.n / d)?;
        let fits = |view: &View| match inside(view) {
            None => true,
            Some(Class::Row) => aligned(view),
            Some(Class::Full | Class::After) => false,
        };
        if n != rows || n == g.n || !views.iter().all(fits) {
            return None;
        }
        match form(task) {
            None => Some((Class::Row, g.d)),
            Some(Form::All) => Some((Class::After, g.d)),
            Some(Form::Rows(_) | Form::Columns(_)) => None,
        }
    }

    fn can_merge(&self, a: usize, b: usize) -> bool {
        let (Some(x), Some(y)) = (&self.groups[a], &self.groups[b]) else { return false };
        let rows = x.d.is_none() || y.d.is_none() || x.d == y.d;
        // A path through a third group would become a cycle.
        let detour = |from: &Group, to: usize| from.needs.iter().any(|g| *g != to && self.reaches(*g, to));
        x.n == y.n && rows && !detour(x, b) && !detour(y, a)
    }

    fn merge(&mut self, a: usize, b: usize) {
        let Some(gone) = self.groups[b].take() else { return };
        for place in self.pending.values_mut().filter(|group| **group == b) {
            *place = a;
        }
        for group in self.groups.iter_mut().flatten() {
            if group.needs.remove(&b) {
                group.needs.insert(a);
            }
        }
        if let Some(group) = self.groups[a].as_mut() {
            group.d = group.d.or(gone.d);
            group.tasks.extend(gone.tasks);
            group.values.extend(gone.values);
            group.needs.extend(gone.needs);
            group.needs.remove(&a);
            group.loads.extend(gone.loads);
            group.uses_left += gone.uses_left;
        }
    }

    /// Whether a group needs another, perhaps through others.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut stack = vec![from];
        while let Some(group) = stack.pop() {
            if group == to {
                return true;
            }
            for next in self.groups[group].iter().flat_map(|g| &g.needs) {
                if seen.insert(*next) {
                    stack.push(*next);
                }
            }
        }
        false
    }

    /// Runs a group now, after those that it needs.
    fn flush(&mut self, group: usize) {
        let mut stack = vec![group];
        while let Some(top) = stack.last().copied() {
            let waiting =
                self.groups[top].iter().flat_map(|g| &g.needs).copied().find(|g| self.groups[*g].is_some());
            if let Some(next) = waiting {
                stack.push(next);
                continue;
            }
            stack.pop();
            let Some(done) = self.groups[top].take() else { continue };
            let own: Vec<Root> =
                done.values.keys().copied().filter(|root| self.pending.get(root) == Some(&top)).collect();
            for root in &own {
                self.pending.remove(root);
            }
            let stored = |root: &Root| {
                self.kept[*root] || self.users[*root].iter().any(|user| !done.tasks.contains(user))
            };
            let stored: BTreeSet<Root> = own.into_iter().filter(stored).collect();
            self.kernels.push(Kernel::Fused(Box::new(code::generate(self.lowered, &done, &stored))));
        }
    }
}

/// The operands of a pointwise task or a reduction.
fn views(task: &Task) -> Vec<&View> {
    match &task.work {
        Work::Map { args, .. } => args.iter().filter_map(Arg::view).collect(),
        Work::Fold { arg, .. } => vec![arg],
        Work::Product(_)
        | Work::Gather { .. }
        | Work::AddRows { .. }
        | Work::Concat { .. }
        | Work::Copy(_)
        | Work::Nested { .. }
        | Work::Plain(_) => vec![],
    }
}

fn form(task: &Task) -> Option<Form> {
    match &task.work {
        Work::Fold { form, .. } => Some(*form),
        Work::Map { .. }
        | Work::Product(_)
        | Work::Gather { .. }
        | Work::AddRows { .. }
        | Work::Concat { .. }
        | Work::Copy(_)
        | Work::Nested { .. }
        | Work::Plain(_) => None,
    }
}

/// Elements that a pointwise task or a reduction goes over.
fn elements(task: &Task) -> usize {
    match &task.work {
        Work::Map { shape, .. } => shape.iter().product(),
        Work::Fold { arg, .. } => arg.len(),
        Work::Product(_)
        | Work::Gather { .. }
        | Work::AddRows { .. }
        | Work::Concat { .. }
        | Work::Copy(_)
        | Work::Nested { .. }
        | Work::Plain(_) => 0,
    }
}

/// Whether a view repeats one element for each row of `d`, of dense rows.
fn is_row(view: &View, n: usize, d: usize) -> bool {
    let rows = n / d;
    view.start == 0
        && view.len() == n
        && view
            .reshaped(&[rows, d])
            .is_some_and(|v| (v.strides[0] == 1 || rows == 1) && (v.strides[1] == 0 || d == 1))
}
