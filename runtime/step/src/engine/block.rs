//! One fused pass over some of its elements, block by block. The loops are plain; `pulp` compiles them for the vector
//! instructions that the processor has: everything must be inlined, so no closures go to iterators.

use mqc_ir::Op;
use mqc_ir::op::{Binary, Compare, GeluKind, Unary};
use mqc_ir::quant::SliceMode;

use super::prefetch::prefetch;
use crate::Real;
use crate::array::Slice;
use crate::fuse::instructions::{Code, Fused, Instruction, Load, Operand, Pattern, Splat};
use crate::lower::task::{Combine, Func};
use crate::plain::scalar;

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

/// The registers of a pass; kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Registers<T>(Vec<Vec<T>>);

/// The first value of a reduction.
pub(super) fn neutral<T: Real>(combine: Combine) -> T {
    match combine {
        Combine::Sum => T::ZERO,
        Combine::Prod => T::ONE,
        Combine::Max => T::of(f64::NEG_INFINITY),
        Combine::Min => T::of(f64::INFINITY),
    }
}

#[inline(always)]
pub(super) fn greater<T: Real>(a: T, b: T) -> T {
    if a > b || is_nan(a) { a } else { b }
}

#[inline(always)]
pub(super) fn lesser<T: Real>(a: T, b: T) -> T {
    if a < b || is_nan(a) { a } else { b }
}

#[inline(always)]
#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
fn is_nan<T: Real>(a: T) -> bool {
    a != a
}

#[inline(always)]
fn flag<T: Real>(b: bool) -> T {
    if b { T::ONE } else { T::ZERO }
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
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
    let all = &mut registers.0;
    if all.len() < fused.registers {
        all.resize(fused.registers, vec![]);
    }
    for register in &mut all[..fused.registers] {
        if register.len() < fused.block {
            register.resize(fused.block, T::ZERO);
        }
    }
    for (register, value) in &fused.constants {
        all[*register][..fused.block].fill(T::of(*value));
    }
    for Splat { register, load, inverse } in &fused.splats {
        let load_at = fused.loads[*load].start;
        let value = match memory[*load] {
            Slice::Real(v) => v[load_at],
            Slice::Int(v) => T::of(v[load_at] as f64),
            Slice::Bool(v) => flag(v[load_at]),
        };
        let value = if *inverse { T::ONE / value } else { value };
        all[*register][..fused.block].fill(value);
    }
    let mut at = chunk.start;
    while at < chunk.end {
        let len = fused.block.min(chunk.end - at);
        for (i, instruction) in fused.instructions.iter().enumerate() {
            ahead(fused, memory, chunk, at + len, i);
            let mut to = std::mem::take(&mut all[instruction.to]);
            execute(fused, memory, chunk, all, instruction, &mut to, at, len);
            all[instruction.to] = to;
        }
        finish(fused, memory, chunk, all, at, len);
        at += len;
    }
}

/// Asks for a part of what the block at `at` reads in whole: as much as one of the instructions before it should.
#[inline(always)]
fn ahead<T: Real>(fused: &Fused, memory: &[Slice<T>], chunk: &Chunk<T>, at: usize, part: usize) {
    let step = fused.block.div_ceil(fused.instructions.len());
    let (first, last) = ((at + part * step).min(chunk.end), (at + (part + 1) * step).min(chunk.end));
    for (load, from) in fused.loads.iter().zip(memory) {
        match (&load.pattern, load.in_place, from) {
            (Pattern::Dense, Some(store), _) if !load.row => {
                if let Part::Real(part) = &chunk.stores[store] {
                    prefetch(&part[first - chunk.start..last - chunk.start]);
                }
            }
            (Pattern::Dense, None, Slice::Real(v)) if !load.row => {
                prefetch(&v[load.start + first..load.start + last]);
            }
            (Pattern::Splat | Pattern::Dense | Pattern::Strided(..) | Pattern::Window { .. }, ..) => {}
        }
    }
}

/// Writes the results of a block.
#[inline(always)]
fn finish<T: Real>(
    fused: &Fused,
    memory: &[Slice<T>],
    chunk: &mut Chunk<T>,
    registers: &[Vec<T>],
    at: usize,
    len: usize,
) {
    let range = |row: bool| if row { (at / fused.d, len / fused.d) } else { (at, len) };
    let Chunk { start, stores, totals, .. } = chunk;
    for (total, sum) in fused.totals.iter().zip(totals.iter_mut()) {
        let (first, count) = range(total.row);
        let from = match total.from {
            Operand::Register(r) => &registers[r][..count],
            // A total reads its elements before anything is written over them.
            Operand::Memory(load) => direct(fused, memory, stores, *start, load, first, count),
        };
        if total.columns {
            for row in from.chunks_exact(fused.d) {
                match total.combine {
                    Combine::Sum => into(sum, row, |a, b| a + b),
                    Combine::Prod => into(sum, row, |a, b| a * b),
                    Combine::Max => into(sum, row, greater),
                    Combine::Min => into(sum, row, lesser),
                }
            }
        } else {
            let part = combined(total.combine, from);
            sum[0] = pair(total.combine, sum[0], part);
        }
    }
    for (store, part) in fused.stores.iter().zip(stores) {
        let (first, count) = range(store.row);
        let first = first - if store.row { *start / fused.d } else { *start };
        let Operand::Register(register) = store.from else { continue };
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
fn direct<'a, T: Real>(
    fused: &Fused,
    memory: &[Slice<'a, T>],
    stores: &'a [Part<T>],
    start: usize,
    load: usize,
    first: usize,
    count: usize,
) -> &'a [T] {
    let Load { row, in_place, start: offset, .. } = &fused.loads[load];
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
    registers: &[Vec<T>],
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
            let (a, b, c) =
                (get(from[0], first, count), get(from[1], first, count), get(from[2], first, count));
            apply(func, a, b, c, &mut to[..count]);
        }
    }
}

#[inline(always)]
fn pair<T: Real>(combine: Combine, a: T, b: T) -> T {
    match combine {
        Combine::Sum => a + b,
        Combine::Prod => a * b,
        Combine::Max => greater(a, b),
        Combine::Min => lesser(a, b),
    }
}

/// All elements combined, always in the same order.
#[inline(always)]
fn combined<T: Real>(combine: Combine, values: &[T]) -> T {
    match combine {
        Combine::Sum => lanes(values, T::ZERO, |a, b| a + b),
        Combine::Prod => lanes(values, T::ONE, |a, b| a * b),
        Combine::Max => lanes(values, neutral(combine), greater),
        Combine::Min => lanes(values, neutral(combine), lesser),
    }
}

#[inline(always)]
fn lanes<T: Real>(values: &[T], first: T, f: impl Fn(T, T) -> T) -> T {
    const LANES: usize = 32;
    let mut all = [first; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (a, v) in all.iter_mut().zip(chunk) {
            *a = f(*a, *v);
        }
    }
    for (a, v) in all.iter_mut().zip(rest) {
        *a = f(*a, *v);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            all[i] = f(all[i], all[i + width]);
        }
    }
    all[0]
}

/// Reads elements from `first` on.
#[inline(always)]
fn fetch<T: Real>(load: &Load, memory: Slice<T>, first: usize, to: &mut [T]) {
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
fn compare_ints<T: Real>(
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

#[inline(always)]
fn each<T: Real>(to: &mut [T], a: &[T], f: impl Fn(T) -> T) {
    for (to, a) in to.iter_mut().zip(a) {
        *to = f(*a);
    }
}

#[inline(always)]
fn both<T: Real>(to: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T) {
    for (to, (a, b)) in to.iter_mut().zip(a.iter().zip(b)) {
        *to = f(*a, *b);
    }
}

#[inline(always)]
fn into<T: Real>(to: &mut [T], a: &[T], f: impl Fn(T, T) -> T) {
    for (to, a) in to.iter_mut().zip(a) {
        *to = f(*to, *a);
    }
}

#[inline(always)]
fn apply<T: Real>(func: &Func, a: &[T], b: &[T], c: &[T], to: &mut [T]) {
    match func {
        Func::Copy => to.copy_from_slice(a),
        Func::NotZero => each(to, a, |a| flag(a != T::ZERO)),
        Func::Not => each(to, a, |a| T::ONE - a),
        Func::Max => both(to, a, b, greater),
        Func::Min => both(to, a, b, lesser),
        Func::Select => {
            for (to, (c, (a, b))) in to.iter_mut().zip(a.iter().zip(b.iter().zip(c))) {
                *to = if *c != T::ZERO { *a } else { *b };
            }
        }
        Func::Compare(kind) => match kind {
            Compare::Equal => both(to, a, b, |a, b| flag(a == b)),
            Compare::Greater => both(to, a, b, |a, b| flag(a > b)),
            Compare::GreaterOrEqual => both(to, a, b, |a, b| flag(a >= b)),
            Compare::Less => both(to, a, b, |a, b| flag(a < b)),
            Compare::LessOrEqual => both(to, a, b, |a, b| flag(a <= b)),
        },
        Func::Binary(kind) => match kind {
            Binary::Add => both(to, a, b, |a, b| a + b),
            Binary::Sub => both(to, a, b, |a, b| a - b),
            Binary::Mul => both(to, a, b, |a, b| a * b),
            Binary::Div => both(to, a, b, |a, b| a / b),
            Binary::PRelu => both(to, a, b, |a, b| if a < T::ZERO { a * b } else { a }),
            Binary::And => both(to, a, b, |a, b| a * b),
            Binary::Or => both(to, a, b, |a, b| if a > b { a } else { b }),
            Binary::Xor => both(to, a, b, |a, b| flag(a != b)),
            Binary::Pow if b.iter().all(|e| *e == T::of(2.0)) => each(to, a, |a| a * a),
            Binary::Pow if b.iter().all(|e| *e == T::of(3.0)) => each(to, a, |a| a * a * a),
            Binary::Pow if b.iter().all(|e| *e == T::of(0.5)) => each(to, a, T::sqrt),
            Binary::Pow
            | Binary::Fmod
            | Binary::Mod
            | Binary::BitwiseAnd
            | Binary::BitwiseOr
            | Binary::BitwiseXor
            | Binary::ShiftLeft
            | Binary::ShiftRight => {
                both(to, a, b, |a, b| T::of(scalar::binary(*kind, a.f64(), b.f64()).unwrap_or(f64::NAN)));
            }
        },
        Func::MulAdd => {
            for (to, (c, (a, b))) in to.iter_mut().zip(c.iter().zip(a.iter().zip(b))) {
                *to = *a * *b + *c;
            }
        }
        Func::MulSub => {
            for (to, (c, (a, b))) in to.iter_mut().zip(c.iter().zip(a.iter().zip(b))) {
                *to = *c - *a * *b;
            }
        }
        Func::Unary(kind) => unary(*kind, a, to),
        Func::Map(op) => mapped(op, a, to),
    }
}

#[inline(always)]
fn unary<T: Real>(kind: Unary, a: &[T], to: &mut [T]) {
    match kind {
        Unary::Abs => each(to, a, T::abs),
        Unary::Ceil => each(to, a, T::ceil),
        Unary::Erf => each(to, a, T::erf),
        Unary::Exp => each(to, a, T::exp),
        Unary::Floor => each(to, a, T::floor),
        Unary::IsNan => each(to, a, |a| flag(is_nan(a))),
        Unary::Log => each(to, a, T::ln),
        Unary::Neg => each(to, a, |a| -a),
        Unary::Reciprocal => each(to, a, |a| T::ONE / a),
        Unary::Relu => each(to, a, |a| greater(a, T::ZERO)),
        Unary::Round => each(to, a, T::round),
        Unary::Sigmoid => each(to, a, sigmoid),
        Unary::Sign => each(to, a, |a| {
            let sign = if a > T::ZERO { T::ONE } else { -T::ONE };
            if a == T::ZERO || is_nan(a) { a } else { sign }
        }),
        Unary::Softsign => each(to, a, |a| a / (T::ONE + a.abs())),
        Unary::Sqrt => each(to, a, T::sqrt),
        Unary::Tanh => each(to, a, T::tanh),
        Unary::Not => each(to, a, |a| T::ONE - a),
        Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::BitwiseNot
        | Unary::Cos
        | Unary::Cosh
        | Unary::HardSwish
        | Unary::Mish
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Tan => each(to, a, |a| T::of(scalar::unary(kind, a.f64()).unwrap_or(f64::NAN))),
    }
}

/// Operations of one operand that have attributes.
#[inline(always)]
fn mapped<T: Real>(op: &Op, a: &[T], to: &mut [T]) {
    match op {
        Op::Gelu { approximate: GeluKind::Erf } => {
            let (half, scale) = (T::of(0.5), T::of(std::f64::consts::FRAC_1_SQRT_2));
            each(to, a, |a| half * a * (T::ONE + (a * scale).erf()));
        }
        Op::Gelu { approximate: GeluKind::Tanh } => {
            let (half, scale, cube) =
                (T::of(0.5), T::of((2.0 / std::f64::consts::PI).sqrt()), T::of(0.044715));
            each(to, a, |a| half * a * (T::ONE + (scale * (a + cube * a * a * a)).tanh()));
        }
        Op::FakeSlice { width, mode } => {
            let step = f64::from(1u32 << (8 - u32::from(width.bits())));
            let (inverse, most) = (T::of(1.0 / step), T::of(256.0 / step - 1.0));
            let (step, middle) = (T::of(step), T::of((step - 1.0) / 2.0));
            let (half, top) = (T::of(0.5), T::of(255.0));
            let code = |u: T| {
                let q = u.round();
                let q = if q < T::ZERO { T::ZERO } else { q };
                if q > top { top } else { q }
            };
            match mode {
                SliceMode::Midpoint => each(to, a, |a| (code(a) * inverse).floor() * step + middle),
                SliceMode::Extra => each(to, a, |a| (code(a) * inverse + half).floor() * step),
                SliceMode::Round => each(to, a, |a| {
                    let level = (code(a) * inverse + half).floor();
                    (if level > most { most } else { level }) * step
                }),
            }
        }
        op => each(to, a, |a| T::of(scalar::map(op, a.f64()).unwrap_or(f64::NAN))),
    }
}
