//! Our products: nested weights of random bits, as many copies as keep them out of cache.

use std::collections::BTreeMap;

use anyhow::Result;
use bytes::Bytes;
use mqc_ir::Activations;
use mqc_ir::quant::{Grouping, SliceMode, Width};
use mqc_kernels::cpu::{Isa, MatMul, Packed, Pages, Threads};
use mqc_kernels::nested::{AffineMap, NestedWeight};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Shape;
use crate::clock::Stopwatch;

/// Copies of a weight; each has planes and scales of its own in memory.
pub struct Weights {
    shape: Shape,
    grouping: Grouping,
    planes: Vec<Bytes>,
    pages: Pages,
    copies: Vec<Packed>,
}

impl Weights {
    pub fn new(shape: Shape, grouping: Grouping) -> Weights {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let plane = |_| {
            let mut bytes = vec![0; shape.n * shape.k.div_ceil(8)];
            random.fill(bytes.as_mut_slice());
            Bytes::from(bytes)
        };
        let planes = (0..8).map(plane).collect();
        Weights { shape, grouping, planes, pages: Pages::default(), copies: vec![] }
    }

    /// Makes copies resident at `width` until they come to `bytes`, at least one. Copies for wider widths serve too.
    pub fn fill(&mut self, width: Width, bytes: usize) -> Result<()> {
        if self.copies.is_empty() {
            self.copies.push(self.copy()?);
        }
        while self.copies.len() < self.count(width, bytes)? {
            self.copies.push(self.copy()?);
        }
        Ok(self.copies[..self.count(width, bytes)?].iter().try_for_each(|copy| copy.load(width))?)
    }

    /// Bytes of planes and maps that a product at `width` reads.
    pub fn bytes(&self, width: Width) -> Result<usize> {
        Ok(self.copies[0].weight().bytes_touched(width)?)
    }

    /// How many copies come to `bytes` at `width`.
    fn count(&self, width: Width, bytes: usize) -> Result<usize> {
        Ok(bytes.div_ceil(self.bytes(width)?).max(1))
    }

    fn copy(&self) -> Result<Packed> {
        let maps = self.shape.n * self.grouping.groups(self.shape.k);
        let map = AffineMap { scale: vec![0.002; maps].into(), zero: vec![128.0; maps].into() };
        let shape = (self.shape.n, self.shape.k);
        let planes = self.planes.clone();
        let weight =
            NestedWeight::new(shape, self.grouping, SliceMode::Midpoint, planes, map, BTreeMap::new())?;
        Ok(Packed::new(weight, &self.pages))
    }
}

/// Products of one kind with all copies.
pub struct Ours<'a> {
    copies: &'a [Packed],
    pub width: Width,
    pub activations: Activations,
    pub isa: Isa,
    /// Bytes that one product reads.
    pub bytes: usize,
    tokens: usize,
    threads: &'a Threads,
    x: Vec<f32>,
    y: Vec<f32>,
    stopwatch: Stopwatch,
}

impl<'a> Ours<'a> {
    /// Products of `tokens` tokens; the weights in use come to `bytes`.
    pub fn new(
        weights: &'a Weights,
        width: Width,
        bytes: usize,
        (activations, isa): (Activations, Isa),
        tokens: usize,
        threads: &'a Threads,
    ) -> Result<Ours<'a>> {
        let Shape { k, n } = weights.shape;
        let mut random = ChaCha8Rng::seed_from_u64(tokens as u64);
        Ok(Ours {
            copies: &weights.copies[..weights.count(width, bytes)?],
            width,
            activations,
            isa,
            bytes: weights.bytes(width)?,
            tokens,
            threads,
            x: (0..tokens * k).map(|_| random.random_range(-1.0..1.0)).collect(),
            y: vec![0.0; tokens * n],
            stopwatch: Stopwatch::new(threads.count()),
        })
    }

    /// Microseconds of a product.
    pub fn turn(&mut self) -> Result<f64> {
        let run = || {
            for weight in self.copies {
                let product = MatMul {
                    activations: self.activations,
                    isa: self.isa,
                    ..MatMul::new(weight, self.width, self.threads)
                };
                product.run(&self.x, self.tokens, &mut self.y)?;
            }
            Ok(())
        };
        Ok(self.stopwatch.turn(run)? / self.copies.len() as f64)
    }
}
