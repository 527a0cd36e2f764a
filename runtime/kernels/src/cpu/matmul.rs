//! The product with a nested weight: activations are laid out once, strips of rows run in parallel.

use std::cell::RefCell;
use std::ops::Range;

use mqc_ir::Activations;
use mqc_ir::quant::Width;

use super::cells::QUAD;
use super::epilogue::Epilogue;
use super::finish::{Finish, Layout, Out, place_quad};
use super::floats::Floats;
use super::packed::Packed;
use super::streams::Streams;
use super::strip::{Level, QuadMap, STRIP};
use super::{Isa, KernelError, Threads};

/// Codes of the streams that one pass over the strips multiplies by: they stay in the second-level cache.
const STREAM_CODES: usize = 512 << 10;
/// Streams that are multiplied by one strip after the other.
const TILE_STREAMS: usize = 6;
/// From so many float tokens on a panel of float weights and a blocked product are faster.
const FLOAT_PANEL_TOKENS: usize = 16;

/// `y = epilogue(x w^T)` with the rows `rows` of a weight read at a width. The result does not depend on the number of
/// threads.
#[derive(Debug, Clone)]
pub struct MatMul<'a> {
    /// Its planes for `width` must be resident: [`Packed::load`].
    pub weight: &'a Packed,
    /// Bits that are read.
    pub width: Width,
    /// The rows of the weight that are the outputs.
    pub rows: Range<usize>,
    /// How activations are rounded.
    pub activations: Activations,
    /// What is done to outputs.
    pub epilogue: Epilogue<'a>,
    /// How outputs lie.
    pub layout: Layout,
    /// The kernels.
    pub isa: Isa,
    /// Who works.
    pub threads: &'a Threads,
}

impl<'a> MatMul<'a> {
    /// All rows with float outputs as they come, activations by default.
    pub fn new(weight: &'a Packed, width: Width, threads: &'a Threads) -> MatMul<'a> {
        MatMul {
            weight,
            width,
            rows: 0..weight.weight().rows(),
            activations: Activations::default(),
            epilogue: Epilogue::default(),
            layout: Layout::default(),
            isa: Isa::detect(),
            threads,
        }
    }

    /// Multiplies `x`, [tokens, columns of the weight], into `y`, [tokens, rows] or as the layout says.
    ///
    /// # Errors
    /// Buffers of other lengths, rows beyond the weight, planes that are not resident, an instruction set that the
    /// processor does not have.
    pub fn run(&self, x: &[f32], tokens: usize, y: &mut [f32]) -> Result<(), KernelError> {
        self.check(x, tokens, y)?;
        if y.is_empty() {
            return Ok(());
        }
        let level = Level::new(self.weight, self.width)?;
        let finish = Finish {
            level,
            rows: self.rows.clone(),
            tokens,
            layout: self.layout,
            epilogue: self.epilogue,
            integers: None,
            limbs: 1,
        };
        let out = Out::new(y);
        match Streams::new(level.cells, self.activations, x, tokens) {
            Some(streams) => {
                let integers = level.sums_in_integers(&streams).then_some(&streams);
                self.integers(&Finish { integers, limbs: streams.limbs, ..finish }, &streams, &out);
            }
            None if tokens < FLOAT_PANEL_TOKENS => {
                self.floats(&finish, &Floats::new(level.cells, x, tokens), &out)
            }
            None => super::float_panel::multiply(self, &finish, x, &out),
        }
        Ok(())
    }

    fn check(&self, x: &[f32], tokens: usize, y: &[f32]) -> Result<(), KernelError> {
        let (rows, cols) = (self.weight.weight().rows(), self.weight.weight().cols());
        let Range { start, end } = self.rows.clone();
        if start > end || end > rows {
            return Err(KernelError::Rows { start, end, rows });
        }
        if !self.isa.is_available() {
            return Err(KernelError::Unsupported(self.isa));
        }
        let outputs = self.layout.len(self.rows.len(), tokens);
        if let Layout::RowMajor { stride } = self.layout
            && stride < tokens
        {
            return Err(KernelError::Length {
                what: "stride of the output",
                expected: tokens,
                found: stride,
            });
        }
        let length = |what, expected, found| {
            if expected == found { Ok(()) } else { Err(KernelError::Length { what, expected, found }) }
        };
        length("activations", tokens.saturating_mul(cols), x.len())?;
        length("outputs", outputs, y.len())?;
        length("bias", self.rows.len(), self.epilogue.bias.map_or(self.rows.len(), <[f32]>::len))?;
        length("gate", outputs, self.epilogue.gate.map_or(outputs, <[f32]>::len))?;
        length("residual", outputs, self.epilogue.residual.map_or(outputs, <[f32]>::len))
    }

    /// First quad of each strip and how many quads it has.
    pub(super) fn strips(&self) -> impl Fn(usize) -> (usize, usize) + use<> {
        let (first, end) = (self.rows.start / QUAD, self.rows.end.div_ceil(QUAD));
        move |strip| {
            let quad = first + strip * (STRIP / QUAD);
            (quad, (end - quad).min(STRIP / QUAD))
        }
    }

    /// Number of strips.
    pub(super) fn strip_count(&self) -> usize {
        (self.rows.end.div_ceil(QUAD) - self.rows.start / QUAD).div_ceil(STRIP / QUAD)
    }

    fn integers(&self, finish: &Finish, streams: &Streams, out: &Out) {
        let (isa, level) = (self.isa, &finish.level);
        let (strips, strip_of) = (self.strip_count(), self.strips());
        if streams.count() <= isa.decode_streams() {
            // Neighbouring strips go to one thread: they share lines of the output, and taking a task costs as much as a strip.
            let run = (strips / (8 * self.threads.count())).max(1);
            self.threads.run(strips.div_ceil(run), |task| {
                for strip in task * run..strips.min((task + 1) * run) {
                    let (quad, quads) = strip_of(strip);
                    let mut sums = [[0.0; STRIP]; 2];
                    let sums = &mut sums[..streams.count()];
                    isa.decode(level, quad, quads, streams, 0, sums);
                    isa.finish(finish, QUAD * quad, sums, 0, out);
                }
            });
            return;
        }
        let row = level.cells.stride();
        let chunk = (STREAM_CODES / row.max(1)).max(8).next_multiple_of(12);
        let chunks = streams.count().div_ceil(chunk);
        self.threads.run(strips * chunks, |task| {
            let (quad, quads) = strip_of(task % strips);
            let first = task / strips * chunk;
            let count = chunk.min(streams.count() - first);
            with_scratch(|scratch| {
                let Scratch { panel, sums, maps, .. } = scratch.sized(quads, row, count);
                for (i, panel) in panel.chunks_exact_mut((QUAD * row).max(1)).enumerate() {
                    isa.unpack(level, quad + i, panel);
                    if finish.integers.is_none() {
                        maps[i].fill(level, quad + i);
                    }
                }
                // A few streams stay in the first-level cache while the panel passes by.
                for (at, sums) in sums.chunks_mut(TILE_STREAMS).enumerate() {
                    for i in 0..quads {
                        let panel = &panel[i * QUAD * row..][..QUAD * row];
                        let map = finish.integers.is_none().then_some(&maps[i]);
                        let mut tile = [[0.0; QUAD]; TILE_STREAMS];
                        let tile = &mut tile[..sums.len()];
                        isa.tile(panel, map, streams, first + TILE_STREAMS * at, tile);
                        place_quad(tile, i, sums);
                    }
                }
                isa.finish(finish, QUAD * quad, sums, first, out);
            });
        });
    }

    fn floats(&self, finish: &Finish, x: &Floats, out: &Out) {
        let (isa, level) = (self.isa, &finish.level);
        let strip_of = self.strips();
        let row = level.cells.stride();
        self.threads.run(self.strip_count(), |strip| {
            let (quad, quads) = strip_of(strip);
            with_scratch(|scratch| {
                let Scratch { panel, sums, maps, .. } = scratch.sized(1, row, finish.tokens);
                for i in 0..quads {
                    isa.unpack(level, quad + i, panel);
                    maps[0].fill(level, quad + i);
                    let mut tile = [[0.0; QUAD]; FLOAT_PANEL_TOKENS];
                    let tile = &mut tile[..finish.tokens];
                    isa.dots(panel, &maps[0], x, 0, tile);
                    place_quad(tile, i, sums);
                }
                isa.finish(finish, QUAD * quad, sums, 0, out);
            });
        });
    }
}

/// What a thread needs for a strip; kept, because tasks are short.
#[derive(Default)]
pub(super) struct Scratch {
    /// [quads, 4, indices of a row]
    panel: Vec<u8>,
    sums: Vec<[f32; STRIP]>,
    maps: [QuadMap; STRIP / QUAD],
    /// Float weights and their products.
    pub floats: Vec<f32>,
}

impl Scratch {
    /// With panels of four rows of `row` indices and sums of `streams` streams.
    fn sized(&mut self, quads: usize, row: usize, streams: usize) -> &mut Scratch {
        self.panel.resize(quads * QUAD * row, 0);
        self.sums.resize(streams, [0.0; STRIP]);
        self
    }
}

/// Lends the calling thread's scratch.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(work)
}
