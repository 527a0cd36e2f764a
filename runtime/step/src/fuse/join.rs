//! One instruction of several, where the others read nothing of what lies between.

use std::collections::BTreeMap;

use mqc_ir::Op;
use mqc_ir::op::{Binary, Compare, Unary};

use super::instructions::{Code, Fused, Instruction, Operand, Register};
use crate::lower::task::{Combine, Func};

/// Leaves copies of registers out: flags are floats there.
fn without_copies(fused: &mut Fused) {
    let mut same: BTreeMap<Register, Operand> = BTreeMap::new();
    let of = |operand: &mut Operand, same: &BTreeMap<Register, Operand>| {
        if let Operand::Register(register) = operand
            && let Some(first) = same.get(register)
        {
            *operand = *first;
        }
    };
    for instruction in &mut fused.instructions {
        instruction.from.iter_mut().for_each(|operand| of(operand, &same));
        if let (Code::Apply(Func::Copy), [from @ Operand::Register(_), ..]) =
            (&instruction.code, instruction.from)
        {
            same.insert(instruction.to, from);
        }
    }
    fused.instructions.retain(|instruction| !same.contains_key(&instruction.to));
    fused.stores.iter_mut().for_each(|store| of(&mut store.from, &same));
    fused.totals.iter_mut().for_each(|total| total.operands_mut().for_each(|operand| of(operand, &same)));
}

/// Joins a product and what alone reads it when that is a sum, and the comparisons of a select with two bounds.
pub(super) fn join(fused: &mut Fused) {
    without_copies(fused);
    let uses = uses(fused);
    let mut gone = vec![false; fused.instructions.len()];
    let mut made: BTreeMap<Register, usize> = BTreeMap::new();
    for i in 0..fused.instructions.len() {
        made.insert(fused.instructions[i].to, i);
        let single = |operand: Operand| match operand {
            Operand::Register(r) if uses.get(&r) == Some(&1) => made.get(&r).copied(),
            Operand::Register(_) | Operand::Memory(_) => None,
        };
        // What is joined may be part of more.
        loop {
            let instruction = fused.instructions[i].clone();
            let joined = with_product(fused, &instruction, &single)
                .or_else(|| with_bounds(fused, &instruction, &single))
                .or_else(|| product_within(fused, &instruction, &single))
                .or_else(|| product_where_equal(fused, &instruction, &single))
                .or_else(|| quotient(fused, &instruction, &single))
                .or_else(|| root(fused, &instruction, &single));
            let Some((code, from, places)) = joined else { break };
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
    // Of a slice: of what is sliced.
    let sliced = |operand: Operand| {
        let slice = single(operand)?;
        let Instruction { code: Code::Apply(Func::Map(op)), from, row, .. } = &fused.instructions[slice]
        else {
            return None;
        };
        let Op::FakeSlice { width, mode } = **op else { return None };
        (*row == instruction.row).then_some((Func::SliceMulAdd { width, mode }, from[0], slice))
    };
    if func == Func::MulAdd
        && let Some((func, x, slice)) = sliced(a)
    {
        return Some((Code::Apply(func), [x, b, other], vec![place, slice]));
    }
    Some((Code::Apply(func), [a, b, other], vec![place]))
}

/// 0 where x lies outside of bounds, else a b.
fn product_within(
    fused: &Fused,
    instruction: &Instruction,
    single: &impl Fn(Operand) -> Option<usize>,
) -> Joined {
    let Code::Apply(Func::Within { low, high }) = instruction.code else { return None };
    let [x, product, _] = instruction.from;
    let place = single(product)?;
    let made = &fused.instructions[place];
    let is = made.code == Code::Apply(Func::Binary(Binary::Mul)) && made.row == instruction.row;
    let [a, b, _] = made.from;
    is.then(|| (Code::Apply(Func::WithinProduct { low, high }), [x, a, b], vec![place]))
}

/// a where x = y, else 0 a.
fn product_where_equal(
    fused: &Fused,
    instruction: &Instruction,
    single: &impl Fn(Operand) -> Option<usize>,
) -> Joined {
    if instruction.code != Code::Apply(Func::Binary(Binary::Mul)) {
        return None;
    }
    let [left, right, _] = instruction.from;
    let comparison = |operand: Operand, other: Operand| {
        let place = single(operand)?;
        let made = &fused.instructions[place];
        let is = made.code == Code::Apply(Func::Compare(Compare::Equal)) && made.row == instruction.row;
        is.then(|| (Code::Apply(Func::EqualProduct), [made.from[0], made.from[1], other], vec![place]))
    };
    comparison(left, right).or_else(|| comparison(right, left))
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

/// The instruction that alone makes an operand, when it applies this function to as many elements.
fn made_by(
    fused: &Fused,
    instruction: &Instruction,
    place: Option<usize>,
    func: &Func,
) -> Option<(usize, [Operand; 3])> {
    let made = &fused.instructions[place?];
    let is = made.row == instruction.row && matches!(&made.code, Code::Apply(f) if f == func);
    is.then_some((place?, made.from))
}

/// a b / c.
fn quotient(fused: &Fused, instruction: &Instruction, single: &impl Fn(Operand) -> Option<usize>) -> Joined {
    if instruction.code != Code::Apply(Func::Binary(Binary::Div)) {
        return None;
    }
    let [product, divisor, _] = instruction.from;
    let (place, [a, b, _]) = made_by(fused, instruction, single(product), &Func::Binary(Binary::Mul))?;
    Some((Code::Apply(Func::MulDiv), [a, b, divisor], vec![place]))
}

/// sqrt(a b) + c.
fn root(fused: &Fused, instruction: &Instruction, single: &impl Fn(Operand) -> Option<usize>) -> Joined {
    if instruction.code != Code::Apply(Func::Binary(Binary::Add)) {
        return None;
    }
    let [left, right, _] = instruction.from;
    let root = |operand: Operand, other: Operand| {
        let (root, [square, ..]) = made_by(fused, instruction, single(operand), &Func::Unary(Unary::Sqrt))?;
        let (place, [a, b, _]) = made_by(fused, instruction, single(square), &Func::Binary(Binary::Mul))?;
        Some((Code::Apply(Func::RootAdd), [a, b, other], vec![root, place]))
    };
    root(left, right).or_else(|| root(right, left))
}
