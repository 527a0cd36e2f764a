//! How many elements a pass handles at once.

use std::collections::BTreeMap;

use super::instructions::{Code, Fused, Operand, Pattern, Register};
use crate::Kind;

/// Elements of a block where nothing else says so: some registers fit the first cache.
const BLOCK: usize = 1024;
/// Blocks shorter than this take longer to begin than to run.
const LEAST: usize = 256;

/// Sets the size of blocks: whole rows; and such that no block reads a repeated run beyond its end, which then needs no
/// copy.
pub(super) fn choose(fused: &mut Fused) {
    fused.block = (BLOCK / fused.d).max(1) * fused.d;
    let repeats = |pattern: &Pattern| match pattern {
        Pattern::Repeat(len) => Some(*len),
        Pattern::Splat | Pattern::Dense | Pattern::Strided(..) | Pattern::Window { .. } => None,
    };
    let Some(len) = fused.loads.iter().find_map(|load| repeats(&load.pattern)) else { return };
    let fits = |block: &usize| len.is_multiple_of(*block) && block.is_multiple_of(fused.d);
    let Some(block) = (LEAST..=fused.block.min(len)).rev().find(fits) else { return };
    fused.block = block;
    let mut direct: BTreeMap<Register, usize> = BTreeMap::new();
    for instruction in &fused.instructions {
        if let Code::Load(load) = instruction.code {
            let from = &fused.loads[load];
            if from.pattern == Pattern::Repeat(len) && from.kind == Kind::Real && !from.row {
                direct.insert(instruction.to, load);
            }
        }
    }
    fused.instructions.retain(|instruction| !direct.contains_key(&instruction.to));
    let operands = fused.instructions.iter_mut().flat_map(|i| &mut i.from);
    for operand in operands.chain(fused.totals.iter_mut().flat_map(|t| t.operands_mut())) {
        if let Operand::Register(register) = operand
            && let Some(load) = direct.get(register)
        {
            *operand = Operand::Memory(*load);
        }
    }
}

/// Bytes of a block, with all registers and what it reads, that are well in the first cache or near it.
const CACHE: usize = 32 << 10;

/// Makes blocks so small that all that they touch stays in the first cache.
pub(super) fn fit(fused: &mut Fused) {
    let registers = fused.registers - fused.constants.len() - fused.splats.len() + fused.repeated.len();
    let read = fused.loads.iter().filter(|l| !l.row && l.pattern != Pattern::Splat).count();
    let summed = fused.totals.iter().filter(|t| t.columns).count();
    let fits = |block: usize| (registers + read + summed) * block * size_of::<f32>() <= CACHE;
    while !fits(fused.block) && fused.block / 2 >= LEAST && fused.block.is_multiple_of(2 * fused.d) {
        fused.block /= 2;
    }
}
