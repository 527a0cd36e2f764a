//! Attention over stored keys and values: scores, softmax and the weighted sums of a few queries of a head at a time.
//!
//! Every row of the result is computed on one thread in one order: it does not depend on the number of threads.

use std::sync::{Mutex, PoisonError};

use mqc_kernels::cpu::Threads;
use pulp::{Arch, Simd, WithSimd};

use super::attention_rows::{exponentials, products, weighted_sums};
use super::kv_cache::{BLOCK, Blocks, CacheShape, LANES, padded};

/// Below so many multiplications threads cost more than they save.
const PARALLEL: usize = 1 << 21;

/// Rows of a head per task.
const TASK_ROWS: usize = 16;

/// Rows that are multiplied by the same keys and values while these are in registers.
const ROWS: usize = 4;

/// Scores of so many positions may be computed at once; those beyond the last do not count.
const TILE: usize = 4 * LANES;

/// How the vectors of heads and positions lie in an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `[heads, positions, size]`
    HeadsFirst,
    /// `[positions, heads, size]`
    PositionsFirst,
}

impl Order {
    /// Which vector that of a head at a position is.
    pub(super) fn place(self, head: usize, heads: usize, position: usize, positions: usize) -> usize {
        match self {
            Order::HeadsFirst => head * positions + position,
            Order::PositionsFirst => position * heads + head,
        }
    }
}

/// The queries of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queries<'a> {
    /// `heads * rows` vectors of `key_size`.
    pub data: &'a [f32],
    /// How these lie.
    pub order: Order,
    pub heads: usize,
    pub rows: usize,
    /// Factor of every score.
    pub scale: f32,
}

/// What is added to the scores, `[heads or 1, rows or 1, positions or 1]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask<'a> {
    pub data: &'a [f32],
    pub shape: [usize; 3],
}

impl Mask<'_> {
    /// Whether it broadcasts to the scores of `queries` over `positions`.
    pub(super) fn check(&self, queries: &Queries, positions: usize) -> Result<(), String> {
        let scores = [queries.heads, queries.rows, positions];
        let fits = self.shape.iter().zip(&scores).all(|(mask, score)| mask == score || *mask == 1);
        if fits && self.data.len() == self.shape.iter().product::<usize>() {
            return Ok(());
        }
        Err(format!("the mask is {:?}, which does not broadcast to the scores {scores:?}", self.shape))
    }

    fn add_to(&self, scores: &mut [f32], head: usize, row: usize) {
        let [heads, rows, positions] = self.shape;
        let head = if heads == 1 { 0 } else { head };
        let row = if rows == 1 { 0 } else { row };
        let mask = &self.data[(head * rows + row) * positions..][..positions];
        if let [mask] = mask {
            scores.iter_mut().for_each(|score| *score += mask);
        } else {
            scores.iter_mut().zip(mask).for_each(|(score, mask)| *score += mask);
        }
    }
}

/// `softmax(scale * queries . keys + mask) . values`, `[heads, rows, value_size]`; query heads share the key and
/// value heads in consecutive groups. A row whose mask excludes everything (all -inf) is NaN, as in ONNX.
pub(super) fn attend(
    blocks: &Blocks,
    shape: &CacheShape,
    queries: &Queries,
    mask: Option<Mask>,
    threads: &Threads,
) -> Vec<f32> {
    let rows = queries.heads * queries.rows;
    let mut out = vec![0.0; rows * shape.value_size];
    if out.is_empty() || blocks.positions == 0 {
        return out;
    }
    let arch = Arch::new();
    let task = |scratch: &mut Scratch, (head, first, out): &mut (usize, usize, &mut [f32])| {
        let (mut row, mut chunks) = (*first, out.chunks_exact_mut(ROWS * shape.value_size));
        for out in &mut chunks {
            arch.dispatch(Rows::<ROWS> { blocks, shape, queries, mask, head: *head, row, scratch, out });
            row += ROWS;
        }
        for out in chunks.into_remainder().chunks_exact_mut(shape.value_size) {
            arch.dispatch(Rows::<1> { blocks, shape, queries, mask, head: *head, row, scratch, out });
            row += 1;
        }
    };
    let heads = out.chunks_exact_mut(queries.rows * shape.value_size).enumerate();
    let tasks = heads.flat_map(|(head, out)| {
        let parts = out.chunks_mut(TASK_ROWS * shape.value_size).enumerate();
        parts.map(move |(part, out)| (head, part * TASK_ROWS, out))
    });
    if rows * blocks.positions * (shape.key_size + shape.value_size) < PARALLEL {
        let mut scratch = Scratch::default();
        tasks.for_each(|mut rows| task(&mut scratch, &mut rows));
    } else {
        let tasks: Vec<_> = tasks.map(Mutex::new).collect();
        threads.run(tasks.len(), |index| {
            let mut rows = tasks[index].lock().unwrap_or_else(PoisonError::into_inner);
            task(&mut Scratch::default(), &mut rows);
        });
    }
    out
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    sums: Vec<f32>,
}

/// Some queries of one head. Not a closure: the work must be inlined where the vectors are enabled.
struct Rows<'a, const R: usize> {
    blocks: &'a Blocks,
    shape: &'a CacheShape,
    queries: &'a Queries<'a>,
    mask: Option<Mask<'a>>,
    head: usize,
    /// The first.
    row: usize,
    scratch: &'a mut Scratch,
    /// `[R, value_size]`
    out: &'a mut [f32],
}

impl<const R: usize> WithSimd for Rows<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Rows { blocks, shape, queries, mask, head, row, scratch, out } = self;
        let CacheShape { heads, key_size, value_size } = *shape;
        let Queries { data, order, heads: all, rows, scale } = *queries;
        let shared = head / (all / heads);
        let vector = |i: usize| &data[order.place(head, all, row + i, rows) * key_size..][..key_size];
        let vectors: [&[f32]; R] = std::array::from_fn(vector);

        let stride = blocks.positions.next_multiple_of(TILE);
        scratch.scores.resize(R * stride, 0.0);
        for (block, keys) in blocks.keys.iter().enumerate() {
            let keys = &keys[shared * key_size * BLOCK..][..key_size * BLOCK];
            let scores = &mut scratch.scores[block * BLOCK..];
            let count = BLOCK.min(stride - block * BLOCK);
            match R {
                1 => products::<S, R, 4>(simd, vectors, keys, scale, scores, stride, count),
                _ => products::<S, R, 2>(simd, vectors, keys, scale, scores, stride, count),
            }
        }
        let mut totals = [0.0; R];
        for (i, total) in totals.iter_mut().enumerate() {
            let scores = &mut scratch.scores[i * stride..][..blocks.positions];
            if let Some(mask) = &mask {
                mask.add_to(scores, head, row + i);
            }
            *total = exponentials::<S>(scores);
        }

        let width = padded(value_size);
        scratch.sums.clear();
        scratch.sums.resize(R * width, 0.0);
        for (block, values) in blocks.values.iter().enumerate() {
            let count = BLOCK.min(blocks.positions - block * BLOCK);
            let values = &values[shared * BLOCK * width..][..count * width];
            let scores = &scratch.scores[block * BLOCK..];
            match R {
                1 => weighted_sums::<S, R, 4>(simd, scores, stride, values, width, &mut scratch.sums),
                _ => weighted_sums::<S, R, 2>(simd, scores, stride, values, width, &mut scratch.sums),
            }
        }
        let sums = out.chunks_exact_mut(value_size).zip(scratch.sums.chunks_exact(width)).zip(totals);
        for ((out, sums), total) in sums {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum / total);
        }
    }
}
