//! One instruction of several, where the others read nothing of what lies between.

use std::collections::BTreeMap;

use mqc_ir::op::{Binary, Compare};

use super::instructions::{Code, Fused, Instruction, Operand, Register};
use crate::lower::task::{Combine, Func};

/// Joins a product and what alone reads it when that is a sum, and the comparisons of a select with two bounds.
pub(super) fn join(fused: &mut Fused) {
    let uses = uses(fused);
    let mut gone = vec![false; fused.instructions.len()];
    let mut made: BTreeMap<Register, usize> = BTreeMap::new();
    for i in 0..fused.instructions.len() {
        let instruction = fused.instructions[i].clone();
        made.insert(instruction.to, i);
        let single = |operand: Operand| match operand {
            Operand::Register(r) if uses.get(&r) == Some(&1) => made.get(&r).copied(),
            Operand::Register(_) | Operand::Memory(_) => None,
        };
        let joined =
            with_product(fused, &instruction, &single).or_else(|| with_bounds(fused, &instruction, &single));
        if let Some((code, from, places)) = joined {
            places.into_iter().for_each(|place| gone[place] = true);
            fused.instructions[i] = Instruction { code, from, ..instruction };
        }
    }
    for total in &mut fused.totals {
        let Operand::Register(register) = total.from else { continue };
        let product = made.get(&register).filter(|_| uses.get(&register) == Some(&1)).copied();
        let Some(place) = product.filter(|place| !gone[*place]) else { continue };
        let Instruction { code, from, row, .. } = &fused.instructions[place];
        if *code == Code::Apply(Func::Binary(Binary::Mul))
            && *row == total.row
            && total.combine == Combine::Sum
        {
            gone[place] = true;
            (total.from, total.times) = (from[0], Some(from[1]));
        }
    }
    let mut gone = gone.into_iter();
    fused.instructions.retain(|_| !gone.next().unwrap_or(false));
}

type Joined = Option<(Code, [Operand; 3], Vec<usize>)>;

/// a b + c and c - a b.
fn with_product(
    fused: &Fused,
    instruction: &Instruction,
    single: &impl Fn(Operand) -> Option<usize>,
) -> Joined {
    let [left, right, _] = instruction.from;
    let product = |operand: Operand| {
        let made = &fused.instructions[single(operand)?];
        let is = made.code == Code::Apply(Func::Binary(Binary::Mul)) && made.row == instruction.row;
        single(operand).filter(|_| is)
    };
    let (func, place, other) = match &instruction.code {
        Code::Apply(Func::Binary(Binary::Add)) => match (product(left), product(right)) {
            (Some(place), _) => (Func::MulAdd, place, right),
            (None, place) => (Func::MulAdd, place?, left),
        },
        Code::Apply(Func::Binary(Binary::Sub)) => (Func::MulSub, product(right)?, left),
        Code::Apply(_) | Code::Load(_) | Code::CompareInts(..) | Code::Spread | Code::Combine(_) => {
            return None;
        }
    };
    let [a, b, _] = fused.instructions[place].from;
    Some((Code::Apply(func), [a, b, other], vec![place]))
}

/// 0 where x < low or x > high, else y: the gradient of what is held within bounds.
fn with_bounds(
    fused: &Fused,
    instruction: &Instruction,
    single: &impl Fn(Operand) -> Option<usize>,
) -> Joined {
    let number = |operand: Operand| match operand {
        Operand::Register(r) => fused.constants.iter().find(|(c, _)| *c == r).map(|(_, value)| *value),
        Operand::Memory(_) => None,
    };
    let apply = |operand: Operand| {
        let place = single(operand)?;
        match &fused.instructions[place] {
            Instruction { code: Code::Apply(func), from, row, .. } if *row == instruction.row => {
                Some((place, func, *from))
            }
            _ => None,
        }
    };
    let [outside, zero, y] = instruction.from;
    if instruction.code != Code::Apply(Func::Select) || number(zero) != Some(0.0) {
        return None;
    }
    let (or, Func::Binary(Binary::Or), [below, above, _]) = apply(outside)? else { return None };
    let (less, Func::Compare(Compare::Less), [x, low, _]) = apply(below)? else { return None };
    let (greater, Func::Compare(Compare::Greater), [same, high, _]) = apply(above)? else { return None };
    if x != same {
        return None;
    }
    let func = Func::Within { low: number(low)?, high: number(high)? };
    Some((Code::Apply(func), [x, y, x], vec![or, less, greater]))
}

/// How often every register is read.
fn uses(fused: &Fused) -> BTreeMap<Register, usize> {
    let mut uses: BTreeMap<Register, usize> = BTreeMap::new();
    let reads = fused.instructions.iter().flat_map(|i| i.from.into_iter().take(i.code.operands()));
    for operand in reads.chain(fused.ends()) {
        if let Operand::Register(register) = operand {
            *uses.entry(register).or_default() += 1;
        }
    }
    uses
}
