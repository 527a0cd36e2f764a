//! The instruction sets that have kernels, and which one a call goes to.
#![cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "calls kernels for features that were checked")
)]

use std::fmt;

use super::cells::{Cells, QUAD};
use super::finish::{Finish, Out};
use super::floats::Floats;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::portable;
use super::streams::{Streams, Token};
use super::strip::{Level, QuadMap, STRIP};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// A family of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// AVX-512 with VNNI and GFNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON with the dot product instructions.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain Rust.
    Portable,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        })
    }
}

/// The most streams that a `decode` takes: an int16 token, or two of int8.
pub(super) const DECODE: usize = 2;

impl Isa {
    /// The families that this processor runs, the fastest first.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        all.extend([Isa::Avx512, Isa::Avx2]);
        #[cfg(target_arch = "aarch64")]
        all.extend([Isa::NeonDotprod, Isa::Neon]);
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
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::available(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => neon::has_dotprod(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            Isa::Portable => true,
        }
    }

    /// The most streams that `decode` is for; more are faster through a panel.
    pub(super) fn decode_streams(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => DECODE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => DECODE,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => DECODE,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => 0,
            Isa::Portable => 0,
        }
    }

    /// Puts at most [`Isa::decode_streams`] streams in the order that `decode` wants.
    pub(super) fn prepare(self, level: &Level, streams: &mut Streams) {
        match self {
            // SAFETY: `MatMul::run` checks that the features are there.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::prepare(level, streams) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {}
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::Neon => {}
            Isa::Portable => {
                let _ = (level, streams); // they take them as they are
            }
        }
    }

    /// Sums of `quads` quads for at most [`Isa::decode_streams`] streams, straight from the planes: strip after strip, the
    /// streams of a strip together.
    pub(super) fn decode(
        self,
        level: &Level,
        quad: usize,
        quads: usize,
        streams: &Streams,
        sums: &mut [[f32; STRIP]],
    ) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::decode(level, quad, quads, streams, sums) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::decode(level, quad, quads, streams, sums) },
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => unsafe { neon::decode(level, quad, quads, streams, sums) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => {}
            Isa::Portable => {}
        }
    }

    /// Writes the indices of a quad, [4, stride], in the order of the streams; see [`Cells::stride`].
    pub(super) fn unpack(self, level: &Level, quad: usize, panel: &mut [u8]) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::unpack(level, quad, panel) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::unpack(level, quad, panel) },
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::Neon => neon::unpack(level, quad, panel),
            Isa::Portable => portable::unpack(level, quad, panel),
        }
    }

    /// Sums of a panel for the streams from `first` on: of `index * code`, or with a map everything that the scales
    /// apply to.
    pub(super) fn tile(
        self,
        level: &Level,
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
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::tile(level, panel, map, streams, first, sums) },
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => unsafe { neon::tile_dotprod(panel, map, streams, first, sums) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::tile(panel, map, streams, first, sums),
            Isa::Portable => portable::tile(panel, map, streams, first, sums),
        }
    }

    /// Whether there is a `decode_floats`; without it a token goes through a panel.
    pub(super) fn decodes_floats(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => false,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::Neon => false,
            Isa::Portable => false,
        }
    }

    /// Products of a quad with the one float token, straight from the planes, for families that have such a kernel.
    pub(super) fn decode_floats(
        self,
        level: &Level,
        quad: usize,
        map: &QuadMap,
        x: &Floats,
        sums: &mut [f32; QUAD],
    ) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::decode_floats(level, quad, map, x, 0, sums) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {}
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::Neon => {}
            Isa::Portable => {}
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
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::dots(panel, map, x, first, sums) },
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::Neon => neon::dots(panel, map, x, first, sums),
            Isa::Portable => portable::dots(panel, map, x, first, sums),
        }
    }

    /// [`Token::quantize`], compiled for this family.
    pub(super) fn quantize(self, token: &mut Token, cells: &Cells) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::quantize(token, cells) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::quantize(token, cells) },
            // NEON is always there on aarch64.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::Neon => token.quantize(cells),
            Isa::Portable => token.quantize(cells),
        }
    }

    /// [`Finish::strip`], compiled for this family.
    pub(super) fn finish(self, finish: &Finish, row: usize, sums: &[[f32; STRIP]], first: usize, out: &Out) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::finish(finish, row, sums, first, out) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::finish(finish, row, sums, first, out) },
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::Neon => finish.strip(row, sums, first, out),
            Isa::Portable => finish.strip(row, sums, first, out),
        }
    }
}
