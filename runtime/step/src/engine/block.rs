//! One fused pass over some of its elements, block by block. The loops are plain; `pulp` compiles them for the vector
//! instructions that the processor has: everything must be inlined, so no closures go to iterators.

use super::apply::{Side, apply};
use super::combine::{combined, flag};
use super::load::{compare_ints, fetch};
use super::prefetch::Streams;
use super::registers::{Register, Registers};
use super::totals;
use crate::Real;
use crate::array::Slice;
use crate::fuse::instructions::{Code, Fused, Instruction, Load, Operand, Pattern, Splat};

/// Part of a value that a pass writes.
pub(super) enum Part<'a, T> {
    Real(&'a mut [T]),
    Bool(&'a mut [bool]),
}

/// The elements `start..end` of a pass: whole rows.
pub(super) struct Chunk<'a, T> {
    pub start: usize,
    pub end: usize,
    /// For each store its elements.
    pub stores: Vec<Part<'a, T>>,
    /// For each total what this chunk makes of it.
    pub totals: Vec<&'a mut [T]>,
}

/// Runs a chunk. `memory` has the elements of each load's value.
pub(super) fn run<T: Real>(
    fused: &Fused,
    memory: &[Slice<T>],
    chunk: &mut Chunk<T>,
    registers: &mut Registers<T>,
) {
    pulp::Arch::new().dispatch(Run { fused, memory, chunk, registers });
}

/// A closure would not be compiled for the vector instructions.
struct Run<'r, 'm, 'c, T> {
    fused: &'r Fused,
    memory: &'r [Slice<'m, T>],
    chunk: &'r mut Chunk<'c, T>,
    registers: &'r mut Registers<T>,
}

impl<T: Real> pulp::NullaryFnOnce for Run<'_, '_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        blocks(self.fused, self.memory, self.chunk, self.registers);
    }
}

#[inline(always)]
fn blocks<T: Real>(fused: &Fused, memory: &[Slice<T>], chunk: &mut Chunk<T>, registers: &mut Registers<T>) {
    let all = registers.at_least(fused.registers, fused.block);
    // Registers of one value are the first, in this order.
    let mut fixed: Vec<T> = fused.constants.iter().map(|(_, value)| T::of(*value)).collect();
    for Splat { load, inverse, .. } in &fused.splats {
        let load_at = fused.loads[*load].start;
        let value = match memory[*load] {
            Slice::Real(v) => v[load_at],
            Slice::Int(v) => T::of(v[load_at] as f64),
            Slice::Bool(v) => flag(v[load_at]),
        };
        fixed.push(if *inverse { T::ONE / value } else { value });
    }
    for register in &fused.repeated {
        all[*register][..fused.block].fill(fixed[*register]);
    }
    let streams = Streams::new(fused, memory, &chunk.stores, chunk.start, chunk.end);
    // What each instruction asks for of the next block.
    let step = fused.block.div_ceil(fused.instructions.len().max(1)).next_multiple_of(16);
    let mut at = chunk.start;
    while at < chunk.end {
        let len = fused.block.min(chunk.end - at);
        for (i, instruction) in fused.instructions.iter().enumerate() {
            streams.ahead(at + len + i * step, at + len + (i + 1) * step);
            if let Some(store) = instruction.into {
                let part = std::mem::replace(&mut chunk.stores[store], Part::Bool(&mut []));
                if let Part::Real(to) = part {
                    let first = at - chunk.start;
                    let block = &mut to[first..first + len];
                    execute(fused, memory, chunk, all, &fixed, instruction, block, at, len);
                    chunk.stores[store] = Part::Real(to);
                }
                continue;
            }
            let mut to = std::mem::take(&mut all[instruction.to]);
            execute(fused, memory, chunk, all, &fixed, instruction, &mut to, at, len);
            all[instruction.to] = to;
        }
        // Before anything is written over what they read.
        totals::add(fused, memory, chunk, all, at, len);
        finish(fused, chunk, all, at, len);
        at += len;
    }
}

/// Writes the results of a block.
#[inline(always)]
fn finish<T: Real>(fused: &Fused, chunk: &mut Chunk<T>, registers: &[Register<T>], at: usize, len: usize) {
    let range = |row: bool| if row { (at / fused.d, len / fused.d) } else { (at, len) };
    let Chunk { start, stores, .. } = chunk;
    for (store, part) in fused.stores.iter().zip(stores) {
        let (first, count) = range(store.row);
        let first = first - if store.row { *start / fused.d } else { *start };
        let Operand::Register(register) = store.from else { continue };
        if store.written {
            continue;
        }
        let from = &registers[register][..count];
        match part {
            Part::Real(to) => to[first..first + count].copy_from_slice(from),
            Part::Bool(to) => {
                for (t, v) in to[first..first + count].iter_mut().zip(from) {
                    *t = *v != T::ZERO;
                }
            }
        }
    }
}

/// The elements of a dense load of floats: where they lie, or in the part that will be written over them.
#[inline(always)]
pub(super) fn direct<'a, T: Real>(
    fused: &Fused,
    memory: &[Slice<'a, T>],
    stores: &'a [Part<T>],
    start: usize,
    load: usize,
    first: usize,
    count: usize,
) -> &'a [T] {
    let Load { row, in_place, start: offset, pattern, .. } = &fused.loads[load];
    // No block reaches beyond the end of a repeated run.
    let first = if let Pattern::Repeat(len) = pattern { first % len } else { first };
    if let Some(store) = in_place
        && let Part::Real(part) = &stores[*store]
    {
        let first = first - if *row { start / fused.d } else { start };
        return &part[first..first + count];
    }
    match memory[load] {
        Slice::Real(v) => &v[offset + first..offset + first + count],
        Slice::Int(_) | Slice::Bool(_) => &[],
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the state of a pass")]
fn execute<T: Real>(
    fused: &Fused,
    memory: &[Slice<T>],
    chunk: &Chunk<T>,
    registers: &[Register<T>],
    fixed: &[T],
    instruction: &Instruction,
    to: &mut [T],
    at: usize,
    len: usize,
) {
    let d = fused.d;
    let (first, count) = if instruction.row { (at / d, len / d) } else { (at, len) };
    let get = |operand: Operand, first: usize, count: usize| match operand {
        Operand::Register(r) => &registers[r][..count],
        Operand::Memory(load) => direct(fused, memory, &chunk.stores, chunk.start, load, first, count),
    };
    let from = instruction.from;
    match &instruction.code {
        Code::Load(load) => fetch(&fused.loads[*load], memory[*load], first, &mut to[..count]),
        Code::CompareInts(kind, a, b) => {
            let (a, b) = ((&fused.loads[*a], memory[*a]), (&fused.loads[*b], memory[*b]));
            compare_ints(*kind, a, b, first, &mut to[..count]);
        }
        Code::Spread => {
            let rows = get(from[0], at / d, len / d);
            for (to, v) in to[..len].chunks_exact_mut(d).zip(rows) {
                to.fill(*v);
            }
        }
        Code::Combine(combine) => {
            for (to, row) in to.iter_mut().zip(get(from[0], at, len).chunks_exact(d)) {
                *to = combined(*combine, row);
            }
        }
        Code::Apply(func) => {
            let side = |operand: Operand| match operand {
                Operand::Register(r) if r < fixed.len() => Side::One(fixed[r]),
                Operand::Register(_) | Operand::Memory(_) => Side::Block(get(operand, first, count)),
            };
            apply(func, side(from[0]), side(from[1]), side(from[2]), &mut to[..count]);
        }
    }
}
