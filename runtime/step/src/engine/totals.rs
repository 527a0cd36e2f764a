//! Reductions over a whole pass: what a block adds to them.

use super::block::{Chunk, direct};
use super::combine::{add_both, add_products, combined, extremes, greater, into, lesser, pair, product};
use super::registers::Register;
use crate::Real;
use crate::array::Slice;
use crate::fuse::instructions::{Fused, Operand};
use crate::lower::task::Combine;

/// Adds the elements of a block to the totals of its chunk.
#[inline(always)]
pub(super) fn add<T: Real>(
    fused: &Fused,
    memory: &[Slice<T>],
    chunk: &mut Chunk<T>,
    registers: &[Register<T>],
    at: usize,
    len: usize,
) {
    let Chunk { start, stores, totals, .. } = chunk;
    let mut index = 0;
    while let (Some(total), Some((sum, rest))) =
        (fused.totals.get(index), totals.get_mut(index..).and_then(<[_]>::split_first_mut))
    {
        index += 1;
        let (first, count) = if total.row { (at / fused.d, len / fused.d) } else { (at, len) };
        let get = |operand: Operand| match operand {
            Operand::Register(r) => &registers[r][..count],
            Operand::Memory(load) => direct(fused, memory, stores, *start, load, first, count),
        };
        let from = get(total.from);
        let times = total.times.map(get);
        if !total.columns {
            sum[0] = match times {
                None => pair(total.combine, sum[0], combined(total.combine, from)),
                Some(times) => sum[0] + product(from, times),
            };
            continue;
        }
        let next = fused.totals.get(index).filter(|next| {
            next.columns && (next.from, next.row, total.times) == (total.from, total.row, None)
        });
        if let (Some(next), Some(second)) = (next, rest.first_mut())
            && two(sum, second, [total.combine, next.combine], from, next.times.map(get))
        {
            index += 1;
            continue;
        }
        match times {
            None => column(total.combine, sum, from),
            Some(times) => {
                for (a, b) in from.chunks_exact(fused.d).zip(times.chunks_exact(fused.d)) {
                    add_products(sum, a, b);
                }
            }
        }
    }
}

#[inline(always)]
fn column<T: Real>(combine: Combine, sum: &mut [T], from: &[T]) {
    for row in from.chunks_exact(sum.len()) {
        match combine {
            Combine::Sum => into(sum, row, |a, b| a + b),
            Combine::Prod => into(sum, row, |a, b| a * b),
            Combine::Max => into(sum, row, greater),
            Combine::Min => into(sum, row, lesser),
        }
    }
}

/// Two totals that read the same in one go, where that is known; `times` belongs to the second.
#[inline(always)]
fn two<T: Real>(
    first: &mut [T],
    second: &mut [T],
    combine: [Combine; 2],
    from: &[T],
    times: Option<&[T]>,
) -> bool {
    let width = first.len();
    match (combine, times) {
        ([Combine::Sum, Combine::Sum], Some(times)) => {
            for (row, times) in from.chunks_exact(width).zip(times.chunks_exact(width)) {
                add_both(first, second, row, times);
            }
            true
        }
        ([Combine::Max, Combine::Min], None) => {
            for row in from.chunks_exact(width) {
                extremes(first, second, row);
            }
            true
        }
        _ => false,
    }
}
