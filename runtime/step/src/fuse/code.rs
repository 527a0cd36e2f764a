//! Instructions of a group.

use std::collections::{BTreeMap, BTreeSet};

use mqc_ir::op::Binary;

use super::instructions::{Code, Fused, Instruction, Load, Operand, Pattern, Register, Splat, Store, Total};
use super::{Class, Group, block, join, registers};
use crate::Kind;
use crate::lower::Lowered;
use crate::lower::task::{Arg, Form, Func, Work};
use crate::view::{Root, View};

struct Generate<'a, T> {
    lowered: &'a Lowered<T>,
    group: &'a Group,
    fused: Fused,
    /// Registers are numbered anew for each value until `assign`.
    next: Register,
    values: BTreeMap<Root, Register>,
    spread: BTreeMap<Root, Register>,
    loaded: BTreeMap<(Root, usize, Pattern, bool), Operand>,
    constants: BTreeMap<u64, Register>,
    inverses: BTreeMap<(Root, usize), Register>,
}

pub(super) fn generate<T>(lowered: &Lowered<T>, group: &Group, stored: &BTreeSet<Root>) -> Fused {
    let d = group.d.unwrap_or(1);
    let fused = Fused {
        n: group.n,
        d,
        block: 0,
        loads: vec![],
        instructions: vec![],
        stores: vec![],
        totals: vec![],
        registers: 0,
        constants: vec![],
        splats: vec![],
        repeated: vec![],
    };
    let mut generate = Generate {
        lowered,
        group,
        fused,
        next: 0,
        values: BTreeMap::new(),
        spread: BTreeMap::new(),
        loaded: BTreeMap::new(),
        constants: BTreeMap::new(),
        inverses: BTreeMap::new(),
    };
    for task in &group.tasks {
        generate.task(*task, stored);
    }
    let mut fused = generate.fused;
    join::join(&mut fused);
    block::choose(&mut fused);
    registers::assign(&mut fused);
    block::fit(&mut fused);
    fused
}

impl<T> Generate<'_, T> {
    fn task(&mut self, index: usize, stored: &BTreeSet<Root>) {
        let task = &self.lowered.tasks[index];
        let root = task.outputs[0];
        let class = self.group.values[&root];
        match &task.work {
            Work::Map { func, args, shape: _ } => {
                let row = class == Class::Row;
                let to = self.map(func, args, row);
                self.values.insert(root, to);
                if stored.contains(&root) {
                    let kind = self.lowered.places[root].kind;
                    self.fused.stores.push(Store {
                        root,
                        from: Operand::Register(to),
                        row,
                        kind,
                        written: false,
                    });
                }
            }
            Work::Fold { combine, form, arg } => {
                let row = arg.len() != self.group.n;
                let from = self.operand(arg, row);
                if class == Class::After {
                    let columns = matches!(form, Form::Columns(_));
                    let combine = *combine;
                    self.fused.totals.push(Total { root, from, times: None, row, combine, columns });
                } else {
                    let to = self.push(Code::Combine(*combine), [from; 3], true);
                    self.values.insert(root, to);
                    if stored.contains(&root) {
                        let from = Operand::Register(to);
                        let (row, kind) = (true, Kind::Real);
                        self.fused.stores.push(Store { root, from, row, kind, written: false });
                    }
                }
            }
            Work::Product(_)
            | Work::Gather { .. }
            | Work::AddRows { .. }
            | Work::Concat { .. }
            | Work::Copy(_)
            | Work::Nested { .. }
            | Work::Plain(_) => {}
        }
    }

    fn map(&mut self, func: &Func, args: &[Arg], row: bool) -> Register {
        let integers =
            |arg: &Arg| arg.view().is_some_and(|view| self.lowered.places[view.root].kind == Kind::Int);
        if let (Func::Compare(kind), [Arg::View(a), Arg::View(b)]) = (func, args)
            && args.iter().all(integers)
        {
            let (a, b) = (self.load(a, pattern(a), row), self.load(b, pattern(b), row));
            let nothing = Operand::Register(usize::MAX);
            return self.push(Code::CompareInts(*kind, a, b), [nothing; 3], row);
        }
        let mut from: Vec<Operand> = args
            .iter()
            .map(|arg| match arg {
                Arg::Scalar(value) => self.constant(*value),
                Arg::View(view) => self.operand(view, row),
                Arg::Window { view, width, low, high } => {
                    self.memory(view, Pattern::Window { width: *width, low: *low, high: *high }, row)
                }
            })
            .collect();
        if let (Func::Binary(Binary::Div), [_, Arg::View(divisor)]) = (func, args)
            && let Some(inverse) = self.inverse(divisor, row)
        {
            let from = [from[0], inverse, from[0]];
            return self.push(Code::Apply(Func::Binary(Binary::Mul)), from, row);
        }
        let first = from.first().copied().unwrap_or(Operand::Register(usize::MAX));
        from.resize(3, first);
        self.push(Code::Apply(func.clone()), [from[0], from[1], from[2]], row)
    }

    fn push(&mut self, code: Code, from: [Operand; 3], row: bool) -> Register {
        let to = self.next;
        self.next += 1;
        self.fused.instructions.push(Instruction { code, to, from, row, into: None });
        to
    }

    fn constant(&mut self, value: f64) -> Operand {
        let next = self.next;
        let register = *self.constants.entry(value.to_bits()).or_insert(next);
        if register == next {
            self.next += 1;
            self.fused.constants.push((register, value));
        }
        Operand::Register(register)
    }

    fn operand(&mut self, view: &View, row: bool) -> Operand {
        let Some(class) = self.group.values.get(&view.root) else {
            return self.memory(view, pattern(view), row);
        };
        let register = self.values[&view.root];
        if *class == Class::Full || row {
            return Operand::Register(register);
        }
        if let Some(spread) = self.spread.get(&view.root) {
            return Operand::Register(*spread);
        }
        let spread = self.push(Code::Spread, [Operand::Register(register); 3], false);
        self.spread.insert(view.root, spread);
        Operand::Register(spread)
    }

    /// An operand in memory.
    fn memory(&mut self, view: &View, pattern: Pattern, row: bool) -> Operand {
        let key = (view.root, view.start, pattern.clone(), row);
        if let Some(operand) = self.loaded.get(&key) {
            return *operand;
        }
        let load = self.load(view, pattern, row);
        let real = self.lowered.places[view.root].kind == Kind::Real;
        let operand = match &self.fused.loads[load].pattern {
            Pattern::Splat => {
                self.next += 1;
                self.fused.splats.push(Splat { register: self.next - 1, load, inverse: false });
                Operand::Register(self.next - 1)
            }
            Pattern::Dense if real => Operand::Memory(load),
            Pattern::Dense | Pattern::Repeat(_) | Pattern::Strided(..) | Pattern::Window { .. } => {
                let nothing = Operand::Register(usize::MAX);
                Operand::Register(self.push(Code::Load(load), [nothing; 3], row))
            }
        };
        self.loaded.insert(key, operand);
        operand
    }

    /// The inverse of a divisor that is one element of memory.
    fn inverse(&mut self, view: &View, row: bool) -> Option<Operand> {
        if self.group.values.contains_key(&view.root) || pattern(view) != Pattern::Splat {
            return None;
        }
        let key = (view.root, view.start);
        if let Some(register) = self.inverses.get(&key) {
            return Some(Operand::Register(*register));
        }
        let load = self.load(view, Pattern::Splat, row);
        let register = self.next;
        self.next += 1;
        self.fused.splats.push(Splat { register, load, inverse: true });
        self.inverses.insert(key, register);
        Some(Operand::Register(register))
    }

    fn load(&mut self, view: &View, pattern: Pattern, row: bool) -> usize {
        let kind = self.lowered.places[view.root].kind;
        let load = Load { root: view.root, start: view.start, pattern, kind, row, in_place: None };
        self.fused.loads.push(load);
        self.fused.loads.len() - 1
    }
}

fn pattern(view: &View) -> Pattern {
    let (shape, strides) = view.collapsed();
    if strides.iter().all(|s| *s == 0) {
        Pattern::Splat
    } else if strides == [1] {
        Pattern::Dense
    } else if let (&[_, len], [0, 1]) = (shape.as_slice(), strides.as_slice()) {
        Pattern::Repeat(len)
    } else {
        Pattern::Strided(shape, strides)
    }
}
