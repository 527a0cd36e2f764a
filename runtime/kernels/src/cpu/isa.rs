//! The instruction sets that have kernels, and which one a call goes to.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls kernels for features that were checked")
)]

use std::fmt;

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::cells::QUAD;
use super::finish::{Finish, Out};
use super::floats::Floats;
use super::portable;
use super::streams::Streams;
use super::strip::{Level, QuadMap, STRIP};

/// A family of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// AVX-512 with VNNI and GFNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Plain Rust.
    Portable,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            Isa::Portable => "portable",
        })
    }
}

impl Isa {
    /// The families that this processor runs, the fastest first.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        all.push(Isa::Avx512);
        all.push(Isa::Portable);
        all.retain(|isa| isa.is_available());
        all
    }

    /// The fastest that this processor runs.
    pub fn detect() -> Isa {
        Isa::available().into_iter().next().unwrap_or(Isa::Portable)
    }

    /// Whether this processor runs it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::available(),
            Isa::Portable => true,
        }
    }

    /// The most streams that `decode` is for; more are faster through a panel.
    pub(super) fn decode_streams(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::DECODE,
            Isa::Portable => 0,
        }
    }

    /// Sums of a strip of `quads` quads for at most [`Isa::decode_streams`] streams, straight from the planes.
    pub(super) fn decode(
        self,
        level: &Level,
        quad: usize,
        quads: usize,
        streams: &Streams,
        first: usize,
        sums: &mut [[f32; STRIP]],
    ) {
        match self {
            // SAFETY: `MatMul::run` checks that the features are there.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::decode(level, quad, quads, streams, first, sums) },
            Isa::Portable => {}
        }
    }

    /// Writes the indices of a quad, [4, blocks * 512], in the order of the streams.
    pub(super) fn unpack(self, level: &Level, quad: usize, panel: &mut [u8]) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::unpack(level, quad, panel) },
            Isa::Portable => portable::unpack(level, quad, panel),
        }
    }

    /// Sums of a panel for the streams from `first` on: of `index * code`, or with a map everything that the scales
    /// apply to.
    pub(super) fn tile(
        self,
        panel: &[u8],
        map: Option<&QuadMap>,
        streams: &Streams,
        first: usize,
        sums: &mut [[f32; QUAD]],
    ) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::tile(panel, map, streams, first, sums) },
            Isa::Portable => portable::tile(panel, map, streams, first, sums),
        }
    }

    /// Products of a panel with float tokens from `first` on.
    pub(super) fn dots(
        self,
        panel: &[u8],
        map: &QuadMap,
        x: &Floats,
        first: usize,
        sums: &mut [[f32; QUAD]],
    ) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::dots(panel, map, x, first, sums) },
            Isa::Portable => portable::dots(panel, map, x, first, sums),
        }
    }

    /// [`Finish::strip`], compiled for this family.
    pub(super) fn finish(self, finish: &Finish, row: usize, sums: &[[f32; STRIP]], first: usize, out: &Out) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::finish(finish, row, sums, first, out) },
            Isa::Portable => finish.strip(row, sums, first, out),
        }
    }
}
