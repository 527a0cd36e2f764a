//! What this machine can do at best, measured on the spot: bytes read from memory, int8 and f32 multiply-adds a second.
//!
//! Every figure is the best of several short passes: a limit is what the machine reaches when nothing disturbs it.

#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "each loop is compiled for the instructions that were detected at run time"
    )
)]

use std::hint::black_box;
use std::io;
use std::sync::{Barrier, OnceLock};
use std::time::Instant;

use memmap2::MmapMut;

/// The limits with a number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads that worked at once.
    pub threads: usize,
    /// Bytes a second read from memory: all threads together, a buffer far larger than the last-level cache, huge pages asked for.
    pub read_bytes: f64,
    /// int8 operations a second, the multiplication and the addition counted apart.
    pub int8_ops: f64,
    /// The instruction of `int8_ops`: `vpdpbusd`, `vpmaddubsw` or `portable`.
    pub int8_instruction: &'static str,
    /// f32 operations a second, the multiplication and the addition counted apart.
    pub f32_ops: f64,
}

/// The buffer is so many times the last-level cache, within `SMALLEST` and `LARGEST` bytes.
const CACHES: usize = 8;
const SMALLEST: usize = 256 << 20;
const LARGEST: usize = 1 << 30;

/// Passes over the buffer, and of a multiply-add loop: short ones, so that some of them run undisturbed.
const READS: usize = 7;
const LOOPS: usize = 25;

/// Rounds of a multiply-add loop in one pass: a few milliseconds.
const ROUNDS: usize = 1 << 19;

/// Independent accumulators of a multiply-add loop: enough to hide the latency of one.
const CHAINS: usize = 12;

/// Measures with `threads` threads (at least one); under a second.
///
/// # Errors
/// If there is no memory for the buffer.
pub fn measure(threads: usize) -> io::Result<Limits> {
    let threads = threads.max(1);
    let buffer = Buffer::new()?;
    let words = buffer.words();
    let part = words.len().div_ceil(threads).max(1);
    let parts: Vec<&[u64]> = words.chunks(part).collect();
    let read = best_seconds(READS, threads, &|t| {
        black_box(sum(parts.get(t).copied().unwrap_or_default()));
    });
    let (int8_instruction, int8_lanes, int8) = int8_loop();
    let (f32_lanes, f32) = f32_loop();
    let ops = |lanes: usize, seconds: f64| (2 * lanes * CHAINS * ROUNDS * threads) as f64 / seconds;
    Ok(Limits {
        threads,
        read_bytes: size_of_val(words) as f64 / read,
        int8_ops: ops(int8_lanes, best_seconds(LOOPS, threads, &|_| int8())),
        int8_instruction,
        f32_ops: ops(f32_lanes, best_seconds(LOOPS, threads, &|_| f32())),
    })
}

/// Reads memory that no cache holds, huge pages asked for: beside a product it tells what the memory gave at that moment,
/// which on a machine that others use too is not what it gave a minute ago.
pub struct Reader {
    buffer: Buffer,
    threads: usize,
}

impl Reader {
    /// For `threads` threads (at least one).
    ///
    /// # Errors
    /// If there is no memory for the buffer.
    pub fn new(threads: usize) -> io::Result<Reader> {
        Ok(Reader { buffer: Buffer::new()?, threads: threads.max(1) })
    }

    /// Bytes that [`Reader::read`] reads.
    pub fn bytes(&self) -> usize {
        size_of_val(self.buffer.words())
    }

    /// Reads all of it once, every thread a part.
    pub fn read(&self) {
        let words = self.buffer.words();
        let mut parts = words.chunks(words.len().div_ceil(self.threads).max(1));
        let own = parts.next().unwrap_or_default();
        std::thread::scope(|scope| {
            for part in parts {
                scope.spawn(move || black_box(sum(part)));
            }
            black_box(sum(own));
        });
    }
}

/// The shortest of `passes` passes in which every thread does `work` of its number once, in seconds.
fn best_seconds(passes: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) -> f64 {
    let barrier = Barrier::new(threads);
    let origin = Instant::now();
    let spans: Vec<Vec<(f64, f64)>> = std::thread::scope(|scope| {
        let barrier = &barrier;
        let run = move |thread| {
            let pass = |_| {
                barrier.wait();
                let start = origin.elapsed().as_secs_f64();
                work(thread);
                (start, origin.elapsed().as_secs_f64())
            };
            (0..passes).map(pass).collect()
        };
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        let first = run(0);
        // A thread that panics has no spans; `scope` reports it.
        std::iter::once(first).chain(others.into_iter().filter_map(|t| t.join().ok())).collect()
    });
    let span = |pass: usize| {
        let all = spans.iter().filter_map(|s| s.get(pass));
        let (start, end) =
            all.fold((f64::INFINITY, 0.0f64), |(start, end), (s, e)| (start.min(*s), end.max(*e)));
        (end - start).max(1e-9)
    };
    (0..passes).map(span).fold(f64::INFINITY, f64::min)
}

/// Written memory that no cache holds.
struct Buffer(MmapMut);

impl Buffer {
    fn new() -> io::Result<Buffer> {
        let bytes = last_level_cache().saturating_mul(CACHES).clamp(SMALLEST, LARGEST);
        let mut map = MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        // A kernel without huge pages reads small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        // Pages that were never written are all one page of zeros.
        map.fill(1);
        Ok(Buffer(map))
    }

    fn words(&self) -> &[u64] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Bytes of the largest cache that Linux tells of, else 32 MiB.
fn last_level_cache() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let size = |index: usize| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().strip_suffix('K')?.parse::<usize>().ok().map(|kib| kib << 10)
        };
        (0..8).filter_map(size).max().unwrap_or(32 << 20)
    })
}

/// Reads every word; compiled once for each vector length.
#[inline(always)]
fn sum_lanes(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 64];
    let chunks = words.chunks_exact(64);
    let rest: u64 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().fold(rest, |sum, lane| sum.wrapping_add(*lane))
}

fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return unsafe { x86::sum_avx512(words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { x86::sum_avx2(words) };
        }
    }
    sum_lanes(words)
}

/// The name of the int8 instruction, how many products one of it makes, and `ROUNDS` rounds of `CHAINS` of it.
fn int8_loop() -> (&'static str, usize, fn()) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F and AVX-512 VNNI.
            return ("vpdpbusd", 64, || unsafe { x86::int8_vnni() });
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return ("vpmaddubsw", 32, || unsafe { x86::int8_avx2() });
        }
    }
    ("portable", 16, int8_portable)
}

/// How many products one f32 instruction makes, and `ROUNDS` rounds of `CHAINS` of it.
fn f32_loop() -> (usize, fn()) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return (16, || unsafe { x86::f32_avx512() });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA.
            return (8, || unsafe { x86::f32_avx2() });
        }
    }
    (4, f32_portable)
}

/// A product of 16 pairs of 8-bit integers added to i32; the right ones depend on the sums, or they were computed once.
fn int8_portable() {
    let left: [i8; 16] = black_box([3; 16]);
    let mut chains = black_box([[1i32; 16]; CHAINS]);
    for _ in 0..ROUNDS {
        for chain in &mut chains {
            chain.iter_mut().zip(&left).for_each(|(sum, left)| {
                *sum = sum.wrapping_add(i32::from(*sum as i8) * i32::from(*left));
            });
        }
    }
    black_box(chains);
}

fn f32_portable() {
    let (scale, add) = (black_box([0.5f32; 4]), black_box([1.0f32; 4]));
    let mut chains = black_box([[1.0f32; 4]; CHAINS]);
    for _ in 0..ROUNDS {
        for chain in &mut chains {
            for ((sum, scale), add) in chain.iter_mut().zip(&scale).zip(&add) {
                // Where it is no instruction, `mul_add` is a slow function.
                let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
                *sum = if fused { sum.mul_add(*scale, *add) } else { *sum * *scale + *add };
            }
        }
    }
    black_box(chains);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{CHAINS, ROUNDS, sum_lanes};

    #[target_feature(enable = "avx512f")]
    pub fn sum_avx512(words: &[u64]) -> u64 {
        sum_lanes(words)
    }

    #[target_feature(enable = "avx2")]
    pub fn sum_avx2(words: &[u64]) -> u64 {
        sum_lanes(words)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn int8_vnni() {
        let (left, right) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-5)));
        let mut chains = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut chains {
                *sum = _mm512_dpbusd_epi32(*sum, left, right);
            }
        }
        black_box(chains);
    }

    /// One operand is the sum, or the products were computed once.
    #[target_feature(enable = "avx2")]
    pub fn int8_avx2() {
        let (right, ones) = (black_box(_mm256_set1_epi8(-5)), black_box(_mm256_set1_epi16(1)));
        let mut chains = [_mm256_set1_epi8(7); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut chains {
                let pairs = _mm256_maddubs_epi16(*sum, right);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx512f")]
    pub fn f32_avx512() {
        let (scale, add) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.0)));
        let mut chains = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut chains {
                *sum = _mm512_fmadd_ps(*sum, scale, add);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn f32_avx2() {
        let (scale, add) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.0)));
        let mut chains = [_mm256_setzero_ps(); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut chains {
                *sum = _mm256_fmadd_ps(*sum, scale, add);
            }
        }
        black_box(chains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let words: Vec<u64> = (0..len).collect();
            assert_eq!(sum(&words), words.iter().sum::<u64>(), "{len} words");
            assert_eq!(sum_lanes(&words), words.iter().sum::<u64>(), "{len} words");
        }
    }

    #[test]
    fn limits_are_positive_and_ordered() {
        let limits = measure(2).unwrap();
        assert_eq!(limits.threads, 2);
        for limit in [limits.read_bytes, limits.int8_ops, limits.f32_ops] {
            assert!(limit.is_finite() && limit > 1e6, "{limits:?}");
        }
    }
}
