//! The product with a nested weight: activations are laid out once, strips of rows run in parallel.

use std::cell::RefCell;
use std::ops::Range;

use aligned_vec::avec;
use mqc_ir::Activations;
use mqc_ir::quant::Width;

use super::cells::{Lines, QUAD};
use super::epilogue::Epilogue;
use super::finish::{Finish, Layout, Out, place_quad};
use super::floats::Floats;
use super::isa::DECODE;
use super::packed::Packed;
use super::streams::Streams;
use super::strip::{Level, QuadMap, STRIP, STRIP_QUADS};
use super::{Isa, KernelError, Threads};

/// Codes of the streams that one pass over the strips multiplies by: they stay in the second-level cache.
const STREAM_CODES: usize = 512 << 10;
/// Streams that are multiplied by one strip after the other.
const TILE_STREAMS: usize = 6;
/// The most strips of few streams that a task takes.
const RUN: usize = 32;

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
        match Streams::new(self.isa, self.threads, level.cells, self.activations, x, tokens) {
            Some(mut streams) => {
                if streams.count() <= self.isa.decode_streams() {
                    self.isa.prepare(&level, &mut streams);
                }
                let integers = level.sums_in_integers(&streams).then_some(&streams);
                self.integers(&Finish { integers, limbs: streams.limbs, ..finish }, &streams, &out);
            }
            None => self.floats(&finish, &Floats::new(self.threads, level.cells, x, tokens), &out),
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
    fn strips(&self) -> impl Fn(usize) -> (usize, usize) + use<> {
        let (first, end) = (self.rows.start / QUAD, self.rows.end.div_ceil(QUAD));
        move |strip| {
            let quad = first + strip * STRIP_QUADS;
            (quad, (end - quad).min(STRIP_QUADS))
        }
    }

    /// Number of strips.
    fn strip_count(&self) -> usize {
        (self.rows.end.div_ceil(QUAD) - self.rows.start / QUAD).div_ceil(STRIP_QUADS)
    }

    fn integers(&self, finish: &Finish, streams: &Streams, out: &Out) {
        let (isa, level) = (self.isa, &finish.level);
        let (strips, strip_of) = (self.strip_count(), self.strips());
        if streams.count() <= isa.decode_streams() {
            // All strips of a range are summed before the first is finished: whatever lies between two strips halts the stream
            // from memory, and that takes longer to start again than it does.
            self.threads.ranges(strips, RUN, |run| {
                let (first, last) = (strip_of(run.start), strip_of(run.end - 1));
                finish.fetch_maps(QUAD * first.0..QUAD * (last.0 + last.1));
                let mut sums = [[0.0; STRIP]; DECODE * RUN];
                let sums = &mut sums[..streams.count() * run.len()];
                isa.decode(level, first.0, last.0 + last.1 - first.0, streams, sums);
                for (strip, sums) in run.zip(sums.chunks(streams.count())) {
                    isa.finish(finish, QUAD * strip_of(strip).0, sums, 0, out);
                }
            });
            return;
        }
        self.through_panels(finish, streams.count(), STREAM_CODES, out, |panel, map, first, sums| {
            isa.tile(level, panel, finish.integers.is_none().then_some(map), streams, first, sums);
        });
    }

    fn floats(&self, finish: &Finish, x: &Floats, out: &Out) {
        let isa = self.isa;
        if finish.tokens == 1 && isa.decodes_floats() {
            let strip_of = self.strips();
            self.threads.run(self.strip_count(), |strip| {
                let (quad, quads) = strip_of(strip);
                let mut sums = [[0.0; STRIP]];
                with_scratch(|Scratch { maps: [map, ..], .. }| {
                    for i in 0..quads {
                        map.fill(&finish.level, quad + i);
                        let mut tile = [[0.0; QUAD]];
                        isa.decode_floats(&finish.level, quad + i, map, x, &mut tile[0]);
                        place_quad(&tile, i, &mut sums);
                    }
                });
                isa.finish(finish, QUAD * quad, &sums, 0, out);
            });
            return;
        }
        self.through_panels(finish, finish.tokens, STREAM_CODES / 4, out, |panel, map, first, sums| {
            isa.dots(panel, map, x, first, sums);
        });
    }

    /// Unpacks strips into panels, multiplies each by all streams, tile after tile, and finishes. A pass over the strips
    /// takes as many streams as have `places` values.
    fn through_panels(
        &self,
        finish: &Finish,
        streams: usize,
        places: usize,
        out: &Out,
        multiply: impl Fn(&[u8], &QuadMap, usize, &mut [[f32; QUAD]]) + Sync,
    ) {
        let (isa, level) = (self.isa, &finish.level);
        let (strips, strip_of) = (self.strip_count(), self.strips());
        let row = level.cells.stride();
        let chunk = (places / row.max(1)).max(1).next_multiple_of(2 * TILE_STREAMS);
        self.threads.run(strips * streams.div_ceil(chunk), |task| {
            let (quad, quads) = strip_of(task % strips);
            let first = task / strips * chunk;
            with_scratch(|scratch| {
                let Scratch { panel, sums, maps } = scratch;
                sums.resize(chunk.min(streams - first), [0.0; STRIP]);
                // A panel that is read once stays in the first-level cache. If it is read several times the streams of a
                // tile stay there, and the panels of all quads pass by.
                let together = if sums.len() <= TILE_STREAMS { 1 } else { quads };
                panel.resize(together * QUAD * row, 0);
                for begin in (0..quads).step_by(together) {
                    for (i, map) in maps.iter_mut().take(together).enumerate() {
                        isa.unpack(level, quad + begin + i, &mut panel[i * QUAD * row..][..QUAD * row]);
                        if finish.integers.is_none() {
                            map.fill(level, quad + begin + i);
                        }
                    }
                    for (at, sums) in sums.chunks_mut(TILE_STREAMS).enumerate() {
                        for (i, map) in maps.iter().take(together).enumerate() {
                            let mut tile = [[0.0; QUAD]; TILE_STREAMS];
                            let tile = &mut tile[..sums.len()];
                            let panel = &panel[i * QUAD * row..][..QUAD * row];
                            multiply(panel, map, first + TILE_STREAMS * at, tile);
                            place_quad(tile, begin + i, sums);
                        }
                    }
                }
                isa.finish(finish, QUAD * quad, sums, first, out);
            });
        });
    }
}

/// What a thread needs for a strip; kept, because tasks are short.
struct Scratch {
    /// [quads, 4, stride]
    panel: Lines<u8>,
    sums: Vec<[f32; STRIP]>,
    maps: [QuadMap; STRIP_QUADS],
}

/// Lends the calling thread's scratch.
fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Scratch> =
            RefCell::new(Scratch { panel: avec![[64]|], sums: vec![], maps: Default::default() });
    }
    SCRATCH.with_borrow_mut(work)
}
