//! One case: everything is loaded, then rounds in which everyone has a turn.

use std::cmp::Reverse;

use anyhow::{Context, Result};
use mqc_ir::Activations;
use mqc_kernels::cpu::{Isa, Threads};
use mqc_kernels::roofline::Reader;

use crate::clock::Stopwatch;
use crate::ours::{Ours, Weights};
use crate::peer::{Format, Peer};
use crate::row::{OurSamples, PeerSamples, Row, rows};
use crate::tract::Tract;
use crate::{Case, Options, Place};

/// Weights out of cache: copies of their own that come to so many bytes, six times a cache of 32 MiB.
const COLD_BYTES: usize = 192 << 20;
/// Up to so many tokens reading the weights decides; with more it makes little difference where they are.
const DECODE: usize = 8;

/// Who has a turn.
enum Lane<'a> {
    Ours(Ours<'a>),
    /// Numbers of the peer and of its format.
    Peer(usize, usize),
    Tract,
}

/// Measures a case: a row for each of our products.
pub fn run(
    case: Case,
    options: &Options,
    isas: &[Isa],
    weights: &mut Weights,
    peers: &mut [Peer],
) -> Result<Vec<Row>> {
    eprintln!("{case}: loading");
    let bytes = match case.weights {
        Place::Memory => COLD_BYTES,
        Place::Cache => 0,
    };
    for &bits in &options.bits {
        weights.fill(bits, bytes)?;
    }
    let weights = &*weights;
    let mut tract = tract(case, options, bytes)?;
    let formats = load(case, options, bytes, peers)?;
    let threads = Threads::new(case.threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(case.threads).build()?;
    let mut floor = Floor::new(case.threads)?;
    let mut all = vec![];
    for &tokens in &options.m {
        if case.weights == Place::Cache && tokens > DECODE {
            continue;
        }
        eprintln!("{case}: tokens {tokens}");
        let mut lanes: Vec<(u8, Lane)> =
            formats.iter().map(|&(p, f)| (peers[p].formats()[f].bits, Lane::Peer(p, f))).collect();
        lanes.extend(tract.iter().map(|tract| (tract.format().bits, Lane::Tract)));
        for &bits in &options.bits {
            for &activations in &options.activations {
                for &isa in isas {
                    let ours = Ours::new(weights, bits, bytes, (activations, isa), tokens, &threads)?;
                    lanes.push((bits.bits(), Lane::Ours(ours)));
                }
            }
        }
        // Those that are compared follow each other.
        lanes.sort_by_key(|(bits, _)| Reverse(*bits));
        let streamed = case.weights == Place::Memory && tokens <= DECODE;
        let mut samples = vec![vec![]; lanes.len()];
        let mut floors = vec![vec![]; lanes.len()];
        for round in 0..=options.rounds {
            for (((_, lane), samples), floors) in lanes.iter_mut().zip(&mut samples).zip(&mut floors) {
                let micros = match lane {
                    Lane::Ours(ours) => {
                        if streamed {
                            let micros = floor.turn(ours.bytes)?;
                            floors.extend((round > 0).then_some(micros));
                        }
                        pool.install(|| ours.turn())?
                    }
                    Lane::Peer(p, f) => peers[*p].turn(*f, tokens)?,
                    Lane::Tract => tract.as_mut().context("tract is loaded")?.turn(tokens)?,
                };
                if round > 0 {
                    samples.push(micros);
                }
            }
        }
        let (mut ours, mut theirs) = (vec![], vec![]);
        for (((_, lane), micros), floors) in lanes.into_iter().zip(samples).zip(floors) {
            match lane {
                Lane::Ours(o) => {
                    let (bits, activations, isa) = (o.width, o.activations, o.isa.to_string());
                    ours.push(OurSamples { bits, activations, isa, floors, micros });
                }
                Lane::Peer(p, f) => {
                    theirs.push(PeerSamples { format: peers[p].formats()[f].clone(), micros });
                }
                Lane::Tract => theirs.extend(
                    tract.iter().map(|tract| PeerSamples { format: tract.format(), micros: micros.clone() }),
                ),
            }
        }
        all.extend(rows(case, tokens, ours, &theirs));
    }
    peers.iter_mut().try_for_each(Peer::unload)?;
    Ok(all)
}

/// What reading takes at the least: a buffer that is read before each of our turns.
struct Floor {
    reader: Reader,
    stopwatch: Stopwatch,
}

impl Floor {
    fn new(threads: usize) -> Result<Floor> {
        let reader = Reader::new(threads).context("no memory to measure the bandwidth with")?;
        Ok(Floor { reader, stopwatch: Stopwatch::new(threads) })
    }

    /// Microseconds for so many bytes.
    fn turn(&mut self, bytes: usize) -> Result<f64> {
        let reader = &self.reader;
        let micros = self.stopwatch.turn(|| {
            reader.read();
            Ok(())
        })?;
        Ok(micros * bytes as f64 / reader.bytes() as f64)
    }
}

/// Loads every format that one of ours is compared with.
fn load(case: Case, options: &Options, bytes: usize, peers: &mut [Peer]) -> Result<Vec<(usize, usize)>> {
    let least = options.bits.iter().min().map_or(0, |bits| bits.bits());
    let wanted = |format: &Format| {
        format.bits >= least && options.activations.iter().any(|&ours| format.matches(ours))
    };
    let mut loaded = vec![];
    for (p, peer) in peers.iter_mut().enumerate() {
        for f in 0..peer.formats().len() {
            if wanted(&peer.formats()[f]) && peer.load(f, case, bytes)? {
                loaded.push((p, f));
            }
        }
    }
    Ok(loaded)
}

/// tract's product uses one thread.
fn tract(case: Case, options: &Options, bytes: usize) -> Result<Option<Tract>> {
    let wanted = options.tract && case.threads == 1 && options.activations.contains(&Activations::F32);
    wanted.then(|| Tract::new(case.shape, bytes)).transpose()
}
