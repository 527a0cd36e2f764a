//! Elements of a pass, read where they lie.

use mqc_ir::op::Compare;

use super::combine::flag;
use crate::Real;
use crate::array::Slice;
use crate::fuse::instructions::{Load, Pattern};

/// Reads elements from `first` on.
#[inline(always)]
pub(super) fn fetch<T: Real>(load: &Load, memory: Slice<T>, first: usize, to: &mut [T]) {
    match memory {
        Slice::Real(v) => gather(load, v, T::ZERO, first, to, |v| v),
        Slice::Int(v) => gather(load, v, 0, first, to, |v| T::of(v as f64)),
        Slice::Bool(v) => gather(load, v, false, first, to, flag),
    }
}

#[inline(always)]
fn gather<E: Copy, T: Copy>(
    load: &Load,
    from: &[E],
    zero: E,
    first: usize,
    to: &mut [T],
    f: impl Fn(E) -> T,
) {
    match &load.pattern {
        Pattern::Splat => to.fill(f(from[load.start])),
        Pattern::Dense => {
            let from = &from[load.start + first..][..to.len()];
            for (t, v) in to.iter_mut().zip(from) {
                *t = f(*v);
            }
        }
        Pattern::Repeat(len) => {
            let mut done = 0;
            while done < to.len() {
                let at = (first + done) % len;
                let count = (len - at).min(to.len() - done);
                for (t, v) in to[done..done + count].iter_mut().zip(&from[load.start + at..]) {
                    *t = f(*v);
                }
                done += count;
            }
        }
        Pattern::Window { width, low, high } => {
            let mut done = 0;
            while done < to.len() {
                let (row, col) = ((first + done) / width, (first + done) % width);
                let count = (width - col).min(to.len() - done);
                let run = &mut to[done..done + count];
                // What of the run lies before, in and behind the window.
                let (from_col, to_col) = (col.clamp(*low, *high), (col + count).clamp(*low, *high));
                let (start, end) = (from_col.max(col).min(col + count) - col, to_col.max(col) - col);
                run[..start].fill(f(zero));
                run[end.max(start)..].fill(f(zero));
                let at = load.start + row * (high - low) + (from_col - low);
                if end > start {
                    for (t, v) in run[start..end].iter_mut().zip(&from[at..]) {
                        *t = f(*v);
                    }
                }
                done += count;
            }
        }
        Pattern::Strided(shape, strides) => {
            let Some((size, stride)) = shape.last().copied().zip(strides.last().copied()) else { return };
            let (mut place, mut done) = (first, 0);
            while done < to.len() {
                // Where the run of the last axis is that this element belongs to.
                let inner = place % size;
                let mut outer = place / size;
                let mut at = load.start as isize + inner as isize * stride;
                for i in (0..shape.len() - 1).rev() {
                    at += (outer % shape[i]) as isize * strides[i];
                    outer /= shape[i];
                }
                let count = (size - inner).min(to.len() - done);
                let run = &mut to[done..done + count];
                match stride {
                    1 => {
                        for (t, v) in run.iter_mut().zip(&from[at as usize..]) {
                            *t = f(*v);
                        }
                    }
                    0 => run.fill(f(from[at as usize])),
                    _ => {
                        for (i, t) in run.iter_mut().enumerate() {
                            *t = f(from[(at + i as isize * stride) as usize]);
                        }
                    }
                }
                done += count;
                place += count;
            }
        }
    }
}

#[inline(always)]
pub(super) fn compare_ints<T: Real>(
    kind: Compare,
    (a, a_memory): (&Load, Slice<T>),
    (b, b_memory): (&Load, Slice<T>),
    first: usize,
    to: &mut [T],
) {
    let (Slice::Int(x), Slice::Int(y)) = (a_memory, b_memory) else { return };
    let (mut left, mut right) = ([0i64; 64], [0i64; 64]);
    for (i, to) in to.chunks_mut(64).enumerate() {
        let (left, right) = (&mut left[..to.len()], &mut right[..to.len()]);
        gather(a, x, 0, first + i * 64, left, |v| v);
        gather(b, y, 0, first + i * 64, right, |v| v);
        for (to, (a, b)) in to.iter_mut().zip(left.iter().zip(right)) {
            *to = flag(match kind {
                Compare::Equal => *a == *b,
                Compare::Greater => *a > *b,
                Compare::GreaterOrEqual => *a >= *b,
                Compare::Less => *a < *b,
                Compare::LessOrEqual => *a <= *b,
            });
        }
    }
}
