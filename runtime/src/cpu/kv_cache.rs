//! The keys and values of one attention layer, kept between runs and appended in place.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mqc_kernels::cpu::Threads;

use super::attention::{self, Mask, Order, Queries};

/// Positions per block. A cache grows by whole blocks, so that what is stored never moves.
pub(super) const BLOCK: usize = 128;

/// Vectors are padded to a multiple of so many elements.
pub(super) const LANES: usize = 16;

/// Sizes of one layer's attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheShape {
    /// Heads that keys and values have; those of the queries are a multiple.
    pub heads: usize,
    /// Elements of a key.
    pub key_size: usize,
    /// Elements of a value.
    pub value_size: usize,
}

/// One layer's cache.
#[derive(Debug)]
pub struct KvCache {
    name: String,
    shape: CacheShape,
    blocks: Mutex<Blocks>,
}

/// What is stored.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Positions stored.
    pub positions: usize,
    /// Per block `[heads, key_size, BLOCK]`: a score is a sum over rows of positions.
    pub keys: Vec<Vec<f32>>,
    /// Per block `[heads, BLOCK, padded(value_size)]`.
    pub values: Vec<Vec<f32>>,
}

/// `size` rounded up to whole [`LANES`].
pub(super) fn padded(size: usize) -> usize {
    size.next_multiple_of(LANES)
}

impl KvCache {
    /// An empty cache of the layer `name`.
    pub fn new(name: impl Into<String>, shape: CacheShape) -> KvCache {
        KvCache { name: name.into(), shape, blocks: Mutex::default() }
    }

    /// The name of the layer's past keys in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Positions stored.
    pub fn positions(&self) -> usize {
        self.lock().positions
    }

    /// Bytes that the stored positions occupy, whole blocks.
    pub fn bytes(&self) -> u64 {
        let blocks = self.lock();
        let elements: usize = blocks.keys.iter().chain(&blocks.values).map(Vec::len).sum();
        4 * elements as u64
    }

    /// Forgets all positions from `positions` on.
    pub fn truncate(&self, positions: usize) {
        let mut blocks = self.lock();
        let kept = positions.min(blocks.positions);
        blocks.positions = kept;
        blocks.keys.truncate(kept.div_ceil(BLOCK));
        blocks.values.truncate(kept.div_ceil(BLOCK));
    }

    /// Appends keys and values of n positions, `heads * n` vectors that lie as the queries do, then attends with `queries`
    /// to all positions: `[query heads, rows, value_size]`.
    ///
    /// # Errors
    /// The sizes of an operand do not fit, in words.
    pub(super) fn attend(
        &self,
        keys: &[f32],
        values: &[f32],
        queries: &Queries,
        mask: Option<Mask>,
        threads: &Threads,
    ) -> Result<Vec<f32>, String> {
        let CacheShape { heads, key_size, value_size } = self.shape;
        let added = keys.len().checked_div(heads * key_size).unwrap_or(0);
        if keys.len() != heads * added * key_size || values.len() != heads * added * value_size {
            return Err(format!(
                "{} key and {} value elements, expected {heads} heads of {key_size} and {value_size} elements",
                keys.len(),
                values.len()
            ));
        }
        let rows = queries.heads * queries.rows;
        if queries.data.len() != rows * key_size || !queries.heads.is_multiple_of(heads) {
            return Err(format!(
                "{} query elements of {} heads, expected {} positions of a multiple of {heads} heads of {key_size}",
                queries.data.len(),
                queries.heads,
                queries.rows,
            ));
        }
        let mut blocks = self.lock();
        blocks.append(&self.shape, queries.order, keys, values, added);
        if let Some(mask) = &mask {
            mask.check(queries, blocks.positions)?;
        }
        Ok(attention::attend(&blocks, &self.shape, queries, mask, threads))
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    fn append(&mut self, shape: &CacheShape, order: Order, keys: &[f32], values: &[f32], added: usize) {
        let CacheShape { heads, key_size, value_size } = *shape;
        let width = padded(value_size);
        let mut position = 0;
        while position < added {
            let (block, at) = ((self.positions + position) / BLOCK, (self.positions + position) % BLOCK);
            if block == self.keys.len() {
                self.keys.push(vec![0.0; heads * key_size * BLOCK]);
                self.values.push(vec![0.0; heads * BLOCK * width]);
            }
            let run = (BLOCK - at).min(added - position);
            for head in 0..heads {
                let place = |i: usize| order.place(head, heads, position + i, added);
                let columns = self.keys[block][head * key_size * BLOCK..].chunks_exact_mut(BLOCK);
                for (d, column) in columns.take(key_size).enumerate() {
                    let column = column[at..at + run].iter_mut().enumerate();
                    column.for_each(|(i, to)| *to = keys[place(i) * key_size + d]);
                }
                let rows = self.values[block][(head * BLOCK + at) * width..].chunks_exact_mut(width);
                for (i, row) in rows.take(run).enumerate() {
                    row[..value_size].copy_from_slice(&values[place(i) * value_size..][..value_size]);
                }
            }
            position += run;
        }
        self.positions += added;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::fixture::{close, noise};

    /// One head's `[n, size]` out of `[heads, n, size]`.
    fn head(data: &[f32], at: usize, n: usize, size: usize) -> &[f32] {
        &data[at * n * size..][..n * size]
    }

    /// What ONNX's operators compute, in f64. Keys `[heads, all, key_size]`, values alike.
    fn reference(
        shape: &CacheShape,
        keys: &[f32],
        values: &[f32],
        queries: &Queries,
        mask: Option<Mask>,
    ) -> Vec<f64> {
        let CacheShape { heads, key_size, value_size } = *shape;
        let all = keys.len() / heads / key_size;
        let mut out = vec![];
        for query_head in 0..queries.heads {
            let shared = query_head * heads / queries.heads;
            let (keys, values) = (head(keys, shared, all, key_size), head(values, shared, all, value_size));
            for row in 0..queries.rows {
                let query =
                    &head(queries.data, query_head, queries.rows, key_size)[row * key_size..][..key_size];
                let mut scores: Vec<f64> = keys
                    .chunks(key_size)
                    .map(|key| key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>())
                    .map(|score| score * f64::from(queries.scale))
                    .collect();
                if let Some(Mask { data, shape: [heads, rows, positions] }) = mask {
                    for (at, score) in scores.iter_mut().enumerate() {
                        let [h, r, p] =
                            [(query_head, heads), (row, rows), (at, positions)].map(|(i, n)| i % n);
                        *score += f64::from(data[(h * rows + r) * positions + p]);
                    }
                }
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                out.extend((0..value_size).map(|at| {
                    let weighted = scores.iter().zip(values.chunks(value_size));
                    weighted.map(|(s, v)| (s - most).exp() / total * f64::from(v[at])).sum::<f64>()
                }));
            }
        }
        out
    }

    /// Appends in pieces of `pieces` positions and compares every result with the definition.
    fn check(
        shape: CacheShape,
        query_heads: usize,
        pieces: &[usize],
        mask: impl Fn(usize, usize) -> Option<[usize; 3]>,
    ) {
        let CacheShape { heads, key_size, value_size } = shape;
        let cache = KvCache::new("k", shape.clone());
        let (mut keys, mut values) = (vec![vec![]; heads], vec![vec![]; heads]);
        for (seed, &rows) in pieces.iter().enumerate() {
            let seed = 10 * seed as u64;
            let (new_keys, new_values) =
                (noise(heads * rows * key_size, seed), noise(heads * rows * value_size, seed + 1));
            for at in 0..heads {
                keys[at].extend_from_slice(head(&new_keys, at, rows, key_size));
                values[at].extend_from_slice(head(&new_values, at, rows, value_size));
            }
            let all = keys[0].len() / key_size;
            let data: Vec<f32> =
                noise(query_heads * rows * key_size, seed + 2).iter().map(|q| 4.0 * q).collect();
            let queries =
                Queries { data: &data, order: Order::HeadsFirst, heads: query_heads, rows, scale: 0.7 };
            let mask_shape = mask(rows, all);
            let mut mask_data = noise(mask_shape.map_or(0, |s| s.iter().product()), seed + 3);
            if mask_shape.is_some_and(|[_, _, positions]| positions > 1) {
                mask_data.iter_mut().step_by(3).for_each(|m| *m = -1e9);
            }
            let mask = mask_shape.map(|shape| Mask { data: &mask_data, shape });
            let expected = reference(&shape, &keys.concat(), &values.concat(), &queries, mask);
            let found = cache.attend(&new_keys, &new_values, &queries, mask, &Threads::new(2)).unwrap();
            close(&found, &expected, 1e-5);
            assert_eq!(cache.positions(), all);
        }
    }

    #[test]
    fn attention_is_the_definition_for_any_sizes() {
        let shape = |heads, key_size, value_size| CacheShape { heads, key_size, value_size };
        check(shape(1, 1, 1), 1, &[1, 1, 2], |_, _| None);
        check(shape(3, 64, 64), 9, &[5, 1, 1, 130, 1], |rows, all| Some([1, rows, all]));
        check(shape(2, 20, 80), 4, &[127, 1, 1, 1], |rows, all| Some([4, rows, all]));
        check(shape(2, 7, 33), 2, &[128, 128, 3], |_, all| Some([1, 1, all]));
        check(shape(1, 16, 17), 5, &[300, 1], |rows, _| Some([5, rows, 1]));
        // Large enough for threads.
        check(shape(2, 64, 64), 4, &[200], |rows, all| Some([1, rows, all]));
    }

    #[test]
    fn operands_with_positions_first_are_the_same_operands() {
        let (heads, few, rows, size) = (4, 2, 70, 20);
        let swapped = |data: &[f32], heads: usize| -> Vec<f32> {
            let vector = |at: usize| &data[(at % heads * rows + at / heads) * size..][..size];
            (0..heads * rows).flat_map(vector).copied().collect()
        };
        let shape = CacheShape { heads: few, key_size: size, value_size: size };
        let (keys, values, data) =
            (noise(few * rows * size, 1), noise(few * rows * size, 2), noise(heads * rows * size, 3));
        let attend = |order: Order, keys: &[f32], values: &[f32], data: &[f32]| {
            let queries = Queries { data, order, heads, rows, scale: 0.5 };
            let cache = KvCache::new("k", shape.clone());
            cache.attend(keys, values, &queries, None, &Threads::new(2)).unwrap()
        };
        let expected = attend(Order::HeadsFirst, &keys, &values, &data);
        let (keys, values, data) = (swapped(&keys, few), swapped(&values, few), swapped(&data, heads));
        assert_eq!(attend(Order::PositionsFirst, &keys, &values, &data), expected);
    }

    #[test]
    fn truncated_positions_are_as_if_never_read() {
        let shape = CacheShape { heads: 1, key_size: 4, value_size: 4 };
        let attend = |cache: &KvCache, n: usize, seed: u64| {
            let (keys, values, data) = (noise(4 * n, seed), noise(4 * n, seed + 1), noise(4 * n, seed + 2));
            let queries = Queries { data: &data, order: Order::HeadsFirst, heads: 1, rows: n, scale: 1.0 };
            cache.attend(&keys, &values, &queries, None, &Threads::new(1)).unwrap()
        };
        let (cache, other) = (KvCache::new("a", shape.clone()), KvCache::new("b", shape));
        attend(&cache, 10, 1);
        attend(&cache, 200, 2);
        cache.truncate(10);
        cache.truncate(50);
        assert_eq!(cache.positions(), 10);
        attend(&other, 10, 1);
        assert_eq!(attend(&cache, 3, 5), attend(&other, 3, 5));
        assert_eq!(cache.bytes(), other.bytes());
        cache.truncate(0);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let cache = KvCache::new("k", CacheShape { heads: 2, key_size: 4, value_size: 4 });
        let attend = |keys: usize, values: usize, queries: usize, heads: usize, mask: Option<[usize; 3]>| {
            let data = vec![0.0; 64];
            let queries =
                Queries { data: &data[..queries], order: Order::HeadsFirst, heads, rows: 1, scale: 1.0 };
            let mask_data = vec![0.0; mask.map_or(0, |m| m.iter().product())];
            let mask = mask.map(|shape| Mask { data: &mask_data, shape });
            let result = cache.attend(&data[..keys], &data[..values], &queries, mask, &Threads::new(1));
            cache.truncate(0);
            result
        };
        assert!(attend(8, 8, 16, 4, None).is_ok());
        assert!(attend(8, 8, 16, 4, Some([4, 1, 1])).is_ok());
        assert!(attend(7, 8, 16, 4, None).is_err());
        assert!(attend(8, 4, 16, 4, None).is_err());
        assert!(attend(8, 8, 12, 3, None).is_err());
        assert!(attend(8, 8, 12, 4, None).is_err());
        assert!(attend(8, 8, 16, 4, Some([2, 1, 1])).is_err());
        assert!(attend(8, 8, 16, 4, Some([1, 1, 2])).is_err());
    }
}
