//! Products of one value, one after the other or as one product that is split afterwards: what merging them would gain.
//!
//!     cargo run --release -p mqc-runtime --example merged_products -- [THREADS]

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_kernels::cpu::{MatMul, Packed, Pages, Threads};
use mqc_runtime::nested::{AffineMap, NestedWeight, pack};

/// Name, columns, rows of each product.
const CASES: [(&str, usize, &[usize]); 4] = [
    ("SmolLM2-135M q, k, v", 576, &[576, 192, 192]),
    ("SmolLM2-135M gate, up", 576, &[1536, 1536]),
    ("MiniLM q, k, v", 384, &[384, 384, 384]),
    ("Llama-3-8B gate, up", 4096, &[14336, 14336]),
];
const ROUNDS: usize = 41;

fn main() -> Result<(), Box<dyn Error>> {
    let threads = Threads::new(std::env::args().nth(1).map_or(Ok(1), |count| count.parse())?);
    let mut out = std::io::stdout();
    writeln!(out, "{:<24} bits tokens  apart us  merged us  merged / apart", "")?;
    for (name, cols, sizes) in CASES {
        let parts = sizes.iter().map(|rows| weight(*rows, cols)).collect::<Result<Vec<_>, _>>()?;
        let whole = weight(sizes.iter().sum(), cols)?;
        for bits in [8, 4, 2] {
            let width = Width::new(bits)?;
            for weight in parts.iter().chain([&whole]) {
                weight.load(width)?;
            }
            for tokens in [1, 16, 128] {
                if cols > 1000 && tokens > 16 {
                    continue;
                }
                let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
                let mut times = [vec![], vec![]];
                for _ in 0..ROUNDS {
                    let start = Instant::now();
                    apart(&parts, width, &threads, &x, tokens)?;
                    times[0].push(start.elapsed().as_secs_f64() * 1e6);
                    let start = Instant::now();
                    merged(&whole, sizes, width, &threads, &x, tokens)?;
                    times[1].push(start.elapsed().as_secs_f64() * 1e6);
                }
                let [apart, merged] = times.map(|mut times| {
                    times.sort_by(f64::total_cmp);
                    times[ROUNDS / 2]
                });
                writeln!(
                    out,
                    "{name:<24} {bits:>4} {tokens:>6} {apart:>9.1} {merged:>10.1} {:>15.3}",
                    merged / apart
                )?;
            }
        }
    }
    Ok(())
}

fn weight(rows: usize, cols: usize) -> Result<Packed, Box<dyn Error>> {
    let codes: Vec<u8> = (0..rows * cols).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let planes = pack(&codes, rows, cols)?.map(Into::into).to_vec();
    let map = AffineMap { scale: vec![0.01; rows].into(), zero: vec![127.0; rows].into() };
    let (grouping, mode) = (Grouping::PerChannel, SliceMode::Midpoint);
    let weight = NestedWeight::new((rows, cols), grouping, mode, planes, map, Default::default())?;
    Ok(Packed::new(weight, &Pages::default()))
}

fn apart(
    parts: &[Packed],
    width: Width,
    threads: &Threads,
    x: &[f32],
    tokens: usize,
) -> Result<(), Box<dyn Error>> {
    for part in parts {
        let mut y = vec![0.0; tokens * part.weight().rows()];
        MatMul::new(part, width, threads).run(x, tokens, &mut y)?;
        std::hint::black_box(&y);
    }
    Ok(())
}

fn merged(
    whole: &Packed,
    sizes: &[usize],
    width: Width,
    threads: &Threads,
    x: &[f32],
    tokens: usize,
) -> Result<(), Box<dyn Error>> {
    let rows = whole.weight().rows();
    let mut y = vec![0.0; tokens * rows];
    MatMul::new(whole, width, threads).run(x, tokens, &mut y)?;
    let mut first = 0;
    for size in sizes {
        let part: Vec<f32> =
            y.chunks_exact(rows).flat_map(|row| &row[first..first + size]).copied().collect();
        std::hint::black_box(&part);
        first += size;
    }
    Ok(())
}
