//! A fused pass, cut into chunks that threads share. Chunks depend only on sizes, so results do not depend on threads.

use super::Engine;
use super::block::{self, Chunk, Part};
use super::combine::{greater, lesser, neutral};
use crate::Real;
use crate::array::{Data, Slice};
use crate::fuse::instructions::Fused;
use crate::lower::task::Combine;

/// Elements of a chunk, and the most chunks.
const CHUNK: usize = 16 << 10;
const CHUNKS: usize = 64;

impl<T: Real> Engine<T> {
    /// `written` has the buffers of the stores, then those of the totals.
    pub(super) fn pass(&self, fused: &Fused, written: &mut [Data<T>]) {
        let memory: Vec<Slice<T>> = fused.loads.iter().map(|load| self.value(load.root)).collect();
        let (stores, totals) = written.split_at_mut(fused.stores.len());
        let blocks = fused.n.div_ceil(fused.block);
        let chunks = fused.n.div_ceil(CHUNK).clamp(1, CHUNKS).min(blocks);
        let size = blocks.div_ceil(chunks) * fused.block;
        let chunks = fused.n.div_ceil(size);
        // What every chunk makes of every total, one chunk after the other.
        let width = |columns: bool| if columns { fused.d } else { 1 };
        let mut partial: Vec<Vec<T>> = fused
            .totals
            .iter()
            .map(|total| vec![neutral(total.combine); chunks * width(total.columns)])
            .collect();
        let mut items: Vec<Chunk<T>> = (0..chunks)
            .map(|i| Chunk {
                start: i * size,
                end: ((i + 1) * size).min(fused.n),
                stores: Vec::with_capacity(stores.len()),
                totals: Vec::with_capacity(totals.len()),
            })
            .collect();
        for (store, data) in fused.stores.iter().zip(stores) {
            let (len, size) = if store.row { (fused.n / fused.d, size / fused.d) } else { (fused.n, size) };
            match data {
                Data::Real(v) => {
                    let parts = v[..len].chunks_mut(size).map(Part::Real);
                    items.iter_mut().zip(parts).for_each(|(item, part)| item.stores.push(part));
                }
                Data::Bool(v) => {
                    let parts = v[..len].chunks_mut(size).map(Part::Bool);
                    items.iter_mut().zip(parts).for_each(|(item, part)| item.stores.push(part));
                }
                Data::Int(_) => {}
            }
        }
        for (total, partial) in fused.totals.iter().zip(&mut partial) {
            let parts = partial.chunks_mut(width(total.columns));
            items.iter_mut().zip(parts).for_each(|(item, part)| item.totals.push(part));
        }
        self.workers.each(items, |mut chunk| {
            self.with_registers(|registers| block::run(fused, &memory, &mut chunk, registers));
        });
        for ((total, data), partial) in fused.totals.iter().zip(totals).zip(&partial) {
            let Data::Real(to) = data else { continue };
            let width = width(total.columns);
            to[..width].fill(neutral(total.combine));
            for part in partial.chunks(width) {
                for (to, v) in to.iter_mut().zip(part) {
                    *to = match total.combine {
                        Combine::Sum => *to + *v,
                        Combine::Prod => *to * *v,
                        Combine::Max => greater(*to, *v),
                        Combine::Min => lesser(*to, *v),
                    };
                }
            }
        }
    }
}
