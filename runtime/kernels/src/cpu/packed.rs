//! A nested weight whose planes are resident in the order of the kernels: as many as the widths used so far need.

use std::sync::{Mutex, OnceLock, PoisonError};

use mqc_ir::quant::Width;
use rayon::prelude::*;

use super::KernelError;
use super::cells::{BLOCK, Cells, QUAD};
use super::pages::{Pages, Part, WAY};
use crate::nested::{NestedError, NestedWeight, row_bytes};

/// Planes that begin at the same place of the first-level cache.
const TOGETHER: usize = 6;

/// A weight ready for [`super::MatMul`].
#[derive(Debug)]
pub struct Packed {
    weight: NestedWeight,
    cells: Cells,
    pages: Pages,
    planes: [OnceLock<Part>; 8],
    loading: Mutex<()>,
    /// For each block its first group, and for each lane the group of the lane's cell, counted from that.
    pub(super) lane_groups: Vec<(usize, [u32; BLOCK])>,
}

impl Packed {
    /// Keeps `weight`, whose planes may lie in a mapped file; nothing is resident yet.
    pub fn new(weight: NestedWeight, pages: &Pages) -> Packed {
        let cells = Cells::new(weight.cols(), weight.grouping());
        let group_of = |cell: usize| (cell.min(cells.count().max(1) - 1) / cells.cells_per_group()) as u32;
        let lane_groups = (0..cells.blocks())
            .map(|block| {
                let first = group_of(BLOCK * block);
                (first as usize, std::array::from_fn(|lane| group_of(BLOCK * block + lane) - first))
            })
            .collect();
        Packed {
            weight,
            cells,
            pages: pages.clone(),
            planes: Default::default(),
            loading: Mutex::default(),
            lane_groups,
        }
    }

    /// The weight in its logical order.
    pub fn weight(&self) -> &NestedWeight {
        &self.weight
    }

    /// How rows are cut.
    pub(super) fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Makes the planes resident that `width` reads, in parallel; those that are there stay.
    ///
    /// # Errors
    /// The weight does not reach `width`, or there is no memory.
    pub fn load(&self, width: Width) -> Result<(), KernelError> {
        if width > self.weight.max_width() {
            return Err(NestedError::WidthAbsent { width, max: self.weight.max_width() }.into());
        }
        let count = self.weight.mode().planes_read(width);
        if self.planes[count - 1].get().is_some() {
            return Ok(());
        }
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        for (p, (slot, logical)) in self.planes.iter().zip(self.weight.planes()).take(count).enumerate() {
            if slot.get().is_none() {
                let part = self
                    .permuted(p, logical)
                    .map_err(|source| KernelError::Memory { bytes: self.plane_bytes(), source })?;
                let _ = slot.set(part); // `loading` keeps others out
            }
        }
        Ok(())
    }

    /// Bytes of the planes that are resident.
    pub fn resident_bytes(&self) -> usize {
        self.planes.iter().filter_map(|plane| plane.get()).map(|part| part.len()).sum()
    }

    /// The leading `count` planes in the order of the kernels: quads of rows, see [`Cells`].
    ///
    /// # Errors
    /// They are not resident.
    pub(super) fn planes(&self, count: usize) -> Result<[&[u8]; 8], KernelError> {
        let mut planes: [&[u8]; 8] = [&[]; 8];
        for (plane, slot) in planes.iter_mut().zip(&self.planes).take(count) {
            *plane = slot.get().ok_or(KernelError::NotResident)?;
        }
        Ok(planes)
    }

    fn plane_bytes(&self) -> usize {
        self.weight.rows().div_ceil(QUAD) * self.cells.quad_bytes()
    }

    fn permuted(&self, p: usize, logical: &[u8]) -> std::io::Result<Part> {
        let logical_quad = QUAD * row_bytes(self.weight.cols());
        // Planes are read at equal distances from where they begin. Eight at one place of the first-level cache compete for its
        // lines. As many as find room had better lie at one place: fewer of them then lie where a kernel writes meanwhile.
        let place = if p < TOGETHER { 0 } else { WAY / 2 };
        self.pages.filled(self.plane_bytes(), place, |out| {
            if !out.is_empty() {
                let quads = out.par_chunks_mut(self.cells.quad_bytes()).with_min_len(16);
                quads
                    .zip(logical.par_chunks(logical_quad))
                    .for_each(|(out, logical)| self.cells.permute_quad(p, logical, out));
            }
        })
    }
}
