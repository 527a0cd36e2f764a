//! Which register holds which value: the same again once a value is no longer needed.

use std::collections::BTreeMap;

use super::instructions::{Code, Fused, Operand, Register};

/// Gives values registers.
pub(super) fn assign(fused: &mut Fused) {
    let mut last: BTreeMap<Register, usize> = BTreeMap::new();
    for (i, instruction) in fused.instructions.iter().enumerate() {
        for register in registers(&instruction.from) {
            last.insert(register, i);
        }
    }
    for register in registers(&fused.ends()) {
        last.insert(register, usize::MAX);
    }
    let mut place: BTreeMap<Register, Register> = BTreeMap::new();
    let mut count = 0;
    let fixed =
        fused.constants.iter_mut().map(|c| &mut c.0).chain(fused.splats.iter_mut().map(|s| &mut s.register));
    for register in fixed {
        last.insert(*register, usize::MAX);
        place.insert(*register, count);
        *register = count;
        count += 1;
    }
    let mut free: Vec<Register> = vec![];
    let rename = |operand: &mut Operand, place: &BTreeMap<Register, Register>| {
        if let Operand::Register(r) = operand {
            *r = place.get(r).copied().unwrap_or(0);
        }
    };
    for (i, instruction) in fused.instructions.iter_mut().enumerate() {
        // Never one that it reads.
        let to = free.pop().unwrap_or_else(|| {
            count += 1;
            count - 1
        });
        let mut done = registers(&instruction.from);
        done.sort_unstable();
        done.dedup();
        free.extend(done.iter().filter(|r| last.get(r) == Some(&i)).map(|r| place[r]));
        place.insert(instruction.to, to);
        if !last.contains_key(&instruction.to) {
            free.push(to);
        }
        instruction.to = to;
        instruction.from.iter_mut().for_each(|operand| rename(operand, &place));
    }
    fused.stores.iter_mut().for_each(|s| rename(&mut s.from, &place));
    fused.totals.iter_mut().for_each(|t| t.operands_mut().for_each(|o| rename(o, &place)));
    fused.registers = count;
    fused.repeated = repeated(fused);
}

/// Registers of one value that something else than a function reads.
fn repeated(fused: &Fused) -> Vec<Register> {
    let fixed = fused.constants.len() + fused.splats.len();
    let instructions = fused.instructions.iter().filter(|i| !matches!(i.code, Code::Apply(_)));
    let mut read: Vec<Register> = instructions.flat_map(|i| registers(&i.from)).collect();
    read.extend(registers(&fused.ends()));
    read.retain(|register| *register < fixed);
    read.sort_unstable();
    read.dedup();
    read
}

fn registers(from: &[Operand]) -> Vec<Register> {
    from.iter()
        .filter_map(|o| match o {
            Operand::Register(r) if *r != usize::MAX => Some(*r),
            Operand::Register(_) | Operand::Memory(_) => None,
        })
        .collect()
}
